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
#[path = "../support/sandbox.rs"]
#[expect(dead_code, reason = "shared with tests that need more of it")]
mod sandbox;
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

/// The first argument of the process that asks one engine.
const ENGINE: &str = "engine";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.first().map(String::as_str) {
        Some(helper::ARGUMENT) => {
            helper::serve();
            ExitCode::SUCCESS
        }
        Some(ENGINE) => {
            let engine = ENGINES.iter().find(|engine| engine.name == words[1]).expect("an engine");
            let _in_force = (engine.enter)();
            ask(engine, Arguments::from_iter([&words[1]].into_iter().chain(&words[2..])))
        }
        _ => {
            let failed =
                ENGINES.iter().filter(|engine| !in_its_own_process(engine, &words)).count();
            u8::try_from(failed).map_or(ExitCode::FAILURE, ExitCode::from)
        }
    }
}

/// Every engine has a process of its own, because a process has one engine.
fn in_its_own_process(engine: &EngineUnderTest, arguments: &[String]) -> bool {
    let Some(place) = (engine.place)() else { return true };
    let mut command = place.command(&[ENGINE, engine.name]);
    command.args(arguments).env("PORTKEEP_ENGINE", engine.name);
    command.status().expect("this binary starts").success()
}

fn ask(engine: &'static EngineUnderTest, mut arguments: Arguments) -> ExitCode {
    // One after the other: a child that another test starts has, between fork and exec, copies of
    // our sockets, and a port that a test has just given up is not free before they are closed.
    arguments.test_threads.get_or_insert(1);
    // Enough for the largest blocks, on machines that start everybody with 1,024.
    portkeep::raise_descriptor_limit(2048).expect("the hard limit allows two thousand sockets");

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
    let trials = cases.iter().copied().flatten().map(|case| trial(engine, case)).collect();
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
