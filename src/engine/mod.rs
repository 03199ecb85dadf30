//! The engines behind one contract, and the choice between them.
//!
//! The traits are not a public promise: the public face of a block is
//! [`Reservation`](crate::Reservation). Both engines pass the suite in `tests/conformance`.

use std::fmt;

use crate::error::Result;
use crate::ports::{PortRange, Protocol};
use crate::request::PortRequest;
use crate::token::Token;

#[cfg_attr(any(not(target_os = "linux"), portkeep_unsupported), path = "unsupported.rs")]
pub(crate) mod userspace;

#[cfg(unix)]
pub(crate) use userspace::open_socket;

/// What enforces a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EngineKind {
    /// Sockets held by the acquiring process; needs no privilege.
    Userspace,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Userspace => "userspace",
        })
    }
}

/// Makes blocks.
pub(crate) trait Engine: Sync {
    /// Reserves what a valid request asks for, all or nothing.
    fn acquire(&self, request: &PortRequest) -> Result<Box<dyn Block>>;

    /// Binds `socket` inside the block that `token` names.
    #[cfg(unix)]
    fn bind(&self, token: Token, bind: &Bind<'_>) -> Result<std::net::SocketAddr>;

    /// Ends the reservation that `token` names; `protocol` must be one of its protocols (spec 5.1).
    fn release(&self, token: Token, protocol: Protocol) -> Result<()>;
}

/// A block that was acquired. Dropping it ends the reservation, in the acquiring process only.
pub(crate) trait Block: fmt::Debug + Send + Sync {
    fn engine(&self) -> EngineKind;

    fn protocols(&self) -> &'static [Protocol];

    fn range(&self) -> PortRange;

    fn token(&self) -> Token;

    /// The socket whose life is the block's life.
    #[cfg(unix)]
    fn anchor(&self) -> std::os::fd::BorrowedFd<'_>;

    #[cfg(unix)]
    fn bind(&self, bind: &Bind<'_>) -> Result<std::net::SocketAddr>;

    /// Lets processes started from now on bind by number ([`Grant::Descendants`](crate::Grant)).
    fn grant_descendants(&self) -> Result<()>;

    fn release(&self) -> Result<()>;
}

/// One bind through a reservation, checked as far as no engine is needed for it.
#[cfg(unix)]
pub(crate) struct Bind<'a> {
    pub(crate) socket: std::os::fd::BorrowedFd<'a>,
    pub(crate) protocol: Protocol,
    /// Port 0 means any free port of the block.
    pub(crate) address: std::net::SocketAddr,
    /// Listen in the same breath, which lets the engine keep its guard over the port.
    pub(crate) listen: bool,
}

#[cfg(unix)]
impl<'a> Bind<'a> {
    /// Refuses what no engine could serve, before anything changes.
    pub(crate) fn check(
        socket: std::os::fd::BorrowedFd<'a>,
        address: std::net::SocketAddr,
    ) -> Result<Self> {
        let protocol = userspace::bindable(socket, &address)?;
        Ok(Self { socket, protocol, address, listen: false })
    }
}

/// The engine that serves this process.
pub(crate) fn active() -> Result<&'static dyn Engine> {
    userspace::engine()
}
