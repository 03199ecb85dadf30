//! `portkeep who`: who has a port.

use std::io::Write;
use std::process::ExitCode;
use std::str::FromStr;

use portkeep::{Holder, Occupant, PortRange, Protocol};
use serde_json::json;

use crate::exit::{Exit, Failure};

/// Show who reserved a port, and who has a socket on it
///
/// Any user may ask. Ends with status 1 when nobody has the port.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A port, of both protocols or of one: 5432, tcp/5432, udp/5432
    #[arg(value_name = "PORT")]
    port: Port,

    /// Print JSON, one line for every holder and socket
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  portkeep who 5432
  portkeep who udp/53 --json";

#[derive(Clone, Debug)]
struct Port {
    number: u16,
    protocols: &'static [Protocol],
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (protocols, number): (&'static [Protocol], &str) = match text.split_once('/') {
            None => (&[Protocol::Tcp, Protocol::Udp], text),
            Some(("tcp", number)) => (&[Protocol::Tcp], number),
            Some(("udp", number)) => (&[Protocol::Udp], number),
            Some((other, _)) => return Err(format!("'{other}' is neither tcp nor udp")),
        };
        match number.parse() {
            Ok(number) if number > 0 => Ok(Self { number, protocols }),
            _ => Err("write a port from 1 to 65535, such as 5432 or tcp/5432".to_owned()),
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let Port { number, protocols } = args.port;
    let range = PortRange::new(number, 1)?;
    let mut stdout = std::io::stdout().lock();
    let mut nobody = true;
    for protocol in protocols {
        let name = format!("{}/{number}", protocol.name());
        let holder = portkeep::holder(*protocol, number)?;
        if let Some(holder) = &holder {
            writeln!(stdout, "{}", show_holder(args.json, *protocol, &name, holder))?;
        }
        let occupants = portkeep::occupants(*protocol, range)?;
        for occupant in &occupants {
            writeln!(stdout, "{}", show_occupant(args.json, *protocol, &name, occupant))?;
        }
        nobody &= holder.is_none() && occupants.is_empty();
    }
    if nobody && !args.json {
        let names: Vec<_> =
            protocols.iter().map(|protocol| format!("{}/{number}", protocol.name())).collect();
        writeln!(stdout, "{}: nobody", names.join(" and "))?;
    }
    Ok(if nobody { Exit::Nobody } else { Exit::Success }.into())
}

fn show_holder(as_json: bool, protocol: Protocol, name: &str, holder: &Holder) -> String {
    let Holder { range, pid, uid, command, .. } = holder;
    if as_json {
        let line = json!({
            "what": "reservation",
            "protocol": protocol.name(),
            "start": range.start(),
            "count": range.count(),
            "pid": pid,
            "uid": uid,
            "command": command,
        });
        return line.to_string();
    }
    let block = if range.count() > 1 { format!(", with all of {range},") } else { String::new() };
    format!("{name}: reserved{block} by {holder}")
}

fn show_occupant(as_json: bool, protocol: Protocol, name: &str, occupant: &Occupant) -> String {
    if as_json {
        let line = json!({
            "what": "socket",
            "protocol": protocol.name(),
            "port": occupant.port,
            "pid": occupant.pid,
            "uid": occupant.uid,
            "command": occupant.command,
        });
        return line.to_string();
    }
    format!("{name}: a socket of {occupant}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_of_both_protocols_or_of_one() {
        let port = |text: &str| text.parse::<Port>();
        assert_eq!(port("5432").unwrap().protocols.len(), 2);
        assert_eq!(port("udp/53").unwrap().protocols, [Protocol::Udp]);
        assert_eq!(port("tcp/65535").unwrap().number, 65535);
        for text in ["", "0", "tcp/0", "65536", "icmp/1", "tcp", "tcp/", "5-6", "-1"] {
            assert!(port(text).is_err(), "{text}");
        }
    }
}
