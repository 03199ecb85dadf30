//! `--detach`: the ports are held by another process, a keeper, that may outlive us.
//!
//! The keeper is the parent of the command from the beginning: neither the processes a daemon leaves
//! behind nor the reservation could be given to it later. It is this program once more, started by
//! us, and tells us over a pipe what became of the command.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, ExitStatus};
use std::str::FromStr;
use std::{env, thread};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, getppid, pidfd_open, pidfd_send_signal, setsid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::life;
use super::signals::Signals;
use crate::exit::Failure;

/// The process that waits for the command, and its descriptor of the pipe, as in `1234:5`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pid: Pid,
    descriptor: u32,
}

impl FromStr for Caller {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let (pid, descriptor) = text.split_once(':').ok_or("write a process and a descriptor")?;
        let pid = pid.parse().ok().filter(|pid| *pid > 0).and_then(Pid::from_raw);
        Ok(Self {
            pid: pid.ok_or("this is no process")?,
            descriptor: descriptor.parse().map_err(|_| "this is no descriptor")?,
        })
    }
}

/// Runs the command through a keeper, and ends as the command did, when it did.
pub(super) fn through_a_keeper() -> Result<ExitCode, Failure> {
    let mut signals = Signals::catch()?;
    let (mut report, reporter) = std::io::pipe()?;
    let us = format!("--keeper-of={}:{}", std::process::id(), reporter.as_raw_fd());
    let mut words = env::args_os().skip(1);
    let verb = words.next().expect("the verb is how we got here");
    let mut keeper = Command::new(env::current_exe()?)
        .arg0("portkeep")
        .arg(verb)
        .arg(us)
        .args(words)
        .spawn()
        .map_err(|cause| Failure::new(format!("cannot start the keeper: {cause}")))?;
    let process =
        pidfd_open(Pid::from_child(&keeper), PidfdFlags::empty()).map_err(std::io::Error::from)?;

    let to_keeper = process.try_clone()?;
    thread::spawn(move || {
        loop {
            for caught in signals.wait() {
                if let Some(signal) = caught.for_command() {
                    let _ = pidfd_send_signal(&to_keeper, signal);
                }
            }
        }
    });

    let mut ends = [PollFd::new(&report, PollFlags::IN), PollFd::new(&process, PollFlags::IN)];
    while let Err(cause) = poll(&mut ends, None) {
        if cause != Errno::INTR {
            return Err(std::io::Error::from(cause).into());
        }
    }
    // The keeper has its own by now, or is gone, and then there is nothing more to read.
    drop(reporter);
    let mut status = [0; size_of::<i32>()];
    let status = match report.read_exact(&mut status) {
        Ok(()) => ExitStatus::from_raw(i32::from_ne_bytes(status)),
        // It did not get that far, and has said why.
        Err(_) => keeper.wait()?,
    };
    Ok(life::end_like(status))
}

/// What the keeper does when the command has ended.
#[derive(Debug)]
pub(super) struct Withdrawal {
    report: File,
}

impl Withdrawal {
    /// Opens the caller's end of the pipe for us. A descriptor that we inherited would do as well, but
    /// so would the command inherit it, and never close it.
    pub(super) fn before(caller: &Caller) -> Result<Self, Failure> {
        let path = format!("/proc/{}/fd/{}", caller.pid.as_raw_nonzero(), caller.descriptor);
        let report = File::options()
            .write(true)
            .open(&path)
            .map_err(|cause| Failure::new(format!("the keeper cannot open {path}: {cause}")))?;
        // While it is our parent its id cannot have gone to another process.
        if getppid() != Some(caller.pid) {
            return Err(Failure::new("the process that started the keeper is gone"));
        }
        Ok(Self { report })
    }

    /// Lets go of what the caller may wait for, the terminal, its pipes and its folder, and then of
    /// the caller itself.
    pub(super) fn withdraw(mut self, status: ExitStatus) {
        // What fails here is not worth the ports.
        let _ = setsid();
        let _ = env::set_current_dir("/");
        if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
            let _ = dup2_stdin(&null);
            let _ = dup2_stdout(&null);
            let _ = dup2_stderr(&null);
        }
        let _ = self.report.write_all(&status.into_raw().to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_a_process_and_a_descriptor() {
        let caller: Caller = "12:5".parse().unwrap();
        assert_eq!((caller.pid.as_raw_nonzero().get(), caller.descriptor), (12, 5));
        for text in ["", "12", "0:5", "-1:5", "x:5", "12:", "12:-5", "12:5:6"] {
            assert!(text.parse::<Caller>().is_err(), "{text}");
        }
    }
}
