//! Who meets whom, and what is shown of it.

use crate::machine::Model::{self, *};
use crate::protocol::Part::*;
use crate::protocol::{PROTOCOL, Protocol};
use crate::search::explore;

#[derive(Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// A block as a mask, and how often it is acquired and released.
    pub(crate) acquirers: &'static [(u8, u8)],
    /// A port, and how often it is bound and closed.
    pub(crate) binders: &'static [(usize, u8)],
    /// Is there a table already?
    pub(crate) table: bool,
    /// Ports that are busy for good. Every block has one, so nobody should feel the attempts.
    pub(crate) busy: u8,
}

type Pairs<T> = &'static [(T, u8)];

const fn scenario(name: &'static str, acquirers: Pairs<u8>, binders: Pairs<usize>) -> Scenario {
    Scenario { name, acquirers, binders, table: true, busy: 0 }
}

const COMING_BACK: Scenario = scenario("coming back", &[(0b001, 3)], &[(0, 3)]);
const TWO_PORTS: Scenario = scenario("two ports", &[(0b011, 2)], &[(0, 1), (1, 1)]);
const SHARED_PORT: Scenario = scenario("shared port", &[(0b001, 2)], &[(0, 1), (0, 1)]);
const OVERLAP: Scenario = scenario("overlap", &[(0b011, 1), (0b110, 2)], &[(1, 1)]);
const TWO_WORDS: Scenario = scenario("two words", &[(0b110, 2), (0b100, 1)], &[(2, 1)]);
const NEIGHBOURS: Scenario = scenario("neighbours", &[(0b001, 2), (0b010, 2)], &[(1, 1)]);
const NO_TABLE: Scenario =
    Scenario { table: false, ..scenario("no table", &[(0b001, 1), (0b010, 1)], &[(0, 2)]) };
const BUSY: Scenario =
    Scenario { busy: 0b010, ..scenario("busy", &[(0b011, 2), (0b111, 1)], &[(0, 2)]) };

const SCENARIOS: [Scenario; 8] =
    [COMING_BACK, TWO_PORTS, SHARED_PORT, OVERLAP, TWO_WORDS, NEIGHBOURS, NO_TABLE, BUSY];

fn holds(protocol: &Protocol, model: Model, udp: bool) {
    for scenario in SCENARIOS {
        explore(protocol, scenario, model, udp).expect("the protocol holds");
    }
}

/// All machines on which something in this scenario goes wrong.
fn fails(protocol: &Protocol, scenario: Scenario) -> Vec<(Model, bool)> {
    let fails = |&(model, udp): &_| explore(protocol, scenario, model, udp).is_err();
    EVERYWHERE.into_iter().filter(fails).collect()
}

const EVERYWHERE: [(Model, bool); 4] =
    [(Interleaving, false), (Tso, false), (Tso, true), (Weak, false)];
/// Where a fence is missed that follows the linking; on x86, UDP's second lock stands in for it.
const WITH_QUEUES: [(Model, bool); 2] = [(Tso, false), (Weak, false)];

#[test]
fn the_protocol_holds_when_everything_happens_at_once() {
    holds(&PROTOCOL, Interleaving, false);
}

#[test]
fn the_protocol_holds_for_tcp_on_x86() {
    holds(&PROTOCOL, Tso, false);
}

#[test]
fn the_protocol_holds_for_udp_on_x86() {
    holds(&PROTOCOL, Tso, true);
}

#[test]
fn the_protocol_holds_on_weaker_machines() {
    holds(&PROTOCOL, Weak, false);
}

/// The kernel program restores more than it has to, which is simpler.
#[test]
fn the_protocol_holds_when_maybe_is_restored_only_where_not_walked() {
    holds(&Protocol { restored: |port| !0 << port, ..PROTOCOL }, Tso, false);
}

#[test]
fn it_fails_when_maybe_is_set_after_used_was_read() {
    let post_bind = &[FullFence, FindTable, Reread, FullFence, MarkMaybe];
    assert_eq!(fails(&Protocol { post_bind, ..PROTOCOL }, COMING_BACK), EVERYWHERE);
}

#[test]
fn it_fails_without_fences() {
    let post_bind = &[FindTable, MarkMaybe, Reread];
    assert_eq!(fails(&Protocol { post_bind, ..PROTOCOL }, COMING_BACK), WITH_QUEUES);
}

/// The bind is caught as long as the block is held; but once it is released, the socket is there
/// with `maybe` clear: it was read as set, cleared, and the walk came before the socket.
#[test]
fn it_fails_without_the_fence_before_maybe() {
    let post_bind = &[FindTable, MarkMaybe, FullFence, Reread];
    assert_eq!(fails(&Protocol { post_bind, ..PROTOCOL }, COMING_BACK), WITH_QUEUES);
}

/// Another stranger, who will be refused, sets `maybe` for a socket that the acquirer did not walk.
#[test]
fn it_fails_without_the_fence_after_maybe() {
    let post_bind = &[FullFence, FindTable, MarkMaybe, Reread];
    assert_eq!(fails(&Protocol { post_bind, ..PROTOCOL }, SHARED_PORT), [(Weak, false)]);
}

#[test]
fn it_fails_when_the_table_is_looked_up_before_the_fence() {
    let post_bind = &[FindTable, FullFence, MarkMaybe, FullFence, Reread];
    assert_eq!(fails(&Protocol { post_bind, ..PROTOCOL }, NO_TABLE), WITH_QUEUES);
}

#[test]
fn it_fails_when_used_is_not_read_again() {
    let post_bind = &[FullFence, FindTable, MarkMaybe];
    assert_eq!(fails(&Protocol { post_bind, ..PROTOCOL }, COMING_BACK), EVERYWHERE);
}

#[test]
fn without_the_first_look_binds_are_refused_though_nothing_is_ever_granted() {
    assert_eq!(fails(&Protocol { first_look: false, ..PROTOCOL }, BUSY), EVERYWHERE);
}

#[test]
fn it_fails_when_maybe_is_not_restored_where_not_walked() {
    assert_eq!(fails(&Protocol { restored: |port| 1 << port, ..PROTOCOL }, TWO_PORTS), EVERYWHERE);
}

#[test]
fn it_fails_when_the_claim_is_dropped_before_maybe_is_restored() {
    assert_eq!(fails(&Protocol { restore_then_drop: false, ..PROTOCOL }, OVERLAP), EVERYWHERE);
}

#[test]
fn it_fails_when_maybe_is_cleared_after_the_walk() {
    assert_eq!(fails(&Protocol { clear_then_walk: false, ..PROTOCOL }, COMING_BACK), EVERYWHERE);
}

#[test]
fn it_fails_when_a_neighbour_s_change_counts_as_conflict() {
    assert_eq!(fails(&Protocol { swap_once: true, ..PROTOCOL }, NEIGHBOURS), EVERYWHERE);
}
