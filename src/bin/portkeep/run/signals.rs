//! Signals that are passed on, and to whom.

use std::fs;

use rustix::process::{Pid, Signal, getpgrp, getpid, kill_process};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::origin::{Origin, WithOrigin};
use signal_hook::low_level::siginfo::Cause;

use crate::exit::Failure;

/// What is passed on; the terminal's stop and continue reach the command without us, because it is
/// in our process group.
const PASSED_ON: [i32; 6] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];

/// The signals that come for the command, caught from here on.
#[derive(Debug)]
pub(super) struct Signals(SignalsInfo<WithOrigin>);

/// One that came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caught {
    signal: Signal,
    /// Sent by the terminal, to every process of the foreground group at once.
    from_terminal: bool,
}

impl Signals {
    pub(super) fn catch() -> Result<Self, Failure> {
        // A signal that is ignored, as nohup(1) does, must stay so in the command: a handler of ours
        // would make it the default one there.
        let ignored = ignored_signals();
        let caught = PASSED_ON.into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0);
        Ok(Self(SignalsInfo::new(caught.chain([SIGCHLD]))?))
    }

    /// Waits for one of them, or for the end of a child, which is not among what is returned.
    pub(super) fn wait(&mut self) -> impl Iterator<Item = Caught> {
        self.0.wait().filter(|origin| origin.signal != SIGCHLD).filter_map(|origin: Origin| {
            Some(Caught {
                signal: Signal::from_named_raw(origin.signal)?,
                from_terminal: matches!(origin.cause, Cause::Kernel),
            })
        })
    }
}

/// The signals this process was started with ignored, bit by bit; none where `/proc` cannot tell.
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

impl Caught {
    /// What has to be passed on to a command: what the terminal sends, it sends to it as well.
    pub(super) fn for_command(self) -> Option<Signal> {
        (!self.from_terminal).then_some(self.signal)
    }

    /// Passes it on to what a command that has ended has left behind.
    ///
    /// Whoever presses Ctrl-C wants that to end, and daemons are out of the terminal's reach. That
    /// the terminal hangs up is, on the other hand, what they are there to survive.
    pub(super) fn to_what_is_left(self) {
        if self.from_terminal && self.signal == Signal::HUP {
            return;
        }
        let own_group = getpgrp();
        for (pid, group) in children() {
            if !(self.from_terminal && group == Some(own_group)) {
                // Until we have waited for it, the id is that child's and nobody else's.
                let _ = kill_process(pid, self.signal);
            }
        }
    }
}

/// The processes whose parent we are, and their process groups.
fn children() -> Vec<(Pid, Option<Pid>)> {
    let own = getpid();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)?;
            let stat = fs::read(entry.path().join("stat")).ok()?;
            let (parent, group) = parent_and_group(&stat)?;
            (parent == Some(own)).then_some((pid, group))
        })
        .collect()
}

/// From `/proc/<pid>/stat`, where the name in parentheses may have anything in it.
fn parent_and_group(stat: &[u8]) -> Option<(Option<Pid>, Option<Pid>)> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let mut fields = std::str::from_utf8(&stat[end + 1..]).ok()?.split_whitespace().skip(1);
    let mut next = || fields.next()?.parse().ok().map(Pid::from_raw);
    Some((next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parent_and_group_are_found_behind_any_name() {
        let pid = |number| Pid::from_raw(number);
        let read = |text: &str| parent_and_group(text.as_bytes());
        assert_eq!(read("9 (sh) S 7 8 8 0 -1 4194560"), Some((pid(7), pid(8))));
        assert_eq!(read("9 (a) S 1 (b) R 7 8 8"), Some((pid(7), pid(8))));
        assert_eq!(read("9 (kthreadd) S 0 0 0"), Some((None, None)));
        assert_eq!(parent_and_group(b"9 (\xff)) Z 7 8"), Some((pid(7), pid(8))));
        for text in ["", "9 (sh", "9 (sh) S", "9 (sh) S 7", "9 (sh) S x 8"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
