//! Many consumers at once, and ports that linger.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::Duration;

use portkeep::Protocol;
use socket2::Socket;

use crate::client::{Way, block, errno, port};
use crate::host::{Host, cases};
use crate::support::rounds;

cases![
    a12_as_many_threads_as_ports_all_bind_at_once,
    a12_as_many_threads_as_ports_all_connect_at_once,
    a12_threads_that_come_and_go_are_never_refused_while_there_is_room,
    a12_a_port_that_lingers_is_drawn_only_for_reuse_and_only_last,
];

const THREADS: u16 = 64;
const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn ways() -> impl Iterator<Item = Way> {
    Way::all().into_iter().filter(|way| way.address == LOCAL)
}

/// Every thread takes one port of a block that has just enough, again and again.
fn all_get_one(way: Way, take: impl Fn(&Socket) -> io::Result<()> + Sync) {
    let (_anchor, mine) = block(way.protocol, 20000, THREADS);
    let (start, taken) = (Barrier::new(THREADS.into()), Barrier::new(THREADS.into()));
    let results = Mutex::new(Vec::new());
    let count = rounds(300, 10_000);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..count {
                    let socket = way.associated(mine);
                    start.wait();
                    let result = take(&socket).map(|()| port(&socket));
                    results.lock().unwrap().push(result.map_err(|error| error.raw_os_error()));
                    // All have one before the first gives it back, and the other way round.
                    taken.wait();
                    drop(socket);
                }
            });
        }
    });
    let results = results.into_inner().unwrap();
    let refused: Vec<_> = results.iter().filter_map(|result| result.err()).collect();
    let total = results.len();
    assert!(refused.is_empty(), "{way:?}: {} of {total} refused: {:?}", refused.len(), refused[0]);
    for round in results.chunks(THREADS.into()) {
        let ports: BTreeSet<_> = round.iter().flatten().collect();
        assert_eq!(ports.len(), usize::from(THREADS), "each its own");
    }
}

fn a12_as_many_threads_as_ports_all_bind_at_once(_: &Host) {
    for way in ways() {
        all_get_one(way, |socket| way.bind(socket, 0).map(drop));
    }
}

fn a12_as_many_threads_as_ports_all_connect_at_once(_: &Host) {
    let listener = TcpListener::bind((LOCAL, 9000)).unwrap();
    let server = listener.local_addr().unwrap();
    // One after the other, each until the other end resets it; the rest wait in the queue.
    thread::spawn(move || {
        for connection in listener.incoming() {
            connection.unwrap().read(&mut [0]).expect_err("it is reset");
        }
    });
    for way in ways().filter(|way| !way.multipath) {
        all_get_one(way, |socket| {
            socket.connect(&server.into())?;
            if way.protocol == Protocol::Tcp {
                socket.set_linger(Some(Duration::ZERO))?;
            }
            Ok(())
        });
    }
}

/// Half as many threads as ports, without waiting for each other.
fn a12_threads_that_come_and_go_are_never_refused_while_there_is_room(_: &Host) {
    for way in ways() {
        let (_anchor, mine) = block(way.protocol, 20000, THREADS);
        let count = rounds(2_000, 100_000);
        thread::scope(|scope| {
            for _ in 0..THREADS / 2 {
                scope.spawn(|| {
                    for _ in 0..count {
                        let at = way.bind(&way.associated(mine), 0).expect("there is room");
                        assert!(mine.contains(at));
                    }
                });
            }
        });
    }
}

/// Whether a closed connection of this port is in TIME_WAIT.
fn lingers(at: u16) -> bool {
    let table = fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let own = format!(":{at:04X}");
    table.lines().skip(1).any(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        words[1].ends_with(&own) && words[3] == "06"
    })
}

fn a12_a_port_that_lingers_is_drawn_only_for_reuse_and_only_last(_: &Host) {
    let way = ways().next().unwrap();
    let (_anchor, mine) = block(Protocol::Tcp, 20000, 3);
    let reusing = || {
        let socket = way.associated(mine);
        socket.set_reuse_address(true).unwrap();
        socket
    };
    let listener = TcpListener::bind((LOCAL, 9000)).unwrap();
    let first = reusing();
    way.bind(&first, 20001).unwrap();
    first.connect(&SocketAddr::from((LOCAL, 9000)).into()).unwrap();
    let (mut end, _) = listener.accept().unwrap();
    drop(first);
    assert_eq!(end.read(&mut [0]).unwrap(), 0);
    drop(end);
    assert!((0..1_000).any(|_| lingers(20001) || {
        thread::sleep(Duration::from_millis(1));
        false
    }));

    for _ in 0..100 {
        assert_ne!(way.bind(&way.associated(mine), 0).expect("two are free"), 20001);
        assert_ne!(way.bind(&reusing(), 0).expect("two are free"), 20001);
    }
    let others: Vec<_> = (0..2).map(|_| way.associated(mine)).collect();
    for other in &others {
        way.bind(other, 0).unwrap();
    }
    assert_eq!(errno(way.bind(&way.associated(mine), 0)), libc::ENOBUFS);
    assert_eq!(errno(way.bind(&way.associated(mine), 20001)), libc::EADDRINUSE);
    let last = reusing();
    assert_eq!(way.bind(&last, 0).unwrap(), 20001);
    assert!(lingers(20001), "it did all the time");
}
