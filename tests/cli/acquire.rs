//! `portkeep acquire`.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Child, ChildStdout, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::{pool_of_its_own, portkeep, refuses};

/// A running `portkeep acquire` and its first line; killed by its id on drop.
struct Holder {
    child: Child,
    stdout: BufReader<ChildStdout>,
    line: Value,
}

impl Holder {
    fn start(arguments: &[&str]) -> Self {
        let pool = pool_of_its_own();
        let mut command = portkeep(&[&["acquire", "--pool", &pool], arguments].concat());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let line = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        Self { child, stdout, line }
    }

    fn port(&self) -> u16 {
        u16::try_from(self.line["start"].as_u64().unwrap()).unwrap()
    }

    fn holds(&self) -> bool {
        TcpListener::bind(("127.0.0.1", self.port())).is_err()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_first_line_says_what_is_held() {
    let holder = Holder::start(&["--tcp", "+3", "--even"]);
    assert_eq!(holder.line["protocol"], "tcp");
    assert_eq!(holder.line["count"], 3);
    assert_eq!(holder.line["engine"], "userspace");
    assert_eq!(holder.line["pid"], holder.child.id());
    assert_eq!(holder.port() % 2, 0);
    assert!(holder.line.get("token").is_none(), "a token is shown only when asked for");
    assert!(holder.holds());
}

#[test]
fn the_token_is_shown_when_asked_for() {
    let holder = Holder::start(&["--udp", "+1", "--token"]);
    let token = holder.line["token"].as_str().unwrap();
    assert!(token.parse::<portkeep::Token>().is_ok(), "{token}");
}

#[test]
fn every_block_gets_a_line() {
    let mut holder =
        Holder::start(&["--tcp", "+1", "--udp", "+2", "--tcp-udp", "--while", "stdin"]);
    drop(holder.child.stdin.take());
    let mut rest = String::new();
    holder.stdout.read_to_string(&mut rest).unwrap();
    let protocols: Vec<Value> = rest
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["protocol"].take())
        .collect();
    assert_eq!(protocols, ["tcp-udp", "udp"]);
}

#[test]
fn signals_end_it_well_and_free_the_ports() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut holder = Holder::start(&["--tcp"]);
        assert!(holder.holds());
        holder.signal(signal);
        assert_eq!(holder.child.wait().unwrap().code(), Some(0), "{signal}");
        assert!(!holder.holds(), "{signal}");
    }
}

#[test]
fn kill_9_frees_the_ports() {
    let mut holder = Holder::start(&["--tcp"]);
    holder.signal(Signal::SIGKILL);
    holder.child.wait().unwrap();
    assert!(!holder.holds());
}

#[test]
fn it_holds_while_standard_input_is_open() {
    let mut holder = Holder::start(&["--tcp", "--while", "stdin"]);
    assert!(holder.holds() && holder.child.try_wait().unwrap().is_none());
    drop(holder.child.stdin.take());
    assert_eq!(holder.child.wait().unwrap().code(), Some(0));
    assert!(!holder.holds());
}

#[test]
fn it_holds_while_another_process_lives() {
    let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let mut holder = Holder::start(&["--tcp", "--while", &format!("pid:{}", other.id())]);
    assert!(holder.holds() && holder.child.try_wait().unwrap().is_none());
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(holder.child.wait().unwrap().code(), Some(0));
    assert!(!holder.holds());
}

#[test]
fn it_holds_while_its_parent_lives() {
    // The shell prints the holder's line, tells its id on the next, and is killed.
    let script = format!(
        "'{}' acquire --tcp --pool {} --while parent & echo $!; wait",
        env!("CARGO_BIN_EXE_portkeep"),
        pool_of_its_own()
    );
    let mut shell = std::process::Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(shell.stdout.take().unwrap());
    let mut lines = String::new();
    while lines.lines().count() < 2 {
        stdout.read_line(&mut lines).unwrap();
    }
    let line = lines.lines().find(|line| line.starts_with('{')).unwrap();
    let port = serde_json::from_str::<Value>(line).unwrap()["start"].as_u64().unwrap();
    let port = u16::try_from(port).unwrap();
    TcpListener::bind(("127.0.0.1", port)).expect_err("held while the shell lives");
    shell.kill().unwrap();
    shell.wait().unwrap();
    // The holder has standard output open until it ends.
    stdout.read_to_string(&mut lines).unwrap();
    TcpListener::bind(("127.0.0.1", port)).expect("free when the holder has ended");
}

#[test]
fn a_process_that_is_not_there_cannot_be_waited_for() {
    refuses(&["acquire", "--tcp", "--while", "pid:2147483647"], 125, &["2147483647"]);
    refuses(&["acquire", "--while", "pid:x"], 125, &["stdin", "parent", "pid:1234"]);
}
