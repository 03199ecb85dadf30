//! Pools: the engine's own, from which the kernel serves wildcards by itself, and one of the
//! caller's choice, in which we look and then ask for what we found.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::{abi, open, query};
use crate::engine::userspace::unforeseeable;
use crate::error::{Error, Result};
use crate::ports::{PortRange, Protocol};
use crate::request::PortRequest;
use crate::status::Ephemeral;
use crate::sys;

/// How often we look anew when others took what we had found. Each time somebody else succeeded.
const LOOKS: usize = 64;

/// Places that are tried before looking, which costs a system call a port: in a pool that is mostly
/// free the first will do.
const BLIND_TRIES: usize = 8;

/// The pool that the kernel serves wildcard requests from.
pub(crate) fn own() -> Result<PortRange> {
    own_of(open(Protocol::Tcp)?.as_fd())
        .map_err(|cause| Error::os("the kernel engine cannot be asked for its pool", &cause))
}

pub(super) fn own_of(socket: BorrowedFd<'_>) -> io::Result<PortRange> {
    let mut value = [0; 4];
    sys::bytes(socket, abi::LEVEL, abi::POOL, &mut value)?;
    abi::range(&value).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Serves a wildcard from `pool`: `try_at` asks the kernel for a start and says whether it was free.
/// False when no free run is left.
pub(super) fn serve(
    request: &PortRequest,
    pool: PortRange,
    count: u16,
    mut try_at: impl FnMut(u16) -> Result<bool>,
) -> Result<bool> {
    let alignment = u32::from(request.alignment);
    for attempt in 0..BLIND_TRIES + LOOKS {
        let runs = if attempt < BLIND_TRIES { vec![pool] } else { free_runs(request, pool)? };
        let starts = runs.into_iter().filter_map(|run| {
            let first = u32::from(run.start()).next_multiple_of(alignment);
            let last = (u32::from(run.last()) + 1).checked_sub(count.into())?;
            (first <= last).then_some((first, last))
        });
        match draw(&starts.collect::<Vec<_>>(), alignment) {
            None => return Ok(false),
            Some(start) if try_at(start)? => return Ok(true),
            Some(_) => {}
        }
    }
    Ok(false)
}

/// One of the multiples of `alignment` in these ranges of numbers, each as likely as any other.
fn draw(ranges: &[(u32, u32)], alignment: u32) -> Option<u16> {
    let places = |(first, last): &(u32, u32)| (last - first) / alignment + 1;
    let all: u32 = ranges.iter().map(places).sum();
    let mut drawn = u32::try_from(unforeseeable() % u64::from(all.max(1))).ok()?;
    for range in ranges {
        if drawn < places(range) {
            return u16::try_from(range.0 + drawn * alignment).ok();
        }
        drawn -= places(range);
    }
    None
}

/// The runs of ports in `pool` that nobody has and that the kernel does not hand out by itself, in
/// every protocol of the request. Others may take them while we look.
pub(super) fn free_runs(request: &PortRequest, pool: PortRange) -> Result<Vec<PortRange>> {
    let mut taken = vec![false; pool.count().into()];
    let mut take = |range: PortRange| {
        for port in range.intersection(pool).into_iter().flat_map(PortRange::iter) {
            taken[usize::from(port - pool.start())] = true;
        }
    };
    let ephemeral = Ephemeral::read()?;
    if ephemeral.exposed(pool) > 0 {
        for port in pool.iter() {
            let alone = PortRange::between(port, port);
            if ephemeral.exposed(alone) > 0 {
                take(alone);
            }
        }
    }
    for protocol in request.protocols {
        // A sandbox without sock_diag: we shall find out by trying.
        for socket in sys::sockets(*protocol, pool).unwrap_or_default() {
            if socket.is_live() {
                take(PortRange::between(socket.port, socket.port));
            }
        }
        // Reserved ports are found block by block.
        let socket = open(*protocol)?;
        let mut next = u32::from(pool.start());
        while let Some(port) = u16::try_from(next).ok().filter(|port| pool.contains(*port)) {
            next += 1;
            if let Ok(Some(holder)) = query(socket.as_fd(), port) {
                take(holder.range);
                next = next.max(u32::from(holder.range.last()) + 1);
            }
        }
    }
    let mut runs: Vec<PortRange> = Vec::new();
    for (port, _) in pool.iter().zip(&taken).filter(|(_, taken)| !**taken) {
        match runs.last_mut() {
            Some(run) if u32::from(run.last()) + 1 == u32::from(port) => {
                *run = PortRange::between(run.start(), port);
            }
            _ => runs.push(PortRange::between(port, port)),
        }
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_aligned_and_reach_both_ends() {
        let ranges = [(1000, 1016), (2000, 2000)];
        let drawn: std::collections::HashSet<_> =
            (0..1000).filter_map(|_| draw(&ranges, 8)).collect();
        assert_eq!(drawn, [1000, 1008, 1016, 2000].into());
        assert_eq!(draw(&[], 1), None);
    }
}
