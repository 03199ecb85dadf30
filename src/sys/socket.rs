//! Sockets: open, set options, bind, listen.
#![expect(unsafe_code, reason = "the socket calls of libc")]

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::{c_int, c_void, socklen_t};

use crate::ports::Protocol;

#[expect(clippy::cast_possible_truncation, reason = "libc declares these small numbers as int")]
mod number {
    pub(super) const INET: libc::sa_family_t = libc::AF_INET as libc::sa_family_t;
    pub(super) const INET6: libc::sa_family_t = libc::AF_INET6 as libc::sa_family_t;
    pub(super) const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
}

/// An address family that has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Inet,
    Inet6,
}

/// Turns the -1 of a system call into the error it left behind.
fn checked(result: c_int) -> io::Result<c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn size_of<T>() -> socklen_t {
    socklen_t::try_from(mem::size_of::<T>()).expect("socket structures are small")
}

/// [socket(2)](https://man7.org/linux/man-pages/man2/socket.2.html), closed on exec.
pub(crate) fn open(family: Family, protocol: Protocol) -> io::Result<OwnedFd> {
    let family = match family {
        Family::Inet => libc::AF_INET,
        Family::Inet6 => libc::AF_INET6,
    };
    let kind = match protocol {
        Protocol::Tcp => libc::SOCK_STREAM,
        Protocol::Udp => libc::SOCK_DGRAM,
    };
    // SAFETY: plain numbers go in, a new descriptor or -1 comes out.
    let fd = checked(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Which port space and family a socket belongs to; `None` for every other kind of socket.
///
/// [getsockopt(2)](https://man7.org/linux/man-pages/man2/getsockopt.2.html) with `SO_PROTOCOL`
/// and `SO_DOMAIN`.
pub(crate) fn protocol(socket: BorrowedFd<'_>) -> io::Result<Option<(Protocol, Family)>> {
    // The numbers alone would not do: a netlink socket may have protocol 6 (NETLINK_XFRM).
    let family = match flag(socket, libc::SOL_SOCKET, libc::SO_DOMAIN)? {
        libc::AF_INET => Family::Inet,
        libc::AF_INET6 => Family::Inet6,
        _ => return Ok(None),
    };
    let kind = flag(socket, libc::SOL_SOCKET, libc::SO_TYPE)?;
    let protocol = match (kind, flag(socket, libc::SOL_SOCKET, libc::SO_PROTOCOL)?) {
        (libc::SOCK_STREAM, libc::IPPROTO_TCP | libc::IPPROTO_MPTCP) => Protocol::Tcp,
        (libc::SOCK_DGRAM, libc::IPPROTO_UDP) => Protocol::Udp,
        _ => return Ok(None),
    };
    Ok(Some((protocol, family)))
}

/// [getsockopt(2)](https://man7.org/linux/man-pages/man2/getsockopt.2.html) of an int.
pub(crate) fn flag(socket: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut size = size_of::<c_int>();
    // SAFETY: the kernel writes at most `size` bytes into `value`; both live through the call.
    checked(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw mut value).cast::<c_void>(),
            &raw mut size,
        )
    })?;
    Ok(value)
}

/// [setsockopt(2)](https://man7.org/linux/man-pages/man2/setsockopt.2.html) of an int that is 0 or 1.
pub(crate) fn set_flag(
    socket: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    on: bool,
) -> io::Result<()> {
    set(socket, level, name, &c_int::from(on))
}

/// Attaches a filter that lets nothing through, so that a held UDP port collects no datagrams.
///
/// [socket(7)](https://man7.org/linux/man-pages/man7/socket.7.html), `SO_ATTACH_FILTER`.
pub(crate) fn drop_all_packets(socket: BorrowedFd<'_>) -> io::Result<()> {
    let mut keep_no_byte = libc::sock_filter { code: number::RETURN, jt: 0, jf: 0, k: 0 };
    let program = libc::sock_fprog { len: 1, filter: &raw mut keep_no_byte };
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// [setsockopt(2)](https://man7.org/linux/man-pages/man2/setsockopt.2.html) of plain bytes.
pub(crate) fn set_bytes(
    socket: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: &[u8],
) -> io::Result<()> {
    let size = socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `size` bytes of `value`, which outlives the call.
    checked(unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), size)
    })
    .map(drop)
}

/// [getsockopt(2)](https://man7.org/linux/man-pages/man2/getsockopt.2.html) of plain bytes; returns
/// how many there are.
pub(crate) fn bytes(
    socket: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: &mut [u8],
) -> io::Result<usize> {
    let mut size = socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `size` bytes into `value`, which outlives the call.
    checked(unsafe {
        let value = value.as_mut_ptr().cast();
        libc::getsockopt(socket.as_raw_fd(), level, name, value, &raw mut size)
    })?;
    Ok(value.len().min(size as usize))
}

fn set<T>(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads the bytes of `value`, which outlives the call, and for a filter the
    // program it points to, which the caller keeps alive likewise.
    checked(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const *value).cast::<c_void>(),
            size_of::<T>(),
        )
    })?;
    Ok(())
}

/// [bind(2)](https://man7.org/linux/man-pages/man2/bind.2.html).
pub(crate) fn bind(socket: BorrowedFd<'_>, address: &SocketAddr) -> io::Result<()> {
    let fd = socket.as_raw_fd();
    let result = match address {
        SocketAddr::V4(address) => {
            let raw = libc::sockaddr_in {
                sin_family: number::INET,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: the structure is the one its family says, and its size goes with it.
            unsafe { libc::bind(fd, (&raw const raw).cast(), size_of::<libc::sockaddr_in>()) }
        }
        SocketAddr::V6(address) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: number::INET6,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: address.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                sin6_scope_id: address.scope_id(),
            };
            // SAFETY: as above.
            unsafe { libc::bind(fd, (&raw const raw).cast(), size_of::<libc::sockaddr_in6>()) }
        }
    };
    checked(result).map(drop)
}

/// [listen(2)](https://man7.org/linux/man-pages/man2/listen.2.html), with the longest queue allowed.
pub(crate) fn listen(socket: BorrowedFd<'_>) -> io::Result<()> {
    // The kernel cuts the number to net.core.somaxconn.
    // SAFETY: plain numbers go in.
    checked(unsafe { libc::listen(socket.as_raw_fd(), c_int::MAX) }).map(drop)
}

/// [getsockname(2)](https://man7.org/linux/man-pages/man2/getsockname.2.html); port 0 while unbound.
pub(crate) fn local_address(socket: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    let mut raw = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut size = size_of::<libc::sockaddr_storage>();
    // SAFETY: the kernel writes at most `size` bytes into `raw`.
    checked(unsafe {
        libc::getsockname(socket.as_raw_fd(), raw.as_mut_ptr().cast(), &raw mut size)
    })?;
    // SAFETY: all zeroes is a valid value of this structure of numbers, and the kernel wrote numbers.
    let raw = unsafe { raw.assume_init() };
    match c_int::from(raw.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says which structure the storage holds; it is large enough and
            // aligned for every one.
            let raw = unsafe { *(&raw const raw).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes());
            Ok(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let raw = unsafe { *(&raw const raw).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
            let port = u16::from_be(raw.sin6_port);
            Ok(SocketAddrV6::new(ip, port, raw.sin6_flowinfo, raw.sin6_scope_id).into())
        }
        _ => Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
    }
}
