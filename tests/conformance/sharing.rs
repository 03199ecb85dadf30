//! Several sockets on one port of a block, by the rules that hold on any port (spec 8.2).

use std::collections::HashSet;
use std::net::{TcpStream, UdpSocket};

use portkeep::Protocol::{self, Tcp, Udp};

use crate::engine::{BOTH, Host, IN_USE, cases, fails, request};
use crate::sockets::{Flag, loopback, open, port_of, refused};

cases![
    r08_2_reuse_port_sockets_share_a_port_of_the_block,
    r08_2_a_socket_without_reuse_port_does_not_join,
    r08_2_a_socket_with_reuse_port_does_not_join_one_without,
    r08_2_bind_0_does_not_join_a_shared_port,
    r08_2_tcp_sockets_that_share_a_port_all_listen,
    r08_2_sockets_on_different_addresses_share_a_port,
];

fn unbound(protocol: Protocol, flags: &[Flag]) -> socket2::Socket {
    open(protocol, &loopback(0), flags).unwrap()
}

/// What MsQuic does: a socket per processor, all on one reserved port.
fn r08_2_reuse_port_sockets_share_a_port_of_the_block(host: &Host) {
    for protocol in BOTH {
        let block = host.acquire(&request(protocol, 2));
        let port = block.range().last();
        let sockets: Vec<_> = (0..4).map(|_| unbound(protocol, &[Flag::ReusePort])).collect();
        for socket in &sockets {
            block.bind(socket, loopback(port)).unwrap();
            assert_eq!(port_of(socket), port);
        }
        refused(protocol, loopback(port), &[]);
        refused(protocol, loopback(port), &[Flag::ReuseAddress]);
    }
}

/// The second socket is refused the port of the first.
#[track_caller]
fn does_not_join(host: &Host, first: &[Flag], second: &[Flag]) {
    for protocol in BOTH {
        let block = host.acquire(&request(protocol, 1));
        let port = block.range().start();
        let early = unbound(protocol, first);
        block.bind(&early, loopback(port)).unwrap();
        let late = unbound(protocol, second);
        let result = block.bind(&late, loopback(port));
        assert!(result.is_err(), "{protocol}: {second:?} joined {first:?}");
        fails(result, IN_USE);
        assert_eq!(port_of(&late), 0);
        assert_eq!(late.reuse_port().unwrap(), second.contains(&Flag::ReusePort));
    }
}

/// All of them set it, or none shares.
fn r08_2_a_socket_without_reuse_port_does_not_join(host: &Host) {
    does_not_join(host, &[], &[]);
    does_not_join(host, &[Flag::ReusePort], &[]);
    does_not_join(host, &[Flag::ReuseAddress, Flag::ReusePort], &[]);
}

/// The same the other way round.
fn r08_2_a_socket_with_reuse_port_does_not_join_one_without(host: &Host) {
    does_not_join(host, &[], &[Flag::ReusePort]);
    does_not_join(host, &[Flag::ReuseAddress], &[Flag::ReusePort]);
}

/// Spec 8.2, row 1: a free port, even for a socket that could share one.
fn r08_2_bind_0_does_not_join_a_shared_port(host: &Host) {
    for protocol in BOTH {
        let block = host.acquire(&request(protocol, 4));
        let sockets: Vec<_> = (0..4).map(|_| unbound(protocol, &[Flag::ReusePort])).collect();
        let ports: HashSet<u16> =
            sockets.iter().map(|s| block.bind(s, loopback(0)).unwrap().port()).collect();
        assert_eq!(ports.len(), 4);
        fails(
            block.bind(&unbound(protocol, &[Flag::ReusePort]), loopback(0)),
            crate::engine::NO_ROOM,
        );
    }
}

/// The kernel looks for conflicts once more when a TCP socket listens.
fn r08_2_tcp_sockets_that_share_a_port_all_listen(host: &Host) {
    for flags in [&[Flag::ReusePort][..], &[Flag::ReuseAddress, Flag::ReusePort]] {
        let block = host.tcp(1);
        let port = block.range().start();
        let sockets: Vec<_> = (0..3).map(|_| unbound(Tcp, flags)).collect();
        for socket in &sockets {
            block.bind(socket, loopback(port)).unwrap();
            socket.set_nonblocking(true).unwrap();
        }
        for socket in &sockets {
            socket.listen(64).unwrap();
        }
        // The kernel spreads connections over them: one of 64 lands on each, but for one run in
        // about 10^11.
        let clients: Vec<_> =
            (0..64).map(|_| TcpStream::connect(loopback(port)).unwrap()).collect();
        let accepted: Vec<usize> = sockets
            .iter()
            .map(|socket| std::iter::from_fn(|| socket.accept().ok()).count())
            .collect();
        assert_eq!(accepted.iter().sum::<usize>(), clients.len());
        assert!(accepted.iter().all(|count| *count > 0), "{accepted:?}");
    }
}

/// Spec 8.4: specific addresses do not conflict with each other.
fn r08_2_sockets_on_different_addresses_share_a_port(host: &Host) {
    for protocol in BOTH {
        let block = host.acquire(&request(protocol, 1));
        let port = block.range().start();
        let sockets = [[127, 0, 0, 1], [127, 0, 0, 2], [127, 0, 0, 3]].map(|ip| {
            let socket = unbound(protocol, &[]);
            block.bind(&socket, (ip, port)).unwrap_or_else(|error| panic!("{ip:?}: {error}"));
            socket
        });
        match protocol {
            Tcp => {
                for socket in sockets {
                    socket.listen(1).unwrap();
                    let address = socket.local_addr().unwrap().as_socket().unwrap();
                    TcpStream::connect(address).unwrap();
                }
            }
            Udp => {
                let sender = UdpSocket::bind(loopback(0)).unwrap();
                for socket in sockets {
                    let socket = UdpSocket::from(socket);
                    sender.send_to(b"x", socket.local_addr().unwrap()).unwrap();
                    assert_eq!(socket.recv(&mut [0]).unwrap(), 1);
                }
            }
        }
    }
}
