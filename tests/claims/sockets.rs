//! Plain sockets, as strangers use them, and small things that several topics need.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use portkeep::{PortRange, PortRequest, Protocol};
use socket2::{Domain, Socket, Type};

pub(crate) const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// A socket with no option set.
pub(crate) fn open(protocol: Protocol, address: &SocketAddr) -> Socket {
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    Socket::new(Domain::for_address(*address), kind, None).expect("a free descriptor")
}

/// Binds a socket with no option set: the stranger's way, without `SO_REUSEADDR`.
pub(crate) fn bind(protocol: Protocol, address: impl Into<SocketAddr>) -> io::Result<Socket> {
    let address = address.into();
    let socket = open(protocol, &address);
    socket.bind(&address.into())?;
    Ok(socket)
}

pub(crate) fn port(socket: &Socket) -> u16 {
    let address = socket.local_addr().expect("an open socket");
    address.as_socket().expect("an internet address").port()
}

/// Panics unless every port of `range` can be bound on every address, for TCP and for UDP.
pub(crate) fn assert_free(range: PortRange, when: &str) {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for port in range.iter() {
            if let Err(error) = bind(protocol, (Ipv6Addr::UNSPECIFIED, port)) {
                let there = portkeep::occupants(protocol, range);
                panic!("{protocol} port {port} is not free {when}: {error}; there: {there:?}");
            }
        }
    }
}

pub(crate) fn request(protocol: Protocol, count: u16) -> PortRequest {
    match protocol {
        Protocol::Tcp => portkeep::tcp(count),
        Protocol::Udp => portkeep::udp(count),
    }
}

/// A number below `limit`, another one each time.
pub(crate) fn random(limit: u64) -> u64 {
    RandomState::new().hash_one(()) % limit
}

/// Says what was found, in spite of output capture.
pub(crate) fn report(line: &str) {
    let line = format!("{line}\n");
    io::stderr().write_all(line.as_bytes()).expect("standard error is there");
}
