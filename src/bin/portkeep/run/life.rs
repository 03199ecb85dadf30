//! The life of a command: until it and everything it has left behind have ended.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitCode, ExitStatus};

use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, WaitOptions, getpid, kill_process, setrlimit, wait};

use super::signals::Signals;
use crate::exit::Failure;

/// Waits for the command and for its last descendant, passes signals on, and returns what became of
/// the command, which `ended` is told as soon as it is known.
///
/// We are a child subreaper: whoever loses its parent becomes our child. So long as there is a
/// descendant there is a child, and when there is none everything has ended.
pub(super) fn outlive(
    command: &Child,
    signals: &mut Signals,
    ended: impl FnOnce(ExitStatus),
) -> Result<ExitStatus, Failure> {
    let command = Pid::from_child(command);
    let mut ended = Some(ended);
    let mut result = None;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                if pid == command && result.is_none() {
                    let status = ExitStatus::from_raw(status.as_raw());
                    result = Some(status);
                    if let Some(ended) = ended.take() {
                        ended(status);
                    }
                }
                continue;
            }
            Ok(None) => {}
            Err(Errno::INTR) => continue,
            Err(Errno::CHILD) => {
                return result.ok_or_else(|| Failure::new("the command was not ours to wait for"));
            }
            Err(cause) => return Err(std::io::Error::from(cause).into()),
        }
        for caught in signals.wait() {
            if result.is_some() {
                caught.to_what_is_left();
            } else if let Some(signal) = caught.for_command() {
                // Until we have waited for it, the id is the command's and nobody else's.
                let _ = kill_process(command, signal);
            }
        }
    }
}

/// Ends as the command did: with its status, or by the signal that killed it.
pub(super) fn end_like(status: ExitStatus) -> ExitCode {
    if let Some(signal) = status.signal() {
        // No signal of its own kills process 1.
        if !getpid().is_init() {
            // If it left a core file, ours would only overwrite it.
            let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
        // Here only when the signal does not kill us: say it as a shell does.
        return ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX));
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    ExitCode::from(code.unwrap_or(u8::MAX))
}
