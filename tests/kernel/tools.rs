//! What several tests need beside the engine: a compiler, a processor, dice.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
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

/// Interrupts whoever runs on this processor, often, and for as long as a few system calls of others
/// take: a thread that wakes up is given the processor.
pub(crate) fn interrupt(processor: usize, stop: &AtomicBool) {
    stay_on(processor);
    while !stop.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_micros(30));
        let woken = Instant::now();
        while woken.elapsed() < Duration::from_micros(20) {}
    }
}
