//! What a reservation promises, asked of every engine.
//!
//! A test is named after what it asks: `t` and a number for a line of the specification's
//! section 12, `r` for a rule of another section, then the claim. An engine is one line in
//! `engine.rs`. `helper.rs` is the other process.

mod acquire;
mod atomicity;
mod bind;
mod engine;
mod families;
mod guard;
mod helper;
mod in_use;
mod kinds;
mod lifetime;
mod options;
mod ownership;
mod sharing;
mod sockets;
mod spawn;
mod strangers;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "shared with tests that need more of it")]
mod support;
mod tokens;
mod traffic;

use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};

use self::engine::{Case, ENGINES, EngineUnderTest, Host};

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(helper::ARGUMENT) {
        helper::serve();
        return ExitCode::SUCCESS;
    }
    let mut arguments = Arguments::from_args();
    // One after the other: a child that another test starts has, between fork and exec, copies of
    // our sockets, and a port that a test has just given up is not free before they are closed.
    arguments.test_threads.get_or_insert(1);
    if !ENGINES.is_empty() {
        // Enough for the largest blocks, on machines that start everybody with 1,024.
        portkeep::raise_descriptor_limit(2048).expect("the hard limit allows two thousand sockets");
    }

    let cases = [
        acquire::CASES,
        atomicity::CASES,
        bind::CASES,
        families::CASES,
        guard::CASES,
        in_use::CASES,
        kinds::CASES,
        lifetime::CASES,
        options::CASES,
        ownership::CASES,
        sharing::CASES,
        spawn::CASES,
        strangers::CASES,
        tokens::CASES,
        traffic::CASES,
    ];
    let trials = ENGINES
        .iter()
        .flat_map(|engine| cases.iter().copied().flatten().map(|case| trial(engine, case)))
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// So long may one test take; each takes a fraction of a second.
const LIMIT: Duration = Duration::from_secs(60);

/// A thread for every test: it carries the test's name, and takes a namespace with it.
fn trial(engine: &'static EngineUnderTest, case: &'static Case) -> Trial {
    let name = format!("{}::{}", engine.name, case.name);
    Trial::test(name.clone(), move || {
        let body = move || {
            if let Some(host) = Host::new(engine) {
                (case.run)(&host);
            }
        };
        let (running, ended) = mpsc::channel::<()>();
        let thread = thread::Builder::new().name(name).spawn(move || {
            let _until_the_end = running;
            body();
        })?;
        if ended.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
            return Err(format!("still waiting after {LIMIT:?}").into());
        }
        thread.join().map_err(|panic| Failed::from(message(panic.as_ref())))
    })
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panicked without a text")
}
