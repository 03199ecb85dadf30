//! The number of descriptors a process may open, which bounds the userspace engine.

#[cfg(unix)]
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, ErrorKind, Result};
use crate::sys;

/// The limit we found before we raised it, for the commands we start.
static ORIGINAL: Mutex<Option<(u64, u64)>> = Mutex::new(None);

/// Whatever else a process opens: pipes to a command it starts, files, connections.
const TO_WORK_WITH: u64 = 16;

/// Makes sure that `more` descriptors, and sixteen to work with, can be opened beside those that are
/// open, by raising the soft limit as far as the hard limit allows.
///
/// The userspace engine needs one descriptor a port and protocol. The library never calls this by
/// itself, because a raised limit is inherited by every process started later; a command started
/// with [`Reservation::spawn`](crate::Reservation::spawn) gets back what was there before.
///
/// [getrlimit(2)](https://man7.org/linux/man-pages/man2/getrlimit.2.html), `RLIMIT_NOFILE`.
///
/// # Errors
///
/// [`ErrorKind::DescriptorLimit`] when the hard limit is lower than that; nothing has changed then.
pub fn raise_descriptor_limit(more: usize) -> Result<()> {
    let (soft, hard) = limits()?;
    let needed = open_descriptors() + more as u64 + TO_WORK_WITH;
    if needed <= soft {
        return Ok(());
    }
    if needed > hard {
        return Err(too_low(more, needed, soft, hard));
    }
    sys::set_descriptor_limit(needed, hard)
        .map_err(|cause| Error::os("cannot raise the descriptor limit", &cause))?;
    ORIGINAL.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert((soft, hard));
    Ok(())
}

/// The first number that is not one of the three standard streams.
#[cfg(unix)]
const FIRST_PASSED: RawFd = 3;

/// Gives the command these descriptors as 3, 4 and so on, as systemd passes sockets
/// ([sd_listen_fds(3)](https://man7.org/linux/man-pages/man3/sd_listen_fds.3.html)), for programs
/// that take a listening socket instead of binding by themselves.
///
/// They are closed here when the command is dropped. The variables that tell the program about them
/// are the caller's to set; LISTEN_PID must be the id of the process that reads it.
///
/// # Errors
///
/// [`ErrorKind::Os`] when there are not enough descriptors left: for a time it takes three for each.
#[cfg(unix)]
pub fn pass_descriptors(command: &mut Command, descriptors: Vec<OwnedFd>) -> Result<()> {
    let duplicate = |descriptor: &OwnedFd, from| {
        sys::duplicate_from(descriptor.as_fd(), from)
            .map_err(|cause| Error::os("cannot duplicate a descriptor", &cause))
    };
    let count = RawFd::try_from(descriptors.len()).unwrap_or(RawFd::MAX - FIRST_PASSED);
    let behind = FIRST_PASSED + count;
    // The child must not find one of them under a number that another is about to get.
    let mut sources = Vec::with_capacity(descriptors.len());
    for descriptor in &descriptors {
        sources.push(duplicate(descriptor, behind)?);
    }
    drop(descriptors);
    // Nor may the standard library, which has a pipe to the child that tells of a failed exec. So
    // these numbers are taken until the child is there.
    let mut takers = Vec::new();
    while let Some(source) = sources.first() {
        let taker = duplicate(source, FIRST_PASSED)?;
        if taker.as_raw_fd() >= behind {
            break;
        }
        takers.push(taker);
    }
    sys::pass_descriptors_in(command, sources, takers, FIRST_PASSED);
    Ok(())
}

/// Says no before anything is held when `more` descriptors are more than this process may open.
pub(crate) fn check(more: usize) -> Result<()> {
    let (soft, hard) = limits()?;
    let needed = open_descriptors() + more as u64;
    if needed <= soft { Ok(()) } else { Err(too_low(more, needed, soft, hard)) }
}

/// Gives a command the limit that was there before [`raise_descriptor_limit`].
pub(crate) fn restore_in(command: &mut Command) {
    if let Some((soft, hard)) = *ORIGINAL.lock().unwrap_or_else(PoisonError::into_inner) {
        sys::restore_descriptor_limit_in(command, soft, hard);
    }
}

pub(crate) fn limits() -> Result<(u64, u64)> {
    sys::descriptor_limit().map_err(|cause| Error::os("cannot read the descriptor limit", &cause))
}

/// How many descriptors are open; 0 where there is no `/proc` to tell.
fn open_descriptors() -> u64 {
    // One of them is the open directory itself.
    std::fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count().saturating_sub(1) as u64)
}

fn too_low(more: usize, needed: u64, soft: u64, hard: u64) -> Error {
    let way_out = if needed <= hard {
        format!("raise it with 'ulimit -n {needed}'")
    } else {
        format!("the hard limit is {hard}; ask the administrator for {needed}, or for fewer ports")
    };
    Error::new(
        ErrorKind::DescriptorLimit,
        format!(
            "holding {more} ports needs a descriptor limit of {needed}, but it is {soft}: {way_out}"
        ),
    )
}
