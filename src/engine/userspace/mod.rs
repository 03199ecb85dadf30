//! The userspace engine: a reservation is a set of bound sockets that never listen.
//!
//! `holder` holds one port, `search` finds a free run in the pool, `block` is what was got, and
//! `hand_over` lets a consumer in without a gap.

mod block;
mod hand_over;
mod holder;
mod pool;
mod search;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use self::block::Held;
use super::{Bind, Block, Engine, EngineKind};
use crate::error::{Error, ErrorKind, Result};
use crate::ports::{PortRange, Protocol};
use crate::request::{Grant, PortRequest};
use crate::sys::{self, Family};
use crate::token::Token;

struct Userspace;

pub(super) fn engine() -> Result<&'static dyn Engine> {
    Ok(&Userspace)
}

/// The live blocks of this process. A token means nothing outside of it.
static BLOCKS: LazyLock<Mutex<HashMap<Token, Arc<Held>>>> = LazyLock::new(Mutex::default);

fn blocks() -> MutexGuard<'static, HashMap<Token, Arc<Held>>> {
    BLOCKS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine for Userspace {
    fn acquire(&self, request: &PortRequest) -> Result<Box<dyn Block>> {
        let (range, lanes) = search::hold(request)?;
        let held = Arc::new(Held::new(new_token(), range, request.protocols, lanes));
        if request.grant == Grant::Descendants {
            held.grant_descendants()?;
        }
        blocks().insert(held.token(), Arc::clone(&held));
        Ok(Box::new(Handle(held)))
    }

    fn bind(&self, token: Token, bind: &Bind<'_>) -> Result<SocketAddr> {
        let held = blocks().get(&token).cloned();
        held.ok_or_else(block::dead_token)?.bind(bind)
    }

    fn release(&self, token: Token, protocol: Protocol) -> Result<()> {
        // One answer for whatever is wrong with a token: nothing is learned by asking (spec 5.1).
        let held = blocks().get(&token).cloned();
        match held {
            Some(held) if held.is_ours() && held.protocols().contains(&protocol) => {
                blocks().remove(&token);
                held.release()
            }
            _ => Err(block::dead_token()),
        }
    }
}

/// The reservation's end of a block: when it goes, the block goes.
#[derive(Debug)]
struct Handle(Arc<Held>);

impl Block for Handle {
    fn engine(&self) -> EngineKind {
        EngineKind::Userspace
    }

    fn protocols(&self) -> &'static [Protocol] {
        self.0.protocols()
    }

    fn range(&self) -> PortRange {
        self.0.range()
    }

    fn token(&self) -> Token {
        self.0.token()
    }

    fn anchor(&self) -> BorrowedFd<'_> {
        // A socket a block would make the smallest block twice as dear and still not carry it, so
        // all of them show the same one.
        static ANCHOR: LazyLock<OwnedFd> = LazyLock::new(|| {
            holder::open(Protocol::Tcp).expect("no descriptor is left for the anchor").0
        });
        ANCHOR.as_fd()
    }

    fn bind(&self, bind: &Bind<'_>) -> Result<SocketAddr> {
        self.0.bind(bind)
    }

    fn grant_descendants(&self) -> Result<()> {
        self.0.grant_descendants()
    }

    fn release(&self) -> Result<()> {
        self.0.release()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // In a forked child this closes the child's copies of the held sockets. The ports stay
        // held, because the owner has them open too.
        blocks().remove(&self.0.token());
        self.0.close();
    }
}

/// A number nobody can foresee: SipHash under a key that the operating system gave this process.
fn unforeseeable() -> u64 {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    // A forked child has the same key and the same counter, but another process id.
    KEY.hash_one((COUNTER.fetch_add(1, Ordering::Relaxed), sys::process_id()))
}

/// A token that is not in use. The counter never repeats, so a dead one comes back only if two of
/// its values have the same hash, one in 2^64.
fn new_token() -> Token {
    let blocks = blocks();
    loop {
        if let Some(token) = Token::from_u64(unforeseeable())
            && !blocks.contains_key(&token)
        {
            return token;
        }
    }
}

/// A socket for `address` as the standard library would make it.
pub(crate) fn open_socket(protocol: Protocol, address: &SocketAddr) -> Result<OwnedFd> {
    let socket = sys::open(family(address), protocol)
        .and_then(|socket| {
            if protocol == Protocol::Tcp {
                sys::set_flag(socket.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, true)?;
            }
            Ok(socket)
        })
        .map_err(|cause| Error::os(format_args!("cannot open a {protocol} socket"), &cause))?;
    Ok(socket)
}

fn family(address: &SocketAddr) -> Family {
    if address.is_ipv4() { Family::Inet } else { Family::Inet6 }
}

/// Checks that `socket` can be bound to `address` at all, and tells its protocol.
pub(super) fn bindable(socket: BorrowedFd<'_>, address: &SocketAddr) -> Result<Protocol> {
    let look = |cause| Error::os("cannot look at the socket to be bound", &cause);
    let Some((protocol, family_of_socket)) = sys::protocol(socket).map_err(look)? else {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "only TCP and UDP sockets over IPv4 or IPv6 can be bound in a reservation",
        ));
    };
    if family_of_socket != family(address) {
        return Err(Error::invalid(format!(
            "the socket is of another address family than {address}"
        )));
    }
    let bound = sys::local_address(socket).map_err(look)?;
    if bound.port() != 0 {
        return Err(Error::invalid(format!("the socket is bound to {bound} already")));
    }
    Ok(protocol)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    #[test]
    fn tokens_do_not_repeat_and_use_all_their_bits() {
        let tokens: HashSet<u64> = (0..10_000).map(|_| super::new_token().expose()).collect();
        assert_eq!(tokens.len(), 10_000);
        for bit in 0..64 {
            let set = tokens.iter().filter(|token| *token >> bit & 1 == 1).count();
            assert!((4_500..5_500).contains(&set), "bit {bit} is set in {set} of 10,000");
        }
    }
}
