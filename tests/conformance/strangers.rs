//! Who is kept out (spec 8.1).

use std::collections::BTreeSet;
use std::net::TcpListener;

use portkeep::Protocol;
use portkeep::Protocol::{Tcp, Udp};

use crate::engine::{BOTH, Host, cases, request};
use crate::sockets::{REUSE, addresses, everywhere, loopback, refused};

cases![
    t15_another_process_is_refused_whatever_flags_it_sets,
    t15_bind_0_of_another_process_never_lands_inside,
    t15_connect_without_bind_never_lands_inside,
    t15_sendto_without_bind_never_lands_inside,
    t16_our_own_plain_bind_is_refused,
];

/// Spec 12, line 15. `EADDRINUSE`, as the architecture settles it, after which programs try the
/// next port.
fn t15_another_process_is_refused_whatever_flags_it_sets(host: &Host) {
    let mut stranger = host.helper();
    for protocol in BOTH {
        let block = host.acquire(&request(protocol, 4));
        for port in [block.range().start(), block.range().last()] {
            for flags in ["", "ReuseAddress", "ReusePort", "ReuseAddress ReusePort"] {
                for address in addresses(port) {
                    stranger.refused(protocol, address, flags);
                }
            }
        }
    }
}

/// With 40 of the 100 ephemeral ports reserved, somebody takes all that automatic assignment
/// gives: exactly the other 60.
fn automatic_assignment_stays_outside(host: &Host, protocol: Protocol, ways: &[&str]) {
    let Some(netns) = host.netns() else { return };
    netns.ephemeral(42000, 42099);
    let block = host.acquire(&request(protocol, 40).at(42030));
    // The target of those that connect or send, itself outside of the ephemeral range.
    let _listener = TcpListener::bind(loopback(7777)).unwrap();
    let mut stranger = host.helper();
    for way in ways {
        let address = if *way == "bind" { everywhere(0) } else { loopback(7777) };
        let line = format!("fill {way} {} {address}", protocol.name());
        let given: BTreeSet<u16> =
            stranger.ask(&line).unwrap().iter().map(|port| port.parse().unwrap()).collect();
        let outside: BTreeSet<u16> =
            (42000..=42099).filter(|port| !block.range().contains(*port)).collect();
        assert_eq!(given, outside, "{line}");
        stranger.ask("close").unwrap();
    }
}

/// Spec 12, line 15.
fn t15_bind_0_of_another_process_never_lands_inside(host: &Host) {
    for protocol in BOTH {
        automatic_assignment_stays_outside(host, protocol, &["bind"]);
    }
}

/// Spec 12, line 15; spec 8: implicit binds count.
fn t15_connect_without_bind_never_lands_inside(host: &Host) {
    for protocol in BOTH {
        automatic_assignment_stays_outside(host, protocol, &["connect"]);
    }
}

/// Spec 12, line 15; spec 8: implicit binds count.
fn t15_sendto_without_bind_never_lands_inside(host: &Host) {
    automatic_assignment_stays_outside(host, Udp, &["send"]);
}

/// Spec 12, line 16; spec 9.29.
fn t16_our_own_plain_bind_is_refused(host: &Host) {
    for protocol in [Tcp, Udp] {
        let block = host.acquire(&request(protocol, 4));
        for port in block.range().iter() {
            for flags in REUSE {
                for address in addresses(port) {
                    refused(protocol, address, flags);
                }
            }
        }
    }
}
