//! What counts as in use when a block is asked for by number (spec 3.1; 9.12 to 9.15; 9.46).

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use portkeep::Protocol::{Tcp, Udp};
use portkeep::{PortRange, Protocol};

use crate::engine::{BOTH, Host, IN_USE, cases, fails, request};
use crate::sockets::{Flag, addresses, all_free, all_refused, bind_plainly, loopback, refused};
use crate::support::left_out;

cases![
    t06_a_port_in_use_is_refused,
    t06_the_other_protocol_does_not_count,
    t07_overlap_with_an_own_block_is_refused,
    t07_overlap_with_a_foreign_block_is_refused,
    r09_12_an_own_bound_port_counts,
    r09_13_time_wait_does_not_count,
    r09_13_a_live_connection_counts,
    r09_14_any_local_address_of_either_family_counts,
    r09_46_a_block_does_not_disturb_the_other_protocol,
];

/// Spec 12, line 6.
fn t06_a_port_in_use_is_refused(host: &Host) {
    let range = host.free_range(4);
    let listener = TcpListener::bind(loopback(range.start() + 2)).unwrap();
    fails(portkeep::tcp(4).at(range.start()).acquire(), IN_USE);
    let error = portkeep::tcp(4).at(range.start()).acquire().unwrap_err();
    assert_eq!(error.port(), Some((Tcp, range.start() + 2)));
    drop(listener);
    assert_eq!(host.acquire(&portkeep::tcp(4).at(range.start())).range(), range);
}

/// Spec 12, line 6.
fn t06_the_other_protocol_does_not_count(host: &Host) {
    for (mine, theirs) in [(Tcp, Udp), (Udp, Tcp)] {
        let range = host.free_range(4);
        let _stranger = bind_plainly(theirs, loopback(range.start() + 2), &[]).unwrap();
        let block = host.acquire(&request(mine, 4).at(range.start()));
        assert_eq!(block.range(), range);
    }
}

/// Every way in which a block can meet `range`.
#[track_caller]
fn every_overlap_is_refused(protocol: Protocol, range: PortRange) {
    let (start, count) = (range.start(), range.count());
    for (start, count) in [
        (start, count),
        (start - 2, 3),
        (start + count - 1, 3),
        (start - 2, count + 4),
        (start + 1, count - 2),
        (start + 1, 1),
    ] {
        fails(request(protocol, count).at(start).acquire(), IN_USE);
    }
    all_free(protocol, [start - 2, start - 1, start + count, start + count + 1]);
    all_refused(protocol, range);
}

/// Ports in the middle of a larger run of free ones.
fn inner(range: PortRange) -> PortRange {
    PortRange::new(range.start() + 2, range.count() - 4).unwrap()
}

/// Spec 12, line 7; persistent and administered blocks do not exist yet.
fn t07_overlap_with_an_own_block_is_refused(host: &Host) {
    for protocol in BOTH {
        let range = inner(host.free_range(10));
        let _block = host.acquire(&request(protocol, 6).at(range.start()));
        every_overlap_is_refused(protocol, range);
    }
}

/// Spec 12, line 7.
fn t07_overlap_with_a_foreign_block_is_refused(host: &Host) {
    for protocol in BOTH {
        let range = inner(host.free_range(10));
        let mut helper = host.helper();
        let block = helper.acquire(&format!("{} {range}", protocol.name())).unwrap();
        assert_eq!(block.range, range);
        every_overlap_is_refused(protocol, range);
    }
}

/// Spec 9.12.
fn r09_12_an_own_bound_port_counts(host: &Host) {
    for protocol in BOTH {
        let range = host.free_range(3);
        for flags in [&[][..], &[Flag::ReuseAddress], &[Flag::ReusePort]] {
            let _own = bind_plainly(protocol, loopback(range.last()), flags).unwrap();
            fails(request(protocol, 3).at(range.start()).acquire(), IN_USE);
        }
        // It may be the consumer of a block that is gone.
        let block = host.acquire(&request(protocol, 3).at(range.start()));
        let socket = crate::sockets::open(protocol, &loopback(0), &[]).unwrap();
        block.bind(&socket, loopback(range.last())).unwrap();
        block.release().unwrap();
        fails(request(protocol, 3).at(range.start()).acquire(), IN_USE);
    }
}

/// A connection to `port`, both ends.
fn connection(port: u16) -> (TcpListener, TcpStream, TcpStream) {
    let listener = TcpListener::bind(loopback(port)).unwrap();
    let client = TcpStream::connect(loopback(port)).unwrap();
    let (server, _) = listener.accept().unwrap();
    (listener, server, client)
}

/// Leaves a TIME_WAIT on `port`: the server, whose sockets have `SO_REUSEADDR`, closes first.
fn leave_time_wait(port: u16) {
    let (listener, server, mut client) = connection(port);
    drop((listener, server));
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "the server has closed");
    let peer = client.local_addr().unwrap();
    drop(client);
    wait_for_state(loopback(port), peer, "06");
}

/// Waits until the kernel shows this connection in this state.
fn wait_for_state(local: SocketAddr, peer: SocketAddr, state: &str) {
    let line = format!(" 0100007F:{:04X} 0100007F:{:04X} {state} ", local.port(), peer.port());
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let table = fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
        if table.contains(&line) {
            return;
        }
        assert!(Instant::now() < deadline, "no{line}in\n{table}");
        thread::yield_now();
    }
}

/// Older kernels do not show sockets that are only bound, which the userspace engine needs for it.
fn kernel_shows_bound_sockets() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let enough = (numbers.next(), numbers.next()) >= (Some(6), Some(8));
    if !enough {
        left_out(&format!("it needs Linux 6.8, but this is {}", release.trim()));
    }
    enough
}

/// Spec 9.13: a service that restarts must get its port again.
fn r09_13_time_wait_does_not_count(host: &Host) {
    if host.engine.holds_sockets && !kernel_shows_bound_sockets() {
        return;
    }
    let range = host.free_range(3);
    let port = range.start() + 1;
    leave_time_wait(port);
    // It is really there: a plain bind without SO_REUSEADDR does not get past it.
    refused(Tcp, loopback(port), &[]);

    let block = host.acquire(&portkeep::tcp(3).at(range.start()));
    all_refused(Tcp, range);
    refused(Tcp, loopback(port), &[Flag::ReuseAddress]);
    let listener = block.listener(loopback(port)).unwrap();
    TcpStream::connect(listener.local_addr().unwrap()).unwrap();
}

/// Spec 9.13: every other state of TCP counts.
fn r09_13_a_live_connection_counts(host: &Host) {
    let range = host.free_range(3);
    let (listener, server, client) = connection(range.start() + 1);
    drop(listener);
    fails(portkeep::tcp(3).at(range.start()).acquire(), IN_USE);
    // The client closes first, so that the server's port is free at once.
    drop(client);
    drop(server);

    // The ephemeral port of a client counts likewise.
    let (_listener, _server, client) = connection(range.start());
    let ephemeral = client.local_addr().unwrap().port();
    fails(portkeep::tcp(1).at(ephemeral).acquire(), IN_USE);
}

/// Spec 9.14, 9.15.
fn r09_14_any_local_address_of_either_family_counts(host: &Host) {
    for protocol in BOTH {
        let range = host.free_range(2);
        for address in addresses(range.last()) {
            let only_v6 = address.ip().to_canonical().is_ipv6();
            let flags: &[&[Flag]] = if only_v6 { &[&[], &[Flag::OnlyV6]] } else { &[&[]] };
            for flags in flags {
                let stranger = bind_plainly(protocol, address, flags).unwrap();
                fails(request(protocol, 2).at(range.start()).acquire(), IN_USE);
                drop(stranger);
                assert_eq!(host.acquire(&request(protocol, 2).at(range.start())).range(), range);
            }
        }
    }
}

/// Spec 9.46.
fn r09_46_a_block_does_not_disturb_the_other_protocol(host: &Host) {
    for (mine, theirs) in [(Tcp, Udp), (Udp, Tcp)] {
        let range = host.free_range(4);
        let _block = host.acquire(&request(mine, 4).at(range.start()));
        all_free(theirs, range.iter());
        let other = host.acquire(&request(theirs, 4).at(range.start()));
        assert_eq!(other.range(), range);
    }
}
