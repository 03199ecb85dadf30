//! The descendants grant: whoever is below the owner binds plainly, and nobody else does.

use portkeep::Protocol;

use crate::client::{errno, open, query};
use crate::host::{Host, cases};
use crate::programs::peer::Peer;

cases![
    children_and_grandchildren_bind_plainly_every_way,
    a_descendant_may_associate_and_not_release,
    a_descendant_that_became_another_user_is_still_one,
    a_descendant_that_called_exec_is_still_one,
    siblings_parents_and_other_users_are_strangers,
    a_daemon_that_forks_twice_is_a_stranger,
    a_daemon_that_forks_twice_below_a_subreaper_is_not,
    an_orphan_below_nobody_is_a_stranger_even_with_the_anchor,
    children_of_a_dead_owner_are_strangers,
];

/// An owner of 20000+4 in TCP and UDP, with a child and a grandchild.
fn family(start: fn() -> Option<Peer>) -> Option<Peer> {
    let mut owner = start()?;
    owner.ask("(mine := acquire(a := socket(), 20000, 4, 1))").unwrap();
    owner.ask("(udp := acquire(b := socket(type=SOCK_DGRAM), 20000, 4, 1))").unwrap();
    owner.ask("(child := fork())").unwrap();
    owner.ask("child.ask('(grandchild := fork())')").unwrap();
    Some(owner)
}

fn child(expression: &str) -> String {
    format!("child.ask({expression:?})")
}

fn grandchild(expression: &str) -> String {
    child(&format!("grandchild.ask({expression:?})"))
}

fn children_and_grandchildren_bind_plainly_every_way(_: &Host) {
    for start in [Peer::start, Peer::nobody] {
        let Some(mut owner) = family(start) else { return };
        let every_way = "every_way(20003)";
        for who in [every_way.to_owned(), child(every_way), grandchild(every_way)] {
            assert_eq!(owner.ask(&who).unwrap(), "{('bound', None): 84}", "{who}");
        }
    }
}

fn a_descendant_may_associate_and_not_release(_: &Host) {
    let Some(mut owner) = family(Peer::start) else { return };
    for who in [child, grandchild] {
        let at = owner.number(who("associated(mine)")).unwrap();
        assert!((20000..20004).contains(&at));
        let at = owner.number(who("associated(udp, 0, SOCK_DGRAM)")).unwrap();
        assert!((20000..20004).contains(&at));
        assert_eq!(errno(owner.ask(who("by_token(a, RELEASE, mine)"))), libc::EINVAL);
        assert_eq!(errno(owner.ask(who("associated(mine, 20004)"))), libc::EACCES);
    }
    owner.ask("by_token(a, RELEASE, mine)").unwrap();
    assert_eq!(errno(owner.ask(child("associated(mine)"))), libc::EINVAL);
    assert_eq!(query(&open(Protocol::Tcp), 20000).unwrap(), None);
}

fn a_descendant_that_became_another_user_is_still_one(_: &Host) {
    let Some(mut owner) = family(Peer::start) else { return };
    owner.ask(child("(os.setgroups([]), os.setgid(65534), os.setuid(65534))")).unwrap();
    assert_eq!(owner.number(child("os.geteuid()")).unwrap(), 65534);
    assert_eq!(owner.number(child("plain(20001)")).unwrap(), 20001);
    assert_eq!(owner.number(child("associated(mine, 20001)")).unwrap(), 20001);
}

fn a_descendant_that_called_exec_is_still_one(_: &Host) {
    let Some(mut owner) = family(Peer::start) else { return };
    // Something unmodified, that has never heard of us.
    let server = "import sys, socket as s; sys.excepthook = lambda *_: None; \
                  s.socket().bind(('127.0.0.1', 20001))";
    let run = format!("os.spawnvp(os.P_WAIT, 'python3', ['python3', '-c', {server:?}])");
    assert_eq!(owner.number(&run).unwrap(), 0);
    assert_eq!(owner.number(child(&run)).unwrap(), 0);
    let Some(mut stranger) = Peer::start() else { return };
    assert_eq!(stranger.number(&run).unwrap(), 1, "somebody else's child");
}

fn siblings_parents_and_other_users_are_strangers(_: &Host) {
    let Some(mut parent) = Peer::start() else { return };
    parent.ask("(owner := fork(), sibling := fork())").unwrap();
    parent.ask("(mine := int(owner.ask('acquire(a := socket(), 20000, 4, 1)')))").unwrap();
    parent.ask("owner.ask('(child := fork())')").unwrap();
    let Some(mut nobody) = Peer::nobody() else { return };
    let token = parent.ask("mine").unwrap();
    let sibling = |expression: &str| format!("sibling.ask({expression:?})");
    let associated = format!("associated({token})");
    assert_eq!(errno(parent.ask("plain(20001)")), libc::EADDRINUSE, "parent");
    assert_eq!(errno(parent.ask(&associated)), libc::EACCES, "parent");
    assert_eq!(errno(parent.ask(sibling("plain(20001)"))), libc::EADDRINUSE, "sibling");
    assert_eq!(errno(parent.ask(sibling(&associated))), libc::EACCES, "sibling");
    assert_eq!(errno(nobody.ask("plain(20001)")), libc::EADDRINUSE, "other user");
    assert_eq!(errno(nobody.ask(&associated)), libc::EACCES, "other user");
    let below = parent.number("owner.ask('child.ask(\"plain(20001)\")')");
    assert_eq!(below.unwrap(), 20001);
}

fn a_daemon_that_forks_twice_is_a_stranger(_: &Host) {
    let Some(mut owner) = family(Peer::start) else { return };
    owner.ask("(apart := daemon())").unwrap();
    assert_eq!(errno(owner.ask("apart.ask('plain(20001)')")), libc::EADDRINUSE);
    assert_eq!(errno(owner.ask("apart.ask('associated(mine)')")), libc::EACCES);
    // The same out of a child: its parent is nobody of ours.
    owner.ask(child("(apart := daemon())")).unwrap();
    assert_eq!(errno(owner.ask(child("apart.ask('plain(20001)')"))), libc::EADDRINUSE);
}

fn a_daemon_that_forks_twice_below_a_subreaper_is_not(_: &Host) {
    let Some(mut owner) = family(Peer::start) else { return };
    assert_eq!(owner.number("subreaper()").unwrap(), 0);
    owner.ask("(apart := daemon())").unwrap();
    assert_eq!(owner.ask("int(apart.ask('os.getppid()')) == os.getpid()").unwrap(), "True");
    assert_eq!(owner.number("apart.ask('plain(20001)')").unwrap(), 20001);
    let at = owner.number("apart.ask('associated(mine)')").unwrap();
    assert!((20000..20004).contains(&at));
    owner.ask(child("(apart := daemon())")).unwrap();
    assert_eq!(owner.number(child("apart.ask('plain(20001)')")).unwrap(), 20001);
}

fn an_orphan_below_nobody_is_a_stranger_even_with_the_anchor(_: &Host) {
    let Some(mut owner) = Peer::start() else { return };
    // Made by the daemon itself, so that it has the only descriptor.
    owner.ask("(apart := daemon())").unwrap();
    owner.ask("(mine := int(apart.ask('acquire(a := socket(), 20000, 4, 1)')))").unwrap();
    assert_eq!(errno(owner.ask("plain(20001)")), libc::EADDRINUSE, "it is not below us");
    assert_eq!(errno(owner.ask("associated(mine)")), libc::EACCES);
    assert_eq!(owner.number("apart.ask('plain(20001)')").unwrap(), 20001);
    owner.ask("apart.ask('a.close()')").unwrap();
}

fn children_of_a_dead_owner_are_strangers(_: &Host) {
    let Some(mut keeper) = Peer::start() else { return };
    // The one in the middle owns it and dies; above and below it the anchor is still held.
    keeper.ask("(a := socket(), wires := socketpair(), middle := fork())").unwrap();
    keeper.ask("middle.ask('(mine := acquire(a, 20000, 4, 1))')").unwrap();
    keeper.ask("middle.ask('os.fork() or serve_as_child(wires[1])')").unwrap();
    keeper.ask("(wires[1].close(), child := Child(wires[0]))").unwrap();
    assert_eq!(keeper.number(child("plain(20001)")).unwrap(), 20001);
    keeper.ask("middle.kill()").unwrap();
    assert_eq!(errno(keeper.ask(child("plain(20001)"))), libc::EADDRINUSE);
    assert_eq!(errno(keeper.ask(child("associated(mine)"))), libc::EACCES);
    keeper.ask(child("by_token(a, ADOPT, mine)")).unwrap();
    assert_eq!(keeper.number(child("plain(20001)")).unwrap(), 20001);
    assert_eq!(errno(keeper.ask("plain(20001)")), libc::EADDRINUSE);
    // The child is nobody's any more, so nobody waits for its end.
    keeper.ask(child("a.close()")).unwrap();
}
