//! Blocks of TCP and UDP ports that are really yours.
//!
//! "Find a free port" on Linux means bind, close, and hope. A [`Reservation`] is a block of ports
//! that nobody else gets, from the moment it is acquired until it is released: automatic assignment
//! stays out, other programs that bind a port of it get `EADDRINUSE`, and your own sockets, or those
//! of a command you start, are let in with no gap in between. When the process ends, however it
//! ends, the ports are free again.
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::{TcpListener, TcpStream};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // Four TCP ports in a row, the first one even. All or nothing.
//!     let block = portkeep::tcp(4).even().acquire()?;
//!     let ports = block.range();
//!
//!     // A stranger is kept out ...
//!     let stranger = TcpListener::bind(("127.0.0.1", ports.start()));
//!     assert_eq!(stranger.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
//!
//!     // ... and we are let in, on a port of our choice or on any that is free.
//!     let first = block.listener(([127, 0, 0, 1], ports.start()))?;
//!     let other = block.listener(([127, 0, 0, 1], 0))?;
//!     assert!(ports.contains(other.local_addr()?.port()));
//!
//!     // It is an ordinary listener.
//!     let mut client = TcpStream::connect(first.local_addr()?)?;
//!     first.accept()?.0.write_all(b"mine")?;
//!     let mut answer = String::new();
//!     client.read_to_string(&mut answer)?;
//!     assert_eq!(answer, "mine");
//!
//!     // A command that binds by number: it and its children may use the block while it is kept.
//!     # #[cfg(any())]
//!     let server = block.spawn(std::process::Command::new("redis-server")
//!         .args(["--port", &ports.last().to_string()]))?;
//!
//!     block.release()?; // a drop would do
//!     Ok(())
//! }
//! ```
//!
//! # Words
//!
//! A *port space* is the 65,535 ports of one protocol in one network namespace; IPv4 and IPv6 share
//! it. A *range* is consecutive ports. A *specific* request names its start, a *wildcard* request is
//! served from the *pool*, [`DEFAULT_POOL`]. The *grant* says who may bind inside.
//!
//! # What is guaranteed
//!
//! The *kernel engine* is there when root has run `portkeep load` (Linux 6.8): reservations are socket
//! options implemented in eBPF, and the kernel refuses strangers by itself. Everywhere else the
//! *userspace engine* holds a bound socket for every port. Neither needs privilege, and a program does
//! not have to know which one serves it; [`status()`] tells.
//!
//! | kept out | kernel engine | userspace engine |
//! | --- | --- | --- |
//! | bind to port 0, connect, sendto without bind | always | always |
//! | a stranger's bind to a port of the block | always | always, with [`Grant::Process`]; with [`Grant::Descendants`] or after [`Reservation::spawn`] unless it sets `SO_REUSEADDR` |
//!
//! What each can and cannot stop, and where they differ, are tables in `docs/architecture.md`.
//!
//! On systems other than Linux everything compiles and [`acquire`](PortRequest::acquire) answers
//! [`ErrorKind::Unsupported`].

#![cfg_attr(
    any(not(target_os = "linux"), portkeep_unsupported),
    expect(dead_code, reason = "there is no engine to use it")
)]

#[cfg_attr(any(not(target_os = "linux"), portkeep_unsupported), path = "sys/unsupported.rs")]
mod sys;

#[cfg(feature = "load")]
mod config;
mod descriptors;
mod engine;
mod error;
mod holder;
mod occupant;
mod ports;
mod request;
mod reservation;
mod status;
mod token;

/// Loading and unloading the kernel engine.
#[cfg(all(feature = "load", target_os = "linux", not(portkeep_unsupported)))]
pub mod load {
    pub use crate::config::Config;
    pub use crate::engine::kernel::load::{Load, Outcome, Site, load};
    pub use crate::engine::kernel::unload::unload;
}

#[cfg(unix)]
pub use descriptors::pass_descriptors;
pub use descriptors::raise_descriptor_limit;
pub use engine::EngineKind;
pub use error::{Error, ErrorKind, Result};
pub use holder::{Holder, holder};
pub use occupant::{Occupant, occupants};
pub use ports::{PortRange, Ports, Protocol};
pub use request::{DEFAULT_POOL, Grant, PortRequest};
#[cfg(unix)]
pub use reservation::bind;
pub use reservation::{Reservation, release};
pub use status::{Ephemeral, Status, status};
pub use token::Token;

/// Asks for `count` consecutive TCP ports.
///
/// ```
/// let block = portkeep::tcp(3).acquire()?;
/// assert_eq!(block.range().count(), 3);
/// # Ok::<(), portkeep::Error>(())
/// ```
pub fn tcp(count: u16) -> PortRequest {
    PortRequest::new(&[Protocol::Tcp], count)
}

/// Asks for `count` consecutive UDP ports.
pub fn udp(count: u16) -> PortRequest {
    PortRequest::new(&[Protocol::Udp], count)
}

/// Asks for `count` consecutive ports, the same numbers for TCP and for UDP.
pub fn tcp_udp(count: u16) -> PortRequest {
    PortRequest::new(&[Protocol::Tcp, Protocol::Udp], count)
}

/// The examples of the README, compiled and run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
