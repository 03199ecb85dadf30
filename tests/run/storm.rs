//! Many starts at once: nothing hangs, and no zombie is left.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use crate::line::{PATIENCE, Run};
use crate::process::Process;
use crate::support::{installed, rounds};
use crate::{assert_taken, port_of_its_own, portkeep, stranger};

/// The state and the id of every child.
fn children(parent: Pid) -> Vec<(char, i32)> {
    let list = format!("/proc/{0}/task/{0}/children", parent.as_raw_nonzero());
    let list = fs::read_to_string(list).expect("it is there");
    list.split_whitespace()
        .filter_map(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Some((stat.rsplit_once(") ")?.1.chars().next()?, pid.parse().ok()?))
        })
        .collect()
}

/// Waits until `parent` has one child, which lives: everything that it got from others is reaped.
#[track_caller]
pub(crate) fn only_child(parent: Pid) {
    let end = Instant::now() + PATIENCE;
    loop {
        let children = children(parent);
        if matches!(children[..], [(state, _)] if state != 'Z') {
            return;
        }
        assert!(Instant::now() < end, "still there: {children:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn short_servers_below_two_runs_all_get_the_port_and_leave_no_zombie() {
    if !installed("python3", "python3") {
        return;
    }
    let starts = rounds(200, 5_000);
    let one_run = || {
        let port = port_of_its_own();
        let mut run = Run::start(&["--tcp", &port.to_string()], &["server"]);
        let (_, parent) = run.settled();
        let mut bound = 0;
        for _ in 0..starts / 100 {
            assert_eq!(run.line.ask(format_args!("orphans 100 {port}")), "started");
            assert_taken(port);
            only_child(parent.pid);
            bound += run.line.ask("count").parse::<usize>().unwrap();
        }
        assert_eq!(bound, starts, "every one of them was let in");
        run.line.say("end 0");
        assert!(run.process.wait().success());
        stranger(port).expect("free");
    };
    thread::scope(|scope| {
        let other = scope.spawn(one_run);
        one_run();
        other.join().unwrap();
    });
}

#[test]
fn many_short_runs_at_once_all_end_with_the_status_of_their_command() {
    let runs = rounds(100, 2_000);
    let in_turn = || {
        for number in 0..runs {
            let code = i32::try_from(number % 100).unwrap();
            let script = format!("(sleep 0 &); exit {code}");
            let detach: &[&str] = if number % 2 == 0 { &[] } else { &["--detach"] };
            let words = [&["run", "--tcp", "+2"], detach, &["--", "sh", "-c", &script]].concat();
            let status = Process::start(&mut portkeep(&words)).wait();
            assert_eq!(status.code(), Some(code), "{status}");
        }
    };
    thread::scope(|scope| {
        let other = scope.spawn(in_turn);
        in_turn();
        other.join().unwrap();
    });
}
