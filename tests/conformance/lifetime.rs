//! How a block ends, and that it does not end before (spec 3.3, 9.47).

use std::fs;
use std::path::Path;

use portkeep::PortRange;

use crate::engine::{BOTH, Host, INVALID_TOKEN, cases, fails, request};
use crate::helper::{Block, Helper};
use crate::sockets::{all_free, all_refused, loopback, open};

cases![
    t28_drop_frees_the_block_and_kills_the_token,
    t28_the_block_lasts_while_anything_else_of_it_is_dropped,
    t29_kill_9_frees_the_block_at_once,
    t29_the_end_of_a_process_that_drops_nothing_frees_the_block,
    r03_3_no_child_inherits_a_held_socket,
    r03_3_blocks_end_one_by_one,
];

/// Spec 12, line 28; spec 8.5, invariant 5.
fn t28_drop_frees_the_block_and_kills_the_token(host: &Host) {
    for protocol in BOTH {
        let block = host.acquire(&request(protocol, 8));
        let (range, token) = (block.range(), block.token());
        all_refused(protocol, range);
        drop(block);
        all_free(protocol, range.iter());
        let again = host.acquire(&request(protocol, 8).at(range.start()));
        assert_ne!(again.token(), token);
        let socket = open(protocol, &loopback(0), &[]).unwrap();
        fails(portkeep::bind(&socket, token, loopback(0)), INVALID_TOKEN);
        fails(portkeep::release(token, protocol), INVALID_TOKEN);
        all_refused(protocol, range);
    }
}

/// Spec 3.3: closing another socket does not end it, and neither does moving the reservation.
fn t28_the_block_lasts_while_anything_else_of_it_is_dropped(host: &Host) {
    let block = host.acquire(&portkeep::tcp_udp(3));
    let range = block.range();
    drop(block.listener(loopback(range.start())).unwrap());
    let block = std::thread::spawn(move || Box::new(block)).join().unwrap();
    // A thread that ends is not a process that ends.
    for protocol in BOTH {
        all_refused(protocol, range);
    }
    drop(block);
}

/// The helper holds this many ports of both protocols.
fn held(helper: &mut Helper, count: u16) -> Block {
    let block = helper.acquire(&format!("both +{count}")).unwrap();
    for protocol in BOTH {
        all_refused(protocol, block.range);
    }
    block
}

#[track_caller]
fn free_and_acquirable(host: &Host, range: PortRange) {
    for protocol in BOTH {
        all_free(protocol, range.iter());
    }
    let again = host.acquire(&portkeep::tcp_udp(range.count()).at(range.start()));
    assert_eq!(again.range(), range);
}

/// Spec 12, line 29. A consumer of the dead process has died with it.
fn t29_kill_9_frees_the_block_at_once(host: &Host) {
    for _ in 0..5 {
        let mut helper = host.helper();
        let block = held(&mut helper, 20);
        helper.ask("bind 0 tcp 127.0.0.1:0").unwrap();
        helper.ask("bind 0 udp 127.0.0.1:0").unwrap();
        helper.kill();
        free_and_acquirable(host, block.range);
    }
}

/// Spec 12, line 29, for an end in order.
fn t29_the_end_of_a_process_that_drops_nothing_frees_the_block(host: &Host) {
    let mut helper = host.helper();
    let block = held(&mut helper, 20);
    helper.ask("forget").unwrap();
    for protocol in BOTH {
        all_refused(protocol, block.range);
    }
    helper.end();
    free_and_acquirable(host, block.range);
}

/// Whether any descriptor of this process is a socket.
fn has_sockets(process: &Path) -> bool {
    fs::read_dir(process.join("fd")).unwrap().any(|descriptor| {
        let target = fs::read_link(descriptor.unwrap().path()).unwrap();
        target.to_string_lossy().starts_with("socket:")
    })
}

/// Spec 9.16: a child that is another program owns nothing, and keeps nothing alive.
fn r03_3_no_child_inherits_a_held_socket(host: &Host) {
    let block = host.acquire(&portkeep::tcp_udp(4));
    let mut child = host.helper();
    // It has answered, so it is the program that was started.
    child.number("descriptors");
    assert!(!has_sockets(Path::new(&format!("/proc/{}", child.pid()))));
    let range = block.range();
    drop(block);
    free_and_acquirable(host, range);
    child.number("descriptors");
}

/// Spec 3.2: each with a token and a life of its own.
fn r03_3_blocks_end_one_by_one(host: &Host) {
    for protocol in BOTH {
        let first = host.acquire(&request(protocol, 4));
        let second = host.acquire(&request(protocol, 4));
        let range = first.range();
        drop(first);
        all_free(protocol, range.iter());
        all_refused(protocol, second.range());
        let socket = open(protocol, &loopback(0), &[]).unwrap();
        second.bind(&socket, loopback(0)).unwrap();
    }
}
