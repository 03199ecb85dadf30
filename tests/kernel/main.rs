//! What the kernel engine promises beyond the contract of every engine, asked of a real kernel.
//!
//! Each test is a process of its own, in a control group, a network namespace and a BPF file system
//! of its own, with an engine loaded there that nobody else sees. At its end everything must be as it
//! was when the engine was loaded: no reservation, no charge, no table in use.
//!
//! The findings of an early review of the design, where somebody played the attacker, are tests
//! here; their names begin with `a` and the number of the finding.

mod client;
mod command;
mod host;
mod maps;
#[path = "../support/sandbox.rs"]
mod sandbox;
#[path = "../../src/sys/socket.rs"]
#[expect(dead_code, reason = "the library's own system calls, shared because they are not public")]
mod socket;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "shared with tests that need more of it")]
mod support;

mod abi;
mod adoption;
mod compat;
mod connects;
mod consume;
mod crowd;
mod daemons;
mod descendants;
mod ephemeral;
mod grants;
mod kinds;
mod life_cycle;
mod lifetime;
mod malformed;
mod memory;
mod neighbours;
mod options;
mod programs;
mod quota;
mod races;
mod spaces;
mod state;
mod storm;
mod strangers;
mod subtree;
mod tools;
mod unbidden;
mod walk;
mod who;
mod words;

/// What `socket.rs` expects of its crate.
mod ports {
    pub(crate) use portkeep::Protocol;
}

use std::io::Read;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};

use self::host::{Case, Host};
use self::sandbox::Sandbox;

/// The first argument of the process that is a test.
const INSIDE: &str = "inside";

const MODULES: &[&[Case]] = &[
    abi::CASES,
    command::CASES,
    adoption::CASES,
    compat::CASES,
    connects::CASES,
    consume::CASES,
    crowd::CASES,
    descendants::CASES,
    daemons::CASES,
    ephemeral::CASES,
    ephemeral::CASES_WITHOUT_ENGINE,
    grants::CASES,
    kinds::CASES,
    life_cycle::CASES,
    life_cycle::CASES_WITHOUT_ENGINE,
    lifetime::CASES,
    malformed::CASES,
    memory::CASES,
    neighbours::CASES,
    neighbours::CASES_WITHOUT_ENGINE,
    options::CASES,
    programs::CASES,
    quota::CASES,
    races::CASES,
    spaces::CASES,
    storm::CASES,
    strangers::CASES,
    strangers::CASES_WITHOUT_ENGINE,
    subtree::CASES,
    unbidden::CASES,
    subtree::CASES_WITHOUT_ENGINE,
    walk::CASES,
    who::CASES,
    words::CASES,
];

fn main() -> ExitCode {
    let cases = || MODULES.iter().copied().flatten();
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(INSIDE) {
        let name = words.next().expect("the name of a test");
        let case = cases().find(|case| case.name == name).expect("a test of this binary");
        Host::enter(case).run(case);
        return ExitCode::SUCCESS;
    }
    let mut arguments = Arguments::from_args();
    // Some tests want both processors for themselves.
    arguments.test_threads.get_or_insert(1);
    let trials = cases().map(|case| Trial::test(case.name, || inside(case))).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Runs one test in a sandbox; what it prints is shown if it fails, and in long form always.
fn inside(case: &'static Case) -> Result<(), Failed> {
    let Some(sandbox) = Sandbox::new() else { return Ok(()) };
    let mut command = sandbox.command(&[INSIDE, case.name]);
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut said = child.stderr.take().expect("a pipe");
    // Read to the end by a thread: a pipe that is full would stop the test.
    let said = std::thread::spawn(move || {
        let mut text = String::new();
        said.read_to_string(&mut text).map(|_| text)
    });
    let limit =
        Duration::from_secs(if std::env::var_os(support::LONG).is_some() { 3600 } else { 120 });
    let status = sandbox.finish(&mut child, limit)?;
    drop(sandbox);
    let said = said.join().expect("reading does not panic")?;
    match status {
        Some(0) => {
            eprint!("{said}");
            Ok(())
        }
        Some(_) => Err(said.into()),
        None => Err(format!("killed by a signal, or still running after {limit:?}\n{said}").into()),
    }
}
