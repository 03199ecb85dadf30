//! Letting a consumer in: its socket takes the port while the holder still has it.
//!
//! The kernel lets two sockets of one user have the same port when both have `SO_REUSEPORT`, so
//! both get it, the consumer is bound, and both lose it again. At no moment is the port nobody's.
//!
//! The race: between the first and the last step another process of the same user can bind the
//! port with `SO_REUSEPORT`. Of another user nobody can, whatever the flags, because the kernel
//! compares the users. That is why `SO_REUSEADDR`, which it does not compare, is used only where the
//! consumer's socket belongs to another user than ours.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use libc::{SO_REUSEADDR, SO_REUSEPORT, SOL_SOCKET};

use super::block::Hold;
use super::holder::identity;
use crate::engine::Bind;
use crate::ports::Protocol;
use crate::sys;

/// A flag of a socket that is set for a while and then what it was before.
struct Raised<'a> {
    socket: BorrowedFd<'a>,
    name: i32,
    was_set: bool,
}

impl<'a> Raised<'a> {
    fn new(socket: BorrowedFd<'a>, name: i32) -> io::Result<Self> {
        let was_set = sys::flag(socket, SOL_SOCKET, name)? != 0;
        if !was_set {
            sys::set_flag(socket, SOL_SOCKET, name, true)?;
        }
        Ok(Self { socket, name, was_set })
    }
}

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        if !self.was_set {
            // It could be set a moment ago, so it can be cleared.
            let _ = sys::set_flag(self.socket, SOL_SOCKET, self.name, false);
        }
    }
}

/// Binds where nothing of ours is in the way.
fn bind_plainly(bind: &Bind<'_>, address: &SocketAddr) -> io::Result<()> {
    sys::bind(bind.socket, address)?;
    if bind.listen { sys::listen(bind.socket) } else { Ok(()) }
}

/// Binds the consumer to the port of the holder and leaves in `hold` what guards the port afterwards.
///
/// On an error everything is as before. `granted` says that descendants bind by number, for which
/// a holder keeps `SO_REUSEADDR`.
pub(super) fn hand_over(
    hold: &mut Hold,
    bind: &Bind<'_>,
    address: &SocketAddr,
    granted: bool,
) -> io::Result<()> {
    let Some(holder) = &hold.holder else { return bind_plainly(bind, address) };
    pass(holder.as_fd(), bind, address)?;
    match stay(holder.as_fd(), bind, granted) {
        Ok(Some(exclusive)) => hold.exclusive = exclusive,
        // The consumer is bound, so all is well; it guards its port alone.
        Ok(None) | Err(_) => *hold = Hold::LENT,
    }
    Ok(())
}

fn pass(holder: BorrowedFd<'_>, bind: &Bind<'_>, address: &SocketAddr) -> io::Result<()> {
    {
        let _ours = Raised::new(holder, SO_REUSEPORT)?;
        let _theirs = Raised::new(bind.socket, SO_REUSEPORT)?;
        match sys::bind(bind.socket, address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if identity(holder)?.1 == identity(bind.socket)?.1 {
                    return Err(error);
                }
                let _ours = Raised::new(holder, SO_REUSEADDR)?;
                let _theirs = Raised::new(bind.socket, SO_REUSEADDR)?;
                sys::bind(bind.socket, address)?;
            }
            bound => bound?,
        }
    }
    if bind.listen {
        // listen(2) looks for conflicts once more. This time SO_REUSEADDR: it leaves no trace in
        // the kernel's port table, while a socket that listens with SO_REUSEPORT opens the port to
        // every later one of the same user, even when the flag is gone. Who slips in between
        // holds a socket that can never listen.
        let _ours = Raised::new(holder, SO_REUSEADDR)?;
        let _theirs = Raised::new(bind.socket, SO_REUSEADDR)?;
        sys::listen(bind.socket)?;
    }
    Ok(())
}

/// Whether the holder may stay beside its consumer, and if so whether it lets nobody else in.
fn stay(holder: BorrowedFd<'_>, bind: &Bind<'_>, granted: bool) -> io::Result<Option<bool>> {
    // A UDP holder would take datagrams away from its consumer.
    if bind.protocol == Protocol::Udp {
        return Ok(None);
    }
    let (mut address, mut port) = (granted, false);
    if !bind.listen {
        // The consumer is yet to listen, which fails beside a holder unless both have a flag in
        // common at that time. We may not change the consumer's, only match it.
        let consumer_address = sys::flag(bind.socket, SOL_SOCKET, SO_REUSEADDR)? != 0;
        port = sys::flag(bind.socket, SOL_SOCKET, SO_REUSEPORT)? != 0;
        if !consumer_address && !port {
            return Ok(None);
        }
        address |= consumer_address;
    }
    sys::set_flag(holder, SOL_SOCKET, SO_REUSEADDR, address)?;
    sys::set_flag(holder, SOL_SOCKET, SO_REUSEPORT, port)?;
    Ok(Some(!address && !port))
}
