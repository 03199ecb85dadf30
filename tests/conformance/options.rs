//! The options of the consumer's socket are its own: after the call they are what they were.

use portkeep::Protocol::{Tcp, Udp};
use portkeep::{Protocol, Reservation};
use socket2::Socket;

use crate::engine::{
    BOTH, DENIED, Host, IN_USE, INVALID_INPUT, INVALID_TOKEN, cases, fails, request,
};
use crate::sockets::{Flag, REUSE, everywhere6, loopback, loopback6, open, port_of};

cases![
    r08_2_options_are_kept_on_success,
    r08_2_options_are_kept_on_every_failure,
    r08_2_a_ready_made_listener_has_reuse_address_alone,
];

/// The options that have to do with sharing a port, in both of their values.
#[track_caller]
fn kept(socket: &Socket, flags: &[Flag]) {
    assert_eq!(socket.reuse_address().unwrap(), flags.contains(&Flag::ReuseAddress), "{flags:?}");
    assert_eq!(socket.reuse_port().unwrap(), flags.contains(&Flag::ReusePort), "{flags:?}");
}

/// Every protocol and every combination of flags.
fn each(host: &Host, count: u16, claim: impl Fn(Protocol, &Reservation, &[Flag])) {
    for protocol in BOTH {
        for flags in REUSE {
            claim(protocol, &host.acquire(&request(protocol, count)), flags);
        }
    }
}

fn r08_2_options_are_kept_on_success(host: &Host) {
    each(host, 3, |protocol, block, flags| {
        for (address, only_v6) in
            [(loopback(0), false), (everywhere6(0), false), (everywhere6(0), true)]
        {
            let socket = open(protocol, &address, flags).unwrap();
            if only_v6 {
                socket.set_only_v6(true).unwrap();
            }
            block.bind(&socket, address).unwrap();
            kept(&socket, flags);
            if address.is_ipv6() {
                assert_eq!(socket.only_v6().unwrap(), only_v6);
            }
            if protocol == Tcp {
                socket.listen(1).unwrap();
                kept(&socket, flags);
            }
        }
    });
}

fn r08_2_options_are_kept_on_every_failure(host: &Host) {
    each(host, 2, |protocol, block, flags| {
        let first: Socket = match protocol {
            Tcp => block.listener(loopback(0)).unwrap().into(),
            Udp => block.udp_socket(loopback(0)).unwrap().into(),
        };
        let socket = open(protocol, &loopback(0), flags).unwrap();

        fails(block.bind(&socket, loopback(port_of(&first))), IN_USE);
        kept(&socket, flags);
        fails(block.bind(&socket, loopback(1)), DENIED);
        kept(&socket, flags);
        fails(block.bind(&socket, loopback6(0)), INVALID_INPUT);
        kept(&socket, flags);
        // TEST-NET-1: nobody's address.
        block.bind(&socket, ([192, 0, 2, 1], 0)).unwrap_err();
        kept(&socket, flags);

        block.bind(&socket, loopback(0)).unwrap();
        fails(block.bind(&socket, loopback(0)), INVALID_INPUT);
        kept(&socket, flags);

        portkeep::release(block.token(), protocol).unwrap();
        let late = open(protocol, &loopback(0), flags).unwrap();
        fails(portkeep::bind(&late, block.token(), loopback(0)), INVALID_TOKEN);
        kept(&late, flags);
    });
}

/// As `TcpListener::bind` makes them, so that a restart is not held up by TIME_WAIT.
fn r08_2_a_ready_made_listener_has_reuse_address_alone(host: &Host) {
    let block = host.acquire(&portkeep::tcp_udp(2));
    for address in [loopback(0), loopback6(0)] {
        let listener = Socket::from(block.listener(address).unwrap());
        kept(&listener, &[Flag::ReuseAddress]);
        kept(&Socket::from(block.udp_socket(address).unwrap()), &[]);
        assert!(!listener.nonblocking().unwrap());
    }
}
