//! Commands that bind by number inside a block (grants; architecture, section 2).

use std::net::{TcpStream, UdpSocket};

use portkeep::Protocol::{Tcp, Udp};
use portkeep::{Grant, PortRequest, Reservation};

use crate::engine::{BOTH, Host, INVALID_TOKEN, NO_ROOM, cases, fails};
use crate::helper::Helper;
use crate::sockets::{all_free, loopback, loopback6, open};

cases![
    r04_a_spawned_child_binds_by_number_and_listens,
    r04_what_a_spawned_child_starts_binds_by_number_too,
    r04_a_plain_stranger_is_refused_before_during_and_after_a_child,
    r04_a_block_acquired_for_descendants_lets_a_child_in,
    r04_the_owner_still_binds_in_a_block_it_shares,
    r04_a_spawned_child_gets_every_datagram,
    r04_a_released_block_spawns_nothing,
    r04_a_command_that_does_not_exist_is_named_and_costs_nothing,
];

/// A helper that was started through the reservation.
fn spawn(host: &Host, block: &Reservation) -> Helper {
    Helper::of(block.spawn(&mut Helper::command(host.engine)).unwrap())
}

/// Most TCP servers set `SO_REUSEADDR`, bind and listen.
#[track_caller]
fn serves(child: &mut Helper, prefix: &str, port: u16) {
    for address in [loopback(port), loopback6(port)] {
        child
            .ask(&format!("{prefix}stranger tcp {address} ReuseAddress listen"))
            .unwrap_or_else(|refusal| panic!("the child got {refusal:?} on {address}"));
        TcpStream::connect(address).unwrap();
    }
}

fn r04_a_spawned_child_binds_by_number_and_listens(host: &Host) {
    let block = host.tcp(3);
    let mut child = spawn(host, &block);
    for port in block.range().iter() {
        serves(&mut child, "", port);
    }
    host.stranger().all_refused(Tcp, block.range());
}

/// Descendants, not only children.
fn r04_what_a_spawned_child_starts_binds_by_number_too(host: &Host) {
    let block = host.tcp(1);
    let mut child = spawn(host, &block);
    serves(&mut child, "nested ", block.range().start());
}

/// A bind without flags by a process that has nothing to do with it.
fn r04_a_plain_stranger_is_refused_before_during_and_after_a_child(host: &Host) {
    let mut stranger = host.stranger();
    for protocol in BOTH {
        let block = host.acquire(&crate::engine::request(protocol, 2));
        let mut refused = || {
            stranger.all_refused(protocol, block.range());
        };
        refused();
        let mut child = spawn(host, &block);
        refused();
        let address = loopback(block.range().start());
        child.ask(&format!("stranger {} {address} ReuseAddress", protocol.name())).unwrap();
        refused();
        child.ask("close").unwrap();
        refused();
        child.kill();
        refused();
    }
}

/// The grant is part of the request, and then of the block.
fn r04_a_block_acquired_for_descendants_lets_a_child_in(host: &Host) {
    let request: PortRequest = portkeep::tcp(2).grant(Grant::Descendants);
    let block = host.acquire(&request);
    let mut child = host.helper();
    serves(&mut child, "", block.range().start());
    host.stranger().all_refused(Tcp, block.range());
}

/// Room is found, kept and given back as in a block of one's own.
fn r04_the_owner_still_binds_in_a_block_it_shares(host: &Host) {
    let block = host.acquire(&portkeep::tcp_udp(3).grant(Grant::Descendants));
    let mut child = spawn(host, &block);
    let taken = block.range().start() + 1;
    for protocol in BOTH {
        let line = format!("stranger {} {} ReuseAddress", protocol.name(), loopback(taken));
        child.ask(&line).unwrap();
    }
    for _ in 0..3 {
        let listeners = [(); 2].map(|()| block.listener(loopback(0)).unwrap());
        assert!(listeners.iter().all(|l| l.local_addr().unwrap().port() != taken));
        fails(block.listener(loopback(0)), NO_ROOM);
        for listener in &listeners {
            TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        }
    }
    for _ in 0..3 {
        let sockets = [(); 2].map(|()| block.udp_socket(loopback(0)).unwrap());
        assert!(sockets.iter().all(|s| s.local_addr().unwrap().port() != taken));
        fails(block.udp_socket(loopback(0)), NO_ROOM);
    }
}

/// What is held beside the child takes nothing away from it.
fn r04_a_spawned_child_gets_every_datagram(host: &Host) {
    for address in [loopback, loopback6] {
        let block = host.udp(1);
        let address = address(block.range().start());
        let mut child = spawn(host, &block);
        child.ask(&format!("stranger udp {address} ReuseAddress")).unwrap();
        let any = (address.ip(), 0);
        let sender = UdpSocket::bind(any).unwrap();
        // In portions that the receive buffer holds.
        for _ in 0..20 {
            child.tell("receive 100");
            assert_eq!(child.answer().unwrap(), ["ready"]);
            for _ in 0..100 {
                sender.send_to(b"datagram", address).unwrap();
            }
            assert_eq!(child.answer().unwrap(), ["100"]);
        }
    }
}

/// Spec 8.3: there is nothing left to grant.
fn r04_a_released_block_spawns_nothing(host: &Host) {
    let block = host.tcp(1);
    portkeep::release(block.token(), Tcp).unwrap();
    fails(block.spawn(&mut Helper::command(host.engine)), INVALID_TOKEN);
}

/// The block is what it was, and ends as it would have.
fn r04_a_command_that_does_not_exist_is_named_and_costs_nothing(host: &Host) {
    let block = host.acquire(&portkeep::tcp_udp(2));
    let range = block.range();
    let error =
        block.spawn(&mut std::process::Command::new("/no/such/command")).map(drop).unwrap_err();
    assert_eq!(error.errno(), Some(libc::ENOENT));
    assert!(error.to_string().contains("/no/such/command"), "{error}");
    let mut stranger = host.stranger();
    for protocol in BOTH {
        stranger.all_refused(protocol, range);
        block.bind(&open(protocol, &loopback(0), &[]).unwrap(), loopback(0)).unwrap();
    }
    drop(block);
    all_free(Udp, range.iter());
}
