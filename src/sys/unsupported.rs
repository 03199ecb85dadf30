//! Stands in for `sys` where portkeep has no engine.

use std::io;
use std::process::Command;

use crate::occupant::SocketInfo;
use crate::ports::{PortRange, Protocol};

pub(crate) fn sockets(_: Protocol, _: PortRange) -> io::Result<Vec<SocketInfo>> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn descriptor_limit() -> io::Result<(u64, u64)> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn set_descriptor_limit(_: u64, _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn restore_descriptor_limit_in(_: &mut Command, _: u64, _: u64) {}

#[cfg(unix)]
pub(crate) fn duplicate_from(
    _: std::os::fd::BorrowedFd<'_>,
    _: std::os::fd::RawFd,
) -> io::Result<std::os::fd::OwnedFd> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(unix)]
pub(crate) fn pass_descriptors_in(
    _: &mut Command,
    _: Vec<std::os::fd::OwnedFd>,
    _: Vec<std::os::fd::OwnedFd>,
    _: std::os::fd::RawFd,
) {
}
