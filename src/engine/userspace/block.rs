//! A block that is held: its ports, each with what guards it now.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use libc::{SO_REUSEADDR, SOL_SOCKET};

use super::hand_over::{bind_beside, hand_over};
use super::holder::identity;
use crate::engine::{Bind, foreign, not_for, outside};
use crate::error::{Error, ErrorKind, Result};
use crate::occupant::SocketInfo;
use crate::ports::{PortRange, Protocol};
use crate::sys;
use crate::token::Token;

/// What guards a port of the block.
#[derive(Debug)]
pub(super) struct Hold {
    /// The held socket; without one the port is lent, and guarded by its consumer's own socket.
    pub(super) holder: Option<OwnedFd>,
    pub(super) past: Past,
}

/// What happened on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Past {
    /// Nobody was ever let in, neither by a hand-over nor by a flag on the holder.
    Untouched,
    /// A TCP socket was let in and listened at once.
    Listened,
    /// A socket was let in, or may have let itself in.
    Bound,
}

impl Hold {
    pub(super) fn new(holder: OwnedFd) -> Self {
        Self { holder: Some(holder), past: Past::Untouched }
    }

    /// Whether these sockets have a living one among them that is not our holder. What cannot be
    /// seen counts as there.
    fn has_others(&self, here: &[u64]) -> bool {
        match &self.holder {
            None => !here.is_empty(),
            // A kernel that does not show our holder (before 6.8) may hide a consumer as well.
            Some(holder) => !identity(holder.as_fd()).is_ok_and(|(own, _)| here == [own]),
        }
    }
}

/// The ports of one protocol.
#[derive(Debug)]
pub(super) struct Lane {
    protocol: Protocol,
    holds: Vec<Hold>,
    /// Where the next search for a free port begins.
    next: usize,
    /// Descendants bind by number, so holders keep `SO_REUSEADDR`.
    granted: bool,
}

/// A block of one protocol; its lane is gone once it is released.
#[derive(Debug)]
pub(super) struct Held {
    token: Token,
    owner: u32,
    protocol: Protocol,
    range: PortRange,
    lane: Mutex<Option<Lane>>,
}

pub(super) fn dead_token() -> Error {
    Error::new(ErrorKind::InvalidToken, "this token names no reservation of this process")
}

impl Held {
    pub(super) fn new(token: Token, range: PortRange, lane: Lane) -> Self {
        let (owner, protocol) = (sys::process_id(), lane.protocol);
        Self { token, owner, protocol, range, lane: Mutex::new(Some(lane)) }
    }

    pub(super) fn token(&self) -> Token {
        self.token
    }

    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    pub(super) fn range(&self) -> PortRange {
        self.range
    }

    /// False in a forked child, which has a copy of everything here.
    pub(super) fn is_ours(&self) -> bool {
        self.owner == sys::process_id()
    }

    fn lane(&self) -> MutexGuard<'_, Option<Lane>> {
        self.lane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn owned(&self) -> Result<()> {
        if self.is_ours() { Ok(()) } else { Err(foreign(self.range, self.owner)) }
    }

    pub(super) fn bind(&self, bind: &Bind<'_>) -> Result<SocketAddr> {
        self.owned()?;
        if bind.protocol != self.protocol {
            return Err(not_for(self.range, bind.protocol));
        }
        // The lock is held over the whole hand-over, some microseconds: threads that look for a
        // free port wait for each other instead of finding the port that another is about to
        // give back.
        let mut lane = self.lane();
        let lane = lane.as_mut().ok_or_else(dead_token)?;
        match bind.address.port() {
            0 => lane.bind_any(self.range, bind)?,
            port if self.range.contains(port) => lane.bind_at(self.range, port, bind)?,
            _ => return Err(outside(self.range, bind)),
        }
        sys::local_address(bind.socket)
            .map_err(|cause| Error::os("cannot read the address that was bound", &cause))
    }

    pub(super) fn grant_descendants(&self) -> Result<()> {
        self.owned()?;
        let mut lane = self.lane();
        let lane = lane.as_mut().ok_or_else(dead_token)?;
        lane.share().map_err(|cause| Error::os("cannot share the held ports", &cause))
    }

    pub(super) fn release(&self) -> Result<()> {
        self.owned()?;
        self.close().ok_or_else(dead_token)
    }

    /// Closes what is held; `None` when that has happened before.
    pub(super) fn close(&self) -> Option<()> {
        let lane = self.lane().take();
        lane.map(drop)
    }
}

impl Lane {
    pub(super) fn new(protocol: Protocol, holds: Vec<Hold>) -> Self {
        Self { protocol, holds, next: 0, granted: false }
    }

    fn share(&mut self) -> std::io::Result<()> {
        self.granted = true;
        for hold in &mut self.holds {
            if let Some(holder) = &hold.holder {
                sys::set_flag(holder.as_fd(), SOL_SOCKET, SO_REUSEADDR, true)?;
                hold.past = Past::Bound;
            }
        }
        Ok(())
    }

    /// Binds to a port of the block by the rules that hold on any port: several sockets may share
    /// it where the kernel lets them (spec 8.2).
    fn bind_at(&mut self, range: PortRange, port: u16, bind: &Bind<'_>) -> Result<()> {
        self.bind_slot(usize::from(port - range.start()), port, bind)
    }

    fn bind_slot(&mut self, slot: usize, port: u16, bind: &Bind<'_>) -> Result<()> {
        let mut address = bind.address;
        address.set_port(port);
        let hold = &mut self.holds[slot];
        let bound = if hold.past == Past::Bound && may_have_others(self.protocol, port, hold) {
            bind_beside(hold, bind, &address)
        } else {
            hand_over(hold, bind, &address, self.granted)
        };
        bound.map_err(|cause| {
            if cause.kind() == std::io::ErrorKind::AddrInUse {
                let text = format!("{} port {port} of the block is in use", bind.protocol);
                Error::new(ErrorKind::AddressInUse, text)
            } else {
                Error::os(format_args!("cannot bind to {address}"), &cause)
            }
            .about(bind.protocol, port)
        })
    }

    /// Binds to some port that no socket is bound to, beginning after the one given out last.
    fn bind_any(&mut self, range: PortRange, bind: &Bind<'_>) -> Result<()> {
        let slots = self.holds.len();
        let order = (self.next..slots).chain(0..self.next);
        // A port that never had a consumer is free for certain. Whether another is takes a look at
        // the kernel's tables, which is dear, so it waits until nothing else is left.
        let fresh: Vec<usize> =
            order.clone().filter(|slot| self.holds[*slot].past == Past::Untouched).collect();
        if self.bind_one_of(&fresh, range, bind)? {
            return Ok(());
        }
        let unused = self.unused(range);
        let unused: Vec<usize> = order.filter(|slot| unused[*slot]).collect();
        if self.bind_one_of(&unused, range, bind)? {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::NoRoom,
            format!("every {} port of the reservation of {range} is in use", bind.protocol),
        ))
    }

    /// Binds to the first of these ports that bind(2) lets us have.
    fn bind_one_of(&mut self, slots: &[usize], range: PortRange, bind: &Bind<'_>) -> Result<bool> {
        for &slot in slots {
            let port =
                range.start() + u16::try_from(slot).expect("a block has at most 65535 ports");
            match self.bind_slot(slot, port, bind) {
                Ok(()) => {
                    self.next = (slot + 1) % self.holds.len();
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::AddressInUse => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Which ports have no living socket but our holder.
    fn unused(&self, range: PortRange) -> Vec<bool> {
        let Ok(sockets) = sys::sockets(self.protocol, range) else {
            return vec![false; self.holds.len()];
        };
        let mut here = vec![Vec::new(); self.holds.len()];
        for socket in sockets.iter().filter(|socket| socket.is_live()) {
            here[usize::from(socket.port - range.start())].push(socket.inode);
        }
        self.holds.iter().zip(here).map(|(hold, here)| !hold.has_others(&here)).collect()
    }
}

/// Whether a port that had a consumer may have one still.
fn may_have_others(protocol: Protocol, port: u16, hold: &Hold) -> bool {
    let Ok(mut sockets) = sys::sockets(protocol, PortRange::between(port, port)) else {
        return true;
    };
    sockets.retain(SocketInfo::is_live);
    let here: Vec<u64> = sockets.iter().map(|socket| socket.inode).collect();
    hold.has_others(&here)
}
