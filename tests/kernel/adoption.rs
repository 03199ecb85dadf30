//! Whoever holds the anchor may become the owner.

use portkeep::Protocol;

use crate::client::{ADOPT, by_token, errno, instances, open, query};
use crate::host::{Host, cases};
use crate::programs::peer::{NOBODY, Peer};

cases![
    an_anchor_received_over_a_unix_socket_makes_its_receiver_the_owner,
    a_daemon_that_inherited_the_anchor_adopts_and_outlives_its_parent,
    only_the_very_anchor_adopts,
    adoption_moves_the_descendants_grant_to_the_new_owners_descendants,
];

/// Sends the anchor of one to another; both keep a descriptor of it as `a`.
fn hand_over(from: &mut Peer, to: &mut Peer) {
    // Abstract addresses belong to the network namespace, which is ours alone.
    to.ask("((gate := socket(AF_UNIX)).bind('\\0gate'), gate.listen(1))").unwrap();
    from.ask(
        "((wire := socket(AF_UNIX)).connect('\\0gate'), send_fds(wire, [b'x'], [a.fileno()]))",
    )
    .unwrap();
    to.ask("(wire := gate.accept()[0], gate.close())").unwrap();
    to.ask("(a := socket(fileno=recv_fds(wire, 1, 1)[1][0]))").unwrap();
}

fn holder(port: u16) -> (u32, u32) {
    let holder = query(&open(Protocol::Tcp), port).unwrap().expect("it is reserved");
    (holder.pid, holder.uid)
}

fn an_anchor_received_over_a_unix_socket_makes_its_receiver_the_owner(_: &Host) {
    for receiver in [Peer::start, Peer::nobody] {
        let (Some(mut old), Some(mut new)) = (Peer::start(), receiver()) else { return };
        let token = old.number("(mine := acquire(a := socket(), 20000, 4))").unwrap();
        hand_over(&mut old, &mut new);
        new.ask("(mine := token(a))").unwrap();
        assert_eq!(new.number("mine").unwrap(), token, "the anchor tells it");
        // Having it is not yet owning it.
        assert_eq!(errno(new.ask("associated(mine)")), libc::EACCES);
        assert_eq!(errno(new.ask("by_token(a, RELEASE, mine)")), libc::EINVAL);
        assert_eq!(holder(20000), (old.pid(), 0));

        new.ask("by_token(a, ADOPT, mine)").unwrap();
        assert_eq!(new.number("associated(mine, 20001)").unwrap(), 20001);
        assert_eq!(errno(old.ask("associated(mine)")), libc::EACCES);
        assert_eq!(errno(old.ask("by_token(a, RELEASE, mine)")), libc::EINVAL);
        assert_eq!(
            holder(20000),
            (new.pid(), new.number("os.geteuid()").unwrap().try_into().unwrap())
        );

        // The old one still holds the anchor, so it may take it back.
        old.ask("by_token(a, ADOPT, mine)").unwrap();
        assert_eq!(errno(new.ask("associated(mine)")), libc::EACCES);
        new.ask("by_token(a, ADOPT, mine)").unwrap();
        drop(old);
        assert_eq!(new.number("associated(mine, 20001)").unwrap(), 20001);
        new.ask("a.close()").unwrap();
        assert_eq!(new.number("plain(20001)").unwrap(), 20001);
    }
}

fn a_daemon_that_inherited_the_anchor_adopts_and_outlives_its_parent(_: &Host) {
    let Some(mut above) = Peer::start() else { return };
    // The service is started by `middle`, which acquires for it and goes away.
    above.ask("(wires := socketpair(), middle := fork())").unwrap();
    above.ask("middle.ask('(mine := acquire(a := socket(), 20000, 4))')").unwrap();
    above.ask("middle.ask('os.fork() or serve_as_child(wires[1])')").unwrap();
    above.ask("(wires[1].close(), service := Child(wires[0]))").unwrap();
    above.ask("middle.kill()").unwrap();
    let service = |expression: &str| format!("service.ask({expression:?})");
    assert_eq!(errno(above.ask(service("associated(mine)"))), libc::EACCES);
    above.ask(service("by_token(a, ADOPT, mine)")).unwrap();
    assert_eq!(above.number(service("associated(mine, 20001)")).unwrap(), 20001);
    assert_eq!(u64::from(holder(20003).0), above.number(service("os.getpid()")).unwrap());
    above.ask(service("by_token(a, RELEASE, mine)")).unwrap();
    assert_eq!(above.number("plain(20001)").unwrap(), 20001);
    above.ask(service("a.close()")).unwrap();
}

fn only_the_very_anchor_adopts(_: &Host) {
    let (Some(mut owner), Some(mut other)) = (Peer::start(), Peer::nobody()) else { return };
    let token = owner.number("(mine := acquire(a := socket(), 20000, 4))").unwrap();
    // A socket that anchors nothing, one that anchors something else, one of another protocol.
    for socket in ["socket()", "b", "socket(type=SOCK_DGRAM)"] {
        other.ask("(b := socket(), acquire(b, 21000, 1))").unwrap();
        let adopt = format!("by_token({socket}, ADOPT, {token})");
        assert_eq!(errno(other.ask(adopt)), libc::EINVAL, "{socket}");
        other.ask("b.close()").unwrap();
    }
    let ours = open(Protocol::Tcp);
    assert_eq!(errno(by_token(&ours, ADOPT, token)), libc::EINVAL);
    assert_eq!(errno(instances(&ours)), libc::ENOENT);
    // A dead token, at its own anchor.
    owner.ask("by_token(a, RELEASE, mine)").unwrap();
    assert_eq!(errno(owner.ask("by_token(a, ADOPT, mine)")), libc::EINVAL);
}

fn adoption_moves_the_descendants_grant_to_the_new_owners_descendants(_: &Host) {
    let (Some(mut old), Some(mut new)) = (Peer::start(), Peer::nobody()) else { return };
    old.ask("(acquire(a := socket(), 20000, 4, 1), child := fork())").unwrap();
    new.ask("(child := fork())").unwrap();
    let plain = "child.ask('plain(20001)')";
    assert_eq!(old.number(plain).unwrap(), 20001);
    assert_eq!(errno(new.ask(plain)), libc::EADDRINUSE);
    hand_over(&mut old, &mut new);
    new.ask("by_token(a, ADOPT, token(a))").unwrap();
    assert_eq!(holder(20000), (new.pid(), NOBODY));
    assert_eq!(new.number(plain).unwrap(), 20001);
    assert_eq!(errno(old.ask(plain)), libc::EADDRINUSE);
    assert_eq!(errno(old.ask("plain(20001)")), libc::EADDRINUSE);
}
