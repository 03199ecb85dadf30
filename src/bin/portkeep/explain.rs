//! From an error to a line that names the port, the holder and the way out.

use portkeep::{Error, ErrorKind, PortRange, Protocol, occupants};

pub(crate) fn explain(error: &Error) -> String {
    match (error.kind(), error.port()) {
        (ErrorKind::AddressInUse, Some((protocol, port))) => {
            format!("{error} {}", holder(protocol, port))
        }
        _ => error.to_string(),
    }
}

fn holder(protocol: Protocol, port: u16) -> String {
    let way_out = "choose another port, or +1 for any that is free";
    if let Ok(Some(holder)) = portkeep::holder(protocol, port) {
        return format!("by {holder}; stop it with 'kill {}', or {way_out}", holder.pid);
    }
    let range = PortRange::new(port, 1).expect("the port of an error is a port");
    let occupants = match occupants(protocol, range) {
        Ok(occupants) => occupants,
        Err(why) => return format!("(its holder cannot be seen: {why}); {way_out}"),
    };
    match occupants.as_slice() {
        [] if protocol == Protocol::Tcp => format!(
            "by nobody's open socket: closing connections keep it for a minute; wait, or {way_out}"
        ),
        [] => format!("but by now its holder is gone; try again, or {way_out}"),
        [first, others @ ..] => {
            let more = match others.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let stop = match first.pid {
                Some(pid) => format!("stop it with 'kill {pid}'"),
                None => "ask root, who can see which".to_owned(),
            };
            format!("by {first}{more}; {stop}, or {way_out}")
        }
    }
}
