//! How long `run` stays, what it returns, and what becomes of signals on the way.

use std::os::unix::process::ExitStatusExt;

use rustix::process::Signal;

use crate::line::Run;
use crate::support::installed;
use crate::{assert_taken, port_of_its_own, stranger};

#[test]
fn a_daemon_has_its_port_for_its_whole_life_and_run_ends_with_it() {
    if !installed("python3", "python3") {
        return;
    }
    let port = port_of_its_own();
    let mut run = Run::start(&["--tcp", &port.to_string()], &["daemon", "7"]);
    let (daemon, parent) = run.settled();
    assert_eq!(parent.pid.as_raw_nonzero().get().cast_unsigned(), run.process.id());
    assert!(!parent.has_ended() && !daemon.has_ended());
    assert_taken(port);
    assert_eq!(run.line.ask(format_args!("bind reuse {port}")), "bound");
    assert_taken(port);
    run.line.say("end 3");
    assert_eq!(run.process.wait().code(), Some(7), "the status is the launcher's");
    stranger(port).expect("the port is free when nothing is left");
}

#[test]
fn a_launcher_that_dies_of_a_signal_takes_us_with_it_when_its_daemon_has_ended() {
    if !installed("python3", "python3") {
        return;
    }
    let mut run = Run::start(&[], &["daemon", "-9"]);
    let (daemon, parent) = run.settled();
    assert!(!parent.has_ended());
    run.line.say("end 0");
    daemon.wait();
    assert_eq!(run.process.wait().signal(), Some(9));
}

#[test]
fn signals_go_to_what_is_left_when_the_command_has_ended() {
    if !installed("python3", "python3") {
        return;
    }
    let mut run = Run::start(&[], &["daemon", "5"]);
    let (daemon, _) = run.settled();
    // In a session of its own, so it comes from us or from nobody.
    run.process.signal(Signal::USR1);
    assert_eq!(run.line.hear().as_deref(), Some("got SIGUSR1"));
    run.process.signal(Signal::TERM);
    assert_eq!(run.line.hear().as_deref(), Some("got SIGTERM"));
    daemon.wait();
    assert_eq!(run.process.wait().code(), Some(5));
}

#[test]
fn the_port_stays_reserved_while_the_command_restarts_its_server() {
    if !installed("python3", "python3") {
        return;
    }
    let port = port_of_its_own();
    let mut run = Run::start(&["--tcp", &port.to_string()], &["server"]);
    run.settled();
    for _ in 0..50 {
        assert_eq!(run.line.ask(format_args!("start {port}")), "up");
        assert_taken(port);
        assert_eq!(run.line.ask("stop"), "down");
        assert_taken(port);
    }
    run.line.say("end 0");
    assert!(run.process.wait().success());
    stranger(port).expect("free when the command has ended");
}

#[test]
fn the_daemon_of_an_inner_run_keeps_the_ports_of_both() {
    if !installed("python3", "python3") {
        return;
    }
    let (outer, inner) = (port_of_its_own(), port_of_its_own());
    let inside = Run::command(&["--tcp", &inner.to_string()], &["daemon", "4"]);
    let mut command = crate::portkeep(&["run", "--tcp", &outer.to_string(), "--"]);
    command.arg(inside.get_program()).args(inside.get_args());
    let mut run = Run::start_with(&mut command);
    let (_, parent) = run.settled();
    assert_ne!(parent.pid.as_raw_nonzero().get().cast_unsigned(), run.process.id());
    assert_taken(outer);
    assert_taken(inner);
    run.line.say("end 0");
    parent.wait();
    assert_eq!(run.process.wait().code(), Some(4));
    stranger(outer).expect("free");
    stranger(inner).expect("free");
}
