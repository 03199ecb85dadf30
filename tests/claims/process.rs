//! Child processes that are waited for with a limit, and never left behind.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// Set in the process that [`alone`] has started for a test.
const ALONE: &str = "PORTKEEP_CLAIMS_ALONE";

/// Runs a test in a process of its own.
///
/// A child that another test starts has copies of all our sockets until it executes its program,
/// some milliseconds on a busy machine. That would keep ports in use which the test has just let go.
pub(crate) fn alone<F: FnOnce()>(test: F) {
    if std::env::var_os(ALONE).is_some() {
        return test();
    }
    // The closure of `claims::topic::test` has that path in its name, and libtest leaves out the
    // first part.
    let name = std::any::type_name::<F>().trim_end_matches("::{{closure}}");
    let name = name.split_once("::").expect("a test lives in a module").1;
    let mut command = Command::new(std::env::current_exe().expect("/proc is mounted"));
    command.args([name, "--exact", "--nocapture"]).env(ALONE, "1").stdout(Stdio::null());
    let status = Process::start(&mut command).finish();
    assert!(status.success(), "{name}, {status}: what went wrong is said above");
}

/// How long a process may take to end once it was told to.
const PATIENCE: Duration = Duration::from_secs(30);

/// A child process, killed by its own id on drop unless it was waited for.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    ended: bool,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, ended: false }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        assert!(!self.ended, "its id may be another's by now");
        kill_process(Pid::from_child(&self.child), signal).expect("a child can be signalled");
    }

    /// Waits for a process that ends when it has done its work, which is bounded.
    fn finish(mut self) -> ExitStatus {
        let status = self.child.wait().expect("a child can be waited for");
        self.ended = true;
        status
    }

    /// Waits for the end of a process that was told to end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        assert!(self.ends_within(PATIENCE), "process {} does not end", self.id());
        let status = self.child.wait().expect("a child can be waited for");
        self.ended = true;
        status
    }

    fn ends_within(&self, limit: Duration) -> bool {
        let process = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty())
            .expect("our child is there until we have waited for it");
        let limit = Timespec::try_from(limit).expect("a short time");
        let mut ends = [PollFd::new(&process, PollFlags::IN)];
        poll(&mut ends, Some(&limit)) == Ok(1)
    }

    /// kill -9, and gone when this returns.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        let status = self.wait();
        assert_eq!(status.signal(), Some(9), "it ended by itself before it was killed: {status}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.ended {
            // Here a test has failed, or a helper has done its work.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
