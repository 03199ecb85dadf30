//! `portkeep run`: start a command on ports that are reserved for it, and keep them for it and for
//! everything it leaves behind.

mod detach;
mod life;
mod listen;
mod signals;

use std::ffi::OsString;
use std::io::Write;
use std::process::{Child, Command, ExitCode};

use portkeep::{Grant, Protocol, Reservation};
use rustix::process::{getpid, set_child_subreaper};

use self::detach::{Caller, Withdrawal};
use self::signals::Signals;
use crate::blocks::{Blocks, ranges};
use crate::exit::{Exit, Failure};
use crate::guard::Guard;
use crate::places::Places;

/// Reserve ports and run a command on them
///
/// The command sees its first port as PORT, all of them as PORTKEEP_TCP and PORTKEEP_UDP (comma
/// lists, up to 1,000 ports) and PORTKEEP_TCP_RANGE and PORTKEEP_UDP_RANGE. In its arguments {tcp}
/// stands for the first TCP port, {tcp.2} for the second, {tcp.first}, {tcp.last} and {tcp.range}
/// for what they say, and the same with udp; {{ is a brace.
///
/// The ports stay reserved until the command and everything it has left behind have ended, daemons
/// included; then 'run' ends as the command did. Signals are passed on to the command, and when that
/// has ended, to the processes it has left. Where 'run' itself is killed with kill -9, the ports are
/// free, and the command goes on without a guard.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    blocks: Blocks,

    /// Return as soon as the command has ended; a keeper holds the ports for what it has left
    ///
    /// For a command that goes into the background by itself. One that stays in the foreground is
    /// waited for. The keeper ends with the last process that is left, and passes signals on to
    /// them. As process 1 of a container 'run' stays, because everything would end with it.
    #[arg(long)]
    detach: bool,

    /// Pass sockets that are open already, as systemd does: descriptors 3 and up, first TCP then UDP
    ///
    /// LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES tell of them; NAMES are as many names as there are
    /// ports, with colons between them, tcp-8080 and the like when left out. TCP sockets listen before
    /// the server is ready: connections wait for it instead of being refused. The server must know
    /// how to take them.
    #[arg(
        long,
        value_name = "NAMES",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = ""
    )]
    listen_fds: Option<String>,

    /// The local address of the sockets of --listen-fds; all of them when left out
    #[arg(long, value_name = "ADDRESS", requires = "listen_fds")]
    listen_on: Option<std::net::IpAddr>,

    /// Say on standard error how the ports are guarded
    #[arg(short, long)]
    verbose: bool,

    /// We are the keeper that --detach leaves behind; says who waits for us to tell
    #[arg(long, hide = true)]
    keeper_of: Option<Caller>,

    /// The command and its arguments
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  portkeep run -- python3 -m http.server {tcp}
  portkeep run --tcp 8080 -- ./server --port 8080
  portkeep run --tcp +2 --udp 5000-5019 --even -- ./media {tcp.1} {tcp.2} {udp.first} {udp.last}
  portkeep run --tcp 8080 --detach -- nginx
  portkeep run --tcp 8080 --listen-fds=http -- ./socket-activated

With the userspace engine a server gets in if it sets SO_REUSEADDR, as most TCP servers do.";

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    match &args.keeper_of {
        None if args.detach && !getpid().is_init() => detach::through_a_keeper(),
        None => {
            let status = keep(args, None)?;
            Ok(life::end_like(status))
        }
        Some(caller) => {
            keep(args, Some(Withdrawal::before(caller)?))?;
            Ok(Exit::Success.into())
        }
    }
}

/// Runs the command and stays until nothing is left of it.
fn keep(args: &Args, withdrawal: Option<Withdrawal>) -> Result<std::process::ExitStatus, Failure> {
    // Before anything can need them: a signal that comes early is passed on late, not lost.
    let mut signals = Signals::catch()?;
    // A daemon loses its parents on its way into the background, and gets us instead.
    set_child_subreaper(Some(getpid())).map_err(std::io::Error::from)?;
    let blocks = args.blocks.acquire(Grant::Descendants)?;
    let places =
        Places { tcp: ranges(&blocks, Protocol::Tcp), udp: ranges(&blocks, Protocol::Udp) };
    let mut words = Vec::with_capacity(args.command.len());
    words.push(args.command[0].clone());
    for argument in &args.command[1..] {
        words.push(places.fill(argument).map_err(Failure::new)?);
    }
    let mut command = match &args.listen_fds {
        None => {
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]);
            command
        }
        Some(names) => listen::command(&blocks, &words, names, args.listen_on)?,
    };
    places.tell(&mut command);
    let (child, guard) = start(&blocks, &mut command)?;
    // Sockets that were passed are the command's alone from here on.
    drop(command);
    if args.verbose {
        // Nobody may be there to read it.
        let _ = writeln!(std::io::stderr(), "guard: {guard}");
    }
    life::outlive(&child, &mut signals, |status| {
        if let Some(withdrawal) = withdrawal {
            withdrawal.withdraw(status);
        }
    })
}

/// Starts the command, and tells what guards its ports.
fn start(blocks: &[Reservation], command: &mut Command) -> Result<(Child, Guard), Failure> {
    let guard = Guard::of(&portkeep::status()?);
    let child = blocks[0].spawn(command).map_err(|error| {
        let exit = exit_of(error.errno());
        Failure { exit, text: error.to_string() }
    })?;
    Ok((child, guard))
}

/// What it means that a command cannot be started for this reason.
fn exit_of(errno: Option<i32>) -> Exit {
    let not_found = errno == Some(rustix::io::Errno::NOENT.raw_os_error());
    if not_found { Exit::NotFound } else { Exit::CannotStart }
}

pub(crate) use listen::{Shim, exec};
