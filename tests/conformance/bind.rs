//! Being let in (spec 4.1, 8.2).

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::thread;

use portkeep::Protocol::{Tcp, Udp};
use portkeep::{ErrorKind, Protocol, Reservation};
use socket2::Socket;

use crate::engine::{BOTH, DENIED, Host, IN_USE, INVALID_INPUT, NO_ROOM, cases, fails, request};
use crate::sockets::{Flag, bind_plainly, loopback, loopback6, open, port_of, refused};

cases![
    t17_bind_0_gives_a_port_inside,
    t18_bind_inside_gives_exactly_that_port,
    t19_bind_outside_is_denied_and_the_socket_stays_usable,
    t20_a_full_block_has_no_room,
    t21_a_closed_socket_makes_room_again,
    t21_room_is_found_beside_ports_that_listen,
    t22_a_bound_socket_is_invalid,
    r08_2_a_bound_port_inside_is_in_use,
    r08_2_an_address_that_is_not_local_costs_no_port,
    r08_2_an_address_of_another_family_is_invalid,
    r08_2_threads_that_bind_0_at_once_get_different_ports,
];

/// The ways in which a port of a block can be taken; each leaves something else as its guard.
#[derive(Clone, Copy, Debug)]
enum Taker {
    Listener,
    Tcp(&'static [Flag]),
    Udp,
}

const TAKERS: [Taker; 5] = [
    Taker::Listener,
    Taker::Tcp(&[]),
    Taker::Tcp(&[Flag::ReuseAddress]),
    Taker::Tcp(&[Flag::ReusePort]),
    Taker::Udp,
];

impl Taker {
    fn protocol(self) -> Protocol {
        if matches!(self, Self::Udp) { Udp } else { Tcp }
    }

    fn take(self, block: &Reservation, port: u16) -> portkeep::Result<Socket> {
        Ok(match self {
            Self::Listener => block.listener(loopback(port))?.into(),
            Self::Udp => block.udp_socket(loopback(port))?.into(),
            Self::Tcp(flags) => {
                let socket = open(Tcp, &loopback(port), flags).unwrap();
                block.bind(&socket, loopback(port))?;
                socket
            }
        })
    }

    /// Whether a stranger stays out after the socket has closed.
    fn gives_back(self, host: &Host) -> bool {
        host.engine.keeps_plainly_bound_ports
            || matches!(self, Self::Listener | Self::Tcp([Flag::ReuseAddress]))
    }
}

/// Spec 12, line 17.
fn t17_bind_0_gives_a_port_inside(host: &Host) {
    for protocol in BOTH {
        let block = host.acquire(&request(protocol, 8));
        for address in [loopback(0), loopback6(0)] {
            let socket = open(protocol, &address, &[]).unwrap();
            let bound = block.bind(&socket, address).unwrap();
            assert!(block.range().contains(bound.port()), "{bound} in {}", block.range());
            assert_eq!(bound.ip(), address.ip());
            assert_eq!(socket.local_addr().unwrap().as_socket(), Some(bound));
        }
    }
}

/// Spec 12, line 18.
fn t18_bind_inside_gives_exactly_that_port(host: &Host) {
    for taker in TAKERS {
        let block = host.acquire(&request(taker.protocol(), 4));
        let sockets: Vec<_> =
            block.range().iter().map(|p| taker.take(&block, p).unwrap()).collect();
        assert!(sockets.iter().map(port_of).eq(block.range().iter()), "{taker:?}");
        for port in block.range().iter() {
            refused(taker.protocol(), loopback(port), &[]);
        }
    }
}

/// Spec 12, line 19; spec 9.27.
fn t19_bind_outside_is_denied_and_the_socket_stays_usable(host: &Host) {
    for protocol in BOTH {
        let block = host.acquire(&request(protocol, 4));
        let socket = open(protocol, &loopback(0), &[]).unwrap();
        for port in [block.range().start() - 1, block.range().last() + 1, 1, 65535] {
            if block.range().contains(port) {
                continue;
            }
            fails(block.bind(&socket, loopback(port)), DENIED);
            fails(portkeep::bind(&socket, block.token(), loopback(port)), DENIED);
            assert_eq!(port_of(&socket), 0);
        }
        block.bind(&socket, loopback(0)).unwrap();
        assert!(block.range().contains(port_of(&socket)));
    }
}

/// Spec 12, line 20; spec 9.28.
fn t20_a_full_block_has_no_room(host: &Host) {
    for taker in TAKERS {
        let block = host.acquire(&request(taker.protocol(), 5));
        let sockets: Vec<_> = (0..5).map(|_| taker.take(&block, 0).unwrap()).collect();
        let ports: BTreeSet<u16> = sockets.iter().map(port_of).collect();
        assert!(ports.into_iter().eq(block.range().iter()), "{taker:?}");

        fails(taker.take(&block, 0), NO_ROOM);
        let late = open(taker.protocol(), &loopback6(0), &[]).unwrap();
        fails(block.bind(&late, loopback6(0)), NO_ROOM);
        assert_eq!(port_of(&late), 0);
    }
}

/// Spec 12, line 21; spec 8.2: the port returns to the reservation.
fn t21_a_closed_socket_makes_room_again(host: &Host) {
    for taker in TAKERS {
        let block = host.acquire(&request(taker.protocol(), 5));
        let mut sockets: Vec<_> = (0..5).map(|_| taker.take(&block, 0).unwrap()).collect();
        for closed in [2, 0, 4] {
            let port = port_of(&sockets[closed]);
            drop(sockets.swap_remove(closed));
            if taker.gives_back(host) {
                refused(taker.protocol(), loopback(port), &[]);
            }
            let again = taker.take(&block, 0).unwrap_or_else(|e| panic!("{taker:?}: {e}"));
            assert_eq!(port_of(&again), port, "{taker:?}");
            sockets.push(again);
            fails(taker.take(&block, 0), NO_ROOM);
        }
    }
}

/// Spec 12, line 21, with ports that are taken in different ways.
fn t21_room_is_found_beside_ports_that_listen(host: &Host) {
    for other in TAKERS.into_iter().filter(|taker| taker.protocol() == Tcp) {
        let block = host.tcp(2);
        let _listener = block.listener(loopback(0)).unwrap();
        let closed = other.take(&block, 0).unwrap();
        let port = port_of(&closed);
        drop(closed);
        for again in TAKERS.into_iter().filter(|taker| taker.protocol() == Tcp) {
            let socket = again.take(&block, 0).unwrap_or_else(|error| {
                panic!("{port} was left by {other:?}, but {again:?} got: {error}")
            });
            assert_eq!(port_of(&socket), port);
        }
    }
}

/// Spec 12, line 22; spec 4.1, row 1.
fn t22_a_bound_socket_is_invalid(host: &Host) {
    for protocol in BOTH {
        let block = host.acquire(&request(protocol, 2));
        let stranger = bind_plainly(protocol, loopback(0), &[]).unwrap();
        let before = port_of(&stranger);
        fails(block.bind(&stranger, loopback(0)), INVALID_INPUT);
        fails(portkeep::bind(&stranger, block.token(), loopback(0)), INVALID_INPUT);
        assert_eq!(port_of(&stranger), before);

        let consumer = open(protocol, &loopback(0), &[]).unwrap();
        let bound = block.bind(&consumer, loopback(0)).unwrap();
        fails(block.bind(&consumer, loopback(0)), INVALID_INPUT);
        assert_eq!(port_of(&consumer), bound.port());
    }
}

/// Spec 8.2, row 4: ordinary rules.
fn r08_2_a_bound_port_inside_is_in_use(host: &Host) {
    for taker in TAKERS {
        let block = host.acquire(&request(taker.protocol(), 2));
        let port = block.range().start();
        let _first = taker.take(&block, port).unwrap();
        let second = open(taker.protocol(), &loopback(0), &[]).unwrap();
        let result = block.bind(&second, loopback(port));
        assert!(result.is_err(), "it got the port of {taker:?}");
        let error = result.as_ref().unwrap_err();
        assert_eq!(error.port(), Some((taker.protocol(), port)));
        fails(result, IN_USE);
        // The second socket is as good as new.
        assert_eq!(block.bind(&second, loopback(0)).unwrap().port(), port + 1, "{taker:?}");
    }
}

/// Spec 6.1, `EADDRNOTAVAIL`; spec 8.5, invariant 7.
fn r08_2_an_address_that_is_not_local_costs_no_port(host: &Host) {
    for protocol in BOTH {
        let block = host.acquire(&request(protocol, 1));
        let port = block.range().start();
        for port in [0, port] {
            let socket = open(protocol, &loopback(0), &[]).unwrap();
            // TEST-NET-1: nobody's address.
            let result = block.bind(&socket, ([192, 0, 2, 1], port));
            fails(result, (ErrorKind::Os, libc::EADDRNOTAVAIL));
            assert_eq!(port_of(&socket), 0);
        }
        refused(protocol, loopback(port), &[Flag::ReuseAddress, Flag::ReusePort]);
        let socket = open(protocol, &loopback(0), &[]).unwrap();
        assert_eq!(block.bind(&socket, loopback(0)).unwrap().port(), port);
    }
}

/// Parameters come first (spec 9.33).
fn r08_2_an_address_of_another_family_is_invalid(host: &Host) {
    for protocol in BOTH {
        let block = host.acquire(&request(protocol, 1));
        for (mine, theirs) in [(loopback(0), loopback6(0)), (loopback6(0), loopback(0))] {
            let socket = open(protocol, &mine, &[]).unwrap();
            fails(block.bind(&socket, theirs), INVALID_INPUT);
        }
    }
}

/// Spec 8.2: a free port, whoever else is looking.
fn r08_2_threads_that_bind_0_at_once_get_different_ports(host: &Host) {
    for taker in TAKERS {
        let block = host.acquire(&request(taker.protocol(), 64));
        let start = Barrier::new(64);
        let sockets: Vec<Socket> = thread::scope(|scope| {
            let take = || {
                start.wait();
                taker.take(&block, 0).unwrap()
            };
            let threads: Vec<_> = (0..64).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let ports: BTreeSet<u16> = sockets.iter().map(port_of).collect();
        assert!(ports.into_iter().eq(block.range().iter()), "{taker:?}");
    }
}
