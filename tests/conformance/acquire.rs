//! Getting a block (spec 3.1, 3.2).

use std::collections::HashSet;

use portkeep::{DEFAULT_POOL, Protocol};

use crate::engine::{BOTH, Host, INVALID_INPUT, NO_ROOM, cases, fails, request};
use crate::sockets::{all_free, all_refused, bind_plainly, loopback, refused};

cases![
    t01_acquire_specific_free_block,
    t02_wildcard_blocks_are_consecutive_and_from_the_pool,
    t02_wildcard_blocks_come_from_the_pool_that_is_named,
    t03_two_wildcard_blocks_never_overlap_and_tokens_differ,
    t04_count_0_is_invalid,
    t05_past_65535_is_invalid_and_65535_is_not,
    t48_port_numbers_are_not_byte_swapped,
    r03_2_alignment_is_kept,
    r03_2_impossible_alignments_are_invalid,
    r03_2_tcp_udp_takes_the_same_numbers_in_both_protocols,
    r09_8_a_pool_without_room_answers_no_room,
];

/// Spec 12, line 1.
fn t01_acquire_specific_free_block(host: &Host) {
    for protocol in BOTH {
        let range = host.free_range(8);
        let block = host.acquire(&request(protocol, 8).at(range.start()));
        assert_eq!(block.range(), range);
        assert_eq!(block.protocols(), [protocol]);
        assert_ne!(block.token().expose(), 0);
        all_refused(protocol, range);
    }
}

/// Spec 12, line 2; spec 9.9 as the architecture settles it: the pool, not the dynamic range.
fn t02_wildcard_blocks_are_consecutive_and_from_the_pool(host: &Host) {
    for protocol in BOTH {
        for count in [1, 100, 1024] {
            let block = host.acquire(&request(protocol, count));
            assert_eq!(block.range().count(), count);
            assert_eq!(block.range().intersection(DEFAULT_POOL), Some(block.range()));
            all_refused(protocol, block.range());
        }
    }
}

/// Spec 12, line 2.
fn t02_wildcard_blocks_come_from_the_pool_that_is_named(host: &Host) {
    let pool = host.free_range(12);
    let first = host.acquire(&portkeep::tcp(6).pool(pool));
    assert_eq!(first.range().intersection(pool), Some(first.range()));
    drop(first);
    let whole = host.acquire(&portkeep::tcp(12).pool(pool));
    assert_eq!(whole.range(), pool);
}

/// Spec 12, line 3; spec 8.5, invariant 1.
fn t03_two_wildcard_blocks_never_overlap_and_tokens_differ(host: &Host) {
    let blocks: Vec<_> = (0..40).map(|_| host.tcp(10)).collect();
    let ports: HashSet<u16> = blocks.iter().flat_map(|block| block.range().iter()).collect();
    let tokens: HashSet<u64> = blocks.iter().map(|block| block.token().expose()).collect();
    assert_eq!((ports.len(), tokens.len()), (400, 40));
}

/// Spec 12, line 4.
fn t04_count_0_is_invalid(_: &Host) {
    for request in [portkeep::tcp(0), portkeep::udp(0), portkeep::tcp_udp(0)] {
        fails(request.acquire(), INVALID_INPUT);
        fails(request.at(61000).acquire(), INVALID_INPUT);
    }
}

/// Spec 12, line 5; spec 9.7: never wraps.
fn t05_past_65535_is_invalid_and_65535_is_not(host: &Host) {
    fails(portkeep::tcp(2).at(65535).acquire(), INVALID_INPUT);
    fails(portkeep::tcp(65535).at(2).acquire(), INVALID_INPUT);
    fails(portkeep::tcp(1).at(0).acquire(), INVALID_INPUT);
    let Some(_netns) = host.netns() else { return };
    for protocol in BOTH {
        let block = host.acquire(&request(protocol, 1).at(65535));
        assert_eq!((block.range().start(), block.range().last()), (65535, 65535));
        refused(protocol, loopback(65535), &[]);
    }
}

/// Spec 12, line 48: 8080 and 36895 are each other's bytes in the wrong order.
fn t48_port_numbers_are_not_byte_swapped(host: &Host) {
    let Some(_netns) = host.netns() else { return };
    for protocol in BOTH {
        for (mine, theirs) in [(8080, 36895), (36895, 8080)] {
            let block = host.acquire(&request(protocol, 1).at(mine));
            assert_eq!(block.range().start(), mine);
            refused(protocol, loopback(mine), &[]);
            all_free(protocol, [theirs]);
            assert_eq!(block.bind(&unbound(protocol), loopback(0)).unwrap().port(), mine);
        }
    }
}

fn unbound(protocol: Protocol) -> socket2::Socket {
    crate::sockets::open(protocol, &loopback(0), &[]).unwrap()
}

/// Spec 3.2: no promise by itself, so one can be asked for (RTP pairs).
fn r03_2_alignment_is_kept(host: &Host) {
    for _ in 0..20 {
        assert_eq!(host.acquire(&portkeep::udp(2).even()).range().start() % 2, 0);
        assert_eq!(host.acquire(&portkeep::tcp(3).aligned(64)).range().start() % 64, 0);
    }
    let even = host.acquire(&portkeep::tcp(4).even()).range().start();
    assert_eq!(host.acquire(&portkeep::tcp(4).at(even).even()).range().start(), even);
}

/// Spec 9.33: parameters come first.
fn r03_2_impossible_alignments_are_invalid(host: &Host) {
    fails(portkeep::tcp(1).aligned(0).acquire(), INVALID_INPUT);
    fails(portkeep::tcp(1).aligned(6).acquire(), INVALID_INPUT);
    let odd = host.acquire(&portkeep::tcp(4).even()).range().start() + 1;
    fails(portkeep::tcp(2).at(odd).even().acquire(), INVALID_INPUT);
}

/// Spec 9.15, 9.46: the spaces are apart, so one request may ask for both.
fn r03_2_tcp_udp_takes_the_same_numbers_in_both_protocols(host: &Host) {
    let block = host.acquire(&portkeep::tcp_udp(4));
    assert_eq!(block.protocols(), BOTH);
    for protocol in BOTH {
        all_refused(protocol, block.range());
    }
    let port = block.range().start();
    let listener = block.listener(loopback(port)).unwrap();
    let datagrams = block.udp_socket(loopback(port)).unwrap();
    assert_eq!(listener.local_addr().unwrap(), datagrams.local_addr().unwrap());
    let range = block.range();
    drop((listener, datagrams, block));
    for protocol in BOTH {
        all_free(protocol, range.iter());
    }
}

/// Spec 3.1, row 7, and 9.8.
fn r09_8_a_pool_without_room_answers_no_room(host: &Host) {
    for protocol in BOTH {
        let pool = host.free_range(7);
        let middle = loopback(pool.start() + 3);
        let _stranger = bind_plainly(protocol, middle, &[]).unwrap();
        fails(request(protocol, 4).pool(pool).acquire(), NO_ROOM);
        let three = host.acquire(&request(protocol, 3).pool(pool));
        let other_three = host.acquire(&request(protocol, 3).pool(pool));
        assert_eq!(three.range().intersection(other_three.range()), None);
        fails(request(protocol, 1).pool(pool).acquire(), NO_ROOM);
    }
}
