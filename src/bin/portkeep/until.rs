//! How long `acquire` holds: until a signal, or as long as something else lasts.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::str::FromStr;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, getppid, pidfd_open};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::exit::Failure;

/// What the ports are held for.
#[derive(Clone, Debug)]
pub(crate) enum While {
    Stdin,
    Parent,
    Process(Pid),
}

impl FromStr for While {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "stdin" => Ok(Self::Stdin),
            "parent" => Ok(Self::Parent),
            _ => text
                .strip_prefix("pid:")
                .and_then(|pid| pid.parse().ok())
                .filter(|pid| *pid > 0)
                .and_then(Pid::from_raw)
                .map(Self::Process)
                .ok_or_else(|| "write stdin, parent, or pid:1234".to_owned()),
        }
    }
}

/// Something to wait for, made before the ports are held, so that no end of it is missed.
#[derive(Debug)]
pub(crate) struct Until {
    signals: UnixStream,
    lasts: Option<Lasts>,
}

#[derive(Debug)]
enum Lasts {
    Stdin,
    Process(OwnedFd),
}

impl Until {
    pub(crate) fn new(lasts: Option<&While>) -> Result<Self, Failure> {
        let (signals, sender) = UnixStream::pair()?;
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
        }
        let lasts = match lasts {
            None => None,
            Some(While::Stdin) => Some(Lasts::Stdin),
            Some(While::Process(pid)) => Some(Lasts::Process(watch(*pid)?)),
            Some(While::Parent) => Some(Lasts::Process(watch_parent()?)),
        };
        Ok(Self { signals, lasts })
    }

    pub(crate) fn wait(&self) -> Result<(), Failure> {
        let stdin = io::stdin();
        let other = match &self.lasts {
            None => None,
            Some(Lasts::Stdin) => Some(stdin.as_fd()),
            Some(Lasts::Process(process)) => Some(process.as_fd()),
        };
        loop {
            let mut ends = vec![PollFd::new(&self.signals, PollFlags::IN)];
            ends.extend(other.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
            match poll(&mut ends, None) {
                Err(rustix::io::Errno::INTR) => continue,
                result => result.map_err(io::Error::from)?,
            };
            if !ends[0].revents().is_empty() {
                return Ok(());
            }
            // A process that can be polled has ended; standard input may just have said something.
            let said = match self.lasts {
                Some(Lasts::Stdin) => stdin.lock().read(&mut [0; 4096])?,
                _ => 0,
            };
            if said == 0 {
                return Ok(());
            }
        }
    }
}

fn watch(pid: Pid) -> Result<OwnedFd, Failure> {
    pidfd_open(pid, PidfdFlags::empty()).map_err(|cause| {
        let cause = io::Error::from(cause);
        Failure::new(format!("cannot watch process {}: {cause}", pid.as_raw_nonzero()))
    })
}

/// Between asking for the parent and watching it, it may end and its id go to another process: then
/// we have another parent by now.
fn watch_parent() -> Result<OwnedFd, Failure> {
    let gone = || Failure::new("the parent process is gone already");
    let parent = getppid().ok_or_else(gone)?;
    let watched = watch(parent)?;
    if getppid() == Some(parent) { Ok(watched) } else { Err(gone()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_watched_is_accepted() {
        assert!(matches!("stdin".parse(), Ok(While::Stdin)));
        assert!(matches!("parent".parse(), Ok(While::Parent)));
        assert!(
            matches!("pid:7".parse(), Ok(While::Process(pid)) if pid.as_raw_nonzero().get() == 7)
        );
        for text in ["", "pid", "pid:", "pid:0", "pid:-1", "pid:x", "7", "Stdin"] {
            assert!(text.parse::<While>().is_err(), "{text}");
        }
    }
}
