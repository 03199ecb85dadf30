//! The kernel engine: reservations are socket options, and the kernel enforces them for everybody.
//!
//! This is the client's side, which needs nothing but setsockopt(2) and getsockopt(2). What the
//! options do is defined in `bpf/portkeep.bpf.h`.

pub(crate) mod abi;
mod anchored;
#[cfg(feature = "load")]
pub(crate) mod load;
#[cfg(feature = "load")]
mod pinned;
pub(crate) mod pool;
mod refusal;
#[cfg(feature = "load")]
mod site;
#[cfg(feature = "load")]
pub(crate) mod unload;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use self::abi::Version;
use self::anchored::{Anchored, associate, bind_associated, refused_token, release};
use super::{Bind, Block, Engine};
use crate::error::{Error, Result};
use crate::holder::Holder;
use crate::ports::{Ports, Protocol};
use crate::request::PortRequest;
use crate::sys::{self, Family};
use crate::token::Token;

pub(super) struct Kernel;

/// A socket of either family, which is all an anchor has to be.
pub(super) fn open(protocol: Protocol) -> Result<OwnedFd> {
    sys::open(Family::Inet6, protocol)
        .or_else(|error| match error.raw_os_error() {
            Some(libc::EAFNOSUPPORT) => sys::open(Family::Inet, protocol),
            _ => Err(error),
        })
        .map_err(|cause| Error::os(format_args!("cannot open a {protocol} socket"), &cause))
}

/// What is loaded for the sockets of this process; `None` when nothing is.
///
/// # Errors
///
/// An answer that neither the engine nor a kernel without it would give: another program on the same
/// hook, a policy perhaps, has refused. That is shown, not hidden by falling back.
pub(crate) fn version() -> Result<Option<Version>> {
    let socket = open(Protocol::Tcp)?;
    let mut value = [0; abi::VERSION_SIZE];
    match sys::bytes(socket.as_fd(), abi::LEVEL, abi::VERSION, &mut value) {
        Ok(_) => Ok(Some(Version::read(value))),
        Err(error) if is_absent(&error) => Ok(None),
        Err(cause) => Err(Error::os("the kernel engine cannot be asked for its version", &cause)),
    }
}

/// What a kernel says of an option level it does not know: it depends on the kind of socket.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP))
}

/// Who reserved `port`; `None` when nobody has, or nothing is loaded.
pub(crate) fn holder(protocol: Protocol, port: u16) -> Result<Option<Holder>> {
    match query(open(protocol)?.as_fd(), port) {
        Err(error) if is_absent(&error) => Ok(None),
        answer => answer
            .map_err(|cause| Error::os("the kernel engine cannot be asked for a holder", &cause)),
    }
}

fn query(socket: BorrowedFd<'_>, port: u16) -> io::Result<Option<Holder>> {
    let mut value = [0; abi::HOLDER_SIZE];
    sys::bytes(socket, abi::LEVEL, abi::QUERY + i32::from(port), &mut value)?;
    Ok(abi::holder(&value))
}

/// Makes this process the owner of what is anchored at a socket.
pub(crate) fn adopt(anchor: OwnedFd) -> Result<Box<dyn Block>> {
    Ok(Box::new(Anchored::adopt(anchor)?))
}

impl Engine for Kernel {
    fn acquire(&self, request: &PortRequest) -> Result<Box<dyn Block>> {
        let anchor = open(request.protocols[0])?;
        let ask = |start, count| {
            let value = abi::request(request, start, count);
            sys::set_bytes(anchor.as_fd(), abi::LEVEL, abi::ACQUIRE, &value)
        };
        let refused = |cause: io::Error| refusal::explain(request, anchor.as_fd(), &cause);
        match (request.wanted()?, request.pool) {
            (Ports::Specific(range), _) => ask(range.start(), range.count()).map_err(refused)?,
            (Ports::Wildcard(count), Some(pool))
                if pool::own_of(anchor.as_fd()).ok() != Some(pool) =>
            {
                let try_at = |start| match ask(start, count) {
                    Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => Ok(false),
                    result => result.map(|()| true).map_err(refused),
                };
                if !pool::serve(request, pool, count, try_at)? {
                    return Err(refusal::no_room(request, pool, count));
                }
            }
            (Ports::Wildcard(count), _) => ask(0, count).map_err(refused)?,
        }
        Ok(Box::new(Anchored::new(anchor, request.protocols[0])?))
    }

    fn bind(&self, token: Token, bind: &Bind<'_>) -> Result<SocketAddr> {
        associate(token, bind)?;
        bind_associated(bind, None)
    }

    fn release(&self, token: Token, protocol: Protocol) -> Result<()> {
        release(open(protocol)?.as_fd(), token).map_err(|cause| refused_token(&cause))
    }
}
