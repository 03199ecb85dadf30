//! Protocols, ranges, and ports as people write them.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A transport protocol: each has a port space of its own, shared by IPv4 and IPv6.
///
/// MPTCP sockets count as TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// The Transmission Control Protocol, [tcp(7)](https://man7.org/linux/man-pages/man7/tcp.7.html).
    Tcp,
    /// The User Datagram Protocol, [udp(7)](https://man7.org/linux/man-pages/man7/udp.7.html).
    Udp,
}

impl Protocol {
    /// The lower-case name, as in `/etc/services`: `tcp` or `udp`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// Consecutive ports: a start and a count, both in host byte order, never past 65535, never empty.
///
/// Written `8080`, `5000-5019` (both ends included) or `5000+20`.
///
/// ```
/// let range: portkeep::PortRange = "5000+20".parse()?;
/// assert_eq!((range.start(), range.last(), range.count()), (5000, 5019, 20));
/// assert_eq!(range.to_string(), "5000-5019");
/// # Ok::<(), portkeep::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    start: u16,
    count: u16,
}

impl PortRange {
    /// `count` ports from `start` on.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) (`EINVAL`) when `start` or
    /// `count` is 0, or when the range would pass 65535: it never wraps (spec 9.6, 9.7).
    pub fn new(start: u16, count: u16) -> Result<Self> {
        if start == 0 {
            return Err(Error::invalid("a range cannot start at port 0; ports are 1 to 65535"));
        }
        if count == 0 {
            return Err(Error::invalid("a range of 0 ports is no range; ask for 1 or more"));
        }
        if start.checked_add(count - 1).is_none() {
            let end = u32::from(start) + u32::from(count) - 1;
            return Err(Error::invalid(format!(
                "{count} ports from {start} on would end at {end}, past the last port, 65535"
            )));
        }
        Ok(Self { start, count })
    }

    /// The range with both of its ends, for constants that are right by inspection.
    pub(crate) const fn between(first: u16, last: u16) -> Self {
        assert!(first > 0 && first <= last);
        Self { start: first, count: last - first + 1 }
    }

    /// The first port.
    #[must_use]
    pub fn start(self) -> u16 {
        self.start
    }

    /// How many ports.
    #[must_use]
    pub fn count(self) -> u16 {
        self.count
    }

    /// The last port, included.
    #[must_use]
    pub fn last(self) -> u16 {
        self.start + (self.count - 1)
    }

    /// Whether `port` lies inside.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        (self.start..=self.last()).contains(&port)
    }

    /// The ports that both ranges have, if any.
    #[must_use]
    pub fn intersection(self, other: Self) -> Option<Self> {
        let (first, last) = (self.start.max(other.start), self.last().min(other.last()));
        (first <= last).then(|| Self::between(first, last))
    }

    /// Every port, in order.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = u16> + Clone {
        self.start..=self.last()
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            1 => write!(f, "{}", self.start),
            _ => write!(f, "{}-{}", self.start, self.last()),
        }
    }
}

impl FromStr for PortRange {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.parse()? {
            Ports::Specific(range) => Ok(range),
            Ports::Wildcard(_) => Err(Error::invalid(format!(
                "'{text}' leaves the choice to the pool, but a range is needed here, \
                 such as 5000-5019 or 5000+20"
            ))),
        }
    }
}

/// Which ports are asked for, as written on a command line and in files.
///
/// | text | meaning |
/// | --- | --- |
/// | `8080` | that port |
/// | `5000-5019` | those twenty ports, both ends included |
/// | `5000+20` | the same |
/// | `+3` | three consecutive ports from the pool |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ports {
    /// So many consecutive ports from the pool, wherever they are free.
    Wildcard(u16),
    /// Exactly these ports.
    Specific(PortRange),
}

impl Ports {
    /// How many ports.
    #[must_use]
    pub fn count(self) -> u16 {
        match self {
            Self::Wildcard(count) => count,
            Self::Specific(range) => range.count(),
        }
    }
}

impl From<PortRange> for Ports {
    fn from(range: PortRange) -> Self {
        Self::Specific(range)
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wildcard(count) => write!(f, "+{count}"),
            Self::Specific(range) => write!(f, "{range}"),
        }
    }
}

impl FromStr for Ports {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(count) = text.strip_prefix('+') {
            return match number(count, text)? {
                0 => Err(Error::invalid("'+0' asks for no port; ask for +1 or more")),
                count => Ok(Self::Wildcard(count)),
            };
        }
        let range = if let Some((start, count)) = text.split_once('+') {
            PortRange::new(number(start, text)?, number(count, text)?)
        } else if let Some((first, last)) = text.split_once('-') {
            let (first, last) = (number(first, text)?, number(last, text)?);
            if last < first {
                return Err(Error::invalid(format!("'{text}' ends before it starts")));
            }
            // 0-65535 has 65,536 ports: saturate, and let `new` name port 0 as the fault.
            PortRange::new(first, (last - first).saturating_add(1))
        } else {
            PortRange::new(number(text, text)?, 1)
        };
        range.map(Self::Specific).map_err(|fault| Error::invalid(format!("'{text}': {fault}")))
    }
}

/// Digits only: no sign, no blanks, no hexadecimal.
fn number(digits: &str, text: &str) -> Result<u16> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Error::invalid(format!(
            "'{text}' is not a port specification; write 8080, 5000-5019, 5000+20, \
             or +3 for three from the pool"
        )));
    }
    digits.parse().map_err(|_| {
        Error::invalid(format!("'{text}': {digits} is more than 65535, the last port"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_means_what_the_table_says() {
        let range = |start, count| Ports::Specific(PortRange::new(start, count).unwrap());
        for (text, meaning, shown) in [
            ("8080", range(8080, 1), "8080"),
            ("5000-5019", range(5000, 20), "5000-5019"),
            ("5000+20", range(5000, 20), "5000-5019"),
            ("+3", Ports::Wildcard(3), "+3"),
            ("65535", range(65535, 1), "65535"),
            ("1-65535", range(1, 65535), "1-65535"),
            ("65535+1", range(65535, 1), "65535"),
            ("7-7", range(7, 1), "7"),
        ] {
            assert_eq!(text.parse::<Ports>().unwrap(), meaning, "{text}");
            assert_eq!(meaning.to_string(), shown);
            assert_eq!(shown.parse::<Ports>().unwrap(), meaning, "{shown} reads back");
        }
    }

    #[test]
    fn bad_spellings_are_refused_and_named() {
        for text in [
            "",
            " ",
            "0",
            "+0",
            "+",
            "-",
            "5000-",
            "-5000",
            "5000+",
            "5000+0",
            "0+5",
            "65535+2",
            "65536",
            "5019-5000",
            "0-65535",
            "8080 ",
            " 8080",
            "0x50",
            "+-3",
            "++3",
            "80-90-100",
            "1e3",
            "http",
            "+65536",
            "5000+20+3",
            "٣",
        ] {
            let error = text.parse::<Ports>().expect_err(text);
            assert_eq!(error.kind(), crate::ErrorKind::InvalidInput, "{text}");
            assert!(!error.to_string().contains('\n'));
        }
        let past = "65000+1000".parse::<PortRange>().unwrap_err().to_string();
        assert!(past.contains("65999") && past.contains("65535"), "{past}");
        assert!("+3".parse::<PortRange>().unwrap_err().to_string().contains("pool"));
    }

    #[test]
    fn intersections_are_exact_at_the_edges() {
        let range = |text: &str| text.parse::<PortRange>().unwrap();
        assert_eq!(range("10-20").intersection(range("20-30")), Some(range("20")));
        assert_eq!(range("10-20").intersection(range("21-30")), None);
        assert_eq!(range("1-65535").intersection(range("65535")), Some(range("65535")));
        assert!(range("65530-65535").contains(65535) && !range("65530-65535").contains(65529));
        assert_eq!(range("65534-65535").iter().collect::<Vec<_>>(), [65534, 65535]);
    }
}
