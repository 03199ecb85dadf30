//! `--detach`: the caller goes on, a keeper stays.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use rustix::process::{Signal, getsid, kill_process};

use crate::line::{Line, Run};
use crate::support::installed;
use crate::{assert_taken, port_of_its_own, portkeep, stranger};

#[test]
fn it_returns_with_the_launchers_status_and_a_keeper_holds_the_ports() {
    if !installed("python3", "python3") {
        return;
    }
    let port = port_of_its_own();
    let mut command = Run::command(&["--detach", "--tcp", &port.to_string()], &["daemon", "7"]);
    let (mut output, theirs) = Line::pair();
    let mut run = Run::start_with(command.stdout(theirs.try_clone().unwrap()).stderr(theirs));
    drop(command);
    // As `$(portkeep run --detach -- launcher)` does: until nobody can write any more.
    assert_eq!(output.hear(), None);
    assert_eq!(run.process.wait().code(), Some(7));

    let (_, keeper) = run.settled();
    assert_ne!(keeper.pid.as_raw_nonzero().get().cast_unsigned(), run.process.id());
    assert_eq!(getsid(Some(keeper.pid)), Ok(keeper.pid), "out of reach of the terminal");
    let folder = std::fs::read_link(format!("/proc/{}/cwd", keeper.pid.as_raw_nonzero()));
    assert_eq!(folder.unwrap().to_str(), Some("/"));
    assert_taken(port);
    assert_eq!(run.line.ask(format_args!("bind reuse {port}")), "bound");
    run.line.say("end 0");
    keeper.wait();
    stranger(port).expect("the port is free when the keeper has ended");
}

#[test]
fn the_keeper_passes_signals_on_to_the_daemon() {
    if !installed("python3", "python3") {
        return;
    }
    let mut run = Run::start(&["--detach"], &["daemon", "0"]);
    let (daemon, keeper) = run.settled();
    assert!(run.process.wait().success());
    kill_process(keeper.pid, Signal::TERM).unwrap();
    assert_eq!(run.line.hear().as_deref(), Some("got SIGTERM"));
    daemon.wait();
    keeper.wait();
}

#[test]
fn a_command_in_the_foreground_is_waited_for_and_gets_our_signals() {
    if !installed("python3", "python3") {
        return;
    }
    let mut run = Run::start(&["--detach"], &["server"]);
    let (_, keeper) = run.settled();
    run.process.signal(Signal::USR1);
    assert_eq!(run.line.hear().as_deref(), Some("got SIGUSR1"));
    run.line.say("end 9");
    assert_eq!(run.process.wait().code(), Some(9));
    keeper.wait();
}

#[test]
fn what_goes_wrong_is_said_once_and_returned() {
    let port = port_of_its_own();
    let taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    for (port, command, code, word) in [
        (port.to_string(), "true", 125, port.to_string()),
        ("+1".to_owned(), "/no/such/command", 127, "/no/such/command".to_owned()),
        ("+1".to_owned(), "/etc/passwd", 126, "/etc/passwd".to_owned()),
    ] {
        let output =
            portkeep(&["run", "--detach", "--tcp", &port, "--", command]).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains(&word) && text.matches('\n').count() == 1, "{text}");
    }
    drop(taken);
    let killed = portkeep(&["run", "--detach", "--", "sh", "-c", "kill -9 $$"]).status().unwrap();
    assert_eq!(killed.signal(), Some(9));
}

#[test]
fn kill_9_of_the_keeper_frees_the_port_and_of_the_caller_changes_nothing() {
    if !installed("python3", "python3") {
        return;
    }
    let port = port_of_its_own();
    let mut run = Run::start(&["--detach", "--tcp", &port.to_string()], &["server"]);
    let (command, keeper) = run.settled();
    run.process.kill();
    assert!(!keeper.has_ended() && !command.has_ended());
    assert_taken(port);
    assert_eq!(run.line.ask("port"), port.to_string());

    kill_process(keeper.pid, Signal::KILL).unwrap();
    keeper.wait();
    stranger(port).expect("nobody holds it");
    // The command goes on, without a guard.
    assert_eq!(run.line.ask("port"), port.to_string());
    run.line.say("end 0");
    command.wait();
    assert_eq!(run.line.hear(), None, "nobody is left");
}

#[test]
fn the_guard_is_told_before_the_caller_goes_on() {
    let mut command = portkeep(&["run", "--detach", "-v", "--", "true"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    assert_eq!(line, "guard: shared, because PORTKEEP_ENGINE says so");
    assert!(lines.next().is_none());
    assert!(child.wait().unwrap().success());
}
