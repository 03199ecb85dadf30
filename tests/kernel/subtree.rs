//! Loaded for a part of the control groups, the engine says so and trusts nothing it cannot see.
//!
//! Hooks follow the group a socket was made in, not that of its process.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use portkeep::Protocol::{self, Tcp, Udp};

use crate::client::{acquire, associate, block, errno, open, query, stranger, version};
use crate::host::{Host, cases, cases_without_engine, move_to};

cases![];

cases_without_engine![
    a08_a_partial_engine_claims_no_exclusiveness_and_status_says_partial,
    a08_a_partial_engine_looks_at_ports_where_nobody_was_seen_to_bind,
    a08_a_socket_from_outside_is_not_kept_out_and_status_promises_nothing_else,
    a08_what_was_bound_while_the_engine_was_not_loaded_is_seen,
];

const BOTH: [Protocol; 2] = [Tcp, Udp];
const EXCLUSIVE: u32 = 1;

/// Loads for a group below that of the test, and enters it. What it returns is for [`leave`].
fn load_below(host: &Host) -> PathBuf {
    let below = host.group_below("below");
    host.load_with(|load| {
        load.assume_exclusive = false;
        load.site.cgroup = Some(below.clone());
    });
    move_to(&below);
    below
}

fn leave(host: &Host, below: PathBuf) {
    move_to(host.inside.group());
    std::fs::remove_dir(below).expect("nobody is in it");
}

fn a08_a_partial_engine_claims_no_exclusiveness_and_status_says_partial(host: &Host) {
    let below = load_below(host);
    for protocol in BOTH {
        let (interface, features) = version(&open(protocol)).unwrap();
        assert_eq!((interface, features & EXCLUSIVE), (1, 0));
    }
    let status = host.portkeep(&["status"]).output().unwrap();
    let text = String::from_utf8(status.stdout).unwrap();
    assert!(text.contains("partial") && text.contains("outside the control group"), "{text}");
    leave(host, below);
}

fn a08_a_partial_engine_looks_at_ports_where_nobody_was_seen_to_bind(host: &Host) {
    let below = load_below(host);
    for protocol in BOTH {
        // Looked at and found free: from here on no bind is seen by any hook.
        let anchor = open(protocol);
        for count in [1, 200] {
            acquire(&anchor, 20000, count).unwrap();
            let token = crate::client::newest(&anchor).token;
            crate::client::release(&anchor, token).unwrap();
        }
        move_to(host.inside.group());
        let outsider = stranger(protocol, (Ipv4Addr::LOCALHOST, 20100)).unwrap();
        if protocol == Tcp {
            outsider.listen(1).unwrap();
        }
        move_to(&below);
        for (start, count) in [(20100, 1), (20000, 101), (20064, 64), (20000, 200)] {
            assert_eq!(errno(acquire(&anchor, start, count)), libc::EADDRINUSE, "{start}+{count}");
        }
        acquire(&anchor, 20000, 100).unwrap();
        drop(outsider);
        acquire(&anchor, 20100, 1).unwrap();
    }
    leave(host, below);
}

fn a08_a_socket_from_outside_is_not_kept_out_and_status_promises_nothing_else(host: &Host) {
    let below = load_below(host);
    move_to(host.inside.group());
    let outsider = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let outsider = outsider.unwrap();
    // Outside there is no engine at all.
    assert!(matches!(errno(version(&outsider)), libc::ENOPROTOOPT | libc::EOPNOTSUPP));
    move_to(&below);
    let (anchor, mine) = block(Tcp, 20000, 8);
    let at = |port| std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into();
    assert_eq!(errno(stranger(Tcp, (Ipv4Addr::LOCALHOST, 20001))), libc::EADDRINUSE);
    outsider.bind(&at(20001)).expect("it was made where no hook is");
    // The owner's bind meets it as it meets any socket, and goes around it where it may choose.
    for _ in 0..7 {
        let consumer = open(Tcp);
        associate(&consumer, mine.token).unwrap();
        consumer
            .bind(&std::net::SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0)).into())
            .unwrap();
        assert_ne!(crate::client::port(&consumer), 20001);
        drop(consumer);
    }
    drop(anchor);
    assert_eq!(errno(acquire(&open(Tcp), 20000, 8)), libc::EADDRINUSE);
    assert_eq!(query(&open(Tcp), 20000).unwrap(), None);
    leave(host, below);
}

fn a08_what_was_bound_while_the_engine_was_not_loaded_is_seen(host: &Host) {
    let site = host.inside.site();
    for protocol in BOTH {
        let before = stranger(protocol, (Ipv4Addr::LOCALHOST, 20005)).unwrap();
        host.inside.load();
        assert_eq!(errno(acquire(&open(protocol), 20000, 8)), libc::EADDRINUSE);
        drop(before);
        // Looked at and found free, in the life before.
        block(protocol, 20000, 8);
        portkeep::load::unload(&site, false).unwrap();
        let between = stranger(protocol, (Ipv4Addr::LOCALHOST, 20003)).unwrap();
        host.inside.load();
        assert_eq!(errno(acquire(&open(protocol), 20000, 8)), libc::EADDRINUSE);
        drop(between);
        block(protocol, 20000, 8);
        portkeep::load::unload(&site, false).unwrap();
    }
}
