//! Plain sockets: those of strangers, and those that are handed to a reservation.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use portkeep::{PortRange, Protocol};
use socket2::{Domain, Socket, Type};

/// What a program may do to a socket before it binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flag {
    ReuseAddress,
    ReusePort,
    OnlyV6,
    Mptcp,
}

impl FromStr for Flag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::ReuseAddress, Self::ReusePort, Self::OnlyV6, Self::Mptcp]
            .into_iter()
            .find(|flag| format!("{flag:?}") == text)
            .ok_or_else(|| format!("no flag: {text}"))
    }
}

/// Every combination of the two flags that let sockets share a port.
pub(crate) const REUSE: [&[Flag]; 4] =
    [&[], &[Flag::ReuseAddress], &[Flag::ReusePort], &[Flag::ReuseAddress, Flag::ReusePort]];

pub(crate) fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

pub(crate) fn loopback6(port: u16) -> SocketAddr {
    (Ipv6Addr::LOCALHOST, port).into()
}

/// The same machine under another address: all of 127/8 is local.
pub(crate) fn other_loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 2], port).into()
}

/// An IPv4 address in the clothes of IPv6.
pub(crate) fn mapped_loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST.to_ipv6_mapped(), port).into()
}

pub(crate) fn everywhere(port: u16) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, port).into()
}

pub(crate) fn everywhere6(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

/// The addresses under which a port must be kept: both families, wildcard and not.
pub(crate) fn addresses(port: u16) -> [SocketAddr; 6] {
    [
        loopback(port),
        other_loopback(port),
        everywhere(port),
        loopback6(port),
        everywhere6(port),
        mapped_loopback(port),
    ]
}

/// An unbound socket of the family of `address`.
pub(crate) fn open(protocol: Protocol, address: &SocketAddr, flags: &[Flag]) -> io::Result<Socket> {
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let number = flags.contains(&Flag::Mptcp).then_some(socket2::Protocol::MPTCP);
    let socket = Socket::new(Domain::for_address(*address), kind, number)?;
    for flag in flags {
        match flag {
            Flag::ReuseAddress => socket.set_reuse_address(true)?,
            Flag::ReusePort => socket.set_reuse_port(true)?,
            Flag::OnlyV6 => socket.set_only_v6(true)?,
            Flag::Mptcp => {}
        }
    }
    Ok(socket)
}

/// What a program does that knows nothing of portkeep.
pub(crate) fn bind_plainly(
    protocol: Protocol,
    address: SocketAddr,
    flags: &[Flag],
) -> io::Result<Socket> {
    let socket = open(protocol, &address, flags)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// The port a socket is bound to, 0 while it is not.
pub(crate) fn port_of(socket: &Socket) -> u16 {
    let address = socket.local_addr().expect("an open socket");
    address.as_socket().expect("an internet socket").port()
}

/// A plain bind is refused, with the errno after which programs try the next port.
#[track_caller]
pub(crate) fn refused(protocol: Protocol, address: SocketAddr, flags: &[Flag]) {
    match bind_plainly(protocol, address, flags) {
        Ok(_) => panic!("a stranger with {flags:?} got {protocol} {address}"),
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::EADDRINUSE), "{protocol} {address}");
        }
    }
}

#[track_caller]
pub(crate) fn all_refused(protocol: Protocol, range: PortRange) {
    for port in range.iter() {
        refused(protocol, loopback(port), &[]);
        refused(protocol, everywhere6(port), &[]);
    }
}

/// Anybody can have all of these ports, at once and on every address.
#[track_caller]
pub(crate) fn all_free(protocol: Protocol, ports: impl IntoIterator<Item = u16>) {
    let sockets: Vec<_> = ports
        .into_iter()
        .map(|port| match bind_plainly(protocol, everywhere6(port), &[]) {
            Ok(socket) => socket,
            Err(error) => panic!("{protocol} port {port} is not free: {error}"),
        })
        .collect();
    assert!(!sockets.is_empty(), "an empty claim");
}
