//! The bitmaps: blocks that share a word with others, begin or end at its border, or fill them all.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::thread;

use portkeep::Protocol;
use socket2::{Domain, Socket};

use crate::client::{
    BOTH, acquire, associate, block, errno, kind, newest, open, port, release, stranger,
};
use crate::host::{Host, cases};
use crate::state::{Bitmaps, bitmaps};
use crate::support::rounds;

cases![
    a13_neighbours_in_one_word_never_refuse_each_other,
    a12_bind_0_by_two_threads_never_draws_a_port_in_use,
    a_block_sets_its_own_bits_and_no_other_at_every_offset_of_a_word,
    a_block_may_be_the_first_port_the_last_one_or_all,
    a_refused_acquire_leaves_its_neighbours_bits,
];

/// The reserved ports, and the first ports of blocks; the tests here use one protocol at a time.
fn reserved(host: &Host) -> (Vec<u16>, Vec<u16>) {
    let tables = bitmaps(host);
    (
        tables.iter().flat_map(Bitmaps::used).collect(),
        tables.iter().flat_map(Bitmaps::starts).collect(),
    )
}

fn a13_neighbours_in_one_word_never_refuse_each_other(_: &Host) {
    let each = rounds(30_000, 300_000);
    let refused = |start: u16| {
        let anchor = open(Protocol::Tcp);
        let try_it = |_: &usize| match acquire(&anchor, start, 1) {
            Ok(()) => release(&anchor, newest(&anchor).token).is_err(),
            Err(_) => true,
        };
        (0..each).filter(try_it).count()
    };
    // 21000 and 21001 are bits 8 and 9 of word 328.
    let refused = thread::scope(|scope| {
        let threads = [21000, 21001].map(|start| scope.spawn(move || refused(start)));
        threads.map(|thread| thread.join().expect("nothing panics"))
    });
    eprintln!("{each} rounds on each of two neighbours: {refused:?} refused");
    assert_eq!(refused, [0, 0]);
}

fn a12_bind_0_by_two_threads_never_draws_a_port_in_use(_: &Host) {
    let each = rounds(40_000, 400_000) / 2;
    for protocol in BOTH {
        let (_anchor, mine) = block(protocol, 0, 64);
        let bind = |_: &usize| {
            let socket = Socket::new(Domain::IPV4, kind(protocol), None).expect("a socket");
            associate(&socket, mine.token).expect("it is mine");
            let any = std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let bound = socket.bind(&any.into());
            assert!(bound.is_err() || (mine.start..=mine.last()).contains(&port(&socket)));
            bound.is_err()
        };
        let refused: usize = thread::scope(|scope| {
            let threads = [0, 1].map(|_| scope.spawn(|| (0..each).filter(bind).count()));
            threads.into_iter().map(|thread| thread.join().expect("it is inside")).sum()
        });
        eprintln!("{protocol:?}: {refused} of {} bind(0) refused", 2 * each);
        assert_eq!(refused, 0);
    }
}

fn a_block_sets_its_own_bits_and_no_other_at_every_offset_of_a_word(host: &Host) {
    const WORD: u16 = 64 * 320;
    let anchor = open(Protocol::Tcp);
    // With a neighbour at either side, which must stay as they are.
    let (_below, _above) = (block(Protocol::Tcp, WORD - 1, 1), block(Protocol::Tcp, WORD + 256, 1));
    let neighbours = [WORD - 1, WORD + 256];
    for (offset, count) in (0..64).flat_map(|offset| [1, 63, 64, 65, 128].map(|n| (offset, n))) {
        let start = WORD + offset;
        acquire(&anchor, start, count).expect("the ports are free");
        let mine = newest(&anchor);
        assert_eq!((mine.start, mine.count), (start, count));
        let all: Vec<_> = [WORD - 1].into_iter().chain(start..start + count).collect();
        let (used, starts) = reserved(host);
        assert_eq!(used, [all, vec![WORD + 256]].concat(), "{start}+{count}");
        assert_eq!(starts, [WORD - 1, start, WORD + 256]);
        for inside in [start, start + count - 1] {
            let bound = stranger(Protocol::Tcp, (Ipv4Addr::LOCALHOST, inside));
            assert_eq!(errno(bound), libc::EADDRINUSE);
            assert_eq!(errno(acquire(&anchor, inside, 1)), libc::EADDRINUSE);
        }
        for outside in [start - 1, start + count] {
            let bound = stranger(Protocol::Tcp, (Ipv4Addr::LOCALHOST, outside));
            assert_eq!(bound.is_err(), neighbours.contains(&outside), "{outside}");
        }
        release(&anchor, mine.token).expect("it is mine");
        assert_eq!(reserved(host), (neighbours.to_vec(), neighbours.to_vec()));
    }
}

fn a_block_may_be_the_first_port_the_last_one_or_all(host: &Host) {
    // The kernel hands out two ports here, and is told to keep its hands off them too.
    host.set("ipv4/ip_local_port_range", "50000 50001");
    host.set("ipv4/ip_local_reserved_ports", "50000-50001");
    let all: [RangeInclusive<u16>; 5] = [1..=1, 65535..=65535, 1..=65535, 1..=32768, 32768..=65535];
    for protocol in BOTH {
        for range in all.clone() {
            let (start, last) = (*range.start(), *range.end());
            let count = last - start + 1;
            let (anchor, mine) = block(protocol, start, count);
            let (used, starts) = reserved(host);
            assert!(used.into_iter().eq(range.clone()), "{range:?}");
            assert_eq!(starts, [start]);
            for at in [1, 2, 63, 64, 8080, 32767, 32768, 50000, 65534, 65535] {
                let bound = stranger(protocol, (Ipv4Addr::LOCALHOST, at));
                assert_eq!(bound.is_err(), range.contains(&at), "{at} of {range:?}");
            }
            assert_eq!((mine.start, mine.count), (start, count));
            drop(anchor);
        }
        let past_the_end = acquire(&open(protocol), 65535, 2);
        assert_eq!(errno(past_the_end), libc::EINVAL);
    }
}

fn a_refused_acquire_leaves_its_neighbours_bits(host: &Host) {
    let (_low, low) = block(Protocol::Tcp, 20030, 20);
    let (_high, high) = block(Protocol::Tcp, 20200, 1);
    let _busy = stranger(Protocol::Tcp, (Ipv4Addr::LOCALHOST, 20150)).expect("it is free");
    let before = reserved(host);
    let anchor = open(Protocol::Tcp);
    // Into a block from either side, around it, within it, over the socket, over all.
    for (start, count) in [
        (low.start - 30, 31),
        (low.last(), 60),
        (low.start - 10, 40),
        (low.start + 5, 5),
        (20060, 91),
        (20150, 1),
        (20150, 64),
        (20130, 80),
        (high.start - 60, 61),
        (20000, 300),
    ] {
        assert_eq!(errno(acquire(&anchor, start, count)), libc::EADDRINUSE, "{start}+{count}");
        assert_eq!(reserved(host), before, "{start}+{count}");
    }
    // What lies between is still to be had, to the last port.
    for (start, count) in [(20000, 30), (20050, 100), (20151, 49), (20201, 99)] {
        acquire(&anchor, start, count).expect("nobody has it");
    }
}
