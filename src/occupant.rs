//! Who is on a port: the answer to a bind that failed.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::ports::{PortRange, Protocol};
use crate::sys;

/// A socket that is bound to a port, and the process that has it open, where that can be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Occupant {
    /// The port it is bound to.
    pub port: u16,
    /// The effective user id that opened the socket.
    pub uid: u32,
    /// The process, when `/proc` shows its descriptors to us: our own user's, or any for root.
    pub pid: Option<u32>,
    /// The name of that process, as [ps(1)](https://man7.org/linux/man-pages/man1/ps.1.html) shows it.
    pub command: Option<String>,
}

impl fmt::Display for Occupant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.command, self.pid) {
            (Some(command), Some(pid)) => {
                write!(f, "{} (pid {pid}, uid {})", command.escape_debug(), self.uid)
            }
            _ => write!(f, "a process of uid {}", self.uid),
        }
    }
}

/// A socket as the kernel describes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketInfo {
    pub(crate) port: u16,
    /// One of the `TCP_` states of the kernel; a UDP socket is `CLOSE` or `ESTABLISHED`.
    pub(crate) state: u8,
    /// Zero when no descriptor refers to it any more.
    pub(crate) inode: u64,
    pub(crate) uid: u32,
}

impl SocketInfo {
    /// Whether some process can still use this socket. What is left of a closed connection (spec
    /// 9.13) is nobody's.
    pub(crate) fn is_live(&self) -> bool {
        const TIME_WAIT: u8 = 6;
        self.state != TIME_WAIT && self.inode != 0
    }
}

/// The sockets that occupy ports of `range`, in this network namespace; those of connections that
/// are already closed, such as `TIME_WAIT`, are not counted.
///
/// [sock_diag(7)](https://man7.org/linux/man-pages/man7/sock_diag.7.html) for the sockets and
/// [proc(5)](https://man7.org/linux/man-pages/man5/proc.5.html) for the processes; any user. TCP
/// sockets that are bound and neither listen nor connect are seen since Linux 6.8.
///
/// # Errors
///
/// [`ErrorKind::Os`](crate::ErrorKind::Os) when the kernel has no sock_diag or a sandbox forbids it.
pub fn occupants(protocol: Protocol, range: PortRange) -> Result<Vec<Occupant>> {
    let mut sockets = sys::sockets(protocol, range)
        .map_err(|cause| Error::os("cannot ask the kernel who is on the port", &cause))?;
    sockets.retain(SocketInfo::is_live);
    let inodes = sockets.iter().map(|socket| socket.inode).collect();
    let owners = owners(&inodes);
    let mut occupants: Vec<Occupant> = sockets
        .iter()
        .map(|socket| {
            let pid = owners.iter().find(|(inode, _)| *inode == socket.inode).map(|(_, pid)| *pid);
            let command = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok());
            Occupant {
                port: socket.port,
                uid: socket.uid,
                pid,
                command: command.map(|name| name.trim_end().to_owned()),
            }
        })
        .collect();
    // One process may have many connections on one port.
    occupants.sort_by_key(|occupant| (occupant.port, occupant.pid, occupant.uid));
    occupants.dedup();
    Ok(occupants)
}

/// The processes that have these sockets open, one for each.
fn owners(inodes: &HashSet<u64>) -> Vec<(u64, u32)> {
    let mut owners = Vec::new();
    let Ok(processes) = fs::read_dir("/proc") else { return owners };
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // Processes end while we look, and others' descriptors are not shown: both are normal.
        for descriptor in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            let target = fs::read_link(descriptor.path()).unwrap_or_default();
            if let Some(inode) = socket_inode(&target).filter(|inode| inodes.contains(inode)) {
                owners.push((inode, pid));
            }
        }
    }
    owners
}

/// The number in `socket:[12345]`.
fn socket_inode(target: &Path) -> Option<u64> {
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(all(test, target_os = "linux", not(portkeep_unsupported)))]
mod tests {
    use super::*;

    #[test]
    fn we_find_ourselves_even_without_listening() {
        let block = crate::tcp(2).acquire().unwrap();
        let found = occupants(Protocol::Tcp, block.range()).unwrap();
        assert_eq!(found.len(), 2);
        for (occupant, port) in found.iter().zip(block.range().iter()) {
            assert_eq!((occupant.port, occupant.pid), (port, Some(std::process::id())));
            assert!(occupant.to_string().contains(&format!("pid {}", std::process::id())));
        }
        assert_eq!(occupants(Protocol::Udp, block.range()).unwrap(), []);
    }
}
