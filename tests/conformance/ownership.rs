//! Whose a reservation is: the acquiring process's, all of its threads', and no forked child's
//! (spec 9.16, 9.17).

use std::fs;
use std::os::fd::OwnedFd;
use std::thread;

use portkeep::Reservation;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::engine::{BOTH, DENIED, Host, INVALID_TOKEN, cases};
use crate::sockets::{all_free, all_refused, loopback, open};
use crate::support::left_out;

cases![
    r09_16_a_forked_child_cannot_use_the_block,
    r09_16_a_forked_child_that_drops_or_releases_frees_nothing,
    r09_16_a_forked_child_has_blocks_of_its_own,
    r09_16_every_thread_may_bind_and_release,
];

/// Spec 9.16. daemon(3) is the fork that needs no unsafe code; its parent ends.
fn r09_16_a_forked_child_cannot_use_the_block(host: &Host) {
    let mut helper = host.helper();
    let block = helper.acquire("both +3").unwrap();
    helper.ask("bind 0 tcp 127.0.0.1:0").unwrap();
    let child = helper.number("daemon");
    assert_ne!(child, helper.pid());

    for (protocol, token) in BOTH.into_iter().zip(&block.tokens) {
        let name = protocol.name();
        let token = format!("{:016x}", token.expose());
        for port in [0, block.range.last()] {
            let line = format!("bind 0 {name} 127.0.0.1:{port}");
            assert_eq!(helper.ask(&line), Err(DENIED.into()), "{line}");
            let line = format!("bind-token {token} {name} 127.0.0.1:{port}");
            // A forked child has the token in its own tables, so both answers of spec 6.1 are true.
            let answer = helper.ask(&line).unwrap_err();
            let truths = [DENIED.into(), host.engine.foreign_token.into()];
            assert!(truths.contains(&answer), "{line}: {answer:?}");
        }
        let line = format!("release-token {token} {name}");
        assert_eq!(helper.ask(&line), Err(INVALID_TOKEN.into()));
    }
    assert_eq!(helper.ask("release 0"), Err(DENIED.into()));
}

/// Copies of all sockets that a process has open, as a fork would make them.
fn copies_of_sockets(pid: u32) -> Option<Vec<OwnedFd>> {
    let process = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    let process = pidfd_open(process, PidfdFlags::empty()).unwrap();
    let mut copies = Vec::new();
    for descriptor in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let path = descriptor.unwrap().path();
        if !fs::read_link(&path).unwrap().to_string_lossy().starts_with("socket:") {
            continue;
        }
        let number = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        match pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) {
            Ok(copy) => copies.push(copy),
            Err(error) => {
                left_out(&format!("another process's sockets cannot be had: {error}"));
                return None;
            }
        }
    }
    Some(copies)
}

/// Spec 9.16. The owner ends with the fork (see above), so copies of its sockets stand in for it:
/// the child may close its own, but not touch what it shares with the owner.
fn r09_16_a_forked_child_that_drops_or_releases_frees_nothing(host: &Host) {
    for (end, answer) in [("drop 0", Ok(Vec::new())), ("release 0", Err(DENIED.into()))] {
        let mut helper = host.helper();
        let block = helper.acquire("both +3").unwrap();
        let Some(owner) = copies_of_sockets(helper.pid()) else { return };
        assert!(!owner.is_empty());
        helper.number("daemon");
        assert_eq!(helper.ask(end), answer);
        for protocol in BOTH {
            all_refused(protocol, block.range);
        }
        // It was these copies alone that kept them.
        drop(owner);
        for protocol in BOTH {
            all_free(protocol, block.range.iter());
        }
    }
}

/// A child is a process like any other.
fn r09_16_a_forked_child_has_blocks_of_its_own(host: &Host) {
    let mut helper = host.helper();
    let before = helper.acquire("tcp +3").unwrap();
    helper.number("daemon");
    let after = helper.acquire("tcp +3").unwrap();
    assert_ne!(before.token, after.token);
    helper.ask("bind 1 tcp 127.0.0.1:0").unwrap();
    helper.ask("release 1").unwrap();
}

/// The owner is the process; `Reservation` may be sent and shared.
fn r09_16_every_thread_may_bind_and_release(host: &Host) {
    fn is_send_and_sync<T: Send + Sync + 'static>() {}
    is_send_and_sync::<Reservation>();
    is_send_and_sync::<portkeep::PortRequest>();
    is_send_and_sync::<portkeep::Error>();

    for protocol in BOTH {
        let block = thread::spawn(move || crate::engine::request(protocol, 3).acquire());
        let block = block.join().unwrap().unwrap();
        assert_eq!(block.engine(), host.engine.kind);
        let range = block.range();
        let bound = thread::scope(|scope| {
            let bind = || {
                let socket = open(protocol, &loopback(0), &[]).unwrap();
                block.bind(&socket, loopback(0)).unwrap();
                socket
            };
            scope.spawn(bind).join().unwrap()
        });
        assert!(range.contains(crate::sockets::port_of(&bound)));
        drop(bound);
        let (token, name) = (block.token(), protocol);
        thread::spawn(move || portkeep::release(token, name)).join().unwrap().unwrap();
        all_free(protocol, range.iter());
    }
}
