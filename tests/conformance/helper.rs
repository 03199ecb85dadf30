//! The other process: this binary once more, which obeys one line after the other.
//!
//! A line is answered by one line, `ok` and words, or `err`, the kind and the errno. The helper
//! ends when its standard input does, so none outlives its test.

mod obey;

use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use portkeep::{ErrorKind, PortRange, Protocol, Token};

use crate::engine::EngineUnderTest;
use crate::sockets::{loopback, loopback6};

pub(crate) use self::obey::serve;

/// The first argument that makes this binary a helper.
pub(crate) const ARGUMENT: &str = "helper";

/// Far more than any answer takes, far less than a hanging test run.
const PATIENCE: Duration = Duration::from_secs(20);

/// An error as it crosses the pipe: the [`ErrorKind`]'s name, or `Io` for a plain socket's.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) kind: String,
    pub(crate) errno: i32,
}

impl Refusal {
    pub(crate) fn io(errno: i32) -> Self {
        Self { kind: "Io".to_owned(), errno }
    }
}

impl From<(ErrorKind, i32)> for Refusal {
    fn from((kind, errno): (ErrorKind, i32)) -> Self {
        Self { kind: format!("{kind:?}"), errno }
    }
}

impl From<portkeep::Error> for Refusal {
    fn from(error: portkeep::Error) -> Self {
        (error.kind(), error.errno().unwrap_or(0)).into()
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::io(error.raw_os_error().unwrap_or(0))
    }
}

type Answer = Result<Vec<String>, Refusal>;

/// A block that a helper holds.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) range: PortRange,
    pub(crate) token: Token,
    /// One for each protocol, TCP first.
    pub(crate) tokens: Vec<Token>,
}

/// The end of the pipe on which the test sits.
#[derive(Debug)]
pub(crate) struct Helper {
    child: Child,
    input: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Helper {
    pub(crate) fn command(engine: &EngineUnderTest) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("/proc is mounted"));
        command.args([ARGUMENT, engine.name]).stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    }

    pub(crate) fn start(engine: &EngineUnderTest) -> Self {
        Self::of(Self::command(engine).spawn().expect("this binary starts"))
    }

    /// A helper of another user, for root to start: `nobody`, who can run what we run through `/proc`
    /// wherever it lies.
    pub(crate) fn of_another_user(engine: &EngineUnderTest) -> Self {
        const NOBODY: u32 = 65534;
        let mut command = Command::new("/proc/self/exe");
        command.args(Self::command(engine).get_args()).uid(NOBODY).gid(NOBODY);
        Self::of(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("root"))
    }

    /// A helper that may open so many descriptors.
    pub(crate) fn with_descriptor_limit(engine: &EngineUnderTest, limit: u16) -> Self {
        let this = Self::command(engine);
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n $0 && exec \"$@\"", &limit.to_string()]);
        command.arg(this.get_program()).args(this.get_args());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Self::of(command.spawn().expect("the shell starts"))
    }

    pub(crate) fn of(mut child: Child) -> Self {
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("standard output is a pipe"));
        let (sender, answers) = mpsc::channel();
        // It ends with the helper, or with the test.
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, input, answers }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    #[track_caller]
    pub(crate) fn ask(&mut self, line: &str) -> Answer {
        self.tell(line);
        self.answer()
    }

    #[track_caller]
    pub(crate) fn tell(&mut self, line: &str) {
        let input = self.input.as_mut().expect("the helper is there");
        writeln!(input, "{line}").expect("the helper listens");
    }

    #[track_caller]
    pub(crate) fn answer(&mut self) -> Answer {
        let answer = self.answers.recv_timeout(PATIENCE).expect("the helper answers in time");
        let mut words = answer.split(' ').map(str::to_owned);
        match words.next().as_deref() {
            Some("ok") => Ok(words.collect()),
            Some("err") => {
                let kind = words.next().expect("a kind");
                Err(Refusal { kind, errno: words.next().expect("a number").parse().expect("int") })
            }
            _ => panic!("not an answer: {answer}"),
        }
    }

    /// `acquire tcp +4`, `acquire udp 5000-5003`, `acquire both +2 descendants`, and the like.
    #[track_caller]
    pub(crate) fn acquire(&mut self, what: &str) -> Result<Block, Refusal> {
        let words = self.ask(&format!("acquire {what}"))?;
        let tokens: Vec<_> = words[1..].iter().map(|word| word.parse().expect("a token")).collect();
        Ok(Block { range: words[0].parse().expect("a range"), token: tokens[0], tokens })
    }

    /// One word that is a number.
    #[track_caller]
    pub(crate) fn number(&mut self, line: &str) -> u32 {
        self.ask(line).expect(line)[0].parse().expect("a number")
    }

    /// A plain bind by the helper is refused as it must be.
    #[track_caller]
    pub(crate) fn refused(&mut self, protocol: Protocol, address: SocketAddr, flags: &str) {
        let line = format!("stranger {} {address} {flags}", protocol.name());
        assert_eq!(self.ask(&line), Err(Refusal::io(libc::EADDRINUSE)), "{line}");
    }

    /// Plain binds by the helper to any of these ports are refused.
    #[track_caller]
    pub(crate) fn all_refused(&mut self, protocol: Protocol, range: PortRange) {
        for port in range.iter() {
            self.refused(protocol, loopback(port), "");
            self.refused(protocol, loopback6(port), "");
        }
    }

    /// The signal that nobody can catch; the helper is gone on return.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
    }

    /// Lets it come to its own end.
    pub(crate) fn end(mut self) {
        self.input = None;
        assert!(self.child.wait().expect("it is our child").success());
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
