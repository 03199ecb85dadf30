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
use crate::error::Result;
use crate::ports::{PortRange, Protocol};
use crate::request::{Grant, PortRequest};
use crate::sys;
use crate::token::Token;

pub(super) struct Userspace;

/// Whether `token` names a live block of this process.
pub(super) fn knows(token: Token) -> bool {
    blocks().contains_key(&token)
}

/// The live blocks of this process. A token means nothing outside of it.
static BLOCKS: LazyLock<Mutex<HashMap<Token, Arc<Held>>>> = LazyLock::new(Mutex::default);

fn blocks() -> MutexGuard<'static, HashMap<Token, Arc<Held>>> {
    BLOCKS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine for Userspace {
    fn acquire(&self, request: &PortRequest) -> Result<Box<dyn Block>> {
        let (range, lanes) = search::hold(request)?;
        let held = lanes.into_iter().map(|lane| Arc::new(Held::new(new_token(), range, lane)));
        let handle = Handle { protocols: request.protocols, held: held.collect() };
        if request.grant == Grant::Descendants {
            handle.grant_descendants()?;
        }
        blocks().extend(handle.held.iter().map(|held| (held.token(), Arc::clone(held))));
        Ok(Box::new(handle))
    }

    fn bind(&self, token: Token, bind: &Bind<'_>) -> Result<SocketAddr> {
        let held = blocks().get(&token).cloned();
        held.ok_or_else(block::dead_token)?.bind(bind)
    }

    fn release(&self, token: Token, protocol: Protocol) -> Result<()> {
        // One answer for whatever is wrong with a token: nothing is learned by asking (spec 5.1).
        let held = blocks().get(&token).cloned();
        match held {
            Some(held) if held.is_ours() && held.protocol() == protocol => {
                blocks().remove(&token);
                held.release()
            }
            _ => Err(block::dead_token()),
        }
    }
}

/// The reservation's end of a block: when it goes, the block goes.
#[derive(Debug)]
struct Handle {
    protocols: &'static [Protocol],
    /// One for each protocol.
    held: Vec<Arc<Held>>,
}

impl Block for Handle {
    fn engine(&self) -> EngineKind {
        EngineKind::Userspace
    }

    fn protocols(&self) -> &'static [Protocol] {
        self.protocols
    }

    fn range(&self) -> PortRange {
        self.held[0].range()
    }

    fn token(&self, protocol: Protocol) -> Option<Token> {
        self.held.iter().find(|held| held.protocol() == protocol).map(|held| held.token())
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
        let held = self.held.iter().find(|held| held.protocol() == bind.protocol);
        held.ok_or_else(|| super::not_for(self.range(), bind.protocol))?.bind(bind)
    }

    fn grant_descendants(&self) -> Result<()> {
        self.held.iter().try_for_each(|held| held.grant_descendants())
    }

    fn release(&self) -> Result<()> {
        // All of them, whatever becomes of the first.
        let mut all = Ok(());
        for held in &self.held {
            all = all.and(held.release());
        }
        all
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // In a forked child this closes the child's copies of the held sockets. The ports stay
        // held, because the owner has them open too.
        for held in &self.held {
            blocks().remove(&held.token());
            held.close();
        }
    }
}

/// A number nobody can foresee: SipHash under a key that the operating system gave this process.
pub(in crate::engine) fn unforeseeable() -> u64 {
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
