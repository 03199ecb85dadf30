//! What the test binaries share.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, setns, unshare};

/// Set in CI: what cannot run is a failure there, instead of a line on standard error.
pub(crate) const ALL: &str = "PORTKEEP_TEST_ALL";

/// Set by hand for the long form of a test.
pub(crate) const LONG: &str = "PORTKEEP_TEST_LONG";

/// `short`, or `long` when the long form was asked for.
pub(crate) fn rounds(short: usize, long: usize) -> usize {
    if std::env::var_os(LONG).is_some() { long } else { short }
}

/// Says in spite of output capture that a test was left out, and fails it where nothing may be.
pub(crate) fn left_out(why: &str) {
    assert!(std::env::var_os(ALL).is_none(), "{ALL} is set, but this was left out: {why}");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    writeln!(std::io::stderr(), "LEFT OUT {test}: {why}").expect("standard error is there");
}

/// True when this program of a package is installed; otherwise the test is left out.
pub(crate) fn installed(program: &str, package: &str) -> bool {
    let found = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/bin"]
        .iter()
        .any(|folder| Path::new(folder).join(program).exists());
    if !found {
        left_out(&format!("'{program}' is not installed (package {package})"));
    }
    found
}

/// A network namespace of this thread's own, with loopback up. Children started by this thread live
/// in it too. The thread goes back on drop, and the namespace ends with the last socket in it.
#[derive(Debug)]
pub(crate) struct NetNs {
    before: File,
}

impl NetNs {
    /// Leaves the test out without root or without `ip`.
    pub(crate) fn enter() -> Option<Self> {
        if !installed("ip", "iproute2") {
            return None;
        }
        let before = File::open("/proc/thread-self/ns/net").expect("/proc is mounted");
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            left_out(&format!("a network namespace of its own needs root: {error}"));
            return None;
        }
        let entered = Self { before };
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.expect("ip starts").success(), "loopback comes up");
        Some(entered)
    }

    /// Sets `net.ipv4.ip_local_port_range` of this namespace, and of no other.
    pub(crate) fn ephemeral(&self, first: u16, last: u16) {
        self.set("net/ipv4/ip_local_port_range", &format!("{first} {last}"));
    }

    /// Writes a setting under `/proc/sys`, which shows the namespace of the calling thread.
    pub(crate) fn set(&self, name: &str, value: &str) {
        let inside = std::fs::metadata("/proc/thread-self/ns/net").expect("/proc is mounted");
        let outside = self.before.metadata().expect("an open file");
        let inode = std::os::unix::fs::MetadataExt::ino;
        assert_ne!(
            inode(&inside),
            inode(&outside),
            "the machine's settings are not ours to change"
        );
        std::fs::write(format!("/proc/sys/{name}"), value).expect(name);
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        setns(&self.before, CloneFlags::CLONE_NEWNET).expect("the way back is open");
    }
}
