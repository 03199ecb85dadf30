//! Where the command sees its ports: in its environment, and in its arguments as `{tcp}` and the
//! like.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::Command;

use portkeep::{PortRange, Protocol};

/// A longer list than this is left to `PORTKEEP_TCP_RANGE`: an environment has its limits.
const LONGEST_LIST: usize = 1_000;

/// The ports a command gets, by protocol.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) tcp: Vec<PortRange>,
    pub(crate) udp: Vec<PortRange>,
}

impl Places {
    fn of(&self, protocol: Protocol) -> &[PortRange] {
        match protocol {
            Protocol::Tcp => &self.tcp,
            Protocol::Udp => &self.udp,
        }
    }

    fn first(&self) -> Option<u16> {
        self.tcp.first().or(self.udp.first()).map(|range| range.start())
    }

    /// Sets `PORT`, `PORTKEEP_TCP`, `PORTKEEP_TCP_RANGE` and those of UDP, and removes what an outer
    /// `run` left there.
    pub(crate) fn tell(&self, command: &mut Command) {
        if let Some(first) = self.first() {
            command.env("PORT", first.to_string());
        }
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let ranges = self.of(protocol);
            let name = format!("PORTKEEP_{protocol}");
            let count: usize = ranges.iter().map(|range| usize::from(range.count())).sum();
            if count == 0 || count > LONGEST_LIST {
                command.env_remove(&name);
            } else {
                command.env(&name, list(ranges.iter().flat_map(|range| range.iter())));
            }
            let name = format!("{name}_RANGE");
            if ranges.is_empty() {
                command.env_remove(name);
            } else {
                command.env(name, list(ranges));
            }
        }
    }

    /// Puts ports in the place of `{tcp}`, `{tcp.2}`, `{tcp.first}`, `{tcp.last}`, `{tcp.range}` and
    /// the same with `udp`; `{{` is a brace. Every other brace stays as it is.
    pub(crate) fn fill(&self, argument: &OsStr) -> Result<OsString, String> {
        let mut rest = argument.as_bytes();
        let mut filled = Vec::with_capacity(rest.len());
        while let Some(at) = rest.iter().position(|byte| *byte == b'{') {
            filled.extend_from_slice(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(b"{") {
                filled.push(b'{');
                rest = after;
                continue;
            }
            let end = rest.iter().position(|byte| *byte == b'}').unwrap_or(0);
            match std::str::from_utf8(&rest[..end]).ok().map(|name| self.value(name)) {
                Some(Some(value)) => {
                    filled.extend_from_slice(value?.as_bytes());
                    rest = &rest[end + 1..];
                }
                _ => filled.push(b'{'),
            }
        }
        filled.extend_from_slice(rest);
        Ok(OsString::from_vec(filled))
    }

    /// What stands for `{name}`; `None` when that is no place of ours.
    fn value(&self, name: &str) -> Option<Result<String, String>> {
        let (protocol, which) = name.split_once('.').unwrap_or((name, "first"));
        let protocol = [Protocol::Tcp, Protocol::Udp].into_iter().find(|p| p.name() == protocol)?;
        let ranges = self.of(protocol);
        let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else {
            return Some(Err(format!(
                "'{{{name}}}': no {protocol} port is reserved; add --{}, or write '{{{{' for a brace",
                protocol.name()
            )));
        };
        Some(match which {
            "first" => Ok(first.start().to_string()),
            "last" => Ok(last.last().to_string()),
            "range" => Ok(list(ranges)),
            which => self.nth(protocol, which).map_err(|why| format!("'{{{name}}}': {why}")),
        })
    }

    fn nth(&self, protocol: Protocol, which: &str) -> Result<String, String> {
        let mut ports = self.of(protocol).iter().flat_map(|range| range.iter());
        let count = ports.clone().count();
        match which.parse::<usize>() {
            Ok(number @ 1..) => {
                ports.nth(number - 1).map(|port| port.to_string()).ok_or_else(|| match count {
                    1 => format!("only 1 {protocol} port is reserved"),
                    _ => format!("only {count} {protocol} ports are reserved"),
                })
            }
            _ => Err("after the dot goes first, last, range, or a number from 1 on".to_owned()),
        }
    }
}

fn list(items: impl IntoIterator<Item = impl ToString>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Places {
        let range = |text: &str| text.parse().unwrap();
        Places { tcp: vec![range("5000-5002"), range("80")], udp: vec![range("7000+2")] }
    }

    fn filled(text: &str) -> Result<String, String> {
        places().fill(OsStr::new(text)).map(|text| text.into_string().unwrap())
    }

    #[test]
    fn places_are_filled_and_other_braces_left_alone() {
        for (text, expected) in [
            ("{tcp}", "5000"),
            ("{tcp.1}{tcp.2}", "50005001"),
            ("{tcp.4}", "80"),
            ("--listen=[::]:{tcp.first}", "--listen=[::]:5000"),
            ("{tcp.last}", "80"),
            ("{udp}-{udp.last}", "7000-7001"),
            ("{tcp.range}", "5000-5002,80"),
            ("{{tcp}", "{tcp}"),
            ("{{{{x", "{{x"),
            ("{{{tcp}", "{5000"),
            ("{}", "{}"),
            ("{print $1}", "{print $1}"),
            ("{tcpdump}", "{tcpdump}"),
            ("${PORT}", "${PORT}"),
            ("{tcp", "{tcp"),
            ("{", "{"),
            ("", ""),
            ("{\"port\":{tcp}}", "{\"port\":5000}"),
        ] {
            assert_eq!(filled(text).as_deref(), Ok(expected), "{text}");
        }
        let bytes = OsStr::from_bytes(b"\xff{tcp}\xfe{\xfd}");
        assert_eq!(places().fill(bytes).unwrap(), OsStr::from_bytes(b"\xff5000\xfe{\xfd}"));
    }

    #[test]
    fn a_place_that_cannot_be_filled_is_an_error() {
        for text in ["{tcp.5}", "{tcp.0}", "{tcp.}", "{tcp.x}", "{udp.3}", "{tcp.-1}"] {
            assert!(filled(text).unwrap_err().contains(text), "{text}");
        }
        let none = Places { tcp: vec![], udp: vec![] };
        assert!(none.fill(OsStr::new("{udp}")).unwrap_err().contains("--udp"));
    }

    #[test]
    fn the_environment_tells_lists_up_to_a_length_and_ranges_always() {
        let environment = |places: &Places| {
            let mut command = Command::new("true");
            places.tell(&mut command);
            let get = |name: &str| {
                let found = command.get_envs().find(|(key, _)| *key == name);
                found.and_then(|(_, value)| value.map(|v| v.to_str().unwrap().to_owned()))
            };
            ["PORT", "PORTKEEP_TCP", "PORTKEEP_TCP_RANGE", "PORTKEEP_UDP", "PORTKEEP_UDP_RANGE"]
                .map(get)
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            environment(&places()),
            [
                some("5000"),
                some("5000,5001,5002,80"),
                some("5000-5002,80"),
                some("7000,7001"),
                some("7000-7001")
            ]
        );
        let many = Places { tcp: vec![], udp: vec!["20000+1001".parse().unwrap()] };
        assert_eq!(environment(&many), [some("20000"), None, None, None, some("20000-21000")]);
    }
}
