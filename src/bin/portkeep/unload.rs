//! `portkeep unload`: take the kernel engine out of force.

use std::io::Write;
use std::process::ExitCode;

use portkeep::load::Outcome;

use crate::exit::{Exit, Failure};
use crate::site::Site;

/// Unload the kernel engine
///
/// Reserved ports are free for everybody from then on; sockets that are bound keep their ports.
/// Programs that had reservations find their tokens dead. Needs root.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    site: Site,

    /// Unload although reservations live, which ends them all
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let text = match portkeep::load::unload(&args.site.site(), args.force)? {
        Outcome::Done => "the kernel engine is unloaded",
        Outcome::Already => "the kernel engine was not loaded",
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(Exit::Success.into())
}
