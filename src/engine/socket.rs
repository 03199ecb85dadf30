//! Sockets to be bound: ready-made ones, and whether somebody else's will do.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::error::{Error, ErrorKind, Result};
use crate::ports::Protocol;
use crate::sys::{self, Family};

/// A socket for `address` as the standard library would make it.
pub(crate) fn open_socket(protocol: Protocol, address: &SocketAddr) -> Result<OwnedFd> {
    let socket = sys::open(family(address), protocol)
        .and_then(|socket| {
            if protocol == Protocol::Tcp {
                sys::set_flag(socket.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, true)?;
            }
            Ok(socket)
        })
        .map_err(|cause| Error::os(format_args!("cannot open a {protocol} socket"), &cause))?;
    Ok(socket)
}

fn family(address: &SocketAddr) -> Family {
    if address.is_ipv4() { Family::Inet } else { Family::Inet6 }
}

/// Checks that `socket` can be bound to `address` at all, and tells its protocol.
pub(crate) fn bindable(socket: BorrowedFd<'_>, address: &SocketAddr) -> Result<Protocol> {
    let look = |cause| Error::os("cannot look at the socket to be bound", &cause);
    let Some((protocol, family_of_socket)) = sys::protocol(socket).map_err(look)? else {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "only TCP and UDP sockets over IPv4 or IPv6 can be bound in a reservation",
        ));
    };
    if family_of_socket != family(address) {
        return Err(Error::invalid(format!(
            "the socket is of another address family than {address}"
        )));
    }
    let bound = sys::local_address(socket).map_err(look)?;
    if bound.port() != 0 {
        return Err(Error::invalid(format!("the socket is bound to {bound} already")));
    }
    Ok(protocol)
}
