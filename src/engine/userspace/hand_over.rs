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

use super::block::{Hold, Past};
use super::holder::identity;
use crate::engine::Bind;
use crate::ports::Protocol;
use crate::sys;

/// A flag of a socket that is changed for a while and then what it was before.
struct Changed<'a> {
    socket: BorrowedFd<'a>,
    name: i32,
    was_set: bool,
    is_set: bool,
}

impl<'a> Changed<'a> {
    fn new(socket: BorrowedFd<'a>, name: i32, set: bool) -> io::Result<Self> {
        let was_set = sys::flag(socket, SOL_SOCKET, name)? != 0;
        if set != was_set {
            sys::set_flag(socket, SOL_SOCKET, name, set)?;
        }
        Ok(Self { socket, name, was_set, is_set: set })
    }

    fn raised(socket: BorrowedFd<'a>, name: i32) -> io::Result<Self> {
        Self::new(socket, name, true)
    }
}

impl Drop for Changed<'_> {
    fn drop(&mut self) {
        if self.is_set != self.was_set {
            // It could be changed a moment ago, so it can be changed back.
            let _ = sys::set_flag(self.socket, SOL_SOCKET, self.name, self.was_set);
        }
    }
}

fn bind_plainly(bind: &Bind<'_>, address: &SocketAddr) -> io::Result<()> {
    sys::bind(bind.socket, address)?;
    if bind.listen { sys::listen(bind.socket) } else { Ok(()) }
}

/// Binds beside a consumer, where the ordinary rules allow that (spec 8.4).
///
/// The holder has the flags of the consumer that is there, so it stands in nobody's way who may
/// share the port. A hand-over leaves a trace in the kernel's port table that lets every TCP socket
/// of the same user with `SO_REUSEPORT` in without a look at the others, until one listens: so that
/// flag counts only where the consumer has it too.
pub(super) fn bind_beside(hold: &Hold, bind: &Bind<'_>, address: &SocketAddr) -> io::Result<()> {
    let joint = match &hold.holder {
        Some(holder) => sys::flag(holder.as_fd(), SOL_SOCKET, SO_REUSEPORT)? != 0,
        None => bind.protocol == Protocol::Udp,
    };
    if joint || sys::flag(bind.socket, SOL_SOCKET, SO_REUSEPORT)? == 0 {
        return bind_plainly(bind, address);
    }
    let _alone = Changed::new(bind.socket, SO_REUSEPORT, false)?;
    bind_plainly(bind, address)
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
    hold.past = if bind.listen { Past::Listened } else { Past::Bound };
    // The consumer is bound, so all is well, whatever becomes of the holder.
    if !stay(holder.as_fd(), bind, granted).unwrap_or(false) {
        hold.holder = None;
    }
    Ok(())
}

fn pass(holder: BorrowedFd<'_>, bind: &Bind<'_>, address: &SocketAddr) -> io::Result<()> {
    {
        let _ours = Changed::raised(holder, SO_REUSEPORT)?;
        let _theirs = Changed::raised(bind.socket, SO_REUSEPORT)?;
        match sys::bind(bind.socket, address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if identity(holder)?.1 == identity(bind.socket)?.1 {
                    return Err(error);
                }
                let _ours = Changed::raised(holder, SO_REUSEADDR)?;
                let _theirs = Changed::raised(bind.socket, SO_REUSEADDR)?;
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
        let _ours = Changed::raised(holder, SO_REUSEADDR)?;
        let _theirs = Changed::raised(bind.socket, SO_REUSEADDR)?;
        sys::listen(bind.socket)?;
    }
    Ok(())
}

/// Lets the holder stay beside its consumer, with the flags that takes, or says that it may not.
fn stay(holder: BorrowedFd<'_>, bind: &Bind<'_>, granted: bool) -> io::Result<bool> {
    // A UDP holder would take datagrams away from its consumer.
    if bind.protocol == Protocol::Udp {
        return Ok(false);
    }
    let (mut address, mut port) = (granted, false);
    if !bind.listen {
        // The consumer is yet to listen, which fails beside a holder unless both have a flag in
        // common at that time. We may not change the consumer's, only match it.
        let consumer_address = sys::flag(bind.socket, SOL_SOCKET, SO_REUSEADDR)? != 0;
        port = sys::flag(bind.socket, SOL_SOCKET, SO_REUSEPORT)? != 0;
        if !consumer_address && !port {
            return Ok(false);
        }
        address |= consumer_address;
    }
    sys::set_flag(holder, SOL_SOCKET, SO_REUSEADDR, address)?;
    sys::set_flag(holder, SOL_SOCKET, SO_REUSEPORT, port)?;
    Ok(true)
}
