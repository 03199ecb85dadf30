//! The `portkeep` command: one file a verb, each with its arguments, its help and what it does.

mod acquire;
mod blocks;
mod exit;
mod explain;
mod guard;
mod load;
#[cfg(test)]
mod man;
mod places;
mod run;
mod site;
mod status;
mod terminal;
mod unload;
mod until;
mod who;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::exit::{Exit, Failure};

/// Reserve TCP and UDP ports that are really yours
///
/// A reserved port is handed to nobody else: not by automatic assignment, not to an outgoing
/// connection, not to another program that asks for it. When the holder ends, however it ends, the
/// ports are free again.
///
/// PORTS, in every command: 8080 (that port), 5000-5019 or 5000+20 (those twenty), +3 (three in a
/// row from the pool).
#[derive(Parser)]
#[command(name = "portkeep", version, max_term_width = 100, after_help = exit::HELP)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Run(run::Args),
    Acquire(acquire::Args),
    Who(who::Args),
    Status(status::Args),
    Load(load::Args),
    Unload(unload::Args),
    #[command(hide = true)]
    ExecAsListener(run::Shim),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(answer) => {
            use clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand as NoArguments;
            if answer.use_stderr() && answer.kind() != NoArguments {
                return report(&Failure::new(one_line(&answer)));
            }
            let _ = answer.print();
            return if answer.use_stderr() { Exit::Ours } else { Exit::Success }.into();
        }
    };
    let result = match cli.verb {
        Verb::Run(args) => run::run(&args),
        Verb::Acquire(args) => acquire::run(&args),
        Verb::Who(args) => who::run(&args),
        Verb::Status(args) => status::run(&args),
        Verb::Load(args) => load::run(&args),
        Verb::Unload(args) => unload::run(&args),
        Verb::ExecAsListener(args) => run::exec(&args),
    };
    result.unwrap_or_else(|failure| report(&failure))
}

/// What is wrong with the arguments, without the usage that clap prints below it.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let what: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .filter(|line| !line.is_empty())
        .collect();
    let what = what.join(" ");
    format!("{}; try --help", what.trim_start_matches("error: "))
}

/// Prints the one line that every failure gets.
fn report(failure: &Failure) -> ExitCode {
    let mut stderr = std::io::stderr();
    let name = terminal::red(&stderr, "portkeep:");
    // Where standard error is gone there is nobody left to tell.
    let _ = writeln!(stderr, "{name} {}", failure.text);
    failure.exit.into()
}
