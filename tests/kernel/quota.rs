//! What an ordinary user gets, what takes a capability, and what counts as one.

use std::fs;

use crate::client::{acquire, block, errno, open, release};
use crate::host::{Host, Other, cases};
use portkeep::Protocol::{Tcp, Udp};

cases![
    ports_below_the_unprivileged_start_take_a_capability,
    a11_a_user_namespace_of_ones_own_gives_no_right_over_anothers_network,
    a11_a_user_namespace_has_rights_over_the_network_it_owns,
    a_user_has_2048_ports_of_a_space_and_64_of_them_outside_the_pool,
    a_user_has_2048_reservations,
    a_user_has_32_port_spaces,
    root_is_free_of_the_limits,
    the_users_of_one_user_namespace_are_charged_to_its_owner,
    charges_go_back_on_release_on_close_and_on_a_kill,
];

const NOBODY: u32 = 65534;

#[track_caller]
fn no_room(user: &mut Other, line: &str) {
    assert_eq!(user.ask(line), Err(libc::ENOBUFS), "{line}");
}

fn ports_below_the_unprivileged_start_take_a_capability(host: &Host) {
    let mut user = Other::of_user(NOBODY);
    assert_eq!(user.ask("block(1023, 1)"), Err(libc::EACCES));
    assert_eq!(user.ask("block(1020, 10)"), Err(libc::EACCES), "the first port decides");
    user.must("block(1024, 1).close()");
    block(Tcp, 1020, 10);
    host.set("ipv4/ip_unprivileged_port_start", "80");
    user.must("block(80, 1).close()");
    assert_eq!(user.ask("block(79, 1)"), Err(libc::EACCES));
    // Of all capabilities, the one for the ports is enough: no other exempts from it.
    host.set("ipv4/ip_unprivileged_port_start", "2000");
    let mut bearer = Other::start();
    const KEEP: &str = "checked(libc.prctl(8, 1))"; // PR_SET_KEEPCAPS
    const HEADER: &str = "struct.pack('=Ii', 0x20080522, 0)";
    bearer.must(KEEP);
    bearer.must("os.setresuid(65534, 65534, 65534)");
    for (capability, answer) in [(10, 0), (12, libc::EACCES)] {
        // Permitted stays whole; effective is this one.
        let sets = format!("struct.pack('=6I', {0}, 0x1401, 0, 0, 0, 0)", 1 << capability);
        bearer.must(&format!("checked(libc.capset({HEADER}, {sets}))"));
        assert_eq!(bearer.must("refused(block, 1500, 4)"), answer.to_string(), "{capability}");
    }
}

fn a11_a_user_namespace_of_ones_own_gives_no_right_over_anothers_network(host: &Host) {
    let mut user = Other::of_user(NOBODY);
    user.must("new_user()");
    assert_eq!(user.ask("block(80, 1)"), Err(libc::EACCES));
    user.must("a = block(20000, 64)");
    no_room(&mut user, "block(30000, 1)");
    user.must("b = block(0, 1984)");
    no_room(&mut user, "block(0, 1)");
    // Nor does one inside that, and the charge is the same person's.
    user.must("new_user()");
    assert_eq!(user.ask("block(80, 1)"), Err(libc::EACCES));
    no_room(&mut user, "block(0, 1)");
    let mut same = Other::of_user(NOBODY);
    no_room(&mut same, "block(0, 1)");
    user.kill();
    same.must("block(0, 1).close()");
    host.maps().assert_nothing_is_left();
}

fn a11_a_user_namespace_has_rights_over_the_network_it_owns(_: &Host) {
    let mut user = Other::of_user(NOBODY);
    user.must("new_user(NEWNET)");
    user.must("a = block(80, 1)");
    user.must("b = block(1000, 3000)");
    // A namespace below has none over the network of the one above.
    user.must("new_user()");
    assert_eq!(user.ask("block(81, 1)"), Err(libc::EACCES));
}

fn a_user_has_2048_ports_of_a_space_and_64_of_them_outside_the_pool(host: &Host) {
    // Away from the pool's border, where a block is to lie.
    host.set("ipv4/ip_local_port_range", "40000 50000");
    let mut user = Other::of_user(NOBODY);
    no_room(&mut user, "block(0, 2049)");
    no_room(&mut user, "block(20000, 65)");
    user.must("a = block(20000, 64)");
    no_room(&mut user, "block(20064, 1)");
    // One that lies across the pool's border has its outside part charged as such.
    no_room(&mut user, "block(60999, 2)");
    // By number: two users' blocks at random places may leave no run between them.
    user.must("b = block(61000, 1984)");
    no_room(&mut user, "block(0, 1)");
    // The other protocol is another space, and another user another account.
    user.must("c = block(0, 2048, udp)");
    no_room(&mut user, "block(0, 1, udp)");
    let mut other = Other::of_user(NOBODY - 1);
    other.must("a = block(30000, 64); b = block(63000, 1984)");
    user.must("by_token(a, RELEASE, token(a))");
    user.must("acquire(a, 30064, 64)");
}

fn a_user_has_2048_reservations(host: &Host) {
    let mut user = Other::of_user(NOBODY);
    // In a network of its own the limits of ports do not stand in the way.
    user.must("new_user(NEWNET)");
    assert_eq!(user.must("got, anchors = singles(5000); globals().update(a=anchors)"), "");
    assert_eq!(user.must("got"), "2048");
    no_room(&mut user, "block(0, 1, udp)");
    user.must("unshare(NEWNET)");
    no_room(&mut user, "block(0, 1)");
    assert_eq!(host.maps().reservations(), 2048);
    Other::of_user(NOBODY - 1).must("block(0, 1)");
}

fn a_user_has_32_port_spaces(_: &Host) {
    let mut user = Other::of_user(NOBODY);
    user.must("new_user(NEWNET)");
    user.must("a = block(0, 1); b = block(0, 1, udp)");
    user.must("answers, anchors = namespaces(30, keep=True)");
    assert_eq!(user.must("set(answers)"), "{0}");
    user.must("unshare(NEWNET)");
    no_room(&mut user, "block(0, 1)");
    // Another reservation in one it has is none more.
    user.must("acquire(a, 0, 1); acquire(anchors[0], 0, 1)");
    user.must("b.close()");
    user.must("c = block(0, 1)");
    no_room(&mut user, "block(0, 1, udp)");
}

fn root_is_free_of_the_limits(host: &Host) {
    let (_anchor, mine) = block(Tcp, 10000, 20_000);
    assert_eq!(mine.count, 20_000);
    let (_whole, pool) = block(Udp, 0, 4_536);
    assert_eq!(pool.start, 61000);
    let mut root = Other::start();
    root.must("answers, anchors = namespaces(40, keep=True)");
    assert_eq!(root.must("set(answers)"), "{0}");
    root.must("got, more = singles(4200)");
    assert_eq!(root.must("got"), "4200");
    // Without the capability it is a user like any other.
    assert_eq!(host.maps().reservations(), 4242);
    let mut poor = Other::start();
    poor.must("checked(libc.capset(struct.pack('=Ii', 0x20080522, 0), bytes(24)))");
    no_room(&mut poor, "block(2000, 65)");
}

fn the_users_of_one_user_namespace_are_charged_to_its_owner(_: &Host) {
    let mut owner = Other::of_user(NOBODY);
    owner.must("unshare(NEWUSER)");
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{}/{map}", owner.id()), "0 200000 65536").unwrap();
    }
    owner.must("os.setresuid(0, 0, 0)");
    // Three of the 65,536 users that one person has there, one after the other.
    for (uid, ports) in [(1000, 40), (1001, 20), (1002, 4)] {
        owner.must(&format!("os.seteuid({uid}); keep{uid} = block({}, {ports})", 40 * (uid - 500)));
        owner.must("os.seteuid(0)");
    }
    owner.must("os.seteuid(1003)");
    no_room(&mut owner, "block(30000, 1)");
    let mut outside = Other::of_user(NOBODY);
    no_room(&mut outside, "block(30000, 1)");
    // The same numbers outside of it are somebody else's.
    Other::of_user(201_000).must("block(30000, 64)");
}

fn charges_go_back_on_release_on_close_and_on_a_kill(host: &Host) {
    let charged = || host.maps().charged().into_iter().filter(|charged| *charged != 0).count();
    let anchor = open(Tcp);
    acquire(&anchor, 20000, 100).unwrap();
    assert_eq!(charged(), 2, "one account of the space, one of the user as a whole");
    release(&anchor, crate::client::newest(&anchor).token).unwrap();
    assert_eq!(charged(), 0);
    acquire(&anchor, 0, 100).unwrap();
    drop(anchor);
    assert_eq!(charged(), 0);
    // What fails is not charged: busy, too much, impossible.
    let busy = crate::client::stranger(Tcp, (std::net::Ipv4Addr::LOCALHOST, 20050)).unwrap();
    assert_eq!(errno(acquire(&open(Tcp), 20000, 100)), libc::EADDRINUSE);
    drop(busy);
    let mut user = Other::of_user(NOBODY);
    no_room(&mut user, "block(0, 2049)");
    no_room(&mut user, "block(20000, 65)");
    assert_eq!(charged(), 0);
    user.must("a = block(0, 2048); b = block(20000, 64, udp); c = a.dup()");
    assert_eq!(charged(), 3);
    user.kill();
    assert_eq!(charged(), 0);
}
