//! `portkeep run` with a command that does what it is told.

use std::fmt::Display;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::portkeep;
use crate::process::Process;

/// How long a test waits for something that has to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What the commands are made of.
const DAEMON: &str = include_str!("../support/daemon.py");

/// Our end of the line to a command.
#[derive(Debug)]
pub(crate) struct Line(BufReader<UnixStream>);

impl Line {
    /// A line, and the end that is for a command.
    pub(crate) fn pair() -> (Self, OwnedFd) {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        ours.set_read_timeout(Some(PATIENCE)).expect("PATIENCE is not zero");
        (Self(BufReader::new(ours)), theirs.into())
    }

    /// The next thing it says; `None` when nobody has the other end any more.
    pub(crate) fn hear(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(line.trim_end().to_owned()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            Err(error) => panic!("nothing heard for {PATIENCE:?} after '{line}': {error}"),
        }
    }

    pub(crate) fn say(&mut self, words: impl Display) {
        self.0.get_mut().write_all(format!("{words}\n").as_bytes()).expect("somebody listens");
    }

    #[track_caller]
    pub(crate) fn ask(&mut self, words: impl Display) -> String {
        self.say(&words);
        self.hear().unwrap_or_else(|| panic!("nobody answers '{words}'"))
    }
}

/// A process, of which we may not be the parent.
#[derive(Debug)]
pub(crate) struct Other {
    pub(crate) pid: Pid,
    process: OwnedFd,
}

impl Other {
    /// While it is known to be there.
    pub(crate) fn new(pid: &str) -> Self {
        let pid = Pid::from_raw(pid.parse().expect("a number")).expect("not 0");
        let process = pidfd_open(pid, PidfdFlags::empty()).expect("it is there");
        Self { pid, process }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ends_within(Duration::ZERO)
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(&self) {
        assert!(self.ends_within(PATIENCE), "process {:?} does not end", self.pid);
    }

    fn ends_within(&self, limit: Duration) -> bool {
        let limit = Timespec::try_from(limit).expect("a short time");
        poll(&mut [PollFd::new(&self.process, PollFlags::IN)], Some(&limit)) == Ok(1)
    }
}

/// A `portkeep run` and the line to its command.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) process: Process,
    pub(crate) line: Line,
}

impl Run {
    /// Runs the command of `daemon.py`.
    pub(crate) fn start(options: &[&str], role: &[&str]) -> Self {
        Self::start_with(&mut Self::command(options, role))
    }

    pub(crate) fn command(options: &[&str], role: &[&str]) -> Command {
        let python = ["--", "python3", "-S", "-E", "-c", DAEMON];
        portkeep(&[&["run"], options, &python, role].concat())
    }

    pub(crate) fn start_with(command: &mut Command) -> Self {
        let (line, theirs) = Line::pair();
        let process = Process::start(command.stdin(theirs));
        // Our copy of their end goes with the command.
        command.stdin(std::process::Stdio::null());
        Self { process, line }
    }

    /// The command, and whose child it is, when it has become what it is to be.
    #[track_caller]
    pub(crate) fn settled(&mut self) -> (Other, Other) {
        let line = self.line.hear().expect("it says what it has become");
        let words: Vec<&str> = line.split(' ').collect();
        assert!(matches!(words[..], ["alone" | "ready", _, _]), "{line}");
        (Other::new(words[1]), Other::new(words[2]))
    }
}
