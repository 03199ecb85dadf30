//! `portkeep acquire`: hold ports for others to see.

use std::io::Write;
use std::process::ExitCode;

use portkeep::{Grant, Protocol, Reservation, Token};
use serde_json::json;

use crate::blocks::Blocks;
use crate::exit::{Exit, Failure};
use crate::until::{Until, While};

/// Reserve ports and hold them
///
/// Prints one line of JSON for every block, then holds them all until SIGTERM, SIGINT or SIGHUP
/// comes, or as long as --while says. When it ends, however it ends, the ports are free again.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    blocks: Blocks,

    /// Hold as long as this lasts: stdin (until its end), parent, or pid:N
    #[arg(long = "while", value_name = "WHAT")]
    lasts: Option<While>,

    /// Print the token too, for tcp-udp one of each protocol
    #[arg(long)]
    token: bool,
}

const EXAMPLES: &str = "\
Examples:
  portkeep acquire --tcp +3
  portkeep acquire --tcp-udp 5000-5019 --while pid:1234

Each line has protocol (tcp, udp or tcp-udp), start, count, engine and pid.";

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let until = Until::new(args.lasts.as_ref())?;
    let blocks = args.blocks.acquire(Grant::Process)?;
    let mut stdout = std::io::stdout().lock();
    for block in &blocks {
        writeln!(stdout, "{}", describe(block, args.token))?;
    }
    stdout.flush()?;
    until.wait()?;
    Ok(Exit::Success.into())
}

fn describe(block: &Reservation, with_token: bool) -> serde_json::Value {
    let protocol: Vec<_> = block.protocols().iter().copied().map(Protocol::name).collect();
    let mut line = json!({
        "protocol": protocol.join("-"),
        "start": block.range().start(),
        "count": block.range().count(),
        "engine": block.engine().to_string(),
        "pid": std::process::id(),
    });
    if with_token {
        // Sixteen digits in a string: a JSON number of 64 bits loses its last ones in many readers.
        let text = |token: Token| format!("{:016x}", token.expose());
        line["token"] = match block.protocols() {
            [_] => text(block.token()).into(),
            both => both
                .iter()
                .filter_map(|protocol| Some((protocol.name(), text(block.token_for(*protocol)?))))
                .collect(),
        };
    }
    line
}
