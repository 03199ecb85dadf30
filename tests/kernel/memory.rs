//! What the engine costs in memory, by the kernel's own figures.

use portkeep::Protocol::{Tcp, Udp};

use crate::client::{DESCENDANTS, Request, SAME_NUMBERS, acquire, errno, open, query, request};
use crate::host::{Host, cases};

cases![
    an_idle_engine_takes_less_than_a_megabyte,
    a_reservation_takes_less_than_256_bytes,
    reservation_16385_is_refused_and_the_others_live_on,
];

/// Reservations of one anchor.
const FULL: usize = 256;

fn an_idle_engine_takes_less_than_a_megabyte(host: &Host) {
    let idle = host.maps().memory();
    println!("idle: {idle} bytes");
    assert!(idle < 1 << 20, "{idle} bytes");
}

fn a_reservation_takes_less_than_256_bytes(host: &Host) {
    const WANTED: usize = 10_000;
    // The first one makes the table of the space, which is not a cost of reservations.
    let mut anchors = vec![open(Tcp)];
    acquire(&anchors[0], 1024, 1).unwrap();
    let before = host.maps().memory();
    for number in 0..WANTED {
        if number % (FULL - 1) == 0 {
            anchors.push(open(Tcp));
        }
        let start = 2000 + u16::try_from(number).unwrap();
        // The dearest kind: others than the owner may use it, so it is found by its port too.
        let dear = Request { start, count: 1, grant: DESCENDANTS, ..Request::default() };
        request(anchors.last().unwrap(), dear).unwrap();
    }
    assert_eq!(host.maps().blocks(), WANTED);
    let each = (host.maps().memory() - before) / u64::try_from(WANTED).unwrap();
    println!("a reservation: {each} bytes");
    assert!(each < 256, "{each} bytes");
    drop(anchors);
    assert!(host.maps().memory() < before, "and they give it back");
}

fn reservation_16385_is_refused_and_the_others_live_on(host: &Host) {
    const LIMIT: usize = 16_384;
    let mut anchors = Vec::new();
    for number in 0..LIMIT {
        if number % FULL == 0 {
            anchors.push(open(Udp));
        }
        acquire(anchors.last().unwrap(), 2000 + u16::try_from(number).unwrap(), 1)
            .unwrap_or_else(|error| panic!("{number}: {error}"));
    }
    assert_eq!(host.maps().reservations(), LIMIT);
    let more = open(Tcp);
    assert_eq!(errno(acquire(&more, 30000, 1)), libc::ENOBUFS);
    assert_eq!(errno(acquire(&more, 0, 4)), libc::ENOBUFS);
    // Room for one is not room for two, and nothing stays of the half.
    drop(anchors.remove(0));
    for number in 0..FULL - 1 {
        if number == 0 {
            anchors.push(open(Udp));
        }
        let start = 2000 + u16::try_from(number).unwrap();
        acquire(anchors.last().unwrap(), start, 1).unwrap();
    }
    let both = Request { start: 30000, count: 8, flags: SAME_NUMBERS, ..Request::default() };
    assert_eq!(errno(request(&more, both)), libc::ENOBUFS);
    for protocol in [Tcp, Udp] {
        assert_eq!(query(&open(protocol), 30000).unwrap(), None);
    }
    acquire(&more, 30000, 8).unwrap();
    assert_eq!(query(&open(Udp), 2000).unwrap().expect("reserved").count, 1);
    assert_eq!(host.maps().reservations(), LIMIT);
}
