//! The process: its descriptor limit, and whether it is still the one it was.
#![expect(unsafe_code, reason = "limits, and what runs in a forked child")]

use std::io;
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
