//! Acquirers against binders over the same few ports, on all processors, with an oracle beside them.
//!
//! The oracle is a set of marks in shared memory. A mark is set after the kernel has granted
//! something and taken away before it is given back, so two marks that exclude each other prove that
//! the kernel granted both at once; marks are sequentially consistent, so the later one sees the
//! earlier.

mod late;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::thread;

use portkeep::Protocol;

use crate::client::{BOTH, acquire, newest, open, release, stranger};
use crate::host::{Host, cases};
use crate::support::rounds;
use crate::tools::Dice;
use late::{
    no_former_owner_binds_into_a_later_owner_s_block,
    no_former_owner_connects_from_a_later_owner_s_block,
};

cases![
    no_stranger_gets_into_a_block_however_binds_and_acquires_race,
    no_former_owner_binds_into_a_later_owner_s_block,
    no_former_owner_connects_from_a_later_owner_s_block,
    no_two_reservations_overlap_while_neighbours_come_and_go,
];

const BASE: u16 = 20000;
const PORTS: u16 = 6;

/// One port, as the oracle sees it.
#[derive(Default)]
struct Marks {
    held: AtomicU32,
    bound: AtomicU32,
    /// Acquirers that are asking for the port or have it.
    wanted: AtomicU32,
    /// How often it was asked for.
    asked: AtomicU64,
}

#[derive(Default)]
struct Field {
    ports: [Marks; PORTS as usize],
    acquired: AtomicU64,
    busy: AtomicU64,
    violations: AtomicU64,
    stop: AtomicBool,
}

impl Field {
    fn of(&self, first: u16, count: u16) -> &[Marks] {
        &self.ports[usize::from(first)..usize::from(first + count)]
    }

    fn judge(&self, wrong: bool) {
        self.violations.fetch_add(u64::from(wrong), SeqCst);
    }

    /// What whoever has got a block does with it.
    fn hold(&self, first: u16, count: u16, pause: u16) {
        let mine = self.of(first, count);
        for marks in mine {
            self.judge(marks.held.fetch_add(1, SeqCst) != 0);
        }
        for _ in 0..=pause {
            mine.iter().for_each(|marks| self.judge(marks.bound.load(SeqCst) != 0));
        }
        for marks in mine {
            marks.held.fetch_sub(1, SeqCst);
        }
        self.acquired.fetch_add(1, SeqCst);
    }

    /// What whoever has bound a port plainly does with it.
    fn occupy(&self, port: u16, pause: u16) {
        let marks = &self.ports[usize::from(port)];
        marks.bound.fetch_add(1, SeqCst);
        for _ in 0..=pause {
            self.judge(marks.held.load(SeqCst) != 0);
        }
        marks.bound.fetch_sub(1, SeqCst);
    }
}

/// How one gets a block: from the engine, or as people do without it.
#[derive(Clone, Copy, PartialEq)]
enum How {
    Reserving,
    /// Bind each port, and close: it is free, so it is mine.
    Probing,
}

#[track_caller]
fn only_busy(error: &io::Error) {
    assert_eq!(error.raw_os_error(), Some(libc::EADDRINUSE), "{error}");
}

fn acquirer(field: &Field, protocol: Protocol, count: u16, how: How, seed: u64) {
    let (anchor, mut dice) = (open(protocol), Dice(seed));
    while !field.stop.load(SeqCst) {
        let (first, pause) = (dice.roll(PORTS - count + 1), dice.roll(64));
        for marks in field.of(first, count) {
            marks.wanted.fetch_add(1, SeqCst);
            marks.asked.fetch_add(1, SeqCst);
        }
        let probe = |at| stranger(protocol, (Ipv4Addr::LOCALHOST, BASE + at)).map(drop);
        let got = match how {
            How::Reserving => acquire(&anchor, BASE + first, count),
            How::Probing => (first..first + count).try_for_each(probe),
        };
        match got {
            Ok(()) => {
                let token = (how == How::Reserving).then(|| newest(&anchor).token);
                field.hold(first, count, pause);
                token.into_iter().for_each(|token| release(&anchor, token).expect("it is mine"));
            }
            Err(error) => {
                only_busy(&error);
                field.busy.fetch_add(1, SeqCst);
            }
        }
        for marks in field.of(first, count) {
            marks.wanted.fetch_sub(1, SeqCst);
        }
    }
}

#[derive(Debug, Default)]
struct Binds {
    granted: u64,
    refused: u64,
    /// While they ran, an acquire of the port ran, or had it granted.
    contested: u64,
}

/// Binder `number` has addresses of its own, so that binders never refuse each other.
fn binder(field: &Field, protocol: Protocol, rounds: usize, number: u8) -> Binds {
    let mut dice = Dice(0x9E37_79B9 + u64::from(number));
    let mut binds = Binds::default();
    let own = Ipv4Addr::new(127, 0, 1, number);
    for round in 0..rounds {
        let at = dice.roll(PORTS);
        let address: SocketAddr = match (round % 3, number) {
            (0, 0) => (Ipv6Addr::LOCALHOST, BASE + at).into(),
            (1, _) => (own.to_ipv6_mapped(), BASE + at).into(),
            _ => (own, BASE + at).into(),
        };
        let marks = &field.ports[usize::from(at)];
        let (asked, wanted) = (marks.asked.load(SeqCst), marks.wanted.load(SeqCst));
        let bound = stranger(protocol, address);
        binds.contested += u64::from(wanted != 0 || marks.asked.load(SeqCst) != asked);
        match bound {
            Ok(_socket) => {
                binds.granted += 1;
                // Some stay for a few acquires: the second must not be told what the first was not.
                field.occupy(at, if round % 4 == 0 { dice.roll(2000) } else { 0 });
            }
            Err(error) => {
                binds.refused += 1;
                only_busy(&error);
            }
        }
    }
    binds
}

/// Two of each kind, so that they are also interrupted half-way.
fn race(protocol: Protocol, count: u16, how: How, rounds: usize) -> (Field, Binds) {
    let field = Field::default();
    let binds = thread::scope(|scope| {
        for seed in [7, 11] {
            let field = &field;
            scope.spawn(move || acquirer(field, protocol, count, how, seed));
        }
        let binders = [0, 1].map(|number| {
            let field = &field;
            scope.spawn(move || binder(field, protocol, rounds / 2, number))
        });
        let binds = binders.map(thread::ScopedJoinHandle::join);
        field.stop.store(true, SeqCst);
        binds.map(|binds| binds.expect("only EADDRINUSE"))
    });
    let sum = |of: fn(&Binds) -> u64| binds.iter().map(of).sum();
    let [granted, refused, contested] =
        [sum(|binds| binds.granted), sum(|binds| binds.refused), sum(|binds| binds.contested)];
    (field, Binds { granted, refused, contested })
}

fn no_stranger_gets_into_a_block_however_binds_and_acquires_race(_: &Host) {
    let races = rounds(300_000, 10_000_000);
    for (protocol, count) in BOTH.into_iter().flat_map(|protocol| [(protocol, 1), (protocol, 3)]) {
        let (field, binds) = race(protocol, count, How::Reserving, races / 4);
        let (acquired, busy) = (field.acquired.into_inner(), field.busy.into_inner());
        let violations = field.violations.into_inner();
        // The same without the engine: the oracle does see strangers. On a busy machine the two may
        // hardly meet, so it is tried until they do.
        let probe = || race(protocol, count, How::Probing, races / 40).0.violations.into_inner();
        let strangers = (0..50).map(|_| probe()).find(|strangers| *strangers > 0).unwrap_or(0);
        eprintln!(
            "{protocol:?}, blocks of {count}: {binds:?}; {acquired} acquires granted, {busy} \
             refused; {violations} violations; with probing {strangers}"
        );
        assert_eq!(violations, 0);
        assert!(strangers > 0, "the oracle is blind");
        assert!(binds.contested * 100 >= binds.granted + binds.refused, "no contest");
        assert!(acquired > 0 && busy > 0 && binds.granted > 0 && binds.refused > 0);
    }
}

/// Every port carries the stamp of the reservation that has it. Wildcards of all sizes run in a pool
/// of four words, and others acquire and release fixed blocks in the middle of it.
fn no_two_reservations_overlap_while_neighbours_come_and_go(host: &Host) {
    const FIRST: u16 = 61440;
    const SIZE: u16 = 256;
    host.load_with(|load| {
        load.config.pool = portkeep::PortRange::new(FIRST, SIZE).expect("a range");
    });
    let each = rounds(25_000, 1_000_000);
    for protocol in BOTH {
        let stamps: Vec<_> = (0..SIZE).map(|_| AtomicU64::new(0)).collect();
        let worker = |number: u16| {
            let (anchor, mut dice, mut got) = (open(protocol), Dice(u64::from(number) + 1), 0);
            for round in 0..each {
                let (start, count) = match number {
                    0 | 1 => (0, 1 + dice.roll(100)),
                    _ => (FIRST + 32 * dice.roll(8) + number, 1 + dice.roll(30)),
                };
                if acquire(&anchor, start.min(FIRST + SIZE - 40), count).is_err() {
                    continue;
                }
                let mine = newest(&anchor);
                let at = usize::from(mine.start - FIRST);
                let stamp = (u64::from(number) << 48) + round as u64 + 1;
                for port in &stamps[at..at + usize::from(mine.count)] {
                    assert_eq!(port.swap(stamp, SeqCst), 0, "{mine:?} overlaps another");
                }
                for port in &stamps[at..at + usize::from(mine.count)] {
                    assert_eq!(port.swap(0, SeqCst), stamp, "{mine:?} overlaps another");
                }
                release(&anchor, mine.token).expect("it is mine");
                got += 1;
            }
            got
        };
        let granted: u64 = thread::scope(|scope| {
            let workers = [0, 1, 2, 3].map(|number| scope.spawn(move || worker(number)));
            workers.into_iter().map(|worker| worker.join().expect("no overlap")).sum()
        });
        eprintln!("{protocol:?}: {granted} of {} granted, none overlapped", 4 * each);
        assert!(granted * 10 > each as u64, "hardly any was granted");
    }
}
