//! Who may consume and end a reservation under the process grant, and changing the grant.

use portkeep::Protocol;

use crate::client::{
    DESCENDANTS, GRANT, PROCESS, associate, block, errno, open, query, release, set,
};
use crate::host::{Host, cases};
use crate::programs::peer::Peer;

cases![
    a_child_of_fork_can_neither_associate_nor_release,
    another_process_can_neither_associate_nor_release_even_as_root,
    a_process_that_calls_exec_still_is_the_owner,
    a_thread_of_the_owner_is_the_owner,
    a_dead_owners_block_is_nobodys_and_lives_with_its_anchor,
    a_changed_grant_lets_a_running_child_bind_and_back_again_refuses,
    a_grant_that_did_not_change_is_no_error,
    only_the_owner_changes_the_grant,
    impossible_grants_are_refused_and_change_nothing,
    a_block_granted_to_descendants_late_ends_like_any_other,
];

/// The ways to try to become a consumer, or to end it, in `peer.py`.
const ATTEMPTS: [(&str, i32); 5] = [
    ("associated(mine)", libc::EACCES),
    ("associated(mine, 20001)", libc::EACCES),
    ("by_token(socket(), RELEASE, mine)", libc::EINVAL),
    ("by_token(socket(), ADOPT, mine)", libc::EINVAL),
    ("plain(20001)", libc::EADDRINUSE),
];

fn a_child_of_fork_can_neither_associate_nor_release(_: &Host) {
    for start in [Peer::start, Peer::nobody] {
        let Some(mut owner) = start() else { return };
        owner.ask("(mine := acquire(a := socket(), 20000, 4), child := fork())[0]").unwrap();
        for (attempt, refusal) in ATTEMPTS {
            let refused = owner.ask(format!("child.ask({attempt:?})"));
            assert_eq!(errno(refused), refusal, "{attempt}");
        }
        // Not through the anchor it inherited either.
        let refused = owner.ask("child.ask('by_token(a, RELEASE, mine)')");
        assert_eq!(errno(refused), libc::EINVAL);
        assert_eq!(owner.number("associated(mine, 20001)").unwrap(), 20001);
        owner.ask("by_token(a, RELEASE, mine)").unwrap();
        assert_eq!(owner.number("plain(20001)").unwrap(), 20001);
    }
}

fn another_process_can_neither_associate_nor_release_even_as_root(_: &Host) {
    let (Some(root), Some(nobody)) = (Peer::start(), Peer::nobody()) else { return };
    let (anchor, mine) = block(Protocol::Tcp, 20000, 4);
    for mut peer in [root, nobody] {
        peer.ask(format!("(mine := {})", mine.token)).unwrap();
        for (attempt, refusal) in ATTEMPTS {
            assert_eq!(errno(peer.ask(attempt)), refusal, "{attempt}");
        }
    }
    release(&anchor, mine.token).unwrap();
}

fn a_process_that_calls_exec_still_is_the_owner(_: &Host) {
    for start in [Peer::start, Peer::nobody] {
        let Some(mut owner) = start() else { return };
        let token = owner.number("acquire(a := socket(), 20000, 4)").unwrap();
        let anchor = owner.ask("a.fileno()").unwrap();
        owner.exec("exec_again(a.fileno())");
        assert_eq!(owner.ask("'a' in globals()").unwrap(), "False", "it is another program");
        assert_eq!(owner.number(format!("associated({token}, 20001)")).unwrap(), 20001);
        owner.ask(format!("(a := socket(fileno={anchor}))")).unwrap();
        assert_eq!(owner.number("token(a)").unwrap(), token);
        let holder = query(&open(Protocol::Tcp), 20000).unwrap().expect("it is reserved");
        assert_eq!(holder.pid, owner.pid());
        owner.ask(format!("by_token(socket(), RELEASE, {token})")).unwrap();
        assert_eq!(query(&open(Protocol::Tcp), 20000).unwrap(), None);
    }
}

fn a_thread_of_the_owner_is_the_owner(_: &Host) {
    let (anchor, mine) = block(Protocol::Tcp, 20000, 4);
    let in_thread = || {
        associate(&open(Protocol::Tcp), mine.token).unwrap();
        release(&anchor, mine.token).unwrap();
    };
    std::thread::scope(|scope| scope.spawn(in_thread).join().unwrap());
    assert_eq!(query(&anchor, 20000).unwrap(), None);
}

fn a_dead_owners_block_is_nobodys_and_lives_with_its_anchor(_: &Host) {
    let Some(mut keeper) = Peer::start() else { return };
    // The child acquires and dies; its parent has the anchor, though not the ownership.
    keeper.ask("(a := socket(), child := fork())").unwrap();
    keeper.ask("(mine := int(child.ask('acquire(a, 20000, 4)')))").unwrap();
    keeper.ask("child.kill()").unwrap();
    for (attempt, refusal) in ATTEMPTS {
        assert_eq!(errno(keeper.ask(attempt)), refusal, "{attempt}");
    }
    assert!(query(&open(Protocol::Tcp), 20000).unwrap().is_some());
    keeper.ask("by_token(a, ADOPT, mine)").unwrap();
    assert_eq!(keeper.number("associated(mine, 20001)").unwrap(), 20001);
    keeper.ask("a.close()").unwrap();
    assert_eq!(keeper.number("plain(20001)").unwrap(), 20001);
}

fn a_changed_grant_lets_a_running_child_bind_and_back_again_refuses(_: &Host) {
    for kind in ["SOCK_STREAM", "SOCK_DGRAM"] {
        let Some(mut owner) = Peer::start() else { return };
        owner.ask(format!("(mine := acquire(a := socket(type={kind}), 20000, 4))")).unwrap();
        owner.ask("(child := fork())").unwrap();
        let plain = format!("child.ask('plain(20001, {kind})')");
        let associated = format!("child.ask('associated(mine, 20001, {kind})')");
        for _ in 0..3 {
            assert_eq!(errno(owner.ask(&plain)), libc::EADDRINUSE);
            assert_eq!(errno(owner.ask(&associated)), libc::EACCES);
            owner.ask("grant(a, mine, 1)").unwrap();
            assert_eq!(owner.number(&plain).unwrap(), 20001);
            assert_eq!(owner.number(&associated).unwrap(), 20001);
            owner.ask(format!("grant(socket(AF_INET6, {kind}), mine, 0)")).unwrap();
        }
        // The owner itself must associate again.
        assert_eq!(errno(owner.ask(format!("plain(20001, {kind})"))), libc::EADDRINUSE);
        // A socket that is bound keeps its port.
        owner.ask("grant(a, mine, 1)").unwrap();
        let bound = format!("child.ask('bound(s := socket(type={kind}), \"127.0.0.1\", 20002)')");
        assert_eq!(owner.number(bound).unwrap(), 20002);
        owner.ask("grant(a, mine, 0)").unwrap();
        assert_eq!(owner.number("child.ask('s.getsockname()[1]')").unwrap(), 20002);
    }
}

/// `struct portkeep_regrant`.
fn value(token: u64, grant: u32, zero: u32, grant_id: u64) -> [u8; 24] {
    let mut value = [0; 24];
    value[..8].copy_from_slice(&token.to_ne_bytes());
    value[8..12].copy_from_slice(&grant.to_ne_bytes());
    value[12..16].copy_from_slice(&zero.to_ne_bytes());
    value[16..].copy_from_slice(&grant_id.to_ne_bytes());
    value
}

fn a_grant_that_did_not_change_is_no_error(host: &Host) {
    let (anchor, mine) = block(Protocol::Udp, 20000, 4);
    for (grant, blocks) in [(PROCESS, 0), (DESCENDANTS, 1), (DESCENDANTS, 1), (PROCESS, 0)] {
        set(&anchor, GRANT, &value(mine.token, grant, 0, 0)).unwrap();
        assert_eq!(host.maps().blocks(), blocks);
    }
}

fn only_the_owner_changes_the_grant(host: &Host) {
    let (Some(mut owner), Some(mut nobody)) = (Peer::start(), Peer::nobody()) else { return };
    let token = owner.number("(mine := acquire(a := socket(), 20000, 4))").unwrap();
    owner.ask("(child := fork())").unwrap();
    for to in [PROCESS, DESCENDANTS] {
        let refused = owner.ask(format!("child.ask('grant(a, mine, {to})')"));
        assert_eq!(errno(refused), libc::EINVAL, "not even with the anchor");
        assert_eq!(errno(nobody.ask(format!("grant(socket(), {token}, {to})"))), libc::EINVAL);
        let ours = set(&open(Protocol::Tcp), GRANT, &value(token, to, 0, 0));
        assert_eq!(errno(ours), libc::EINVAL);
    }
    assert_eq!(host.maps().blocks(), 0);
    assert_eq!(errno(owner.ask("child.ask('plain(20001)')")), libc::EADDRINUSE);
}

fn impossible_grants_are_refused_and_change_nothing(host: &Host) {
    let (anchor, mine) = block(Protocol::Tcp, 20000, 4);
    let (_udp, of_udp) = block(Protocol::Udp, 20000, 4);
    let (dead_anchor, dead) = block(Protocol::Tcp, 21000, 4);
    drop(dead_anchor);
    let refused = |value: &[u8]| errno(set(&anchor, GRANT, value));
    for token in [0, !mine.token, dead.token, of_udp.token] {
        assert_eq!(refused(&value(token, DESCENDANTS, 0, 0)), libc::EINVAL);
    }
    for grant in 2..5 {
        assert_eq!(refused(&value(mine.token, grant, 0, 0)), libc::EOPNOTSUPP, "{grant}");
    }
    for grant in [5, u32::MAX] {
        assert_eq!(refused(&value(mine.token, grant, 0, 0)), libc::EINVAL, "{grant}");
    }
    assert_eq!(refused(&value(mine.token, DESCENDANTS, 1, 0)), libc::EINVAL);
    assert_eq!(refused(&value(mine.token, DESCENDANTS, 0, 1)), libc::EINVAL);
    let mut long = [0; 32];
    long[..24].copy_from_slice(&value(mine.token, DESCENDANTS, 0, 0));
    for size in [0, 8, 12, 16, 23, 25, 32] {
        assert_eq!(refused(&long[..size]), libc::EINVAL, "{size} bytes");
    }
    assert_eq!(host.maps().blocks(), 0, "still ours alone");
    release(&anchor, mine.token).unwrap();
}

fn a_block_granted_to_descendants_late_ends_like_any_other(host: &Host) {
    for by_release in [true, false] {
        let (anchor, mine) = block(Protocol::Tcp, 20000, 4);
        set(&anchor, GRANT, &value(mine.token, DESCENDANTS, 0, 0)).unwrap();
        if by_release {
            release(&anchor, mine.token).unwrap();
            assert_eq!(errno(set(&anchor, GRANT, &value(mine.token, 0, 0, 0))), libc::EINVAL);
        }
        drop(anchor);
        host.maps().assert_nothing_is_left();
    }
}
