//! `portkeep run` from its start to its end: daemons, terminals, containers, sockets that are passed.
//!
//! The commands are real processes, told what to do over a line; what is waited for is something they
//! say, or the end of one of them.

mod container;
mod detach;
mod life;
mod line;
mod listen_fds;
#[path = "../claims/process.rs"]
#[expect(dead_code, reason = "shared with tests that need more of it")]
mod process;
mod storm;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "shared with tests that need more of it")]
mod support;
mod terminal;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

/// `portkeep`, in an environment that no test machine changes.
fn portkeep(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portkeep"));
    command.args(arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("PORTKEEP_ENGINE", "userspace");
    command
}

/// A port that no other test of this binary asks for, below the ephemeral range: what a test finds
/// free or busy there, it has made so itself.
fn port_of_its_own() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(23_000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Binds as a program does that has nothing to do with us and sets no option.
fn stranger(port: u16) -> io::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())
}

/// Asserts that the port is reserved, or bound.
#[track_caller]
fn assert_taken(port: u16) {
    let error = stranger(port).expect_err("strangers are kept out");
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}
