//! One held port: a socket bound to it on every address, which never listens.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

use libc::{IPPROTO_IPV6, IPV6_V6ONLY, SO_REUSEADDR, SOL_SOCKET};

use crate::ports::{PortRange, Protocol};
use crate::sys::{self, Family};

/// Opens a socket of the family that covers both, or of IPv4 where IPv6 is switched off.
pub(super) fn open(protocol: Protocol) -> io::Result<(OwnedFd, Family)> {
    match sys::open(Family::Inet6, protocol) {
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            Ok((sys::open(Family::Inet, protocol)?, Family::Inet))
        }
        opened => Ok((opened?, Family::Inet6)),
    }
}

/// Whether net.ipv6.bindv6only makes new sockets leave IPv4 alone.
///
/// Asked once a process: it costs a tenth of a reservation of one port, and nobody changes this
/// setting at run time. A new network namespace starts with 0, so a process that moves there is
/// right, or does more than it needs.
fn leaves_ipv4_alone(new_socket: BorrowedFd<'_>) -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| sys::flag(new_socket, IPPROTO_IPV6, IPV6_V6ONLY).is_ok_and(|on| on != 0))
}

/// The file identity of a socket: inode and user.
pub(super) fn identity(socket: BorrowedFd<'_>) -> io::Result<(u64, u32)> {
    let file = std::fs::metadata(format!("/proc/self/fd/{}", socket.as_raw_fd()))?;
    Ok((file.ino(), file.uid()))
}

/// Makes holders of one protocol.
pub(super) struct Holders {
    protocol: Protocol,
    /// A failed bind leaves its socket as it was: the next try takes it again.
    spare: Option<OwnedFd>,
    family: Family,
    v6only: bool,
}

impl Holders {
    pub(super) fn new(protocol: Protocol) -> io::Result<Self> {
        let (socket, family) = open(protocol)?;
        let v6only = family == Family::Inet6 && leaves_ipv4_alone(socket.as_fd());
        let mut holders = Self { protocol, spare: None, family, v6only };
        holders.prepare(socket.as_fd())?;
        holders.spare = Some(socket);
        Ok(holders)
    }

    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    fn prepare(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        if self.v6only {
            sys::set_flag(socket, IPPROTO_IPV6, IPV6_V6ONLY, false)?;
        }
        // Before the bind, so that not one datagram is kept. A TCP socket that does not listen
        // keeps nothing anyway.
        if self.protocol == Protocol::Udp {
            sys::drop_all_packets(socket)?;
        }
        Ok(())
    }

    fn socket(&mut self) -> io::Result<OwnedFd> {
        if let Some(spare) = self.spare.take() {
            return Ok(spare);
        }
        let socket = sys::open(self.family, self.protocol)?;
        self.prepare(socket.as_fd())?;
        Ok(socket)
    }

    fn bind(&self, socket: BorrowedFd<'_>, port: u16) -> io::Result<bool> {
        let everywhere: IpAddr = match self.family {
            Family::Inet => Ipv4Addr::UNSPECIFIED.into(),
            Family::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        match sys::bind(socket, &(everywhere, port).into()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Holds `port`, or says `None` when it is in use.
    pub(super) fn hold(&mut self, port: u16) -> io::Result<Option<OwnedFd>> {
        let socket = self.socket()?;
        if self.bind(socket.as_fd(), port)? {
            return Ok(Some(socket));
        }
        self.spare = Some(socket);
        Ok(None)
    }

    /// Holds a TCP port on which nothing but closing connections is left: they are not in use (spec
    /// 9.13), but without `SO_REUSEADDR` the kernel refuses to bind beside them.
    ///
    /// With that flag it would let us in beside living sockets that have it too. So: look first, for
    /// otherwise a server that is bound and about to listen would find us in its way; bind with the
    /// flag; take it off; and look again, which only now decides.
    ///
    /// The race: another process does the same, or binds with `SO_REUSEADDR`, at the same time. If
    /// its bind comes before our flag is off, our look, which takes the lock of the port's bind
    /// bucket after the flag went off, sees its socket and we give up. If it comes later, its bind
    /// sees our socket without the flag and fails. Two who do this to each other may both give up,
    /// but never both succeed.
    pub(super) fn hold_beside_closing(&mut self, port: u16) -> io::Result<Option<OwnedFd>> {
        if self.protocol != Protocol::Tcp {
            return Ok(None);
        }
        if !only_closing(port, None) {
            return Ok(None);
        }
        // Not the spare: a socket that was bound, or has the flag, is of no use for another try.
        let socket = sys::open(self.family, self.protocol)?;
        self.prepare(socket.as_fd())?;
        sys::set_flag(socket.as_fd(), SOL_SOCKET, SO_REUSEADDR, true)?;
        if !self.bind(socket.as_fd(), port)? {
            return Ok(None);
        }
        sys::set_flag(socket.as_fd(), SOL_SOCKET, SO_REUSEADDR, false)?;
        let (own, _) = identity(socket.as_fd())?;
        Ok(only_closing(port, Some(own)).then_some(socket))
    }
}

/// Whether there is no living socket on this TCP port but `own`, which must be seen: a kernel that
/// does not show our own bound socket (before 6.8) may hide others as well.
fn only_closing(port: u16, own: Option<u64>) -> bool {
    let Ok(here) = sys::sockets(Protocol::Tcp, PortRange::between(port, port)) else {
        return false;
    };
    let mut living = here.iter().filter(|socket| socket.is_live()).map(|socket| socket.inode);
    living.next() == own && living.next().is_none()
}
