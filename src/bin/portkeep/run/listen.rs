//! `--listen-fds`: sockets for the command that are bound, and listen, before it starts.
//!
//! [sd_listen_fds(3)](https://www.freedesktop.org/software/systemd/man/sd_listen_fds.html) is the
//! command's side of it.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use portkeep::{Protocol, Reservation};

use super::exit_of;
use crate::exit::Failure;

/// The name of [`Shim`] among the verbs.
const SHIM: &str = "exec-as-listener";

/// Set LISTEN_PID to the own process and become the command
///
/// The number is not known before the process is there, and after that nothing but this program's own
/// code can change its environment.
#[derive(clap::Args, Debug)]
#[command(name = SHIM)]
pub(crate) struct Shim {
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
}

pub(crate) fn exec(args: &Shim) -> Result<ExitCode, Failure> {
    let program = &args.command[0];
    let cause = Command::new(program)
        .args(&args.command[1..])
        .env("LISTEN_PID", std::process::id().to_string())
        .exec();
    let text = format!("cannot start '{}': {cause}", program.to_string_lossy());
    Err(Failure { exit: exit_of(cause.raw_os_error()), text })
}

/// The command, with a socket for every port.
pub(super) fn command(
    blocks: &[Reservation],
    words: &[OsString],
    names: &str,
    address: Option<IpAddr>,
) -> Result<Command, Failure> {
    let ports: Vec<(&Reservation, Protocol, u16)> = [Protocol::Tcp, Protocol::Udp]
        .into_iter()
        .flat_map(|protocol| {
            let blocks = blocks.iter().filter(move |block| block.protocols().contains(&protocol));
            blocks.flat_map(move |block| {
                block.range().iter().map(move |port| (block, protocol, port))
            })
        })
        .collect();
    let names = if names.is_empty() {
        let names = ports.iter().map(|(_, protocol, port)| format!("{}-{port}", protocol.name()));
        names.collect::<Vec<_>>().join(":")
    } else {
        check(names, ports.len())?;
        names.to_owned()
    };

    // A socket, its number in the command, and something that keeps that number free.
    portkeep::raise_descriptor_limit(3 * ports.len())?;
    let sockets =
        ports.iter().map(|(block, protocol, port)| open(block, *protocol, *port, address));
    let sockets = sockets.collect::<Result<Vec<_>, _>>()?;

    let mut command = Command::new(std::env::current_exe()?);
    command.args([SHIM, "--"]).args(words);
    command.env("LISTEN_FDS", ports.len().to_string()).env("LISTEN_FDNAMES", names);
    // Of a service manager that started us, and not about this command.
    command.env_remove("LISTEN_PIDFDID");
    portkeep::pass_descriptors(&mut command, sockets)?;
    Ok(command)
}

/// As many names as there are ports, of which a colon and control characters cannot be a part.
fn check(names: &str, ports: usize) -> Result<(), Failure> {
    let count = names.split(':').count();
    if count != ports {
        let text = format!("--listen-fds: as many names as ports are needed, {ports}, not {count}");
        return Err(Failure::new(text));
    }
    match names.split(':').find(|name| {
        name.is_empty() || name.len() > 255 || !name.bytes().all(|byte| (b' '..127).contains(&byte))
    }) {
        None => Ok(()),
        Some(name) => Err(Failure::new(format!(
            "--listen-fds: '{}' is no name; write 1 to 255 ASCII characters",
            name.escape_debug()
        ))),
    }
}

fn open(
    block: &Reservation,
    protocol: Protocol,
    port: u16,
    address: Option<IpAddr>,
) -> portkeep::Result<OwnedFd> {
    let open = |address: IpAddr| {
        let address = SocketAddr::new(address, port);
        match protocol {
            Protocol::Udp => block.udp_socket(address).map(OwnedFd::from),
            _ => block.listener(address).map(OwnedFd::from),
        }
    };
    let no_ipv6 = Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error());
    match address {
        Some(address) => open(address),
        None => match open(Ipv6Addr::UNSPECIFIED.into()) {
            Err(error) if error.errno() == no_ipv6 => open(Ipv4Addr::UNSPECIFIED.into()),
            socket => socket,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_name_for_every_port() {
        check("http:https", 2).unwrap();
        check("one with spaces", 1).unwrap();
        for names in ["http", "a:b:c", "a:", ":b", "a:\n", "a:\u{e4}", &format!("a:{:256}", 'b')] {
            assert!(check(names, 2).is_err(), "{names}");
        }
    }
}
