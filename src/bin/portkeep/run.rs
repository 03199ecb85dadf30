//! `portkeep run`: start a command on ports that are reserved for it.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus};

use portkeep::{Grant, Protocol};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, setrlimit};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::origin::WithOrigin;
use signal_hook::low_level::siginfo::Cause;

use crate::blocks::{Blocks, ranges};
use crate::exit::{Exit, Failure};
use crate::places::Places;

/// Reserve ports and run a command on them
///
/// The command sees its first port as PORT, all of them as PORTKEEP_TCP and PORTKEEP_UDP (comma
/// lists, up to 1,000 ports) and PORTKEEP_TCP_RANGE and PORTKEEP_UDP_RANGE. In its arguments {tcp}
/// stands for the first TCP port, {tcp.2} for the second, {tcp.first}, {tcp.last} and {tcp.range}
/// for what they say, and the same with udp; {{ is a brace.
///
/// The ports stay reserved as long as the command runs. Signals are passed on to it.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    blocks: Blocks,

    /// The command and its arguments
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  portkeep run -- python3 -m http.server {tcp}
  portkeep run --tcp 8080 -- ./server --port 8080
  portkeep run --tcp +2 --udp 5000-5019 --even -- ./media {tcp.1} {tcp.2} {udp.first} {udp.last}

With the userspace engine a server gets in if it sets SO_REUSEADDR, as most TCP servers do.";

/// What is passed on; the terminal's stop and continue reach the command without us.
const PASSED_ON: [i32; 6] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    // Before anything can need them: a signal that comes early is passed on late, not lost.
    let mut signals = catch_signals()?;
    let blocks = args.blocks.acquire(Grant::Descendants)?;
    let places =
        Places { tcp: ranges(&blocks, Protocol::Tcp), udp: ranges(&blocks, Protocol::Udp) };

    let mut command = Command::new(&args.command[0]);
    for argument in &args.command[1..] {
        command.arg(places.fill(argument).map_err(Failure::new)?);
    }
    places.tell(&mut command);
    let mut child = blocks[0].spawn(&mut command).map_err(|error| {
        let not_found = error.errno() == Some(rustix::io::Errno::NOENT.raw_os_error());
        let exit = if not_found { Exit::NotFound } else { Exit::CannotStart };
        Failure { exit, text: error.to_string() }
    })?;
    let status = wait(&mut child, &mut signals)?;
    drop(blocks);
    Ok(end_like(status))
}

fn catch_signals() -> Result<SignalsInfo<WithOrigin>, Failure> {
    // A signal that is ignored, as nohup(1) does, must stay so in the command: a handler of ours
    // would make it the default one there.
    let ignored = ignored_signals();
    let caught = PASSED_ON.into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0);
    Ok(SignalsInfo::new(caught.chain([SIGCHLD]))?)
}

/// The signals this process was started with ignored, bit by bit; none where `/proc` cannot tell.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Passes signals on until the command ends.
fn wait(child: &mut Child, signals: &mut SignalsInfo<WithOrigin>) -> Result<ExitStatus, Failure> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        for origin in signals.wait() {
            // What the terminal sends, it sends to the command as well.
            let from_terminal = matches!(origin.cause, Cause::Kernel);
            let signal = Signal::from_named_raw(origin.signal);
            if let Some(signal) = signal.filter(|signal| *signal != Signal::CHILD && !from_terminal)
            {
                // Until we have waited for it, the id is the command's and nobody else's.
                let _ = kill_process(Pid::from_child(child), signal);
            }
        }
    }
}

/// Ends as the command did: with its status, or by the signal that killed it.
fn end_like(status: ExitStatus) -> ExitCode {
    if let Some(signal) = status.signal() {
        // If it left a core file, ours would only overwrite it.
        let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
        let _ = signal_hook::low_level::emulate_default_handler(signal);
        // Here only when the signal is blocked or does not kill us: say it as a shell does.
        return ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX));
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    ExitCode::from(code.unwrap_or(u8::MAX))
}
