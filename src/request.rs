//! What is asked for, apart from what was got.

use crate::engine::{self, EngineKind};
use crate::error::{Error, ErrorKind, Result};
use crate::ports::{PortRange, Ports, Protocol};
use crate::reservation::Reservation;

/// The ports 61000-65535, from which wildcard requests are served unless told otherwise.
///
/// They lie above Linux's default ephemeral range (32768-60999), so that automatic assignment and
/// outgoing connections stay away, and inside the range that IANA leaves to private use.
pub const DEFAULT_POOL: PortRange = PortRange::between(61000, 65535);

/// Who may bind inside a reservation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Grant {
    /// The process that acquired it, alone.
    #[default]
    Process,
    /// That process and everything below it, which may bind by number.
    ///
    /// The kernel engine looks at the parents of a process that binds; one whose parent has ended
    /// belongs to its new parent. The userspace engine cannot tell a descendant from a stranger: it sets `SO_REUSEADDR` on
    /// the sockets it holds, which lets in whoever sets it too (most TCP servers do) and still
    /// keeps out automatic assignment and everybody who does not.
    Descendants,
}

/// A request for a block of ports: what [`tcp`](crate::tcp), [`udp`](crate::udp) and
/// [`tcp_udp`](crate::tcp_udp) return.
///
/// Nothing happens before [`acquire`](Self::acquire), which is all or nothing.
///
/// ```
/// // Sixteen UDP ports in a row for RTP, starting at an even one.
/// let block = portkeep::udp(16).even().acquire()?;
/// assert_eq!((block.range().start() % 2, block.range().count()), (0, 16));
/// # Ok::<(), portkeep::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a request reserves nothing before it is acquired"]
pub struct PortRequest {
    pub(crate) protocols: &'static [Protocol],
    /// The count stays unchecked until `acquire`, which is where errors are reported.
    count: u16,
    start: Option<u16>,
    pub(crate) alignment: u16,
    pub(crate) pool: Option<PortRange>,
    pub(crate) grant: Grant,
    pub(crate) engine: Option<EngineKind>,
}

impl PortRequest {
    pub(crate) fn new(protocols: &'static [Protocol], count: u16) -> Self {
        Self {
            protocols,
            count,
            start: None,
            alignment: 1,
            pool: None,
            grant: Grant::Process,
            engine: None,
        }
    }

    /// Asks for the ports that a command line or a file names, such as `+3` or `5000-5019`.
    pub fn ports(mut self, ports: Ports) -> Self {
        self.count = ports.count();
        self.start = match ports {
            Ports::Wildcard(_) => None,
            Ports::Specific(range) => Some(range.start()),
        };
        self
    }

    /// Asks for the block that starts at exactly this port, instead of one from the pool.
    pub fn at(mut self, start: u16) -> Self {
        self.start = Some(start);
        self
    }

    /// Asks for a start that is even, as RTP and RTCP pairs need it (RFC 3550, section 11).
    pub fn even(self) -> Self {
        self.aligned(2)
    }

    /// Asks for a start that is a multiple of `alignment`, a power of two up to 32768.
    pub fn aligned(mut self, alignment: u16) -> Self {
        self.alignment = alignment;
        self
    }

    /// Serves a wildcard request from this range instead of the engine's own pool, which is
    /// [`DEFAULT_POOL`] unless the administrator gave the kernel engine another one.
    ///
    /// Choose one outside the ephemeral range (`net.ipv4.ip_local_port_range`): inside it, finding
    /// a free run competes with every outgoing connection of the machine.
    pub fn pool(mut self, pool: PortRange) -> Self {
        self.pool = Some(pool);
        self
    }

    /// Says who may bind inside the block; [`Grant::Process`] when left out.
    pub fn grant(mut self, grant: Grant) -> Self {
        self.grant = grant;
        self
    }

    /// Uses this engine, instead of the kernel engine where it is loaded and the userspace engine
    /// elsewhere. The environment variable `PORTKEEP_ENGINE` does the same for a whole process.
    pub fn engine(mut self, engine: EngineKind) -> Self {
        self.engine = Some(engine);
        self
    }

    /// Reserves the ports: all of them, or none and an error.
    ///
    /// With the kernel engine this is two system calls,
    /// [setsockopt(2) and getsockopt(2)](https://man7.org/linux/man-pages/man2/setsockopt.2.html) on
    /// the anchor, whatever the count. With the userspace engine it is one [socket(2)](https://man7.org/linux/man-pages/man2/socket.2.html)
    /// and one [bind(2)](https://man7.org/linux/man-pages/man2/bind.2.html) a port and protocol, on
    /// every local address of both families. Any Linux will do; from 6.8 on a specific request also
    /// takes ports on which nothing but closing connections is left (spec 9.13).
    ///
    /// # Errors
    ///
    /// | kind | when |
    /// | --- | --- |
    /// | [`InvalidInput`](crate::ErrorKind::InvalidInput) | no port asked for, past 65535, a bad alignment, or more ports than the pool has |
    /// | [`AddressInUse`](crate::ErrorKind::AddressInUse) | a port of a specific request is in use or reserved (spec 3.1) |
    /// | [`AddressInUse`](crate::ErrorKind::AddressInUse) | kernel engine: a specific request meets the ephemeral range where `ip_local_reserved_ports` does not protect it; the text says what to do |
    /// | [`NoRoom`](crate::ErrorKind::NoRoom) | the pool has no free run of that length; the text names its longest. Kernel engine: or this user has as many ports as one may have |
    /// | [`PermissionDenied`](crate::ErrorKind::PermissionDenied) | a port is below `net.ipv4.ip_unprivileged_port_start` |
    /// | [`DescriptorLimit`](crate::ErrorKind::DescriptorLimit) | the userspace engine needs more descriptors than the process may open; the text names the number |
    /// | [`Unsupported`](crate::ErrorKind::Unsupported) | not on Linux |
    pub fn acquire(&self) -> Result<Reservation> {
        self.validate()?;
        engine::acquire(self).map(Reservation::new)
    }

    /// The block asked for; call it on a valid request.
    pub(crate) fn wanted(&self) -> Result<Ports> {
        match self.start {
            Some(start) => PortRange::new(start, self.count).map(Ports::Specific),
            None if self.count == 0 => {
                Err(Error::invalid("a request for 0 ports reserves nothing; ask for 1 or more"))
            }
            None => Ok(Ports::Wildcard(self.count)),
        }
    }

    /// The answer when `pool` has no room for `count` ports.
    pub(crate) fn no_room(&self, pool: PortRange, count: u16, longest: u32) -> Error {
        let protocols: Vec<_> = self.protocols.iter().map(ToString::to_string).collect();
        let aligned = match self.alignment {
            1 => String::new(),
            2 => " starting at an even one".to_owned(),
            alignment => format!(" starting at a multiple of {alignment}"),
        };
        let text = format!(
            "no {count} free {} ports in a row{aligned} in the pool {pool}: of its {} ports the \
             longest free run is {longest}; ask for less, or name another pool",
            protocols.join(" and "),
            pool.count(),
        );
        Error::new(ErrorKind::NoRoom, text)
    }

    fn validate(&self) -> Result<()> {
        let Self { alignment, pool, .. } = *self;
        let wanted = self.wanted()?;
        if !alignment.is_power_of_two() {
            return Err(Error::invalid(format!(
                "an alignment of {alignment} is impossible; use a power of two from 1 to 32768"
            )));
        }
        match wanted {
            Ports::Specific(range) if range.start() % alignment != 0 => {
                Err(Error::invalid(format!(
                    "port {} is no multiple of {alignment}, the alignment asked for",
                    range.start()
                )))
            }
            Ports::Wildcard(count) => pool.map_or(Ok(()), |pool| must_have(pool, count)),
            Ports::Specific(_) => Ok(()),
        }
    }
}

/// Refuses a wildcard that no state of this pool would serve.
pub(crate) fn must_have(pool: PortRange, count: u16) -> Result<()> {
    if count <= pool.count() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the pool {pool} has {} ports, fewer than the {count} asked for; \
         name a larger pool or ask for less",
        pool.count()
    )))
}

#[cfg(test)]
mod tests {
    use crate::{DEFAULT_POOL, ErrorKind, PortRequest, tcp};

    #[test]
    fn impossible_requests_are_refused_before_any_engine_sees_them() {
        let refused = |request: PortRequest| {
            let error = request.validate().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{request:?}");
            error.to_string()
        };
        assert!(refused(tcp(0)).contains('0'));
        assert!(refused(tcp(2).at(65535)).contains("65536"));
        assert!(refused(tcp(1).at(0)).contains("port 0"));
        assert!(refused(tcp(1).aligned(3)).contains("power of two"));
        assert!(refused(tcp(1).aligned(0)).contains("power of two"));
        assert!(refused(tcp(2).at(5001).even()).contains("5001"));
        assert!(refused(tcp(5000).pool(DEFAULT_POOL)).contains("4536"));
        tcp(1).at(65535).validate().unwrap();
        tcp(4536).validate().unwrap();
    }
}
