//! A place where the kernel engine can be loaded and disturbs nobody: a control group, a network
//! namespace and a BPF file system of its own.
//!
//! The control group is made and removed by the process that runs the tests; the test is another
//! process, started inside. Nothing is done to the groups above, found through the mount table.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portkeep::load::{Load, Site};

use crate::support::left_out;

/// Tells a process which group it is to enter.
const GROUP: &str = "PORTKEEP_TEST_GROUP";

/// How the groups are called, with the process id of the run and a number behind it.
const PREFIX: &str = "portkeep-test-";

/// How long processes that were killed may take to leave their group.
const PATIENCE: Duration = Duration::from_secs(10);

/// A control group below our own, and a folder to mount a BPF file system on.
#[derive(Debug)]
pub(crate) struct Sandbox {
    group: PathBuf,
    folder: tempfile::TempDir,
}

impl Sandbox {
    /// Leaves the test out without root or without control groups of version 2.
    pub(crate) fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let Some(home) = own_group() else {
            left_out("no control groups of version 2 are mounted");
            return None;
        };
        remove_leftovers(&home);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let group = home.join(format!("{PREFIX}{}-{number}", std::process::id()));
        if let Err(error) = fs::create_dir(&group) {
            left_out(&format!("a control group of its own needs root: {error}"));
            return None;
        }
        let folder = tempfile::tempdir().expect("there is room for a folder");
        Some(Self { group, folder })
    }

    /// This binary once more, with these arguments, to be inside as soon as it calls
    /// [`Inside::enter`].
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("/proc is mounted"));
        command.args(arguments).env(GROUP, &self.group).env("TMPDIR", self.folder.path());
        command
    }

    /// Waits for a process inside, and kills it when it takes longer than this.
    pub(crate) fn finish(&self, child: &mut Child, limit: Duration) -> io::Result<Option<i32>> {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            if let Some(status) = child.try_wait()? {
                return Ok(status.code());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill()?;
        child.wait()?;
        Ok(None)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let end = Instant::now() + PATIENCE;
        loop {
            // Only what a test has started is in here.
            for pid in members(&self.group) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            for child in fs::read_dir(&self.group).into_iter().flatten().flatten() {
                for pid in members(&child.path()) {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
                let _ = fs::remove_dir(child.path());
            }
            match fs::remove_dir(&self.group) {
                Err(error) if error.kind() != io::ErrorKind::NotFound && Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    panic!("{} is left behind: {error}", self.group.display())
                }
                _ => return,
            }
        }
    }
}

/// Removes the empty groups of test runs that were killed.
fn remove_leftovers(home: &Path) {
    for group in fs::read_dir(home).into_iter().flatten().flatten() {
        let name = group.file_name();
        let words = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split_once('-'));
        let runs = |pid: &str| Path::new("/proc").join(pid).exists();
        if words.is_some_and(|(pid, _)| !runs(pid)) {
            let _ = fs::remove_dir(group.path());
        }
    }
}

fn members(group: &Path) -> Vec<i32> {
    let list = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    list.lines().filter_map(|pid| pid.parse().ok()).collect()
}

/// Our own control group, by the mount table and `/proc/self/cgroup`.
fn own_group() -> Option<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let root = table.lines().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        source.starts_with("cgroup2 ").then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })?;
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(root.join(own))
}

/// The inside, for a process that has one thread.
#[derive(Debug)]
pub(crate) struct Inside {
    group: PathBuf,
    pins: PathBuf,
}

impl Inside {
    /// Enters the group and namespaces of its own; from here on nothing reaches the machine.
    pub(crate) fn enter() -> Self {
        let group = PathBuf::from(std::env::var_os(GROUP).expect("started by a sandbox"));
        fs::write(group.join("cgroup.procs"), "0").expect("the group is ours");
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("root");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("root");
        let folder = std::env::temp_dir().join("bpf");
        fs::create_dir_all(&folder).expect("the folder is ours");
        mount(Some("bpf"), &folder, Some("bpf"), MsFlags::empty(), none).expect("root");
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.expect("ip starts").success(), "loopback comes up");
        Self { group, pins: folder.join("portkeep") }
    }

    /// The group, the parent of any that a test makes.
    pub(crate) fn group(&self) -> &Path {
        &self.group
    }

    /// Where the engine is pinned.
    pub(crate) fn pins(&self) -> &Path {
        &self.pins
    }

    pub(crate) fn site(&self) -> Site {
        Site { cgroup: Some(self.group.clone()), pin_dir: Some(self.pins.clone()) }
    }

    /// How to load the engine here. Every socket of the namespace is made in the group, as on a
    /// machine where the engine is loaded for all.
    pub(crate) fn options(&self) -> Load {
        Load { site: self.site(), assume_exclusive: true, ..Load::default() }
    }

    /// Loads the engine.
    pub(crate) fn load(&self) {
        portkeep::load::load(&self.options()).expect("the engine loads");
    }
}
