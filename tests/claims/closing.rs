//! Two processes that want the same port at the same moment, also where closing connections are left
//! on it, which the engine steps over in a way of its own.

use std::io::Read;
use std::net::{TcpListener, TcpStream};

use portkeep::PortRange;

use crate::contention::duel;
use crate::process::alone;
use crate::sockets::{LOOPBACK, assert_free, bind, report};
use crate::support::{NetNs, rounds};

#[test]
fn exactly_one_of_two_gets_a_free_port() {
    alone(|| {
        let Some(_namespace) = NetNs::enter() else { return };
        let times = rounds(2_000, 50_000);
        let ports = PortRange::new(40_000, 1).expect("a range");
        let (one, none) = duel(ports, times);
        report(&format!(
            "contention: {times} duels for a port: {one} times one got it, {none} none"
        ));
        assert_eq!((one, none), (times, 0));
        assert_free(ports, "after the duels");
    });
}

#[test]
fn never_both_of_two_get_a_port_with_closing_connections() {
    alone(|| {
        let Some(_namespace) = NetNs::enter() else { return };
        let times = rounds(2_000, 20_000);
        let ports = PortRange::new(40_000, 8).expect("a range");
        for port in ports.iter() {
            leave_closing_connections(port);
        }
        let (one, none) = duel(ports, times);
        report(&format!(
            "contention: {times} duels for a port with closing connections: {one} times one got it, \
         {none} none"
        ));
        assert!(one > 0, "somebody has to get it");
        // Had they gone by now, this would have been the other test.
        bind(portkeep::Protocol::Tcp, (LOOPBACK, ports.start())).expect_err("they last a minute");
        for port in ports.iter() {
            let block = portkeep::tcp(1).at(port).acquire();
            drop(block.expect("nobody is left there"));
        }
    });
}

/// Whoever closes first keeps the connection for a minute: here the server.
fn leave_closing_connections(port: u16) {
    let listener = TcpListener::bind((LOOPBACK, port)).expect("it is free");
    for _ in 0..3 {
        let mut client = TcpStream::connect((LOOPBACK, port)).expect("it listens");
        drop(listener.accept().expect("somebody has connected"));
        assert_eq!(client.read(&mut [0]).expect("the server closed"), 0);
    }
}
