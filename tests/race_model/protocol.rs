//! The two halves of the protocol, as programs of the machine.

use Part::*;

use crate::machine::Op::{self, *};
use crate::machine::{MARKED, MAYBE, TABLE, USED, WORDS, ports};

#[derive(Clone, Copy)]
pub(crate) enum Part {
    FullFence,
    FindTable,
    MarkMaybe,
    Reread,
}

#[derive(Clone, Copy)]
pub(crate) struct Protocol {
    pub(crate) post_bind: &'static [Part],
    pub(crate) first_look: bool,
    /// Claim by a single compare and swap, and not by a fetch-or that is taken back.
    pub(crate) swap_once: bool,
    pub(crate) clear_then_walk: bool,
    /// Who finds a socket at this port sets `maybe` again at which of those he looked at?
    pub(crate) restored: fn(usize) -> u8,
    pub(crate) restore_then_drop: bool,
}

pub(crate) const PROTOCOL: Protocol = Protocol {
    post_bind: &[FullFence, FindTable, MarkMaybe, FullFence, Reread],
    first_look: true,
    swap_once: false,
    clear_then_walk: true,
    restored: |_| !0,
    restore_then_drop: true,
};

pub(crate) fn acquirer(protocol: &Protocol, mask: u8, table: bool) -> Vec<Op> {
    let own = |word: usize| mask & WORDS[word];
    let words = || (0..WORDS.len()).filter(|&word| own(word) != 0);
    let drop = |end| words().filter(move |&w| w < end).map(|w| Clear(USED + w, own(w)));
    let walk = |word, free, busy| {
        let go_on = move |port| {
            [Unless(1u8 << port, (free, port)), Walk(port, (busy, port)), At((free, port))]
        };
        ports(own(word)).flat_map(go_on)
    };
    let (mut program, mut undo) = (vec![], vec![]);
    program.extend((!table).then_some(Set(TABLE, 1)));
    for word in words().filter(|_| protocol.first_look) {
        let (used, maybe) = (Read(USED + word, own(word)), Read(MAYBE + word, own(word)));
        program.extend([used, When(!0, ("done", 0)), maybe]);
        program.extend(walk(word, "free at first", "no use"));
    }
    for word in words() {
        let (used, bits, lost) = (USED + word, own(word), ("lost", word));
        undo.push(At(lost));
        if protocol.swap_once {
            program.extend([Read(used, WORDS[word]), When(bits, lost), Swap(used, bits, lost)]);
        } else {
            program.extend([Set(used, bits), When(!0, lost)]);
            undo.push(GiveBack(used, bits));
        }
        undo.extend(drop(word).chain([Goto(("done", 0))]));
    }
    for word in words() {
        let (maybe, bits, clean) = (MAYBE + word, own(word), ("clean", word));
        program.extend([Read(maybe, bits), Unless(!0, clean)]);
        let clear = program.len();
        program.extend(walk(word, "free", "busy"));
        program.insert(
            if protocol.clear_then_walk { clear } else { program.len() },
            Clear(maybe, bits),
        );
        program.push(At(clean));
        for port in ports(bits) {
            let restored = |w: usize| Set(MAYBE + w, own(w) & (protocol.restored)(port));
            let restore = words().filter(|&w| w <= word).map(restored);
            let restore = restore.filter(|op| !matches!(op, Set(_, 0)));
            undo.push(At(("busy", port)));
            if protocol.restore_then_drop {
                undo.extend(restore.chain(drop(!0)));
            } else {
                undo.extend(drop(!0).chain(restore));
            }
            undo.push(Goto(("done", 0)));
        }
    }
    program.push(Hold);
    program.extend(drop(!0).chain([Goto(("done", 0))]).chain(undo));
    program.extend(ports(mask).map(|port| At(("no use", port))).chain([At(("done", 0)), End]));
    program
}

pub(crate) fn binder(protocol: &Protocol, port: usize, own: u8, udp: bool) -> Vec<Op> {
    let (bit, used, maybe) = (1 << port, USED + port / 2, MAYBE + port / 2);
    let (stands, caught, refused) = (("stands", 0), ("caught", 0), ("refused", 0));
    let mut program = vec![Read(used, bit), When(bit, refused)];
    program.extend([Lock(port), Link(port, own, true), Unlock(port)]);
    program.extend(udp.then_some(Fence));
    for part in protocol.post_bind {
        match part {
            FullFence => program.push(Fence),
            FindTable => program.extend([Read(TABLE, 1), Unless(1, stands)]),
            MarkMaybe => {
                program.extend([Read(maybe, bit), When(bit, MARKED), Set(maybe, bit), At(MARKED)]);
            }
            Reread => program.extend([Read(used, bit), When(bit, caught)]),
        }
    }
    let close = [Lock(port), Link(port, own, false), Unlock(port), Goto(("done", 0))];
    program.extend([At(stands), Bound].into_iter().chain(close).chain([At(caught)]).chain(close));
    program.extend([At(refused), At(("done", 0)), End]);
    program
}
