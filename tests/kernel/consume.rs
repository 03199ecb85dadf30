//! Binds of associated sockets: they draw from their block, and from nowhere else.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

use portkeep::Protocol;

use crate::client::{Way, associate, block, errno, open, port, query, release, stranger};
use crate::host::{Host, cases};
use crate::programs::peer::Peer;

cases![
    every_kind_of_socket_draws_from_its_block_until_it_is_full,
    a_port_inside_may_be_asked_for_and_none_outside,
    the_last_association_before_the_bind_counts,
    a_failed_associate_leaves_the_earlier_one_in_force,
    a_bound_socket_cannot_be_associated,
    a_port_is_drawn_again_once_its_socket_is_closed,
    after_the_end_of_the_reservation_an_associated_socket_binds_nothing,
    a_later_reservation_of_the_same_block_is_not_the_earlier_one,
    an_associated_socket_in_a_child_of_fork_binds_nothing,
    a_refused_bind_leaves_the_socket_unbound_and_usable,
    binds_that_the_kernel_refuses_after_us_leak_no_port,
];

fn every_kind_of_socket_draws_from_its_block_until_it_is_full(_: &Host) {
    for way in Way::all() {
        let (_anchor, mine) = block(way.protocol, 20000, 16);
        let sockets: Vec<_> = (0..16).map(|_| way.associated(mine)).collect();
        let drawn: BTreeSet<_> =
            sockets.iter().map(|socket| way.bind(socket, 0).expect("there is room")).collect();
        assert!(drawn.iter().copied().eq(20000..20016), "{way:?}: {drawn:?}");
        assert_eq!(errno(way.bind(&way.associated(mine), 0)), libc::ENOBUFS, "{way:?}");
    }
}

fn a_port_inside_may_be_asked_for_and_none_outside(_: &Host) {
    for way in Way::all() {
        let (_anchor, mine) = block(way.protocol, 20000, 16);
        let (_beside, _) = block(way.protocol, 20016, 1);
        for at in [20000, 20007, 20015] {
            assert_eq!(way.bind(&way.associated(mine), at).unwrap(), at);
        }
        // Free, in another block of ours, and anywhere else.
        for at in [19999, 20016, 1, 65535] {
            assert_eq!(errno(way.bind(&way.associated(mine), at)), libc::EACCES, "{way:?} {at}");
        }
    }
}

fn the_last_association_before_the_bind_counts(_: &Host) {
    for way in Way::all() {
        let (_one, first) = block(way.protocol, 20000, 4);
        let (_two, second) = block(way.protocol, 21000, 4);
        let socket = way.associated(first);
        associate(&socket, second.token).unwrap();
        assert!(second.contains(way.bind(&socket, 0).unwrap()));
        let socket = way.associated(second);
        associate(&socket, first.token).unwrap();
        assert_eq!(errno(way.bind(&socket, second.start)), libc::EACCES);
        assert!(first.contains(way.bind(&socket, 0).unwrap()));
    }
}

fn a_failed_associate_leaves_the_earlier_one_in_force(_: &Host) {
    let Some(mut other) = Peer::start() else { return };
    let not_ours = other.number("acquire(a := socket(), 22000, 4)").unwrap();
    let (_two, dead) = block(Protocol::Tcp, 21000, 4);
    release(&open(Protocol::Tcp), dead.token).unwrap();
    let (_udp, of_udp) = block(Protocol::Udp, 20000, 4);
    let tcp = Way::all().into_iter().filter(|way| way.protocol == Protocol::Tcp);
    for way in tcp {
        let (_anchor, mine) = block(Protocol::Tcp, 20000, 4);
        let socket = way.associated(mine);
        for bad in [0, !mine.token, dead.token, of_udp.token] {
            assert_eq!(errno(associate(&socket, bad)), libc::EINVAL);
        }
        assert_eq!(errno(associate(&socket, not_ours)), libc::EACCES);
        assert!(mine.contains(way.bind(&socket, 0).unwrap()));
    }
}

fn a_bound_socket_cannot_be_associated(_: &Host) {
    for way in Way::all() {
        let (_anchor, mine) = block(way.protocol, 20000, 4);
        let socket = way.open();
        let at = way.bind(&socket, 0).unwrap();
        assert_eq!(errno(associate(&socket, mine.token)), libc::EINVAL, "{way:?}");
        assert_eq!(port(&socket), at);
        let socket = way.associated(mine);
        way.bind(&socket, 0).unwrap();
        assert_eq!(errno(associate(&socket, mine.token)), libc::EINVAL, "{way:?}");
    }
}

fn a_port_is_drawn_again_once_its_socket_is_closed(_: &Host) {
    for way in Way::all() {
        let (_anchor, mine) = block(way.protocol, 20000, 2);
        let _stays = {
            let socket = way.associated(mine);
            way.bind(&socket, 20000).unwrap();
            socket
        };
        for _ in 0..100 {
            assert_eq!(way.bind(&way.associated(mine), 0).unwrap(), 20001, "{way:?}");
        }
    }
}

fn after_the_end_of_the_reservation_an_associated_socket_binds_nothing(_: &Host) {
    for way in Way::all() {
        for by_release in [true, false] {
            let (anchor, mine) = block(way.protocol, 20000, 4);
            let socket = way.associated(mine);
            if by_release {
                release(&anchor, mine.token).unwrap();
            }
            drop(anchor);
            for at in [0, 20000, 30000] {
                assert_eq!(errno(way.bind(&socket, at)), libc::EACCES, "{way:?} {at}");
            }
            assert_eq!(port(&socket), 0);
        }
    }
}

fn a_later_reservation_of_the_same_block_is_not_the_earlier_one(_: &Host) {
    for way in Way::all() {
        let (anchor, mine) = block(way.protocol, 20000, 4);
        let socket = way.associated(mine);
        drop(anchor);
        let (_anchor, later) = block(way.protocol, 20000, 4);
        assert_ne!(later.token, mine.token);
        assert_eq!(errno(way.bind(&socket, 0)), libc::EACCES, "{way:?}");
        assert_eq!(errno(associate(&socket, mine.token)), libc::EINVAL);
        associate(&socket, later.token).unwrap();
        assert!(later.contains(way.bind(&socket, 0).unwrap()));
    }
}

fn an_associated_socket_in_a_child_of_fork_binds_nothing(_: &Host) {
    let Some(mut owner) = Peer::start() else { return };
    for kind in ["SOCK_STREAM, 0", "SOCK_DGRAM, 0", "SOCK_STREAM, MPTCP"] {
        owner.ask(format!("(token_ := acquire(a := socket(AF_INET, {kind}), 20000, 4))")).unwrap();
        owner.ask(format!("by_token(s := socket(AF_INET, {kind}), ASSOCIATE, token_)")).unwrap();
        owner.ask("(child := fork())").unwrap();
        for line in ["bound(s, '127.0.0.1')", "bound(s, '127.0.0.1', 20001)"] {
            assert_eq!(errno(owner.ask(format!("child.ask({line:?})"))), libc::EACCES, "{kind}");
        }
        let connect = "child.ask(\"s.connect(('127.0.0.1', 9))\")";
        assert_eq!(errno(owner.ask(connect)), libc::EACCES, "{kind}");
        // It is still as good as before in the process that may.
        let at = owner.number("bound(s, '127.0.0.1')").unwrap();
        assert!((20000..20004).contains(&at));
        owner.ask("(child.end(), s.close(), a.close())").unwrap();
    }
}

fn a_refused_bind_leaves_the_socket_unbound_and_usable(_: &Host) {
    for way in Way::all() {
        let (_anchor, mine) = block(way.protocol, 20000, 1);
        let first = way.associated(mine);
        way.bind(&first, 0).unwrap();
        let second = way.associated(mine);
        assert_eq!(errno(way.bind(&second, 0)), libc::ENOBUFS);
        assert_eq!(errno(way.bind(&second, 20000)), libc::EADDRINUSE);
        assert_eq!(errno(way.bind(&second, 30000)), libc::EACCES);
        assert_eq!(port(&second), 0);
        drop(first);
        assert_eq!(way.bind(&second, 0).unwrap(), 20000, "{way:?}");
    }
}

fn binds_that_the_kernel_refuses_after_us_leak_no_port(host: &Host) {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let ways = Way::all().into_iter().filter(|way| way.protocol == protocol);
        let (anchor, mine) = block(protocol, 20000, 64);
        let v4 =
            Way { address: Ipv4Addr::new(192, 0, 2, 1).into(), ..ways.clone().next().unwrap() };
        let socket = v4.associated(mine);
        for _ in 0..10_000 {
            // Nobody's address: the kernel finds out when our hook has chosen the port already.
            assert_eq!(errno(v4.bind(&socket, 0)), libc::EADDRNOTAVAIL);
        }
        for way in ways {
            let sockets: Vec<_> = (0..64).map(|_| way.associated(mine)).collect();
            for socket in &sockets {
                way.bind(socket, 0).unwrap();
            }
        }
        drop(anchor);
        host.maps().assert_nothing_is_left();
        assert_eq!(query(&open(protocol), 20000).unwrap(), None);
        let anybody = SocketAddr::from((Ipv4Addr::LOCALHOST, 20063));
        stranger(protocol, anybody).unwrap();
    }
}
