//! Another process, that does what it is told. It is Python, so that no test of what another
//! process may do rests on this library.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::support::installed;

/// The user `nobody`, who owns nothing and may nothing.
pub(crate) const NOBODY: u32 = 65534;

/// Ends, with all its children, when it is dropped.
#[derive(Debug)]
pub(crate) struct Peer {
    child: Child,
    told: Option<ChildStdin>,
    said: BufReader<ChildStdout>,
}

impl Peer {
    /// A process of ours; `None` where there is no Python.
    pub(crate) fn start() -> Option<Self> {
        Self::spawn(None)
    }

    /// A process of somebody without any privilege.
    pub(crate) fn nobody() -> Option<Self> {
        Self::spawn(Some(NOBODY))
    }

    fn spawn(user: Option<u32>) -> Option<Self> {
        if !installed("python3", "python3") {
            return None;
        }
        // Of the system: what comes first in PATH may be somebody's own, which others cannot reach.
        let mut command = Command::new("python3");
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin").args(["-c", include_str!("peer.py")]);
        if let Some(user) = user {
            as_user(&mut command, user);
        }
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let told = child.stdin.take();
        let said = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut peer = Self { child, told, said };
        assert_eq!(peer.line(), "ready");
        Some(peer)
    }

    /// The process's number; `exec` keeps it.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Evaluates an expression there; a system call that fails there fails here.
    pub(crate) fn ask(&mut self, expression: impl AsRef<str>) -> io::Result<String> {
        let answer = self.exchange(expression.as_ref());
        match answer.split_once(' ') {
            Some(("ok", value)) => Ok(value.to_owned()),
            Some(("errno", number)) => {
                Err(io::Error::from_raw_os_error(number.parse().expect("a number")))
            }
            _ => panic!("{answer}"),
        }
    }

    /// The same, for what is a number.
    #[track_caller]
    pub(crate) fn number(&mut self, expression: impl AsRef<str>) -> io::Result<u64> {
        self.ask(expression).map(|value| value.parse().expect("a number"))
    }

    /// Evaluates what replaces the program by itself; it has forgotten every name then.
    pub(crate) fn exec(&mut self, expression: &str) {
        assert_eq!(self.exchange(expression), "ready");
    }

    fn exchange(&mut self, expression: &str) -> String {
        let told = self.told.as_mut().expect("until it is dropped");
        writeln!(told, "{expression}").expect("it listens");
        self.line()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("it answers");
        assert!(line.ends_with('\n'), "it died; see above");
        line.trim_end().to_owned()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.told = None;
        let status = self.child.wait().expect("it is our child");
        if !std::thread::panicking() {
            assert!(status.success(), "{status}");
        }
    }
}

/// Makes a program run without any privilege.
pub(crate) fn as_user(command: &mut Command, user: u32) -> &mut Command {
    command.uid(user).gid(user)
}
