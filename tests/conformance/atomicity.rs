//! All or nothing: a request that fails leaves nothing behind (spec 3.2; 8.5, invariant 7).

use portkeep::PortRange;
use portkeep::Protocol::{self, Tcp, Udp};

use crate::engine::{BOTH, Host, IN_USE, NO_ROOM, cases};
use crate::helper::{Helper, Refusal};
use crate::sockets::{all_free, bind_plainly, loopback};

cases![
    r03_2_a_busy_port_leaves_nothing_of_a_specific_request,
    r03_2_a_busy_port_in_one_protocol_leaves_nothing_in_both,
    r03_2_a_pool_without_room_leaves_nothing,
    r03_2_the_descriptor_limit_leaves_nothing,
];

/// The request fails in another process, which then still has no port and no more descriptors.
#[track_caller]
fn fails_without_a_trace(
    helper: &mut Helper,
    request: &str,
    expected: impl Into<Refusal>,
    free: &[(Protocol, Vec<u16>)],
) {
    // What is opened once a process is open from now on.
    helper.acquire("both +1").unwrap();
    helper.ask("drop 0").unwrap();
    let before = helper.number("descriptors");
    assert_eq!(helper.acquire(request).unwrap_err(), expected.into());
    assert_eq!(helper.number("descriptors"), before, "descriptors leaked");
    for (protocol, ports) in free {
        all_free(*protocol, ports.iter().copied());
    }
}

fn all_but(range: PortRange, busy: u16) -> Vec<u16> {
    range.iter().filter(|port| *port != busy).collect()
}

/// Spec 3.2: never a smaller block than asked.
fn r03_2_a_busy_port_leaves_nothing_of_a_specific_request(host: &Host) {
    for protocol in BOTH {
        let range = host.free_range(20);
        for busy in [range.start(), range.start() + 10, range.last()] {
            let _stranger = bind_plainly(protocol, loopback(busy), &[]).unwrap();
            fails_without_a_trace(
                &mut host.helper(),
                &format!("{} {range}", protocol.name()),
                IN_USE,
                &[(protocol, all_but(range, busy))],
            );
        }
    }
}

/// Spec 3.2, for both protocols at once.
fn r03_2_a_busy_port_in_one_protocol_leaves_nothing_in_both(host: &Host) {
    for (busy, other) in [(Tcp, Udp), (Udp, Tcp)] {
        let range = host.free_range(6);
        let _stranger = bind_plainly(busy, loopback(range.last()), &[]).unwrap();
        fails_without_a_trace(
            &mut host.helper(),
            &format!("both {range}"),
            IN_USE,
            &[(busy, all_but(range, range.last())), (other, range.iter().collect())],
        );
    }
}

/// Spec 9.8.
fn r03_2_a_pool_without_room_leaves_nothing(host: &Host) {
    for protocol in BOTH {
        let pool = host.free_range(40);
        let busy = pool.start() + 20;
        let _stranger = bind_plainly(protocol, loopback(busy), &[]).unwrap();
        fails_without_a_trace(
            &mut host.helper(),
            &format!("{} +21 {pool}", protocol.name()),
            NO_ROOM,
            &[(protocol, all_but(pool, busy))],
        );
    }
}

/// Spec 3.1, row 8. An engine that needs no descriptors has no such limit.
fn r03_2_the_descriptor_limit_leaves_nothing(host: &Host) {
    if !host.engine.holds_sockets {
        return;
    }
    let limit = (portkeep::ErrorKind::DescriptorLimit, libc::EMFILE);
    // One is noticed by counting before, the other by running into the limit.
    for count in [60, 400] {
        let range = host.free_range(count);
        fails_without_a_trace(
            &mut Helper::with_descriptor_limit(host.engine, 40),
            &format!("tcp {range}"),
            limit,
            &[(Tcp, range.iter().collect())],
        );
    }
}
