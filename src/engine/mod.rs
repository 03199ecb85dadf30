//! The engines behind one contract, and the choice between them.
//!
//! The traits are not a public promise: the public face of a block is
//! [`Reservation`](crate::Reservation). Both engines pass the suite in `tests/conformance`.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::ports::{PortRange, Protocol};
use crate::request::PortRequest;
use crate::token::Token;

#[cfg_attr(any(not(target_os = "linux"), portkeep_unsupported), path = "unsupported.rs")]
mod choice;
#[cfg(all(target_os = "linux", not(portkeep_unsupported)))]
pub(crate) mod kernel;
#[cfg(all(target_os = "linux", not(portkeep_unsupported)))]
mod socket;
#[cfg(all(target_os = "linux", not(portkeep_unsupported)))]
mod userspace;

#[cfg(unix)]
pub(crate) use choice::adopt;
pub(crate) use choice::{acquire, by_token, holder, pool, probe};
#[cfg(unix)]
pub(crate) use choice::{bindable, open_socket};

/// What enforces a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EngineKind {
    /// Sockets held by the acquiring process; needs no privilege.
    Userspace,
    /// eBPF on cgroup hooks: enforced for every process once root has loaded it.
    Kernel,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Userspace => "userspace",
            Self::Kernel => "kernel",
        })
    }
}

impl FromStr for EngineKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "userspace" => Ok(Self::Userspace),
            "kernel" => Ok(Self::Kernel),
            _ => Err(Error::invalid(format!(
                "'{text}' is no engine; there are kernel and userspace"
            ))),
        }
    }
}

/// Which engine serves this process, and why.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice {
    pub(crate) kind: EngineKind,
    pub(crate) reason: &'static str,
    /// The kernel engine keeps out every stranger of the machine; with the userspace engine, true.
    pub(crate) exclusive: bool,
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

    /// The token for one of its protocols.
    fn token(&self, protocol: Protocol) -> Option<Token>;

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
        let protocol = bindable(socket, &address)?;
        Ok(Self { socket, protocol, address, listen: false })
    }
}

/// What only the owner may do, asked of a forked child.
#[cfg(unix)]
pub(crate) fn foreign(range: PortRange, owner: u32) -> Error {
    let text = format!("the reservation of {range} belongs to process {owner}");
    Error::new(crate::ErrorKind::PermissionDenied, text)
}

/// A socket of a protocol that the reservation is not for (spec 4.1).
#[cfg(unix)]
pub(crate) fn not_for(range: PortRange, protocol: Protocol) -> Error {
    let text = format!("the reservation of {range} is not for {protocol}");
    Error::new(crate::ErrorKind::InvalidToken, text)
}

/// A port that no block with this range can bind (spec 8.2).
#[cfg(unix)]
pub(crate) fn outside(range: PortRange, bind: &Bind<'_>) -> Error {
    let port = bind.address.port();
    let text = format!("port {port} is outside the reservation of {range}");
    Error::new(crate::ErrorKind::PermissionDenied, text).about(bind.protocol, port)
}
