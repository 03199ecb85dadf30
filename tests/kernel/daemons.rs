//! Daemons below `portkeep run`: their parents are gone, and they are its descendants all the same.

use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use portkeep::Protocol::Tcp;

use crate::client::{errno, stranger};
use crate::host::{Host, cases};
use crate::support::installed;

cases![
    a16_a_daemon_that_forked_twice_binds_plainly_and_no_stranger_does,
    a_server_that_restarts_keeps_its_port_from_strangers_in_between,
    the_keeper_of_a_detached_daemon_has_the_reservation,
    passed_sockets_are_inside_the_block_and_strangers_outside,
    run_names_its_guard,
];

/// What the commands are made of, told over a line what to do.
const DAEMON: &str = include_str!("../support/daemon.py");

const PORT: u16 = 20_000;

struct Run {
    process: Child,
    line: BufReader<UnixStream>,
}

impl Run {
    fn start(options: &[&str], role: &[&str]) -> Self {
        let (line, theirs) = UnixStream::pair().unwrap();
        line.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_portkeep"));
        command.env("PORTKEEP_ENGINE", "kernel").stdin(OwnedFd::from(theirs));
        command.args(["run", "--tcp", "20000"]).args(options);
        command.args(["--", "/usr/bin/python3", "-S", "-E", "-c", DAEMON]).args(role);
        Self { process: command.spawn().unwrap(), line: BufReader::new(line) }
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.line.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn ask(&mut self, words: &str) -> String {
        self.line.get_mut().write_all(format!("{words}\n").as_bytes()).unwrap();
        self.hear()
    }

    /// Ends the command with this status; the line is dead when nobody has it any more.
    fn end(&mut self, status: i32) {
        assert_eq!(self.ask(&format!("end {status}")), "");
    }
}

/// On another address than the servers, so that it is not their sockets that refuse us.
fn assert_closed_to_strangers() {
    let refused = stranger(Tcp, (Ipv4Addr::new(127, 0, 0, 2), PORT));
    assert_eq!(errno(refused), libc::EADDRINUSE);
}

fn assert_open_to_strangers() {
    stranger(Tcp, (Ipv4Addr::new(127, 0, 0, 2), PORT)).expect("the reservation has ended");
}

fn a16_a_daemon_that_forked_twice_binds_plainly_and_no_stranger_does(_: &Host) {
    if !installed("python3", "python3") {
        return;
    }
    let mut run = Run::start(&[], &["daemon", "7"]);
    let settled = run.hear();
    assert!(settled.ends_with(&format!(" {}", run.process.id())), "{settled}");
    assert_closed_to_strangers();
    assert_eq!(run.ask("bind plain 20000"), "bound");
    assert_closed_to_strangers();
    assert!(run.process.try_wait().unwrap().is_none(), "it stays as long as the daemon");
    run.end(0);
    assert_eq!(run.process.wait().unwrap().code(), Some(7));
    assert_open_to_strangers();
}

fn a_server_that_restarts_keeps_its_port_from_strangers_in_between(_: &Host) {
    if !installed("python3", "python3") {
        return;
    }
    let mut run = Run::start(&[], &["server"]);
    assert!(run.hear().starts_with("ready "));
    for _ in 0..50 {
        assert_eq!(run.ask("start 20000"), "up");
        assert_eq!(run.ask("stop"), "down");
        assert_closed_to_strangers();
    }
    run.end(0);
    assert!(run.process.wait().unwrap().success());
    assert_open_to_strangers();
}

fn the_keeper_of_a_detached_daemon_has_the_reservation(_: &Host) {
    if !installed("python3", "python3") {
        return;
    }
    let mut run = Run::start(&["--detach"], &["daemon", "7"]);
    assert_eq!(run.process.wait().unwrap().code(), Some(7));
    let settled = run.hear();
    let keeper = settled.rsplit(' ').next().unwrap();
    let holder = portkeep::holder(Tcp, PORT).unwrap().expect("the keeper");
    assert_eq!((holder.pid.to_string().as_str(), holder.command.as_str()), (keeper, "portkeep"));
    assert_closed_to_strangers();
    assert_eq!(run.ask("bind plain 20000"), "bound");
    run.end(0);
    let end = std::time::Instant::now() + Duration::from_secs(30);
    while portkeep::holder(Tcp, PORT).unwrap().is_some() {
        assert!(std::time::Instant::now() < end, "the keeper does not end");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_open_to_strangers();
}

fn passed_sockets_are_inside_the_block_and_strangers_outside(_: &Host) {
    if !installed("python3", "python3") {
        return;
    }
    let mut run = Run::start(&["--listen-fds", "--listen-on", "127.0.0.1"], &["server"]);
    assert!(run.hear().starts_with("ready "));
    drop(std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).expect("it listens already"));
    assert_closed_to_strangers();
    run.end(0);
    assert!(run.process.wait().unwrap().success());
    assert_open_to_strangers();
}

fn run_names_its_guard(_: &Host) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portkeep"));
    command.args(["run", "-v", "--", "true"]).stdin(Stdio::null());
    let said = |command: &mut Command| String::from_utf8(command.output().unwrap().stderr).unwrap();
    assert_eq!(said(&mut command), "guard: kernel\n");
    let shared = said(command.env("PORTKEEP_ENGINE", "userspace"));
    assert_eq!(shared, "guard: shared, because PORTKEEP_ENGINE says so\n");
    let mut status = Command::new(env!("CARGO_BIN_EXE_portkeep"));
    let report = status.args(["status", "--json"]).output().unwrap().stdout;
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["guard"]["name"], "kernel");
    assert!(report["guard"]["because"].is_null());
}
