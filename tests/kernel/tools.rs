//! What several tests need beside the engine: a compiler, a processor, dice.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::Pid;

use crate::support::installed;

/// Numbers that look random and are the same each time.
#[derive(Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// A number below `end`.
    pub(crate) fn roll(&mut self, end: u16) -> u16 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u16::try_from((self.0 >> 20) % u64::from(end)).expect("below a u16")
    }
}

/// Compiles `tests/kernel/programs/<name>.c`; `None` without a compiler, where tests may be left out.
pub(crate) fn compile(name: &str) -> Option<PathBuf> {
    if !installed("gcc", "gcc") {
        return None;
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernel/programs").join(name);
    let program = std::env::temp_dir().join(name);
    let mut gcc = Command::new("gcc");
    gcc.args(["-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"]).arg(&program);
    let status = gcc.arg(source.with_extension("c")).status().expect("gcc starts");
    assert!(status.success(), "{name}.c compiles");
    Some(program)
}

/// Keeps the calling thread on this processor.
pub(crate) fn stay_on(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor).expect("a small number");
    sched_setaffinity(Pid::from_raw(0), &set).expect("there are two processors");
}

/// Stops the calling thread soon, at any instruction, for as long as a few system calls of others
/// take. Another thread that wakes up would not do: most kernels let a system call end before they
/// give its processor away. So it is the interrupt of a timer that takes long, with many to tell.
#[derive(Debug)]
pub(crate) struct Interruption {
    timer: TimerFd,
    /// Whoever watches a file is told when the timer goes off.
    _copies: Vec<OwnedFd>,
    _watchers: Vec<Epoll>,
}

impl Interruption {
    /// Some tens of microseconds of it.
    pub(crate) fn new() -> Self {
        const SQUARE_ROOT: usize = 20;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::empty()).expect("a timer");
        let copy = |_| timer.as_fd().try_clone_to_owned().expect("a copy");
        let copies: Vec<_> = (0..SQUARE_ROOT).map(copy).collect();
        let watch = |_| {
            let watcher = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("a watcher");
            for copy in &copies {
                let event = EpollEvent::new(EpollFlags::EPOLLIN, 0);
                watcher.add(copy, event).expect("each copy counts as another file");
            }
            watcher
        };
        let watchers = (0..SQUARE_ROOT).map(watch).collect();
        Self { timer, _copies: copies, _watchers: watchers }
    }

    /// Once, after so many nanoseconds, unless it is called again before.
    pub(crate) fn after(&self, nanoseconds: u16) {
        let moment = TimeSpec::from_duration(Duration::from_nanos(1 + u64::from(nanoseconds)));
        let flags = TimerSetTimeFlags::empty();
        self.timer.set(Expiration::OneShot(moment), flags).expect("a moment to come");
    }
}
