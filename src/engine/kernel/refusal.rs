//! From the errno of an acquire to the port, the reason and the way out.
//!
//! The kernel has answered; what is looked up here, a moment later, only explains.

use std::io;
use std::os::fd::BorrowedFd;

use super::{pool, query};
use crate::error::{Error, ErrorKind};
use crate::ports::{PortRange, Ports, Protocol};
use crate::request::{PortRequest, must_have};
use crate::status::Ephemeral;
use crate::sys;

pub(super) fn explain(request: &PortRequest, anchor: BorrowedFd<'_>, cause: &io::Error) -> Error {
    match (request.wanted(), cause.raw_os_error()) {
        (Ok(Ports::Specific(range)), Some(libc::EADDRINUSE)) => busy(request, anchor, range),
        (Ok(Ports::Specific(range)), Some(libc::EACCES)) => Error::new(
            ErrorKind::PermissionDenied,
            format!(
                "port {} is privileged: it takes CAP_NET_BIND_SERVICE, or \
                 net.ipv4.ip_unprivileged_port_start at {0} or below",
                range.start()
            ),
        )
        .about(request.protocols[0], range.start()),
        (Ok(Ports::Specific(range)), Some(libc::ENOBUFS)) => Error::new(
            ErrorKind::NoRoom,
            format!("{range}: more than one user may reserve; release what is not needed"),
        ),
        (Ok(Ports::Wildcard(count)), Some(libc::ENOBUFS)) => {
            match request.pool.map_or_else(|| pool::own_of(anchor), Ok) {
                Ok(pool) => no_room(request, pool, count),
                Err(_) => Error::new(ErrorKind::NoRoom, "the pool has no room"),
            }
        }
        (_, Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP)) => {
            Error::new(ErrorKind::Unsupported, "the kernel engine is not loaded")
        }
        _ => Error::os("the kernel engine refused the request", cause),
    }
}

/// Names the first port in the way, or the ephemeral range.
fn busy(request: &PortRequest, anchor: BorrowedFd<'_>, range: PortRange) -> Error {
    let protocol = request.protocols[0];
    for port in range.iter() {
        if let Ok(Some(holder)) = query(anchor, port) {
            let error = format!("{protocol} port {port} is reserved, with all of {}", holder.range);
            return Error::new(ErrorKind::AddressInUse, error).about(protocol, port);
        }
    }
    for protocol in request.protocols {
        let sockets = sys::sockets(*protocol, range).unwrap_or_default();
        if let Some(port) = sockets.iter().filter(|socket| socket.is_live()).map(|s| s.port).min() {
            return in_use(*protocol, port);
        }
    }
    if let Ok(ephemeral) = Ephemeral::read()
        && ephemeral.exposed(range) > 0
    {
        return Error::new(
            ErrorKind::AddressInUse,
            format!(
                "{range} meets the ephemeral range {}, from which the kernel serves everybody: \
                 choose ports outside, or run 'sysctl -w net.ipv4.ip_local_reserved_ports={}' first",
                ephemeral.range,
                ephemeral.with(range)
            ),
        );
    }
    in_use(protocol, range.start())
}

fn in_use(protocol: Protocol, port: u16) -> Error {
    Error::new(ErrorKind::AddressInUse, format!("{protocol} port {port} is in use"))
        .about(protocol, port)
}

/// For a wildcard: the pool's size and its longest free run.
pub(super) fn no_room(request: &PortRequest, pool: PortRange, count: u16) -> Error {
    if let Err(error) = must_have(pool, count) {
        return error;
    }
    let runs = pool::free_runs(request, pool).unwrap_or_default();
    let longest = runs.into_iter().map(PortRange::count).max().unwrap_or(0);
    if request.pool.is_none() && longest >= count && request.alignment == 1 {
        // There was room, so it was not for this user.
        return Error::new(
            ErrorKind::NoRoom,
            format!(
                "{count} more ports of the pool {pool} are more than one user may have; release \
                 what is not needed"
            ),
        );
    }
    request.no_room(pool, count, longest.into())
}
