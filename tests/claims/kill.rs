//! kill -9 of a process that acquires, binds, hands over and releases without a pause: whatever it
//! was doing, every port is free again at once and nothing is left behind.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use portkeep::{PortRange, Protocol};

use crate::helper::{Channel, Helper};
use crate::process::alone;
use crate::sockets::{LOOPBACK, assert_free, open, random, report, request};
use crate::support::{NetNs, rounds};

/// Each with a pool of its own, so that what one finds free was left by its own victims.
const KILLERS: u16 = 2;
const POOL: u16 = 40;
/// A victim needs some 200 microseconds for all it does; this is several times as much.
const LATEST: u64 = 2_000;

#[test]
fn kill_9_at_any_moment_leaves_every_port_free() {
    alone(|| {
        let Some(_namespace) = NetNs::enter() else { return };
        // Whatever a victim writes, it writes here.
        let folder = tempfile::tempdir().expect("a writable temporary folder");
        let name = folder.path().display();
        let begin = Instant::now();
        let kills = rounds(300, 10_000);
        let each = kills / usize::from(KILLERS);
        let mut killers: Vec<_> = (0..KILLERS)
            .map(|killer| {
                let pool = PortRange::new(40_000 + killer * POOL, POOL).expect("a range");
                Helper::start(format!("killer {pool} {each} {name}"))
            })
            .collect();
        for number in 0..each {
            for killer in &mut killers {
                assert_eq!(killer.hear(), number.to_string());
            }
        }
        drop(killers);
        let files: Vec<_> = std::fs::read_dir(&folder).expect("it is there").collect();
        assert!(files.is_empty(), "{files:?} were left behind");
        assert_eq!(processes_with(folder.path()), Vec::<String>::new());
        let took = begin.elapsed().as_secs_f32();
        report(&format!(
            "kill: {kills} holders killed at any moment ({took:.0} s): every port free, nothing left"
        ));
    });
}

/// The helper: starts victims and kills them. A process of its own, in which nobody else starts
/// any, so that what it finds in use is in use because of its victims.
pub(crate) fn killer(channel: &mut Channel, pool: PortRange, count: &str, folder: &str) {
    for number in 0..count.parse().expect("a number") {
        one_kill(pool, folder.as_ref(), number);
        channel.say(number);
    }
}

fn one_kill(pool: PortRange, folder: &Path, number: usize) {
    let mut command = Helper::command(format!("restless {pool}"));
    for name in ["TMPDIR", "HOME", "XDG_RUNTIME_DIR"] {
        command.env(name, folder);
    }
    let mut victim = Helper::start_with(command.current_dir(folder));
    // Most die at work, some while they start.
    if !number.is_multiple_of(8) {
        assert_eq!(victim.hear(), "ready");
    }
    thread::sleep(Duration::from_micros(random(LATEST)));
    victim.process.kill();
    assert_free(pool, "after kill -9");
    if number.is_multiple_of(16) {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            assert_eq!(portkeep::occupants(protocol, pool).expect("the kernel tells"), []);
        }
    }
}

/// The processes that have `folder` in their environment, as every victim has and we have not.
fn processes_with(folder: &Path) -> Vec<String> {
    let name = folder.to_str().expect("a plain name").as_bytes();
    let has_name = |process: &Path| {
        let environment = std::fs::read(process.join("environ")).unwrap_or_default();
        environment.windows(name.len()).any(|window| window == name)
    };
    let processes = std::fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let found = processes.map(|process| process.path()).filter(|process| has_name(process));
    found.map(|process| process.display().to_string()).collect()
}

/// The victim: two threads that never rest.
pub(crate) fn restless(channel: &mut Channel, pool: PortRange) {
    let enough = channel.interruption();
    let ready = AtomicUsize::new(0);
    thread::scope(|scope| {
        for turn in 0..2 {
            let (enough, ready) = (&enough, &ready);
            scope.spawn(move || work(pool, turn, enough, ready));
        }
        // Two threads that have been through everything once.
        while ready.load(Ordering::Relaxed) < 2 {
            thread::yield_now();
        }
        channel.say("ready");
    });
}

fn work(pool: PortRange, mut turn: usize, enough: &AtomicBool, ready: &AtomicUsize) {
    let first = turn;
    while !enough.load(Ordering::Relaxed) {
        match turn % 3 {
            0 => lend(pool, Protocol::Tcp),
            1 => lend(pool, Protocol::Udp),
            _ => give_back(pool),
        }
        turn += 1;
        if turn == first + 3 {
            ready.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Sockets of its own on some ports of a block, which outlive it for a moment.
fn lend(pool: PortRange, protocol: Protocol) {
    let block = request(protocol, 4).pool(pool).acquire().expect("there is room");
    let sockets: Vec<_> = block
        .range()
        .iter()
        .skip(1)
        .map(|port| {
            let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
            let socket = open(protocol, &address);
            block.bind(&socket, address).expect("the port is ours");
            socket
        })
        .collect();
    block.release().expect("the reservation is ours");
    drop(sockets);
}

/// Ready-made sockets on any port of a block, which go before it does.
fn give_back(pool: PortRange) {
    let block = portkeep::tcp_udp(3).even().pool(pool).acquire().expect("there is room");
    let listeners: Vec<_> = (0..3).map(|_| block.listener((LOOPBACK, 0))).collect();
    let datagrams = block.udp_socket((LOOPBACK, 0));
    assert!(listeners.iter().all(Result::is_ok), "{listeners:?}");
    assert!(datagrams.is_ok(), "{datagrams:?}");
}
