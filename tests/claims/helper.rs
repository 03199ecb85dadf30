//! Other processes for a test: this binary once more, in a role.
//!
//! A test and its helper talk in lines over a pair of sockets. The helper's end is its standard
//! input, because libtest writes to standard output. A helper ends with its test, however that ends:
//! its line is dead then.

use std::fmt::Display;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::process::Process;
use crate::{contention, flood, kill, kill_cli, storm, strangers};

const ROLE: &str = "PORTKEEP_CLAIMS_ROLE";

/// How long a test waits for a line that has to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// One end of the line between two processes.
#[derive(Debug)]
pub(crate) struct Channel(BufReader<UnixStream>);

impl Channel {
    /// A line of the test's own, and the end that is for the other process.
    pub(crate) fn pair() -> (Self, OwnedFd) {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        ours.set_read_timeout(Some(PATIENCE)).expect("PATIENCE is not zero");
        (Self(BufReader::new(ours)), theirs.into())
    }

    fn of_this_helper() -> Self {
        let stdin = std::io::stdin().as_fd().try_clone_to_owned().expect("standard input");
        Self(BufReader::new(stdin.into()))
    }

    pub(crate) fn say(&mut self, line: impl Display) {
        let line = format!("{line}\n");
        // Whoever does not listen any more is seen to have gone at the next `hear`.
        let _ = self.0.get_mut().write_all(line.as_bytes());
    }

    /// The next line, or `None` when the other end is closed.
    pub(crate) fn hear(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(line.trim_end().to_owned()),
            // Killed with something of ours unread.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            Err(error) => panic!("nothing heard for {PATIENCE:?} after '{line}': {error}"),
        }
    }

    /// No more lines from us, while we still hear the other end.
    pub(crate) fn hang_up(&self) {
        // When the other end is gone, so is the connection.
        let _ = self.0.get_ref().shutdown(std::net::Shutdown::Write);
    }

    /// For a helper that never listens: true as soon as the test says something, or ends.
    pub(crate) fn interruption(&self) -> Arc<AtomicBool> {
        let mut stream = self.0.get_ref().try_clone().expect("a free descriptor");
        let interrupted = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&interrupted);
        std::thread::spawn(move || {
            let _ = stream.read(&mut [0; 16]);
            theirs.store(true, Ordering::Relaxed);
        });
        interrupted
    }
}

/// A helper process, killed on drop.
#[derive(Debug)]
pub(crate) struct Helper {
    pub(crate) channel: Channel,
    pub(crate) process: Process,
}

impl Helper {
    /// Starts a helper in the network namespace of this thread. `role` is a word of [`main`] and
    /// what that role wants to know.
    pub(crate) fn start(role: impl Display) -> Self {
        Self::start_with(&mut Self::command(role))
    }

    /// The command of a helper, for whoever starts it in a special way.
    pub(crate) fn command(role: impl Display) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("/proc is mounted"));
        command
            .args(["helper::main", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .env(ROLE, role.to_string());
        command
    }

    /// Starts a command whose standard input is the line.
    pub(crate) fn start_with(command: &mut Command) -> Self {
        let (channel, theirs) = Channel::pair();
        let process = Process::start(command.stdin(theirs).stdout(Stdio::null()));
        // The command keeps its copy of their end, with which we would never hear them end.
        command.stdin(Stdio::null());
        Self { channel, process }
    }

    /// The next line, which has to come.
    pub(crate) fn hear(&mut self) -> String {
        self.channel.hear().expect("the helper ended before its time; its panic is above")
    }

    /// Says a line and waits for the answer.
    pub(crate) fn ask(&mut self, line: impl Display) -> String {
        self.channel.say(line);
        self.hear()
    }
}

/// Starts `count` helpers of one role and waits until each has said that it is ready.
pub(crate) fn crew(count: usize, role: impl Display) -> Vec<Helper> {
    let mut crew: Vec<_> = (0..count).map(|_| Helper::start(&role)).collect();
    for helper in &mut crew {
        assert_eq!(helper.hear(), "ready");
    }
    crew
}

/// Says one line to all, so that they work at the same time, and collects the answers.
pub(crate) fn ask_all(crew: &mut [Helper], line: impl Display) -> Vec<String> {
    for helper in &mut *crew {
        helper.channel.say(&line);
    }
    crew.iter_mut().map(Helper::hear).collect()
}

/// The numbers in an answer.
pub(crate) fn numbers(answer: &str) -> Vec<u16> {
    answer.split_whitespace().map(|number| number.parse().expect("a number")).collect()
}

/// Numbers for an answer.
pub(crate) fn listed(numbers: &[u16]) -> String {
    numbers.iter().map(u16::to_string).collect::<Vec<_>>().join(" ")
}

#[test]
#[ignore = "where helper processes begin; by hand it does nothing"]
fn main() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let mut channel = Channel::of_this_helper();
    let words: Vec<&str> = role.split_whitespace().collect();
    match words[0] {
        "stranger" => strangers::crowd(&mut channel, words[1], range(words[2])),
        "foreign" => storm::foreign(&mut channel, protocol(words[1]), words[2]),
        "keep" => storm::keep(&mut channel, protocol(words[1]), words[2], words[3]),
        "pick" => storm::pick(&mut channel, protocol(words[1]), words[2]),
        "starts" => flood::starts(&mut channel, words[1], words[2], range(words[3]), words[4]),
        "killer" => kill::killer(&mut channel, range(words[1]), words[2], words[3]),
        "restless" => kill::restless(&mut channel, range(words[1])),
        "serve" => kill_cli::serve(&mut channel),
        "occupy" => contention::occupy(&mut channel, range(words[1]), words[2]),
        "want" => contention::want(&mut channel, range(words[1]), words[2], [words[3], words[4]]),
        "same" => contention::same(&mut channel),
        other => panic!("'{other}' is no role"),
    }
}

fn range(word: &str) -> portkeep::PortRange {
    word.parse().expect("a range")
}

fn protocol(word: &str) -> portkeep::Protocol {
    match word {
        "tcp" => portkeep::Protocol::Tcp,
        _ => portkeep::Protocol::Udp,
    }
}
