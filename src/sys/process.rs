//! The process: its descriptor limit, and whether it is still the one it was.
#![expect(unsafe_code, reason = "limits, and what runs in a forked child")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

/// The soft and the hard limit of open descriptors.
///
/// [getrlimit(2)](https://man7.org/linux/man-pages/man2/getrlimit.2.html), `RLIMIT_NOFILE`.
pub(crate) fn descriptor_limit() -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes into `limit`, which outlives the call.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } {
        0 => Ok((limit.rlim_cur, limit.rlim_max)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// [setrlimit(2)](https://man7.org/linux/man-pages/man2/setrlimit.2.html), `RLIMIT_NOFILE`.
pub(crate) fn set_descriptor_limit(soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the kernel reads `limit`, which outlives the call.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives the command this limit instead of ours, between fork and exec.
pub(crate) fn restore_descriptor_limit_in(command: &mut Command, soft: u64, hard: u64) {
    // SAFETY: the closure makes one system call, which is async-signal-safe, and allocates nothing.
    unsafe {
        command.pre_exec(move || set_descriptor_limit(soft, hard));
    }
}

/// A duplicate with the lowest free number from `first` on, closed on exec.
///
/// [fcntl(2)](https://man7.org/linux/man-pages/man2/fcntl.2.html), `F_DUPFD_CLOEXEC`.
pub(crate) fn duplicate_from(descriptor: BorrowedFd<'_>, first: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two numbers, and no memory of ours.
    match unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_DUPFD_CLOEXEC, first) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel has just given us this number, so nobody else owns it.
        duplicate => Ok(unsafe { OwnedFd::from_raw_fd(duplicate) }),
    }
}

/// Gives the command these descriptors under the numbers from `first` on, between fork and exec,
/// whatever the parent has there. What is in `kept` stays open here as long as the command.
///
/// [dup2(2)](https://man7.org/linux/man-pages/man2/dup.2.html): a descriptor that has its number
/// already would stay closed on exec.
pub(crate) fn pass_descriptors_in(
    command: &mut Command,
    descriptors: Vec<OwnedFd>,
    kept: Vec<OwnedFd>,
    first: RawFd,
) {
    let pass = move || {
        let _ = &kept;
        for (number, descriptor) in (first..).zip(&descriptors) {
            // SAFETY: this is the forked child, which has one thread and runs nothing of ours after
            // this but exec: there is nobody to miss what had that number.
            if unsafe { libc::dup2(descriptor.as_raw_fd(), number) } == -1 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls that are async-signal-safe, and allocates nothing.
    unsafe {
        command.pre_exec(pass);
    }
}

/// The process id, without a system call: it is read once, and again in every forked child.
///
/// [pthread_atfork(3)](https://man7.org/linux/man-pages/man3/pthread_atfork.3.html): a child made
/// by clone(2) behind the back of libc takes itself for its parent.
pub(crate) fn process_id() -> u32 {
    static ID: AtomicU32 = AtomicU32::new(0);
    static WATCH: Once = Once::new();
    extern "C" fn read() {
        ID.store(std::process::id(), Ordering::Relaxed);
    }
    WATCH.call_once(|| {
        read();
        // SAFETY: the handler calls getpid(2) and stores to an atomic, both async-signal-safe, and
        // it lives for ever.
        unsafe { libc::pthread_atfork(None, None, Some(read)) };
    });
    ID.load(Ordering::Relaxed)
}
