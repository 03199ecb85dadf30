//! The command as its users meet it: what it prints, and how it ends.

#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "shared with tests that need more of it")]
mod support;

mod acquire;
mod output;
mod run;
mod status;

use std::process::{Command, Output};
use std::sync::atomic::{AtomicU16, Ordering};

/// `portkeep`, in an environment that no test machine changes.
fn portkeep(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portkeep"));
    command.args(arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

fn outcome(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Ten ports that no other test of this binary asks for, below the ephemeral range: what a test finds
/// free or busy there, it has made so itself.
fn pool_of_its_own() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(21_000);
    let first = NEXT.fetch_add(10, Ordering::Relaxed);
    format!("{first}-{}", first + 9)
}

/// Runs it to its end and returns its status, standard output and standard error.
fn finish(arguments: &[&str]) -> (Option<i32>, String, String) {
    outcome(&portkeep(arguments).output().expect("portkeep starts"))
}

/// Asserts that it failed as portkeep, with one line that has all of these words in it.
#[track_caller]
fn refuses(arguments: &[&str], code: i32, words: &[&str]) {
    let (status, stdout, stderr) = finish(arguments);
    assert_eq!((status, stdout.as_str()), (Some(code), ""), "{arguments:?}: {stderr}");
    assert_eq!(stderr.matches('\n').count(), 1, "one line: {stderr}");
    for word in words {
        assert!(stderr.contains(word), "'{word}' is missing in: {stderr}");
    }
}
