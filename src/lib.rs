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
//! The *userspace engine* needs no privilege: it holds a bound socket for every port. What that can
//! and cannot stop is a table in `docs/architecture.md`, row by row of the specification.
//!
//! | | kept out |
//! | --- | --- |
//! | bind to port 0, connect, sendto without bind | always |
//! | a stranger's bind to a port of the block | always, with [`Grant::Process`]; with [`Grant::Descendants`] or after [`Reservation::spawn`] unless it sets `SO_REUSEADDR` |
//!
//! On systems other than Linux everything compiles and [`acquire`](PortRequest::acquire) answers
//! [`ErrorKind::Unsupported`].

#![cfg_attr(
    any(not(target_os = "linux"), portkeep_unsupported),
    expect(dead_code, reason = "there is no engine to use it")
)]

#[cfg_attr(any(not(target_os = "linux"), portkeep_unsupported), path = "sys/unsupported.rs")]
mod sys;

mod descriptors;
mod engine;
mod error;
mod occupant;
mod ports;
mod request;
mod reservation;
mod status;
mod token;

pub use descriptors::raise_descriptor_limit;
pub use engine::EngineKind;
pub use error::{Error, ErrorKind, Result};
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
