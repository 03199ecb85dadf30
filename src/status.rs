//! What serves this process, and what stands in the way of something better.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;

use crate::engine::{self, EngineKind};
use crate::error::{Error, Result};
use crate::ports::PortRange;

/// The ports that the kernel hands out by itself, in this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ephemeral {
    /// `net.ipv4.ip_local_port_range`.
    pub range: PortRange,
    /// `net.ipv4.ip_local_reserved_ports`: left out of it.
    pub reserved: Vec<PortRange>,
}

impl Ephemeral {
    /// Reads both settings, [ip(7)](https://man7.org/linux/man-pages/man7/ip.7.html).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Os`](crate::ErrorKind::Os) where `/proc/sys` cannot be read.
    pub fn read() -> Result<Self> {
        let range =
            setting("ip_local_port_range")?.split_whitespace().collect::<Vec<_>>().join("-");
        let reserved = setting("ip_local_reserved_ports")?;
        let reserved = reserved.split(',').filter(|range| !range.is_empty());
        Ok(Self {
            range: range.parse()?,
            reserved: reserved.map(str::parse).collect::<Result<_>>()?,
        })
    }

    /// The list of reserved ports that keeps what is there and adds `range`, as
    /// `net.ipv4.ip_local_reserved_ports` takes it.
    #[must_use]
    pub fn with(&self, range: PortRange) -> String {
        let mut list: Vec<String> = self.reserved.iter().map(ToString::to_string).collect();
        list.push(range.to_string());
        list.join(",")
    }

    /// The ports of `range` that the kernel may hand out to anybody.
    #[must_use]
    pub fn exposed(&self, range: PortRange) -> usize {
        let Some(inside) = range.intersection(self.range) else { return 0 };
        let reserved: HashSet<u16> = self
            .reserved
            .iter()
            .filter_map(|range| range.intersection(inside))
            .flat_map(PortRange::iter)
            .collect();
        usize::from(inside.count()) - reserved.len()
    }
}

/// The longest list there can be, 32,768 single ports, takes about 190 KiB.
const LONGEST_LIST: usize = 1 << 20;

/// Reads a setting of this network namespace in one go: the kernel answers the first read in full
/// and every later one with nothing.
fn setting(name: &str) -> Result<String> {
    let path = format!("/proc/sys/net/ipv4/{name}");
    let mut text = vec![0; LONGEST_LIST];
    let size = File::open(&path)
        .and_then(|mut file| file.read(&mut text))
        .map_err(|cause| Error::os(format_args!("cannot read {path}"), &cause))?;
    Ok(String::from_utf8_lossy(&text[..size]).trim().to_owned())
}

/// What [`status`] found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// The engine that serves this process.
    pub engine: EngineKind,
    /// Why it is this one.
    pub reason: &'static str,
    /// Whether it keeps out every stranger of the machine: false when the kernel engine was loaded for
    /// a part of the control groups.
    pub exclusive: bool,
    /// Where it serves wildcard requests from, unless told otherwise.
    pub pool: PortRange,
    /// What automatic assignment reaches.
    pub ephemeral: Ephemeral,
    /// The soft and the hard limit of open descriptors, [`RLIMIT_NOFILE`](crate::raise_descriptor_limit).
    pub descriptors: (u64, u64),
}

/// Tells which engine serves this process, and why.
///
/// # Errors
///
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) where there is none,
/// [`ErrorKind::Os`](crate::ErrorKind::Os) where `/proc/sys` cannot be read.
pub fn status() -> Result<Status> {
    let choice = engine::probe()?;
    Ok(Status {
        engine: choice.kind,
        reason: choice.reason,
        exclusive: choice.exclusive,
        pool: engine::pool(choice.kind)?,
        ephemeral: Ephemeral::read()?,
        descriptors: crate::descriptors::limits()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_automatic_assignment_can_reach_is_exposed() {
        let range = |text: &str| text.parse::<PortRange>().unwrap();
        let ephemeral = Ephemeral {
            range: range("32768-60999"),
            reserved: vec![range("1-40000"), range("40000-40009")],
        };
        assert_eq!(ephemeral.exposed(range("61000-65535")), 0);
        assert_eq!(ephemeral.exposed(range("60999-65535")), 1);
        assert_eq!(ephemeral.exposed(range("39990-40011")), 2);
        assert_eq!(ephemeral.exposed(range("1-65535")), 60999 - 40009);
    }
}
