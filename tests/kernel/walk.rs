//! Is a port in use? What counts, and that the walk through the kernel's tables is not led astray.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use portkeep::Protocol;
use socket2::{Domain, Socket, Type};

use crate::client::{BOTH, acquire, associate, block, errno, kind, open, port, stranger};
use crate::host::{Host, cases};
use crate::state::{Setting, configure};
use crate::support::rounds;
use crate::tools::{Dice, Interruption, stay_on};

cases![
    a02_a_full_hash_bucket_hides_nobody_and_the_budget_only_refuses,
    a02_a_long_list_of_dead_tcp_connections_hides_nobody,
    a03_no_churn_makes_the_walk_miss_a_port_in_use,
    a14_a_port_counts_as_in_use_while_a_process_can_use_a_socket_there,
    a14_dead_connections_do_not_keep_a_service_from_its_port,
];

const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;
const AT: u16 = 20000;
/// As in `struct portkeep_config` by default.
const DEFAULT_STEPS: u32 = 1_000_000;

#[track_caller]
fn assert_in_use(protocol: Protocol, port: u16, why: &str) {
    assert_eq!(errno(acquire(&open(protocol), port, 1)), libc::EADDRINUSE, "{why}");
}

#[track_caller]
fn assert_free(protocol: Protocol, port: u16, why: &str) {
    acquire(&open(protocol), port, 1).unwrap_or_else(|error| panic!("{why}: {error}"));
}

/// A hundred sockets on one UDP port.
fn crowd(at: u16) -> Vec<Socket> {
    let member = |_| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
        socket.set_reuse_port(true).expect("any socket has it");
        socket.bind(&SocketAddr::from((LOCAL, at)).into()).expect("they share it");
        socket
    };
    (0..100).map(member).collect()
}

/// The slot of a port is its number, plus a number of the namespace, modulo the table's size; so the
/// ports that share one are a power of two apart. Which one, a walk tells whose budget ends there.
fn a_port_of_the_same_slot(host: &Host) -> Option<u16> {
    configure(host, Setting::WalkSteps, 50);
    let mut candidates = (8..16).map(|power| AT.wrapping_add(1 << power)).filter(|at| *at > 1024);
    let found = candidates.find(|at| {
        let _crowd = crowd(*at);
        // What nobody has bound since the last look is not walked.
        drop(stranger(Protocol::Udp, (LOCAL, AT)));
        let cut = host.maps().counters().walks_cut;
        let _ = acquire(&open(Protocol::Udp), AT, 1);
        host.maps().counters().walks_cut > cut
    });
    configure(host, Setting::WalkSteps, DEFAULT_STEPS);
    found
}

fn a02_a_full_hash_bucket_hides_nobody_and_the_budget_only_refuses(host: &Host) {
    let Some(other) = a_port_of_the_same_slot(host) else {
        // 65,536 slots: each port has its own.
        return crate::support::left_out("no two UDP ports share a slot of the hash table");
    };
    let busy = stranger(Protocol::Udp, (LOCAL, AT)).expect("it is free");
    // Later sockets are linked in before earlier ones.
    let crowd = crowd(other);
    let cut = host.maps().counters().walks_cut;
    assert_in_use(Protocol::Udp, AT, "behind a hundred others");
    assert_free(Protocol::Udp, AT + 1, "the next slot is not crowded");
    assert_in_use(Protocol::Udp, other, "the crowd's own port");
    assert_eq!(host.maps().counters().walks_cut, cut);
    configure(host, Setting::WalkSteps, 50);
    assert_in_use(Protocol::Udp, AT, "as far as the walk could tell");
    assert_eq!(host.maps().counters().walks_cut, cut + 1);
    drop(busy);
    assert_in_use(Protocol::Udp, AT, "as far as the walk could tell");
    assert_eq!(host.maps().counters().walks_cut, cut + 2);
    assert_free(Protocol::Udp, AT + 1, "its own slot is soon walked");
    configure(host, Setting::WalkSteps, DEFAULT_STEPS);
    assert_free(Protocol::Udp, AT, "nobody is there");
    eprintln!("{} sockets of port {other} in the slot of {AT}", crowd.len());
}

/// A listener and connections that its side has closed first: so many are in TIME_WAIT there.
fn left_in_time_wait(address: SocketAddr, connections: usize) -> Socket {
    let listener = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
    listener.set_reuse_address(true).expect("any socket has it");
    listener.bind(&address.into()).expect("it is free");
    listener.listen(8).expect("it is bound");
    for _ in 0..connections {
        let client = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("one");
        client.connect(&address.into()).expect("it listens");
        drop(listener.accept().expect("it is there"));
        assert_eq!(client.recv(&mut [std::mem::MaybeUninit::uninit()]).expect("the end"), 0);
    }
    listener
}

fn a02_a_long_list_of_dead_tcp_connections_hides_nobody(host: &Host) {
    // The listener was bound first, so it is the last on the list.
    let listener = left_in_time_wait((LOCAL, AT).into(), 100);
    assert_in_use(Protocol::Tcp, AT, "behind a hundred connections in TIME_WAIT");
    assert_free(Protocol::Tcp, AT + 1, "the neighbour");
    let cut = host.maps().counters().walks_cut;
    drop(listener);
    configure(host, Setting::WalkSteps, 50);
    assert_in_use(Protocol::Tcp, AT, "as far as the walk could tell");
    assert_eq!(host.maps().counters().walks_cut, cut + 1);
    assert_free(Protocol::Tcp, AT + 1, "the neighbour");
    configure(host, Setting::WalkSteps, DEFAULT_STEPS);
    assert_free(Protocol::Tcp, AT, "they are all dead");
}

/// One processor walks while the other links in and takes out what the walk stands on; the walker
/// is interrupted all the time, for as long as it takes to free and reuse what it stood on.
///
/// An acquire walks twice before it says "free", so a walk that is misled now and then hardly shows
/// there. Somebody who draws a port of his own block walks but once, 65 times in a call.
fn a03_no_churn_makes_the_walk_miss_a_port_in_use(host: &Host) {
    const HERE: u16 = 7999;
    let calls = rounds(30_000, 1_000_000);
    for protocol in BOTH {
        let (_anchor, instance) = block(protocol, HERE, 1);
        let associated = || {
            let socket = Socket::new(Domain::IPV4, kind(protocol), None).expect("a socket");
            associate(&socket, instance.token).expect("it is ours");
            socket
        };
        let bind = |socket: &Socket, last: u8, at: u16| {
            socket.bind(&SocketAddr::from(([127, 0, 0, last], at)).into())
        };
        // Bound first, so it is the last on the list.
        let busy = associated();
        bind(&busy, 1, HERE).expect("it is ours");
        let (stop, churned) = (AtomicBool::new(false), AtomicUsize::new(0));
        let (mut called, mut missed, mut odd) = (0, 0, Vec::new());
        let cut = host.maps().counters().walks_cut;
        thread::scope(|scope| {
            scope.spawn(|| {
                stay_on(1);
                while !stop.load(SeqCst) {
                    bind(&associated(), 2, HERE).expect("nobody else has that address");
                    drop(stranger(protocol, (Ipv4Addr::new(127, 0, 0, 3), 8555)));
                    churned.fetch_add(1, SeqCst);
                }
            });
            stay_on(0);
            let (interruption, mut dice) = (Interruption::new(), Dice(23));
            let mut own = associated();
            // Where others keep the processors busy, until the walks had something to trip over.
            while called < calls || (churned.load(SeqCst) < calls && called < 10 * calls) {
                called += 1;
                interruption.after(dice.roll(20_000));
                match bind(&own, 9, 0).map_err(|error| error.raw_os_error()) {
                    Err(Some(libc::ENOBUFS)) => (),
                    Err(error) => odd.push(error),
                    Ok(()) => {
                        missed += 1;
                        own = associated();
                    }
                }
            }
            stop.store(true, SeqCst);
        });
        let churned = churned.into_inner();
        eprintln!("{protocol:?}: {called} calls, {churned} churns, {missed} missed it");
        assert_eq!((missed, odd), (0, vec![]));
        assert_eq!(host.maps().counters().walks_cut, cut);
        assert!(churned >= calls / 2, "nothing moved under the walk");
    }
}

/// Binds with an option of the socket set, then connects.
fn connected(protocol: Protocol, from: SocketAddr, to: &Socket, level: i32, option: i32) -> Socket {
    let socket = Socket::new(Domain::for_address(from), kind(protocol), None).expect("a socket");
    crate::socket::set_flag(socket.as_fd(), level, option, true).expect("it has that option");
    socket.bind(&from.into()).expect("it is free");
    socket.connect(&to.local_addr().expect("it is bound")).expect("it answers");
    socket
}

fn a14_a_port_counts_as_in_use_while_a_process_can_use_a_socket_there(host: &Host) {
    const NO_PORT: i32 = 24; // IP_BIND_ADDRESS_NO_PORT
    let addresses = [LOCAL.into(), Ipv6Addr::LOCALHOST.into(), LOCAL.to_ipv6_mapped().into()];
    for (protocol, ip) in BOTH.into_iter().flat_map(|one| addresses.map(|ip| (one, ip))) {
        let check = |what: &str, sockets: Vec<Socket>, at: u16| {
            let what = format!("{protocol:?} {ip} {what}");
            assert_in_use(protocol, at, &what);
            assert_free(protocol, at + 1, &what);
            drop(sockets);
            assert_free(protocol, at, &format!("{what}, closed"));
        };
        let at = |port: u16| SocketAddr::new(ip, port);
        check("bound", vec![stranger(protocol, at(AT)).expect("it is free")], AT);
        let device = Socket::new(Domain::for_address(at(AT)), kind(protocol), None).expect("one");
        device.bind_device(Some(b"lo")).expect("root may");
        device.bind(&at(AT).into()).expect("it is free");
        check("bound to a device", vec![device], AT);
        let peer = stranger(protocol, at(AT + 100)).expect("it is free");
        if protocol == Protocol::Tcp {
            peer.listen(8).expect("it is bound");
        }
        // The kernel chooses the port at connect(), from a range that is elsewhere by then.
        for what in ["bound at connect", "not bound by itself"] {
            host.set("ipv4/ip_local_port_range", "40000 40100");
            // A range is known from the next acquire on.
            assert_free(protocol, AT + 50, "elsewhere");
            let socket = if what == "bound at connect" {
                connected(protocol, at(0), &peer, libc::IPPROTO_IP, NO_PORT)
            } else {
                let plain = Socket::new(Domain::for_address(at(0)), kind(protocol), None);
                let plain = plain.expect("a socket");
                plain.connect(&peer.local_addr().expect("it is bound")).expect("it answers");
                plain
            };
            host.set("ipv4/ip_local_port_range", "50000 50100");
            // Or it would wait in TIME_WAIT, which is another test.
            let _ = socket.set_linger(Some(Duration::ZERO));
            let own = port(&socket);
            check(what, vec![socket], own);
        }
        let own = connected(protocol, at(AT), &peer, libc::SOL_SOCKET, libc::SO_REUSEADDR);
        let _ = own.set_linger(Some(Duration::ZERO));
        check("connected", vec![own], AT);
        if protocol == Protocol::Tcp {
            let client = connected(protocol, at(AT), &peer, libc::SOL_SOCKET, libc::SO_REUSEADDR);
            // Of those above that were reset before.
            let child = loop {
                let (child, from) = peer.accept().expect("it is there");
                if from.as_socket().expect("of the internet").port() == AT
                    && child.peer_addr().is_ok()
                {
                    break child;
                }
            };
            assert_in_use(protocol, AT + 100, "listening");
            drop(peer);
            client.set_linger(Some(Duration::ZERO)).expect("any socket has it");
            child.set_linger(Some(Duration::ZERO)).expect("any socket has it");
            check("accepted, its listener closed", vec![child, client], AT + 100);
        }
    }
}

fn a14_dead_connections_do_not_keep_a_service_from_its_port(_: &Host) {
    for ip in [LOCAL.into(), Ipv6Addr::LOCALHOST.into()] {
        let at = SocketAddr::new(ip, AT);
        let rebind = |what: &str| {
            assert_free(Protocol::Tcp, AT, what);
            let again = Socket::new(Domain::for_address(at), Type::STREAM, None).expect("a socket");
            again.set_reuse_address(true).expect("any socket has it");
            again.bind(&at.into()).and_then(|()| again.listen(1)).expect(what);
            assert_in_use(Protocol::Tcp, AT, "listening again");
        };
        drop(left_in_time_wait(at, 3));
        rebind("TIME_WAIT");
        // Unsent data, and a peer that does not read: FIN_WAIT1, for minutes, of nobody.
        let listener = left_in_time_wait(at, 0);
        let client = Socket::new(Domain::for_address(at), Type::STREAM, None).expect("a socket");
        client.set_recv_buffer_size(2048).expect("any socket has it");
        client.connect(&at.into()).expect("it listens");
        let (child, _) = listener.accept().expect("it is there");
        child.set_nonblocking(true).expect("any socket can");
        while child.send(&[0; 65536]).is_ok() {}
        drop(listener);
        assert_in_use(Protocol::Tcp, AT, "a live connection");
        drop(child);
        let shown = std::fs::read_to_string("/proc/net/tcp").expect("/proc is mounted")
            + &std::fs::read_to_string("/proc/net/tcp6").expect("/proc is mounted");
        let port = format!(":{AT:04X}");
        let state = |line: &str| {
            let words: Vec<_> = line.split_whitespace().collect();
            words[1].ends_with(&port).then(|| words[3].to_owned())
        };
        let states: Vec<_> = shown.lines().filter_map(state).collect();
        assert!(states.contains(&"04".to_owned()), "no FIN_WAIT1: {states:?}");
        rebind("FIN_WAIT1");
    }
}
