//! Port spaces come and go with network namespaces, which any user can make; their tables do not
//! run out for others.

use std::net::{Ipv4Addr, Ipv6Addr};

use portkeep::Protocol::{Tcp, Udp};

use crate::client::{acquire, block, errno, newest, open, query, release, stranger};
use crate::host::{Host, Other, cases};
use crate::support::rounds;

cases![
    a10_dead_namespaces_of_one_user_leave_room_for_everybody,
    a10_who_holds_more_than_32_spaces_is_refused_and_nobody_else,
    a10_when_all_tables_live_the_next_space_is_refused_and_the_first_free_one_taken,
    a10_a_bind_makes_no_table,
    a10_a_table_that_changes_hands_never_mixes_two_namespaces,
];

const TABLES: usize = 512;
const NOBODY: u32 = 65534;

fn a10_dead_namespaces_of_one_user_leave_room_for_everybody(host: &Host) {
    let mut user = Other::of_user(NOBODY);
    user.must("new_user()");
    let rounds = rounds(1200, 10_000);
    user.must(&format!("answers, _ = namespaces({rounds})"));
    assert_eq!(user.must("set(answers)"), "{0}", "every one of them had its block");
    let live = host.maps().live();
    assert!(live.len() <= TABLES, "{} tables", live.len());
    assert!(live.iter().all(|live| *live == 0), "{live:?}");
    assert_eq!(host.maps().spaces(), live.len(), "no space is left without its table");
    for protocol in [Tcp, Udp] {
        let (_anchor, mine) = block(protocol, 0, 16);
        assert_eq!(errno(stranger(protocol, (Ipv4Addr::LOCALHOST, mine.start))), libc::EADDRINUSE);
    }
    let mut other = Other::of_user(NOBODY - 1);
    other.must("new_user(NEWNET); a = block(0, 16); consume(a)");
    assert!(host.maps().live().len() <= TABLES);
}

fn a10_who_holds_more_than_32_spaces_is_refused_and_nobody_else(host: &Host) {
    // 600 namespaces at once, of three users.
    let mut users = [0, 1, 2].map(|number| Other::of_user(NOBODY - number));
    for user in &mut users {
        user.must("new_user()");
        user.must("answers, anchors = namespaces(200, keep=True)");
        assert_eq!(user.must("answers == [0] * 32 + [105] * 168"), "True", "{:?}", user.id());
    }
    assert_eq!(host.maps().live().iter().filter(|live| **live == 1).count(), 3 * 32);
    let (_anchor, mine) = block(Tcp, 0, 16);
    assert_eq!(mine.count, 16);
    Other::of_user(NOBODY - 3).must("new_user(NEWNET); consume(block(0, 1))");
    // Nor has it lost its right: one goes, one comes.
    users[0].must("anchors[3].close()");
    users[0].must("acquire(anchors[50], 0, 1)");
    assert_eq!(users[0].ask("acquire(anchors[51], 0, 1)"), Err(libc::ENOBUFS));
}

fn a10_when_all_tables_live_the_next_space_is_refused_and_the_first_free_one_taken(host: &Host) {
    // Only root is free of the quota.
    let mut root = Other::start();
    root.must(&format!("answers, anchors = namespaces({TABLES}, keep=True)"));
    assert_eq!(root.must("set(answers)"), "{0}");
    assert_eq!(errno(acquire(&open(Tcp), 0, 1)), libc::ENOBUFS);
    assert_eq!(host.maps().spaces(), TABLES);
    // A bind where there is no table, and where there is one.
    stranger(Tcp, (Ipv4Addr::LOCALHOST, 20000)).unwrap();
    root.must("anchors[100].close()");
    let (_anchor, _) = block(Tcp, 20000, 1);
    assert_eq!(errno(acquire(&open(Udp), 0, 1)), libc::ENOBUFS);
    assert_eq!(errno(stranger(Tcp, (Ipv4Addr::LOCALHOST, 20000))), libc::EADDRINUSE);
    assert_eq!(host.maps().live().len(), TABLES);
    assert_eq!(host.maps().spaces(), TABLES);
}

fn a10_a_bind_makes_no_table(host: &Host) {
    for protocol in [Tcp, Udp] {
        for port in [0, 20000, 61000] {
            stranger(protocol, (Ipv4Addr::LOCALHOST, port)).unwrap();
            stranger(protocol, (Ipv6Addr::UNSPECIFIED, port)).unwrap();
        }
        assert_eq!(query(&open(protocol), 20000).unwrap(), None);
    }
    let mut other = Other::start();
    other.must("unshare(NEWNET); s = stranger(20000)");
    assert_eq!((host.maps().live().len(), host.maps().spaces()), (0, 0));
}

/// All but a few tables live, so that a table whose last reservation has ended is soon another
/// space's; while that goes round, this namespace must neither see the blocks of others nor lose its
/// own.
fn a10_a_table_that_changes_hands_never_mixes_two_namespaces(host: &Host) {
    const LOW: u16 = 20000;
    // The same word of the bitmaps as LOW, but other ports.
    const HIGH: u16 = 20008;
    let mut keeper = Other::start();
    keeper.must(&format!("answers, anchors = namespaces({}, keep=True)", TABLES - 4));
    assert_eq!(keeper.must("set(answers)"), "{0}");
    let mut churner = Other::start();
    let rounds = rounds(1500, 100_000);
    churner.tell(&format!("churn({rounds}, {LOW}, {HIGH})"));
    let (done, over) = std::sync::mpsc::channel();
    let watch = std::thread::spawn(move || {
        let answer = churner.answer();
        done.send(()).expect("we listen");
        answer
    });
    let (mut held, mut full) = (0, 0);
    while over.try_recv().is_err() {
        let anchor = open(Tcp);
        match acquire(&anchor, LOW, 4) {
            // For a moment all tables were in use.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => full += 1,
            Err(error) => panic!("nobody else is in this namespace: {error}"),
            Ok(()) => {
                held += 1;
                let mine = newest(&anchor);
                let stranger_at = |port| stranger(Tcp, (Ipv4Addr::LOCALHOST, port));
                assert_eq!(errno(stranger_at(LOW + 3)), libc::EADDRINUSE);
                stranger_at(HIGH).expect("others' blocks are not here");
                let holder = query(&anchor, LOW).unwrap().expect("it is reserved");
                assert_eq!(holder.pid, std::process::id());
                assert_eq!(query(&anchor, HIGH).unwrap(), None);
                release(&anchor, mine.token).unwrap();
                stranger_at(LOW).expect("released");
            }
        }
    }
    assert_eq!(watch.join().unwrap().unwrap(), "0", "what the others saw wrong");
    assert!(held > 100, "{held} held, {full} times full");
    assert_eq!(host.maps().live().len(), TABLES, "they went from hand to hand");
}
