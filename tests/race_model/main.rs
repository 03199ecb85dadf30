//! The race protocol of the kernel engine, tried in every order.
//!
//! An acquirer (`bpf/acquire.bpf.h`) takes ports that nobody is bound to; a stranger's bind
//! (`bpf/consume.bpf.h`) must not end inside a block; neither locks the other out. They share two
//! bitmaps, `used` (reserved) and `maybe` (a stranger may be bound here), and the kernel's table.
//!
//! * acquire: (0) look: none of our bits in `used`, no socket at a port whose `maybe` is set;
//!   (1) claim: set our bits in `used`, all or none; (2) look again: clear `maybe`, and walk the
//!   ports where it was set. If one has a socket, set `maybe` again and only then drop the claim.
//! * bind: (1) the hook reads `used`; (2) the kernel links the socket in, under the bucket's lock;
//!   (3) `post_bind`: fence, find the table, set `maybe` if it is clear, fence (the programs: an
//!   address that depends on what was read of `maybe`), read `used` again:
//!   if it is set, the kernel takes the socket out. No table is no reservation: the bind stands.
//!
//! Every reachable state is visited, the nearest first, so that a violation is told in as few steps
//! as it takes. On three kinds of machine:
//!
//! * `Interleaving`: one memory; everything happens at once.
//! * `Tso` (x86): stores wait in a queue of their processor; atomics, locks and fences wait until
//!   it is empty. Unlocking is a plain store. A processor would see its own queue, but here nobody
//!   reads what he has queued (there is an assertion).
//! * `Weak` (like arm64): stores leave the queue in any order, but those to one place in theirs and
//!   an unlock after all before it; loads may be swapped unless a fence, an atomic or an address
//!   stands between. That leaves one pair to swap, `maybe` and `used` in `post_bind`: the
//!   acquirer's decisive loads follow atomics, and what the first look and the hook read decides
//!   nothing that is not read again.
//!
//! UDP locks once more after linking the socket in. On x86 that is a fence: a case of its own.
//!
//! Left out: the walk within a bucket (one step here), tables that change hands, who may use a
//! block, connect(), conflicts between strangers (they bind different addresses), other ways to
//! swap loads and stores, and machines on which processors disagree about the order of stores.

mod machine;
mod protocol;
mod scenarios;
mod search;
