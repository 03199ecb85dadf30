//! Associated sockets that do not bind: connect() draws for them, the rest is beyond our reach.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread;

use portkeep::Protocol;
use socket2::{Domain, Socket, Type};

use crate::client::{Instance, MPTCP, Way, block, errno, port, release, stranger};
use crate::host::{Host, cases};

cases![
    connect_draws_from_the_block_until_it_is_full,
    a_connect_that_found_no_port_works_when_one_is_free,
    connect_keeps_the_port_of_an_earlier_bind,
    connect_after_the_end_of_the_reservation_is_refused,
    connect_that_the_peer_refuses_leaks_no_port,
    listening_and_sending_without_bind_take_an_ordinary_port,
    fast_open_draws_like_connect,
];

/// Somebody to connect to, over either family; it speaks TCP, MPTCP and UDP.
struct Server {
    listeners: Vec<(Socket, Socket)>,
}

const SERVER: u16 = 9000;

impl Server {
    fn new() -> Self {
        let listen = |address: IpAddr| {
            let mptcp = Some(socket2::Protocol::from(MPTCP));
            let domain = Domain::for_address((address, SERVER).into());
            let listener = Socket::new(domain, Type::STREAM, mptcp).unwrap();
            listener.set_reuse_address(true).unwrap();
            listener.bind(&SocketAddr::new(address, SERVER).into()).unwrap();
            listener.listen(128).unwrap();
            (listener, stranger(Protocol::Udp, (address, SERVER)).unwrap())
        };
        let addresses = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        Self { listeners: addresses.map(listen).into() }
    }

    /// Connects; the other end, if there is one.
    fn connect(&self, way: Way, socket: &Socket) -> io::Result<Option<Socket>> {
        socket.connect(&SocketAddr::new(target(way), SERVER).into())?;
        Ok((way.protocol == Protocol::Tcp).then(|| self.accepted(way, socket)))
    }

    fn accepted(&self, way: Way, socket: &Socket) -> Socket {
        let (end, from) = self.listeners[usize::from(is_v6(target(way)))].0.accept().unwrap();
        let from = from.as_socket().expect("of the internet");
        assert_eq!(from.port(), port(socket), "{way:?}: seen from the other end too");
        end
    }
}

/// Not an IPv4 address, and not one in disguise either.
fn is_v6(address: IpAddr) -> bool {
    address.to_canonical().is_ipv6()
}

/// The server as a socket of this kind sees it.
fn target(way: Way) -> IpAddr {
    match way.address {
        address if !address.is_unspecified() => address,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

/// Closes a connection from the far end first, so that nothing lingers at the near port.
fn close(way: Way, mut socket: Socket, end: Option<Socket>) {
    drop(end);
    if way.protocol == Protocol::Tcp {
        assert_eq!(socket.read(&mut [0]).unwrap(), 0);
    }
}

fn connect_draws_from_the_block_until_it_is_full(_: &Host) {
    let server = Server::new();
    for way in Way::all() {
        let (_anchor, mine) = block(way.protocol, 20000, 8);
        let mut connections = Vec::new();
        for _ in 0..8 {
            let socket = way.associated(mine);
            let end = server.connect(way, &socket).unwrap();
            connections.push((socket, end));
        }
        let drawn: BTreeSet<_> = connections.iter().map(|(socket, _)| port(socket)).collect();
        assert!(drawn.iter().copied().eq(20000..20008), "{way:?}: {drawn:?}");
        let late = way.associated(mine);
        assert_eq!(errno(server.connect(way, &late)), libc::ENOBUFS, "{way:?}");
        assert_eq!(port(&late), 0, "{way:?}");
        for (socket, end) in connections {
            close(way, socket, end);
        }
        wait_until_free(way, mine);
    }
}

/// Until the kernel has forgotten the connections of a block; MPTCP closes in its own time.
fn wait_until_free(way: Way, mine: Instance) {
    for at in mine.start..=mine.last() {
        for _ in 0..5_000 {
            if way.bind(&way.associated(mine), at).is_ok() {
                break;
            }
            thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!(way.bind(&way.associated(mine), at).unwrap(), at, "{way:?}");
    }
}

fn a_connect_that_found_no_port_works_when_one_is_free(_: &Host) {
    let server = Server::new();
    for way in Way::all() {
        let (_anchor, mine) = block(way.protocol, 20000, 1);
        let first = way.associated(mine);
        let end = server.connect(way, &first).unwrap();
        let second = way.associated(mine);
        assert_eq!(errno(server.connect(way, &second)), libc::ENOBUFS);
        close(way, first, end);
        wait_until_free(way, mine);
        let end = server.connect(way, &second).unwrap();
        assert_eq!(port(&second), 20000, "{way:?}");
        close(way, second, end);
        wait_until_free(way, mine);
    }
}

fn connect_keeps_the_port_of_an_earlier_bind(_: &Host) {
    let server = Server::new();
    for way in Way::all() {
        let (_anchor, mine) = block(way.protocol, 20000, 8);
        let socket = way.associated(mine);
        way.bind(&socket, 20005).unwrap();
        let end = server.connect(way, &socket).unwrap();
        assert_eq!(port(&socket), 20005);
        close(way, socket, end);
        wait_until_free(way, mine);
    }
}

fn connect_after_the_end_of_the_reservation_is_refused(_: &Host) {
    let server = Server::new();
    for way in Way::all() {
        let (anchor, mine) = block(way.protocol, 20000, 8);
        let socket = way.associated(mine);
        release(&anchor, mine.token).unwrap();
        assert_eq!(errno(server.connect(way, &socket)), libc::EACCES, "{way:?}");
        assert_eq!(port(&socket), 0);
    }
}

fn connect_that_the_peer_refuses_leaks_no_port(host: &Host) {
    const NOBODY_LISTENS: u16 = 9;
    for way in Way::all().into_iter().filter(|way| way.protocol == Protocol::Tcp) {
        let (anchor, mine) = block(way.protocol, 20000, 4);
        for _ in 0..100 {
            let socket = way.associated(mine);
            let refused = socket.connect(&SocketAddr::new(target(way), NOBODY_LISTENS).into());
            assert_eq!(errno(refused), libc::ECONNREFUSED, "{way:?}");
        }
        wait_until_free(way, mine);
        drop(anchor);
        host.maps().assert_nothing_is_left();
    }
}

/// A line of the table of differences: the kernel offers no hook for these.
fn listening_and_sending_without_bind_take_an_ordinary_port(_: &Host) {
    let _server = Server::new();
    for way in Way::all() {
        let (_anchor, mine) = block(way.protocol, 20000, 8);
        let socket = way.associated(mine);
        match way.protocol {
            Protocol::Tcp => socket.listen(1).unwrap(),
            Protocol::Udp => {
                socket.send_to(b"x", &SocketAddr::new(target(way), SERVER).into()).unwrap();
            }
        }
        let at = port(&socket);
        assert!(at != 0 && !mine.contains(at), "{way:?}: {at}");
    }
}

/// Sending that connects is connecting: the kernel asks our hook.
fn fast_open_draws_like_connect(_: &Host) {
    let server = Server::new();
    for way in Way::all().into_iter().filter(|way| way.protocol == Protocol::Tcp) {
        let (_anchor, mine) = block(Protocol::Tcp, 20000, 1);
        let socket = way.associated(mine);
        let to = SocketAddr::new(target(way), SERVER).into();
        socket.send_to_with_flags(b"x", &to, libc::MSG_FASTOPEN).unwrap();
        assert_eq!(port(&socket), 20000, "{way:?}");
        let late = way.associated(mine);
        let refused = late.send_to_with_flags(b"x", &to, libc::MSG_FASTOPEN);
        assert_eq!(errno(refused), libc::ENOBUFS, "{way:?}");
        let mut end = server.accepted(way, &socket);
        // What is unread when it closes would reset the connection.
        assert_eq!(end.read(&mut [0]).unwrap(), 1);
        close(way, socket, Some(end));
        wait_until_free(way, mine);
    }
}
