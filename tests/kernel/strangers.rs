//! Strangers' binds into a reserved block, in every way a program can bind.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;

use portkeep::Protocol;
use socket2::{Domain, Socket, Type};

use crate::client::{
    DESCENDANTS, MPTCP, Request, acquire, associate, block, errno, kind, open, port, request,
    stranger,
};
use crate::host::{Host, cases, cases_without_engine};
use crate::programs::compiler::compiled;
use crate::programs::peer::Peer;
use crate::support::{NetNs, left_out};

cases![
    a_stranger_is_refused_in_every_way_to_bind_and_may_bind_elsewhere,
    the_owner_itself_is_a_stranger_until_it_associates,
    every_port_of_a_block_is_refused_and_its_neighbours_are_not,
    another_protocol_is_another_port_space,
    another_namespace_is_another_port_space,
    a_consumers_reuse_flags_do_not_let_strangers_join_it,
    a_bind_by_io_uring_is_refused,
    a_descendants_block_refuses_strangers_in_every_way,
];

cases_without_engine![
    sockets_made_before_the_engine_are_refused_like_any_other,
    sockets_bound_before_the_engine_are_in_the_way,
];

const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// What `every_way` of peer.py counts: three kinds, seven addresses, four sets of flags.
const ALL_BOUND: &str = "{('bound', None): 84}";
const ALL_REFUSED: &str = "{('EADDRINUSE', 'bound'): 84}";

fn a_stranger_is_refused_in_every_way_to_bind_and_may_bind_elsewhere(_: &Host) {
    let (Some(root), Some(nobody)) = (Peer::start(), Peer::nobody()) else { return };
    let mut peers = [root, nobody];
    for peer in &mut peers {
        assert_eq!(peer.ask("every_way(20003)").unwrap(), ALL_BOUND, "before");
    }
    let blocks = BOTH.map(|protocol| block(protocol, 20000, 8));
    for peer in &mut peers {
        assert_eq!(peer.ask("every_way(20003, 20100)").unwrap(), ALL_REFUSED);
    }
    drop(blocks);
    for peer in &mut peers {
        assert_eq!(peer.ask("every_way(20003)").unwrap(), ALL_BOUND, "after");
    }
}

fn the_owner_itself_is_a_stranger_until_it_associates(_: &Host) {
    for peer in [Peer::start(), Peer::nobody()] {
        let Some(mut peer) = peer else { return };
        peer.ask("(tcp := acquire(a := socket(), 20000, 8))").unwrap();
        peer.ask("(udp := acquire(b := socket(type=SOCK_DGRAM), 20000, 8))").unwrap();
        assert_eq!(peer.ask("every_way(20003, 20100)").unwrap(), ALL_REFUSED);
        assert_eq!(peer.number("associated(tcp, 20003)").unwrap(), 20003);
        assert_eq!(peer.number("associated(udp, 20003, SOCK_DGRAM)").unwrap(), 20003);
    }
}

fn every_port_of_a_block_is_refused_and_its_neighbours_are_not(_: &Host) {
    // Not on the edges of a word of 64 ports, and over more than two words.
    for (start, count) in [(20011, 150), (20064, 64), (65535, 1), (1024, 1)] {
        for protocol in BOTH {
            let (_anchor, mine) = block(protocol, start, count);
            for at in mine.start..=mine.last() {
                let refused = stranger(protocol, (Ipv4Addr::LOCALHOST, at));
                assert_eq!(errno(refused), libc::EADDRINUSE, "{at}");
            }
            stranger(protocol, (Ipv4Addr::LOCALHOST, start - 1)).unwrap();
            if let Some(next) = start.checked_add(count) {
                stranger(protocol, (Ipv6Addr::UNSPECIFIED, next)).unwrap();
            }
        }
    }
}

fn another_protocol_is_another_port_space(_: &Host) {
    let (_tcp, _) = block(Protocol::Tcp, 20000, 8);
    stranger(Protocol::Udp, (Ipv4Addr::UNSPECIFIED, 20000)).unwrap();
    let (_udp, _) = block(Protocol::Udp, 21000, 8);
    stranger(Protocol::Tcp, (Ipv4Addr::UNSPECIFIED, 21000)).unwrap();
}

fn another_namespace_is_another_port_space(_: &Host) {
    let blocks = BOTH.map(|protocol| block(protocol, 20000, 8));
    let Some(elsewhere) = NetNs::enter() else { return };
    let Some(mut peer) = Peer::start() else { return };
    assert_eq!(peer.ask("every_way(20003)").unwrap(), ALL_BOUND);
    // The same numbers once more, for somebody there.
    assert_ne!(peer.number("acquire(a := socket(), 20000, 8)").unwrap(), blocks[0].1.token);
    drop(elsewhere);
    let here = stranger(Protocol::Tcp, (Ipv4Addr::LOCALHOST, 20003));
    assert_eq!(errno(here), libc::EADDRINUSE);
}

/// A socket that shares its port as far as it is concerned.
fn sharing(protocol: Protocol) -> Socket {
    let socket = Socket::new(Domain::IPV4, kind(protocol), None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket
}

fn a_consumers_reuse_flags_do_not_let_strangers_join_it(_: &Host) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 20003)).into();
    for protocol in BOTH {
        let (_anchor, mine) = block(protocol, 20000, 8);
        let consumer = sharing(protocol);
        associate(&consumer, mine.token).unwrap();
        consumer.bind(&address).unwrap();
        if protocol == Protocol::Tcp {
            consumer.listen(1).unwrap();
        }
        let other = sharing(protocol);
        assert_eq!(errno(other.bind(&address)), libc::EADDRINUSE);
        // The kernel itself would have let it in.
        associate(&other, mine.token).unwrap();
        other.bind(&address).unwrap();
    }
}

fn a_bind_by_io_uring_is_refused(_: &Host) {
    const LACKS_IT: i32 = libc::EINVAL;
    let Some(program) = compiled("tests/kernel/programs/uring_bind.c", &[]) else { return };
    let bind = |port: u16, by_worker: &str| {
        let output = Command::new(&program).args([&port.to_string(), by_worker]).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        output.status.success().then(|| said.trim().parse::<i32>().expect("an errno"))
    };
    let by_itself = bind(20000, "0");
    if matches!(by_itself, None | Some(LACKS_IT)) {
        return left_out("no io_uring, or none that binds (Linux 6.11)");
    }
    assert_eq!(by_itself, Some(0));
    let (_anchor, _) = block(Protocol::Tcp, 20000, 8);
    for by_worker in ["0", "1"] {
        assert_eq!(bind(20000, by_worker), Some(libc::EADDRINUSE));
        assert_eq!(bind(20008, by_worker), Some(0));
    }
}

fn a_descendants_block_refuses_strangers_in_every_way(_: &Host) {
    let (Some(mut owner), Some(mut root)) = (Peer::start(), Peer::start()) else { return };
    let Some(mut nobody) = Peer::nobody() else { return };
    owner.ask("acquire(a := socket(), 20000, 8, 1)").unwrap();
    owner.ask("acquire(b := socket(type=SOCK_DGRAM), 20000, 8, 1)").unwrap();
    assert_eq!(root.ask("every_way(20003, 20100)").unwrap(), ALL_REFUSED);
    assert_eq!(nobody.ask("every_way(20003, 20100)").unwrap(), ALL_REFUSED);
    assert_eq!(owner.ask("every_way(20003)").unwrap(), ALL_BOUND);
    // Who started the owner is not below it.
    let ours = stranger(Protocol::Tcp, (Ipv4Addr::LOCALHOST, 20003));
    assert_eq!(errno(ours), libc::EADDRINUSE);
    let mine = open(Protocol::Tcp);
    request(&mine, Request { start: 21000, count: 1, grant: DESCENDANTS, ..Request::default() })
        .unwrap();
    assert_eq!(owner.number("plain(21000)").unwrap(), 21000, "the owner is below us");
}

/// One of every kind, with the address it is to bind.
fn kinds() -> Vec<(Socket, IpAddr)> {
    let mptcp = Some(socket2::Protocol::from(MPTCP));
    let v4 = IpAddr::from(Ipv4Addr::LOCALHOST);
    let v6 = IpAddr::from(Ipv6Addr::LOCALHOST);
    let mut sockets = Vec::new();
    for (domain, address) in [(Domain::IPV4, v4), (Domain::IPV6, v6)] {
        for (kind, protocol) in [(Type::STREAM, None), (Type::DGRAM, None), (Type::STREAM, mptcp)] {
            sockets.push((Socket::new(domain, kind, protocol).unwrap(), address));
        }
    }
    sockets
}

fn sockets_made_before_the_engine_are_refused_like_any_other(host: &Host) {
    let sockets = kinds();
    host.inside.load();
    let _blocks = BOTH.map(|protocol| block(protocol, 20000, 8));
    for (socket, address) in &sockets {
        let refused = socket.bind(&SocketAddr::new(*address, 20003).into());
        assert_eq!(errno(refused), libc::EADDRINUSE, "{socket:?}");
        socket.bind(&SocketAddr::new(*address, 0).into()).unwrap();
        assert_ne!(port(socket), 0);
    }
}

fn sockets_bound_before_the_engine_are_in_the_way(host: &Host) {
    let sockets = kinds();
    for (at, (socket, address)) in (20000..).zip(&sockets) {
        socket.bind(&SocketAddr::new(*address, at).into()).unwrap();
    }
    host.inside.load();
    for (socket, _) in &sockets {
        let protocol =
            if socket.r#type().unwrap() == Type::DGRAM { Protocol::Udp } else { Protocol::Tcp };
        assert_eq!(errno(acquire(&open(protocol), port(socket), 1)), libc::EADDRINUSE);
    }
    drop(sockets);
    let _blocks = BOTH.map(|protocol| block(protocol, 20000, 8));
}
