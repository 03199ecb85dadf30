//! Strangers while a consumer is let in, while it is there, and after it (spec 8.5, invariant 3).

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use portkeep::Protocol;
use portkeep::Protocol::{Tcp, Udp};

use crate::engine::{BOTH, Host, cases, request};
use crate::helper::Helper;
use crate::sockets::{Flag, REUSE, addresses, all_refused, bind_plainly, loopback, open, refused};

cases![
    r08_5_nobody_gets_in_beside_a_listener,
    r08_5_nobody_gets_in_beside_a_socket_that_is_bound,
    r08_5_nobody_gets_in_beside_a_bound_socket_that_listens,
    r08_5_nobody_gets_in_beside_a_bound_socket_that_connects,
    r08_5_nobody_gets_in_while_sockets_are_let_in,
    r08_2_a_listener_returns_its_port_to_the_block,
    r08_2_a_listener_may_restart_while_its_connections_live,
    r08_2_a_listener_may_restart_after_it_closed_first,
];

/// The port of a ready-made listener stays guarded on every address, against every flag.
fn r08_5_nobody_gets_in_beside_a_listener(host: &Host) {
    let block = host.tcp(2);
    let port = block.range().start();
    let listener = block.listener(loopback(port)).unwrap();
    let mut stranger = host.helper();
    for address in addresses(port) {
        for flags in REUSE {
            refused(Tcp, address, flags);
        }
        stranger.refused(Tcp, address, "ReuseAddress ReusePort");
    }
    TcpStream::connect(listener.local_addr().unwrap()).unwrap();
}

/// A stranger with a flag that the consumer has not set does not get its address, and without
/// flags none does.
///
/// `listens` says that the consumer has listened. Until then an engine may admit its own user.
#[track_caller]
fn guarded(host: &Host, protocol: Protocol, port: u16, consumer: &[Flag], listens: bool) {
    let admits = protocol == Tcp && !listens && host.engine.admits_own_user_until_listen;
    for flags in REUSE {
        if flags.iter().all(|flag| !consumer.contains(flag)) {
            if admits && flags.contains(&Flag::ReusePort) {
                if host.netns().is_some() {
                    let mut another = Helper::of_another_user(host.engine);
                    another.refused(protocol, loopback(port), "ReusePort");
                }
                continue;
            }
            let stranger = bind_plainly(protocol, loopback(port), flags);
            assert!(stranger.is_err(), "{protocol}: {flags:?} got in beside {consumer:?}");
            if host.engine.keeps_plainly_bound_ports {
                addresses(port).into_iter().for_each(|other| refused(protocol, other, flags));
            }
        }
    }
}

/// Once bind has returned, what it took to get in no longer lets others in.
fn r08_5_nobody_gets_in_beside_a_socket_that_is_bound(host: &Host) {
    for protocol in BOTH {
        for flags in REUSE {
            let block = host.acquire(&request(protocol, 1));
            let port = block.range().start();
            let socket = open(protocol, &loopback(0), flags).unwrap();
            block.bind(&socket, loopback(0)).unwrap();
            guarded(host, protocol, port, flags, false);
        }
    }
}

fn r08_5_nobody_gets_in_beside_a_bound_socket_that_listens(host: &Host) {
    for flags in REUSE {
        let block = host.tcp(1);
        let port = block.range().start();
        let socket = open(Tcp, &loopback(0), flags).unwrap();
        block.bind(&socket, loopback(0)).unwrap();
        socket.listen(1).unwrap();
        guarded(host, Tcp, port, flags, true);
        if !flags.contains(&Flag::ReusePort) {
            // Beside a socket that listens, SO_REUSEADDR is of no use.
            refused(Tcp, loopback(port), &[Flag::ReuseAddress]);
        }
        TcpStream::connect(loopback(port)).unwrap();
    }
}

/// A client with a source port of the block.
fn r08_5_nobody_gets_in_beside_a_bound_socket_that_connects(host: &Host) {
    let server = TcpListener::bind(loopback(0)).unwrap();
    for flags in REUSE {
        let block = host.tcp(1);
        let port = block.range().start();
        let socket = open(Tcp, &loopback(0), flags).unwrap();
        block.bind(&socket, loopback(0)).unwrap();
        socket.connect(&server.local_addr().unwrap().into()).unwrap();
        assert_eq!(server.accept().unwrap().1, loopback(port));
        guarded(host, Tcp, port, flags, false);
    }
}

/// No gap: another process tries each port over and over while they change hands.
fn r08_5_nobody_gets_in_while_sockets_are_let_in(host: &Host) {
    for protocol in BOTH {
        let block = host.acquire(&request(protocol, 32));
        let mut stranger = host.helper();
        stranger.tell(&format!("try {} {} 2000", protocol.name(), block.range()));
        assert_eq!(stranger.answer().unwrap(), ["ready"]);
        let mut kept = Vec::new();
        for port in block.range().iter() {
            match protocol {
                Tcp => (0..20).for_each(|_| drop(block.listener(loopback(port)).unwrap())),
                Udp => kept.push(block.udp_socket(loopback(port)).unwrap()),
            }
        }
        let got = stranger.answer().unwrap();
        assert!(got.is_empty(), "a stranger got in on {got:?}");
    }
}

/// Spec 8.2: to the reservation, not to the general pool.
fn r08_2_a_listener_returns_its_port_to_the_block(host: &Host) {
    let block = host.tcp(2);
    let port = block.range().start();
    let mut stranger = host.helper();
    for _ in 0..3 {
        let listener = block.listener(loopback(port)).unwrap();
        TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        drop(listener);
        all_refused(Tcp, block.range());
        for flags in REUSE {
            refused(Tcp, loopback(port), flags);
        }
        stranger.refused(Tcp, loopback(port), "ReuseAddress ReusePort");
    }
}

/// What a server does that is upgraded: the old connections stay, the listener is a new one.
fn r08_2_a_listener_may_restart_while_its_connections_live(host: &Host) {
    let block = host.tcp(1);
    let port = block.range().start();
    let listener = block.listener(loopback(port)).unwrap();
    let mut client = TcpStream::connect(loopback(port)).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    drop(listener);

    let listener = block.listener(loopback(port)).unwrap();
    let mut second = TcpStream::connect(loopback(port)).unwrap();
    for (server, client) in
        [(&mut server, &mut client), (&mut listener.accept().unwrap().0, &mut second)]
    {
        server.write_all(b"hello").unwrap();
        let mut answer = [0; 5];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"hello");
    }
}

/// Spec 9.13, inside a block.
fn r08_2_a_listener_may_restart_after_it_closed_first(host: &Host) {
    let block = host.tcp(1);
    let port = block.range().start();
    for _ in 0..3 {
        let listener = block.listener(loopback(0)).unwrap();
        assert_eq!(listener.local_addr().unwrap().port(), port);
        let mut client = TcpStream::connect(loopback(port)).unwrap();
        drop(listener.accept().unwrap());
        drop(listener);
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "the server has closed");
    }
}
