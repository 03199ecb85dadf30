//! A pool as one search sees it: where a run may start, and what was found busy so far.

use super::unforeseeable;
use crate::ports::PortRange;

/// The pool of one search, with what was found busy so far.
pub(super) struct Pool {
    pub(super) range: PortRange,
    pub(super) count: u16,
    alignment: u32,
    /// Empty until the first busy port: most searches end before.
    busy: Vec<bool>,
}

impl Pool {
    pub(super) fn new(range: PortRange, count: u16, alignment: u16) -> Self {
        Self { range, count, alignment: alignment.into(), busy: Vec::new() }
    }

    /// The next multiple of the alignment.
    pub(super) fn aligned(&self, port: u32) -> u32 {
        port.next_multiple_of(self.alignment)
    }

    pub(super) fn first_start(&self) -> u32 {
        self.aligned(self.range.start().into())
    }

    pub(super) fn last_start(&self) -> u32 {
        u32::from(self.range.last()) + 1 - u32::from(self.count)
    }

    /// One of the possible starts; `None` when alignment leaves none.
    pub(super) fn random_start(&self) -> Option<u32> {
        let first = self.first_start();
        let choices = self.last_start().checked_sub(first)? / self.alignment + 1;
        // The product's upper half: unbiased enough, and no division.
        let choice = (u128::from(unforeseeable()) * u128::from(choices)) >> 64;
        Some(first + u32::try_from(choice).expect("less than choices") * self.alignment)
    }

    pub(super) fn is_busy(&self, port: u16) -> bool {
        self.busy.get(usize::from(port - self.range.start())).copied().unwrap_or(false)
    }

    pub(super) fn set_busy(&mut self, port: u16) {
        if self.busy.is_empty() {
            self.busy = vec![false; self.range.count().into()];
        }
        self.busy[usize::from(port - self.range.start())] = true;
    }

    /// So many of the busy ports, spread over all of them.
    pub(super) fn some_busy(&self, how_many: usize) -> Vec<u16> {
        let busy: Vec<u16> = self.range.iter().filter(|port| self.is_busy(*port)).collect();
        busy.iter().copied().step_by((busy.len() / how_many).max(1)).take(how_many).collect()
    }
}
