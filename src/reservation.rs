//! A block of ports that is yours: bind in it, hand it to a child, release it.

#[cfg(unix)]
use std::net::{SocketAddr, TcpListener, UdpSocket};
#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command};

use crate::descriptors;
#[cfg(unix)]
use crate::engine::Bind;
use crate::engine::{self, Block, EngineKind};
use crate::error::{Error, Result};
use crate::ports::{PortRange, Protocol};
use crate::token::Token;

/// A block of ports reserved by this process, until it is released or dropped.
///
/// Made by [`PortRequest::acquire`](crate::PortRequest::acquire). It may be shared between
/// threads. A forked child inherits a copy that cannot bind and whose drop releases nothing: the
/// owner is the process that acquired (spec 9.16).
///
/// # Notes
///
/// With the kernel engine every port returns to the block when the socket that was bound there is
/// closed. With the userspace engine a TCP port that a [`listener`](Self::listener) gives up returns to the
/// block, and so does that of a socket with `SO_REUSEADDR` bound by [`bind`](Self::bind). Any other
/// port that was bound is guarded by the bound socket alone, and by nothing once that is closed.
#[derive(Debug)]
#[must_use = "the ports are free again as soon as the reservation is dropped"]
pub struct Reservation {
    block: Box<dyn Block>,
}

impl Reservation {
    pub(crate) fn new(block: Box<dyn Block>) -> Self {
        Self { block }
    }

    /// Becomes the owner of the reservation whose anchor this is, by holding it: for daemons that
    /// fork, and for anchors that came over a unix socket
    /// ([unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html), `SCM_RIGHTS`).
    ///
    /// The anchor is what [`AsFd`] shows. From now on the process that had it cannot bind inside any
    /// more; the reservation ends when this one is dropped. Kernel engine only.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # fn received() -> std::os::fd::OwnedFd { unimplemented!() }
    /// let block = portkeep::Reservation::adopt(received())?;
    /// let listener = block.listener(([0, 0, 0, 0], block.range().start()))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when nothing is anchored at this socket.
    #[cfg(unix)]
    pub fn adopt(anchor: OwnedFd) -> Result<Self> {
        engine::adopt(anchor).map(Self::new)
    }

    /// The ports that are reserved, as many as were asked for.
    #[must_use]
    pub fn range(&self) -> PortRange {
        self.block.range()
    }

    /// The protocols for which they are reserved: one, or both for [`tcp_udp`](crate::tcp_udp).
    #[must_use]
    pub fn protocols(&self) -> &'static [Protocol] {
        self.block.protocols()
    }

    /// The token that names this reservation; for both protocols, that of TCP.
    #[must_use]
    pub fn token(&self) -> Token {
        let first = self.protocols()[0];
        self.token_for(first).expect("a reservation has a token for each of its protocols")
    }

    /// The token for one protocol: the two of a [`tcp_udp`](crate::tcp_udp) reservation differ.
    #[must_use]
    pub fn token_for(&self, protocol: Protocol) -> Option<Token> {
        self.block.token(protocol)
    }

    /// Which engine enforces it.
    #[must_use]
    pub fn engine(&self) -> EngineKind {
        self.block.engine()
    }

    /// Binds a socket of yours, of any library, to `address`: to its port, or to any free port of
    /// the block when that is 0. Returns the address it is bound to.
    ///
    /// Any local address of either family will do. The options of the socket are what they were
    /// before, whatever the outcome. Between the reservation and your socket there is no moment at
    /// which the port belongs to nobody.
    ///
    /// Beneath it are [bind(2)](https://man7.org/linux/man-pages/man2/bind.2.html) and, with the
    /// kernel engine, the ASSOCIATE option before it; with the userspace engine, `SO_REUSEPORT` on both sockets for the time of the call
    /// ([socket(7)](https://man7.org/linux/man-pages/man7/socket.7.html)).
    ///
    /// # Errors
    ///
    /// | kind | when |
    /// | --- | --- |
    /// | [`InvalidInput`](crate::ErrorKind::InvalidInput) | the socket is bound already (spec 4.1), or `address` is not of its family |
    /// | [`InvalidToken`](crate::ErrorKind::InvalidToken) | the reservation was released by its token, or is for the other protocol |
    /// | [`PermissionDenied`](crate::ErrorKind::PermissionDenied) | the port is outside the block (spec 8.2), or this process did not acquire it |
    /// | [`AddressInUse`](crate::ErrorKind::AddressInUse) | the port is inside and bound already |
    /// | [`NoRoom`](crate::ErrorKind::NoRoom) | port 0 was asked for and every port of the block is bound (spec 9.28) |
    /// | [`Unsupported`](crate::ErrorKind::Unsupported) | not a TCP or UDP socket over IPv4 or IPv6 |
    /// | [`Os`](crate::ErrorKind::Os) | anything else bind(2) refuses, such as an address that is not local |
    ///
    /// # Notes
    ///
    /// From the call on until your TCP socket listens, another process of the **same user** that binds
    /// the same address and port with `SO_REUSEPORT` set can get in beside you (userspace engine): the
    /// kernel remembers how your socket came in. [`listener`](Self::listener) has no such time.
    #[cfg(unix)]
    pub fn bind(&self, socket: &impl AsFd, address: impl Into<SocketAddr>) -> Result<SocketAddr> {
        self.block.bind(&Bind::check(socket.as_fd(), address.into())?)
    }

    /// A listening TCP socket on a port of the block; port 0 means any that is free.
    ///
    /// `SO_REUSEADDR` is set, as [`TcpListener::bind`] does. The port stays guarded while the
    /// listener lives and returns to the block when it is dropped.
    ///
    /// # Errors
    ///
    /// Those of [`bind`](Self::bind).
    #[cfg(unix)]
    pub fn listener(&self, address: impl Into<SocketAddr>) -> Result<TcpListener> {
        self.ready_made(Protocol::Tcp, address.into())
    }

    /// A UDP socket bound to a port of the block; port 0 means any that is free.
    ///
    /// # Errors
    ///
    /// Those of [`bind`](Self::bind).
    #[cfg(unix)]
    pub fn udp_socket(&self, address: impl Into<SocketAddr>) -> Result<UdpSocket> {
        self.ready_made(Protocol::Udp, address.into())
    }

    #[cfg(unix)]
    fn ready_made<S: From<OwnedFd>>(&self, protocol: Protocol, address: SocketAddr) -> Result<S> {
        let socket = engine::open_socket(protocol, &address)?;
        let listen = protocol == Protocol::Tcp;
        self.block.bind(&Bind { socket: socket.as_fd(), protocol, address, listen })?;
        Ok(S::from(socket))
    }

    /// Starts a command that may bind inside the block, and so may everything it starts.
    ///
    /// It binds by number, as it would without us: put the numbers into its arguments or its
    /// environment. The reservation must outlive it. This widens the block's grant to
    /// [`Grant::Descendants`](crate::Grant::Descendants) for good, whatever becomes of the command, and
    /// gives the command the descriptor limit that
    /// [`raise_descriptor_limit`](crate::raise_descriptor_limit) changed for us alone.
    ///
    /// # Errors
    ///
    /// Those of [`Command::spawn`], with [`ErrorKind::Os`](crate::ErrorKind::Os) or
    /// [`ErrorKind::PermissionDenied`](crate::ErrorKind::PermissionDenied), and
    /// [`InvalidToken`](crate::ErrorKind::InvalidToken) after a release by token.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        self.block.grant_descendants()?;
        descriptors::restore_in(command);
        command.spawn().map_err(|cause| {
            let program = command.get_program().to_string_lossy().into_owned();
            Error::os(format_args!("cannot start '{program}'"), &cause)
        })
    }

    /// Ends the reservation now and says whether that worked; a drop does the same in silence.
    ///
    /// Sockets that are bound inside keep their ports (spec 5.2, 8.3).
    ///
    /// # Notes
    ///
    /// A child that another thread has forked and that has not reached its exec has copies of all
    /// our sockets. With the userspace engine the ports are free when it gets there.
    ///
    /// # Errors
    ///
    /// [`InvalidToken`](crate::ErrorKind::InvalidToken) when it was released by its token before,
    /// [`PermissionDenied`](crate::ErrorKind::PermissionDenied) in a forked child.
    pub fn release(self) -> Result<()> {
        self.block.release()
    }
}

/// The anchor.
///
/// With the kernel engine the reservation lives as long as any duplicate of it, and whoever has one can
/// [`adopt`](Reservation::adopt) it. With the userspace engine no single socket carries a block: it shows one that is never bound
/// and stays open as long as the process, so holding a duplicate does not prolong the reservation.
#[cfg(unix)]
impl AsFd for Reservation {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.block.anchor()
    }
}

/// Binds a socket inside the block that `token` names, as [`Reservation::bind`] does, for code that
/// has the token but not the reservation.
///
/// # Errors
///
/// Those of [`Reservation::bind`]; [`InvalidToken`](crate::ErrorKind::InvalidToken) also for a token
/// that is dead (spec 4.1). A token of another process is
/// [`PermissionDenied`](crate::ErrorKind::PermissionDenied) with the kernel engine (spec 6.1); to the
/// userspace engine it is unknown, so invalid.
#[cfg(unix)]
pub fn bind(
    socket: &impl AsFd,
    token: Token,
    address: impl Into<SocketAddr>,
) -> Result<SocketAddr> {
    engine::by_token(token)?.bind(token, &Bind::check(socket.as_fd(), address.into())?)
}

/// Ends the reservation that `token` names. Any process-wide part of the owner may do so; the
/// protocol must be one the block is for (spec 5.1, 9.21).
///
/// # Errors
///
/// [`InvalidToken`](crate::ErrorKind::InvalidToken) when the token is dead, belongs to another
/// process, or names a block of the other protocol: whatever is wrong, the answer is the same.
pub fn release(token: Token, protocol: Protocol) -> Result<()> {
    engine::by_token(token)?.release(token, protocol)
}
