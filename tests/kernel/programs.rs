//! Other languages: a reservation is plain socket options, and needs neither us nor privilege.

pub(crate) mod compiler;
pub(crate) mod peer;

use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use portkeep::Protocol;

use self::compiler::{compiled, file, folder};
use self::peer::{NOBODY, as_user};
use crate::client::{Holder, errno, open, query, stranger};
use crate::host::{Host, cases};
use crate::support::installed;

cases![
    an_unprivileged_program_in_c_has_a_block_and_serves_on_it,
    an_unprivileged_program_in_python_has_a_block_and_serves_on_it,
    an_unprivileged_program_in_rust_has_a_block,
];

/// What the examples print, `61004 of 61002+4`, and what the kernel says of it.
fn announced(line: &str) -> (u16, Holder) {
    let numbers: Vec<u16> = line
        .split(|byte: char| !byte.is_ascii_digit())
        .filter_map(|word| word.parse().ok())
        .collect();
    let [at, start, count] = numbers[..] else { panic!("{line:?}") };
    assert!(start >= 61000 && (start..start + count).contains(&at), "{line:?}");
    let anybody = open(Protocol::Tcp);
    let holder = query(&anybody, at).unwrap().expect("it is reserved");
    assert_eq!((holder.start, holder.count, holder.kind), (start, count, 1));
    for one in start..start + count {
        assert_eq!(query(&anybody, one).unwrap().as_ref(), Some(&holder));
        let refused = stranger(Protocol::Tcp, (Ipv4Addr::LOCALHOST, one));
        assert_eq!(errno(refused), libc::EADDRINUSE);
    }
    (at, holder)
}

/// Runs an example as somebody without privilege, up to where it waits, and then to its end.
fn example_works(mut command: Command, name: &str) {
    let command = as_user(&mut command, NOBODY).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    let (at, holder) = announced(&line);
    assert_eq!((holder.pid, holder.uid, holder.command.as_str()), (child.id(), NOBODY, name));
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(query(&open(Protocol::Tcp), at).unwrap(), None);
    stranger(Protocol::Tcp, (Ipv4Addr::LOCALHOST, at)).unwrap();
}

fn an_unprivileged_program_in_c_has_a_block_and_serves_on_it(_: &Host) {
    // The header is for programs that turn every warning on, too.
    let flags = ["-Wpedantic", "-Wconversion"];
    let Some(program) = compiled("examples/kernel.c", &flags) else { return };
    example_works(Command::new(program), "kernel");
}

fn an_unprivileged_program_in_python_has_a_block_and_serves_on_it(_: &Host) {
    if !installed("python3", "python3") {
        return;
    }
    // The repository may lie where that user cannot look.
    let program = folder().join("kernel.py");
    std::fs::copy(file("examples/kernel.py"), &program).unwrap();
    let mut python = Command::new("python3");
    python.env("PATH", "/usr/local/bin:/usr/bin:/bin").arg(program);
    example_works(python, "python3");
}

fn an_unprivileged_program_in_rust_has_a_block(_: &Host) {
    let program = folder().join("portkeep");
    std::fs::copy(env!("CARGO_BIN_EXE_portkeep"), &program).unwrap();
    // The library and nothing else, up to the end of its input.
    let mut command = Command::new(program);
    command.args(["acquire", "--tcp", "+4", "--while", "stdin"]);
    let command = as_user(&mut command, NOBODY).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let block: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(block["engine"], "kernel");
    let (start, count) = (&block["start"], &block["count"]);
    let (at, holder) = announced(&format!("{start} of {start}+{count}"));
    let name = holder.command.as_str();
    assert_eq!((holder.pid, holder.uid, name), (child.id(), NOBODY, "portkeep"));
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    stranger(Protocol::Tcp, (Ipv4Addr::LOCALHOST, at)).unwrap();
}
