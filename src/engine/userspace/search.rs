//! Finding ports to hold: exactly these, or a free run in the pool.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::block::{Hold, Lane};
use super::holder::Holders;
use super::pool::Pool;
use super::unforeseeable;
use crate::descriptors;
use crate::error::{Error, ErrorKind, Result};
use crate::ports::{PortRange, Ports, Protocol};
use crate::request::{DEFAULT_POOL, PortRequest, must_have};

/// Requests of fewer ports find out about the descriptor limit by running into it: counting the
/// open descriptors would cost them more than it saves.
const WORTH_COUNTING: usize = 128;

/// How often a search is repeated when others, who failed in the meantime, gave back what they had
/// tried: their ports looked busy to us, as ours did to them.
const ROUNDS: usize = 16;

/// How many busy ports are tried once more to find that out: too few to make a refusal dearer.
const SECOND_LOOKS: usize = 64;

/// How long two searches that are in each other's way wait at most, each another time.
const PAUSE: Duration = Duration::from_millis(1);

/// A held port: one socket a protocol.
type HeldPort = [Option<OwnedFd>; 2];

/// Holds every port of the request, or none.
pub(super) fn hold(request: &PortRequest) -> Result<(PortRange, Vec<Lane>)> {
    let wanted = request.wanted()?;
    let sockets = usize::from(wanted.count()) * request.protocols.len();
    if sockets >= WORTH_COUNTING {
        descriptors::check(sockets)?;
    }
    let search = Search::new(request, sockets)?;
    match wanted {
        Ports::Specific(range) => search.exactly(range),
        Ports::Wildcard(count) => {
            let pool = request.pool.unwrap_or(DEFAULT_POOL);
            must_have(pool, count)?;
            search.anywhere(request, pool, count)
        }
    }
}

struct Search {
    holders: Vec<Holders>,
    sockets: usize,
}

impl Search {
    fn new(request: &PortRequest, sockets: usize) -> Result<Self> {
        let holders: io::Result<Vec<_>> =
            request.protocols.iter().map(|protocol| Holders::new(*protocol)).collect();
        match holders {
            Ok(holders) => Ok(Self { holders, sockets }),
            Err(cause) => Err(refused(request.protocols[0], None, sockets, &cause)),
        }
    }

    fn exactly(mut self, range: PortRange) -> Result<(PortRange, Vec<Lane>)> {
        let mut lanes = Vec::with_capacity(self.holders.len());
        for holders in &mut self.holders {
            let protocol = holders.protocol();
            let mut holds = Vec::with_capacity(range.count().into());
            for port in range.iter() {
                let held = match holders.hold(port) {
                    Ok(None) => holders.hold_beside_closing(port),
                    held => held,
                };
                match held {
                    Ok(Some(socket)) => holds.push(Hold::new(socket)),
                    Ok(None) => return Err(in_use(protocol, port)),
                    Err(cause) => {
                        return Err(refused(protocol, Some(port), self.sockets, &cause));
                    }
                }
            }
            lanes.push(Lane::new(protocol, holds));
        }
        Ok((range, lanes))
    }

    /// Holds `port` in every protocol asked for, or in none.
    fn hold_port(&mut self, port: u16) -> Result<Option<HeldPort>> {
        let mut held: HeldPort = [None, None];
        for (holders, held) in self.holders.iter_mut().zip(&mut held) {
            *held = holders
                .hold(port)
                .map_err(|cause| refused(holders.protocol(), Some(port), self.sockets, &cause))?;
            if held.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(held))
    }

    fn anywhere(
        mut self,
        request: &PortRequest,
        range: PortRange,
        count: u16,
    ) -> Result<(PortRange, Vec<Lane>)> {
        let mut longest = 0;
        for _ in 0..ROUNDS {
            let mut pool = Pool::new(range, count, request.alignment);
            if let Some(found) = self.scan(&mut pool)? {
                return Ok(self.lanes(found));
            }
            let (run, fits) = self.longest_run(&pool)?;
            longest = run;
            if !fits {
                if !self.some_are_free_again(&pool)? {
                    break;
                }
                std::thread::sleep(PAUSE.mul_f64(
                    f64::from(u32::try_from(unforeseeable() >> 32).unwrap_or(0))
                        / f64::from(u32::MAX),
                ));
            }
        }
        Err(request.no_room(range, count, longest))
    }

    /// Looks at every place where the run could start, from a random one on.
    fn scan(&mut self, pool: &mut Pool) -> Result<Option<Vec<(u16, HeldPort)>>> {
        let Some(middle) = pool.random_start() else { return Ok(None) };
        let last = pool.last_start();
        match self.scan_starts(pool, middle, last)? {
            None if middle > pool.first_start() => {
                self.scan_starts(pool, pool.first_start(), middle - 1)
            }
            found => Ok(found),
        }
    }

    /// Tries the starts from `start` to `last_start`.
    ///
    /// Each window is taken from its far end back: the first busy port found that way rules out
    /// every start up to it at once, and what was taken beyond it belongs to the next window.
    /// So a full pool costs one failed bind in `count` ports, and no port is tried twice.
    fn scan_starts(
        &mut self,
        pool: &mut Pool,
        mut start: u32,
        last_start: u32,
    ) -> Result<Option<Vec<(u16, HeldPort)>>> {
        let mut held: Vec<(u16, HeldPort)> = Vec::with_capacity(pool.count.into());
        // Every port from `start` up to here is held.
        let mut held_to = start - 1;
        'windows: while start <= last_start {
            let end = start + u32::from(pool.count) - 1;
            for port in (held_to + 1..=end).rev() {
                let port = narrow(port);
                if let Some(sockets) = if pool.is_busy(port) { None } else { self.hold_port(port)? }
                {
                    held.push((port, sockets));
                    continue;
                }
                pool.set_busy(port);
                start = pool.aligned(u32::from(port) + 1);
                held.retain(|(port, _)| u32::from(*port) >= start);
                held_to = end.max(start - 1);
                continue 'windows;
            }
            held.sort_unstable_by_key(|(port, _)| *port);
            return Ok(Some(held));
        }
        Ok(None)
    }

    /// The longest run of free ports, and whether one has room for the request.
    fn longest_run(&mut self, pool: &Pool) -> Result<(u32, bool)> {
        let (mut run, mut longest, mut fits) = (0_u32, 0, false);
        for port in pool.range.iter() {
            let free = !pool.is_busy(port) && self.hold_port(port)?.is_some();
            run = if free { run + 1 } else { 0 };
            longest = longest.max(run);
            let first = u32::from(port) + 1 - run;
            fits |= pool.aligned(first) + u32::from(pool.count) <= u32::from(port) + 1;
        }
        Ok((longest, fits))
    }

    /// Whether ports that were busy are free by now, so that another search may well succeed.
    fn some_are_free_again(&mut self, pool: &Pool) -> Result<bool> {
        for port in pool.some_busy(SECOND_LOOKS) {
            if self.hold_port(port)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn lanes(&self, found: Vec<(u16, HeldPort)>) -> (PortRange, Vec<Lane>) {
        let range = PortRange::between(found[0].0, found[found.len() - 1].0);
        let mut holds: Vec<Vec<Hold>> =
            self.holders.iter().map(|_| Vec::with_capacity(found.len())).collect();
        for (_, sockets) in found {
            for (socket, holds) in sockets.into_iter().flatten().zip(&mut holds) {
                holds.push(Hold::new(socket));
            }
        }
        let protocols = self.holders.iter().map(Holders::protocol);
        (range, protocols.zip(holds).map(|(protocol, holds)| Lane::new(protocol, holds)).collect())
    }
}

fn narrow(port: u32) -> u16 {
    u16::try_from(port).expect("every window lies inside the pool")
}

fn in_use(protocol: Protocol, port: u16) -> Error {
    Error::new(ErrorKind::AddressInUse, format!("{protocol} port {port} is in use"))
        .about(protocol, port)
}

/// Explains why the kernel would not let us hold a port for another reason than its being in use.
fn refused(protocol: Protocol, port: Option<u16>, sockets: usize, cause: &io::Error) -> Error {
    let Some(port) = port else {
        return limited(sockets, cause)
            .unwrap_or_else(|| Error::os(format_args!("cannot open a {protocol} socket"), cause));
    };
    let error = match cause.raw_os_error() {
        Some(libc::EACCES) => Error::new(
            ErrorKind::PermissionDenied,
            format!(
                "{protocol} port {port} is privileged: it takes CAP_NET_BIND_SERVICE, \
                 or net.ipv4.ip_unprivileged_port_start at {port} or below"
            ),
        ),
        _ => limited(sockets, cause).unwrap_or_else(|| {
            Error::os(format_args!("cannot hold {protocol} port {port}"), cause)
        }),
    };
    error.about(protocol, port)
}

/// Names the number of descriptors that would do, when their number is what is wrong.
fn limited(sockets: usize, cause: &io::Error) -> Option<Error> {
    if cause.raw_os_error() == Some(libc::EMFILE) {
        descriptors::check(sockets).err()
    } else {
        None
    }
}
