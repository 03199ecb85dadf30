//! A block of the kernel engine: the anchor, and what is done by its tokens.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{abi, open};
use crate::engine::{Bind, Block, EngineKind, foreign, not_for, outside};
use crate::error::{Error, ErrorKind, Result};
use crate::ports::{PortRange, Protocol};
use crate::request::Grant;
use crate::sys;
use crate::token::Token;

/// How often GRANT is asked again while it is busy.
const GRANT_TRIES: usize = 1_000;

/// A reservation, and the socket whose life is its life.
#[derive(Debug)]
pub(super) struct Anchored {
    anchor: OwnedFd,
    owner: u32,
    range: PortRange,
    /// The anchor's own protocol first.
    tokens: Vec<(Protocol, Token)>,
}

impl Anchored {
    /// What `anchor`, a socket of `protocol`, acquired last.
    pub(super) fn new(anchor: OwnedFd, protocol: Protocol) -> Result<Self> {
        let mut value = [0; 2 * abi::INSTANCE_SIZE];
        let size =
            sys::bytes(anchor.as_fd(), abi::LEVEL, abi::INSTANCE, &mut value).map_err(|cause| {
                match cause.raw_os_error() {
                    Some(libc::ENOENT | libc::ENOPROTOOPT | libc::EOPNOTSUPP) => no_anchor(),
                    _ => Error::os("cannot read the reservation", &cause),
                }
            })?;
        let instances = value[..size].chunks_exact(abi::INSTANCE_SIZE).filter_map(abi::instance);
        let instances: Vec<_> = instances.collect();
        let Some((range, _)) = instances.first().copied() else { return Err(no_anchor()) };
        let other = match protocol {
            Protocol::Tcp => Protocol::Udp,
            Protocol::Udp => Protocol::Tcp,
        };
        // The same numbers twice on one anchor can only be those of the two protocols.
        let tokens = instances
            .into_iter()
            .zip([protocol, other])
            .filter(|((numbers, _), _)| *numbers == range)
            .map(|((_, token), protocol)| (protocol, token));
        let tokens = tokens.collect();
        Ok(Self { anchor, owner: sys::process_id(), range, tokens })
    }

    /// Does something to each reservation, through a socket of its port space, and to all of them
    /// whatever becomes of the first.
    fn in_every_space(&self, act: impl Fn(BorrowedFd<'_>, Token) -> io::Result<()>) -> Result<()> {
        let mut all = Ok(());
        for (at, (protocol, token)) in self.tokens.iter().enumerate() {
            // The anchor is of the first one's.
            let done = if at == 0 {
                act(self.anchor.as_fd(), *token)
            } else {
                act(open(*protocol)?.as_fd(), *token)
            };
            all = all.and(done.map_err(|cause| refused_token(&cause)));
        }
        all
    }

    /// Becomes the owner of what `anchor` acquired last.
    pub(super) fn adopt(anchor: OwnedFd) -> Result<Self> {
        let look = |cause| Error::os("cannot look at the anchor", &cause);
        let Some((protocol, _)) = sys::protocol(anchor.as_fd()).map_err(look)? else {
            return Err(no_anchor());
        };
        let block = Self::new(anchor, protocol)?;
        for (_, token) in &block.tokens {
            let value = token.expose().to_ne_bytes();
            sys::set_bytes(block.anchor.as_fd(), abi::LEVEL, abi::ADOPT, &value)
                .map_err(|cause| refused_token(&cause))?;
        }
        Ok(block)
    }

    fn token_for(&self, protocol: Protocol) -> Result<Token> {
        self.token(protocol).ok_or_else(|| not_for(self.range, protocol))
    }
}

impl Block for Anchored {
    fn engine(&self) -> EngineKind {
        EngineKind::Kernel
    }

    fn protocols(&self) -> &'static [Protocol] {
        match (self.tokens.len(), self.tokens[0].0) {
            (1, Protocol::Tcp) => &[Protocol::Tcp],
            (1, Protocol::Udp) => &[Protocol::Udp],
            _ => &[Protocol::Tcp, Protocol::Udp],
        }
    }

    fn range(&self) -> PortRange {
        self.range
    }

    fn token(&self, protocol: Protocol) -> Option<Token> {
        self.tokens.iter().find(|(of, _)| *of == protocol).map(|(_, token)| *token)
    }

    fn anchor(&self) -> BorrowedFd<'_> {
        self.anchor.as_fd()
    }

    fn bind(&self, bind: &Bind<'_>) -> Result<SocketAddr> {
        let token = self.token_for(bind.protocol)?;
        let port = bind.address.port();
        // Before the socket is marked: a mark cannot be taken off again.
        if port != 0 && !self.range.contains(port) {
            return Err(outside(self.range, bind));
        }
        associate(token, bind)?;
        bind_associated(bind, Some(self.range))
    }

    fn grant_descendants(&self) -> Result<()> {
        self.in_every_space(|socket, token| {
            let value = abi::grant_to(token, Grant::Descendants);
            let set = || sys::set_bytes(socket, abi::LEVEL, abi::GRANT, &value);
            // Busy means that another thread is at it, for some microseconds.
            let busy = |result: &io::Result<()>| {
                result.as_ref().is_err_and(|cause| cause.raw_os_error() == Some(libc::EBUSY))
            };
            let mut result = set();
            for _ in 0..GRANT_TRIES {
                if !busy(&result) {
                    break;
                }
                std::thread::yield_now();
                result = set();
            }
            result
        })
    }

    fn release(&self) -> Result<()> {
        if self.owner != sys::process_id() {
            return Err(foreign(self.range, self.owner));
        }
        self.in_every_space(release)
    }
}

impl Drop for Anchored {
    fn drop(&mut self) {
        // A child that was forked has the anchor open too, and may for long: closing our copy would
        // not be enough. The child, in turn, closes its copy and ends nothing.
        if self.owner == sys::process_id() {
            let _ = self.release();
        }
    }
}

fn no_anchor() -> Error {
    Error::invalid(
        "this socket anchors no reservation of the kernel engine: only those can be adopted",
    )
}

pub(super) fn associate(token: Token, bind: &Bind<'_>) -> Result<()> {
    let value = token.expose().to_ne_bytes();
    sys::set_bytes(bind.socket, abi::LEVEL, abi::ASSOCIATE, &value)
        .map_err(|cause| refused_token(&cause))
}

pub(super) fn release(socket: BorrowedFd<'_>, token: Token) -> io::Result<()> {
    sys::set_bytes(socket, abi::LEVEL, abi::RELEASE, &token.expose().to_ne_bytes())
}

pub(super) fn refused_token(cause: &io::Error) -> Error {
    match cause.raw_os_error() {
        Some(libc::EINVAL) => Error::new(
            ErrorKind::InvalidToken,
            "this token names no reservation that this process may use so",
        ),
        Some(libc::EACCES) => Error::new(
            ErrorKind::PermissionDenied,
            "this token names a reservation of another process",
        ),
        Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP) => Error::new(
            ErrorKind::Unsupported,
            "the kernel engine was unloaded: the reservation is gone with it",
        ),
        _ => Error::os("the kernel engine refused", cause),
    }
}

pub(super) fn bind_associated(bind: &Bind<'_>, range: Option<PortRange>) -> Result<SocketAddr> {
    let of_block = range.map_or(String::new(), |range| format!(" of {range}"));
    let bound = sys::bind(bind.socket, &bind.address)
        .and_then(|()| if bind.listen { sys::listen(bind.socket) } else { Ok(()) });
    bound.map_err(|cause| {
        let (protocol, port) = (bind.protocol, bind.address.port());
        let error = match cause.raw_os_error() {
            Some(libc::EADDRINUSE) => Error::new(
                ErrorKind::AddressInUse,
                format!("{protocol} port {port} of the block is in use"),
            ),
            Some(libc::ENOBUFS) if port == 0 => Error::new(
                ErrorKind::NoRoom,
                format!("every {protocol} port of the reservation{of_block} is in use"),
            ),
            Some(libc::EACCES) => Error::new(
                ErrorKind::PermissionDenied,
                format!("port {port} is outside the reservation{of_block}, or that has ended"),
            ),
            _ => Error::os(format_args!("cannot bind to {}", bind.address), &cause),
        };
        if port == 0 { error } else { error.about(protocol, port) }
    })?;
    sys::local_address(bind.socket)
        .map_err(|cause| Error::os("cannot read the address that was bound", &cause))
}
