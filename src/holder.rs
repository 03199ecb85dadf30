//! Who reserved a port.

use std::fmt;
use std::time::Duration;

use crate::engine;
use crate::error::Result;
use crate::ports::{PortRange, Protocol};

/// A reservation of the kernel engine, as anybody in its network namespace may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// All of the block that the port belongs to.
    pub range: PortRange,
    /// The owner, as the initial process namespace numbers it.
    pub pid: u32,
    /// The owner's effective user id.
    pub uid: u32,
    /// The name of the owner's process when it acquired.
    pub command: String,
    /// When it was acquired, on the boot-time clock (`CLOCK_BOOTTIME`).
    pub acquired: Duration,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {}, uid {})", self.command.escape_debug(), self.pid, self.uid)
    }
}

/// Who reserved `port`, in the network namespace of the calling thread. Any user may ask.
///
/// `None` when nobody has, and when the kernel engine is not loaded: the userspace engine shows as
/// the process that holds the sockets, see [`occupants`](crate::occupants).
///
/// # Errors
///
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) where there is no engine,
/// [`ErrorKind::Os`](crate::ErrorKind::Os) when the kernel engine cannot be asked.
pub fn holder(protocol: Protocol, port: u16) -> Result<Option<Holder>> {
    engine::holder(protocol, port)
}
