//! Which sockets may be bound (spec 2.1), and in whose clothes they come.

use std::fs::File;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use portkeep::ErrorKind;
use portkeep::Protocol::{self, Tcp, Udp};
use socket2::{Domain, SockRef, Socket, Type};

use crate::engine::{BOTH, Host, IN_USE, NO_ROOM, UNSUPPORTED, cases, fails, request};
use crate::sockets::{
    Flag, all_refused, bind_plainly, everywhere6, loopback, open, port_of, refused,
};
use crate::support::left_out;

cases![
    t10_raw_sockets_are_unsupported,
    t10_unix_sockets_are_unsupported,
    t10_netlink_with_the_number_of_tcp_is_unsupported,
    t12_a_file_is_not_a_socket,
    t14_non_blocking_sockets_are_served_at_once,
    r02_1_sockets_of_std_and_socket2_are_served,
    r02_1_mptcp_counts_as_tcp,
];

/// Refused as not of a kind that has ports; the block has lost none of them.
#[track_caller]
fn unsupported(host: &Host, socket: &impl AsFd) {
    for protocol in BOTH {
        let block = host.acquire(&request(protocol, 1));
        for port in [0, block.range().start()] {
            fails(block.bind(socket, loopback(port)), UNSUPPORTED);
            fails(portkeep::bind(socket, block.token(), loopback(port)), UNSUPPORTED);
        }
        all_refused(protocol, block.range());
        block.bind(&open(protocol, &loopback(0), &[]).unwrap(), loopback(0)).unwrap();
    }
}

/// Spec 12, line 10.
fn t10_unix_sockets_are_unsupported(host: &Host) {
    unsupported(host, &UnixDatagram::unbound().unwrap());
    let directory = tempfile::tempdir().unwrap();
    unsupported(host, &UnixListener::bind(directory.path().join("socket")).unwrap());
}

/// Spec 12, line 10, also with the protocol numbers of TCP and UDP.
fn t10_raw_sockets_are_unsupported(host: &Host) {
    for protocol in [socket2::Protocol::ICMPV4, socket2::Protocol::TCP, socket2::Protocol::UDP] {
        match Socket::new(Domain::IPV4, Type::RAW, Some(protocol)) {
            Ok(raw) => unsupported(host, &raw),
            Err(error) => return left_out(&format!("raw sockets need root: {error}")),
        }
    }
}

/// Spec 12, line 10; architecture, section 3: `NETLINK_XFRM` is 6, and so is TCP.
fn t10_netlink_with_the_number_of_tcp_is_unsupported(host: &Host) {
    let netlink =
        |kind| socket(AddressFamily::Netlink, kind, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp);
    unsupported(host, &netlink(SockType::Raw).unwrap());
    unsupported(host, &netlink(SockType::Datagram).unwrap());
}

/// Spec 12, line 12.
fn t12_a_file_is_not_a_socket(host: &Host) {
    let file = File::open("/proc/self/exe").unwrap();
    let not_a_socket = (ErrorKind::Os, libc::ENOTSOCK);
    for protocol in BOTH {
        let block = host.acquire(&request(protocol, 1));
        for port in [0, block.range().start()] {
            fails(block.bind(&file, loopback(port)), not_a_socket);
            fails(portkeep::bind(&file, block.token(), loopback(port)), not_a_socket);
        }
        all_refused(protocol, block.range());
    }
}

/// Spec 12, line 14: never `EAGAIN`, and the mode is the consumer's.
fn t14_non_blocking_sockets_are_served_at_once(host: &Host) {
    for protocol in BOTH {
        let block = host.acquire(&request(protocol, 2));
        let sockets = [(); 3].map(|()| {
            let socket = open(protocol, &loopback(0), &[]).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        });
        block.bind(&sockets[0], loopback(0)).unwrap();
        fails(block.bind(&sockets[1], loopback(port_of(&sockets[0]))), IN_USE);
        block.bind(&sockets[1], loopback(0)).unwrap();
        fails(block.bind(&sockets[2], loopback(0)), NO_ROOM);
        assert!(sockets.iter().all(|socket| socket.nonblocking().unwrap()));
    }
}

fn unbound(protocol: Protocol) -> Socket {
    open(protocol, &loopback(0), &[]).unwrap()
}

/// Anything that is a descriptor of a socket will do.
fn r02_1_sockets_of_std_and_socket2_are_served(host: &Host) {
    let block = host.acquire(&portkeep::tcp_udp(8));
    let inside = |port| assert!(block.range().contains(port), "{port} in {}", block.range());

    let owned = OwnedFd::from(unbound(Tcp));
    inside(block.bind(&owned, loopback(0)).unwrap().port());
    let borrowed = unbound(Tcp);
    inside(block.bind(&borrowed.as_fd(), loopback(0)).unwrap().port());

    let listener = TcpListener::from(unbound(Tcp));
    let address = block.bind(&listener, loopback(0)).unwrap();
    inside(address.port());
    SockRef::from(&listener).listen(8).unwrap();
    let client = TcpStream::from(unbound(Tcp));
    inside(block.bind(&client, loopback(0)).unwrap().port());
    SockRef::from(&client).connect(&address.into()).unwrap();
    let (_, peer) = listener.accept().unwrap();
    assert_eq!(peer, client.local_addr().unwrap());

    let datagrams = UdpSocket::from(unbound(Udp));
    let address = block.bind(&datagrams, loopback(0)).unwrap();
    inside(address.port());
    let mine = block.udp_socket(loopback(0)).unwrap();
    mine.send_to(b"x", address).unwrap();
    assert_eq!(datagrams.recv_from(&mut [0]).unwrap(), (1, mine.local_addr().unwrap()));
}

/// Architecture, section 3: protocol 262 binds in the port space of TCP.
fn r02_1_mptcp_counts_as_tcp(host: &Host) {
    if let Err(error) = open(Tcp, &loopback(0), &[Flag::Mptcp]) {
        left_out(&format!("this kernel makes no MPTCP sockets: {error}"));
        return;
    }
    let block = host.tcp(3);
    for port in block.range().iter() {
        for address in [loopback(port), everywhere6(port)] {
            refused(Tcp, address, &[Flag::Mptcp]);
            refused(Tcp, address, &[Flag::Mptcp, Flag::ReuseAddress]);
            refused(Tcp, address, &[Flag::Mptcp, Flag::ReusePort]);
        }
    }
    let mut listening = Vec::new();
    for (flags, address) in [
        (&[Flag::Mptcp][..], loopback(0)),
        (&[Flag::Mptcp, Flag::ReuseAddress], loopback(0)),
        (&[Flag::Mptcp], everywhere6(0)),
    ] {
        let socket = open(Tcp, &address, flags).unwrap();
        let port = block.bind(&socket, address).unwrap().port();
        assert!(block.range().contains(port));
        refused(Tcp, loopback(port), &[]);
        socket.listen(1).unwrap();
        TcpStream::connect(loopback(port)).unwrap();
        listening.push(socket);
    }

    // One that is a stranger counts as in use.
    let range = host.free_range(2);
    let _stranger = bind_plainly(Tcp, loopback(range.last()), &[Flag::Mptcp]).unwrap();
    fails(portkeep::tcp(2).at(range.start()).acquire(), IN_USE);
    let _not_in_the_way = host.acquire(&portkeep::udp(2).at(range.start()));
}
