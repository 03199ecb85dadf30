//! Memory, processors with a queue of stores each, and their instructions.

use Model::*;
use Op::*;

use crate::protocol::{Protocol, acquirer, binder};
use crate::scenarios::Scenario;

/// Ports 0 and 1 share a word of the bitmaps, port 2 is in the next one.
pub(crate) const WORDS: [u8; 2] = [0b011, 0b100];
pub(crate) const PORTS: usize = 3;

// Places in memory. `SOCKETS` has a bit for each binder; a walk gets there through `BUCKET`.
pub(crate) const TABLE: usize = 0;
pub(crate) const USED: usize = 1;
pub(crate) const MAYBE: usize = USED + WORDS.len();
pub(crate) const LOCK: usize = MAYBE + WORDS.len();
pub(crate) const BUCKET: usize = LOCK + PORTS;
pub(crate) const SOCKETS: usize = BUCKET + PORTS;
pub(crate) const PLACES: usize = SOCKETS + PORTS;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Model {
    Interleaving,
    Tso,
    Weak,
}

pub(crate) type Label = (&'static str, usize);

pub(crate) const MARKED: Label = ("marked", 0);

/// The instructions. A place comes with the bits that matter.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    /// A load into the register.
    Read(usize, u8),
    /// Go there if the port has a socket.
    Walk(usize, Label),
    /// Atomics; the register gets what was set before.
    Set(usize, u8),
    Clear(usize, u8),
    /// Clear those that the register does not have.
    GiveBack(usize, u8),
    /// Set them if the word is still what the register has, else go there.
    Swap(usize, u8, Label),
    Fence,
    Lock(usize),
    Unlock(usize),
    /// Link the socket with this bit in, or take it out.
    Link(usize, u8, bool),
    // Here an agent may rest.
    Hold,
    Bound,
    End,
    // Not steps of their own.
    At(Label),
    Goto(Label),
    When(u8, Label),
    Unless(u8, Label),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Agent {
    pub(crate) at: u8,
    pub(crate) rounds: u8,
    pub(crate) register: u8,
    /// What an early load of `used` got.
    pub(crate) early: Option<u8>,
    /// Refused, and it should not have been.
    pub(crate) wronged: bool,
    /// Stores on their way to memory, oldest first.
    pub(crate) queue: [(u8, u8); 3],
    pub(crate) queued: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) memory: [u8; PLACES],
    pub(crate) agents: [Agent; 4],
}

#[derive(Clone, Copy)]
pub(crate) enum Choice {
    Run,
    ReadEarly,
    Flush(usize),
}

/// What was done, where, and the bits it was about or found.
pub(crate) type Deed = (&'static str, usize, u8);

pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) model: Model,
    /// Name, ports, program: acquirers, then binders.
    pub(crate) agents: Vec<(String, u8, Vec<Op>)>,
}

fn byte(number: usize) -> u8 {
    u8::try_from(number).expect("all numbers are small")
}

pub(crate) fn ports(mask: u8) -> impl Iterator<Item = usize> {
    (0..PORTS).filter(move |port| mask >> port & 1 == 1)
}

pub(crate) fn list(mask: u8) -> String {
    let list: Vec<_> = ports(mask).map(|port| port.to_string()).collect();
    if list.is_empty() { "none".into() } else { list.join("+") }
}

impl World {
    pub(crate) fn new(protocol: &Protocol, scenario: Scenario, model: Model, udp: bool) -> Self {
        let acquirers = scenario.acquirers.iter().zip('A'..).map(|(&(mask, _), letter)| {
            (
                format!("{letter} (acquires {})", list(mask)),
                mask,
                acquirer(protocol, mask, scenario.table),
            )
        });
        let binders = (0..).zip('X'..).zip(scenario.binders).map(|((i, letter), &(port, _))| {
            (format!("{letter} (binds {port})"), 1 << port, binder(protocol, port, 1 << i, udp))
        });
        Self { scenario, model, agents: acquirers.chain(binders).collect() }
    }

    /// With whatever `maybe` can be: set for no reason, but not clear where a socket is.
    pub(crate) fn starts(&self) -> Vec<State> {
        let Scenario { acquirers, binders, busy, table, .. } = self.scenario;
        let mut state = State { memory: [0; PLACES], agents: Default::default() };
        let rounds = acquirers.iter().map(|a| a.1).chain(binders.iter().map(|b| b.1));
        state.agents.iter_mut().zip(rounds).for_each(|(agent, rounds)| agent.rounds = rounds);
        state.memory[TABLE] = u8::from(table);
        for port in ports(busy) {
            state.memory[BUCKET + port] = 1;
            state.memory[SOCKETS + port] = 1 << 7;
        }
        let least = if table { busy } else { 0b111 };
        let with_maybe = |maybe| {
            state.memory[MAYBE..LOCK].copy_from_slice(&WORDS.map(|word| maybe & word));
            state
        };
        (0..1 << PORTS).filter(|maybe| maybe & least == least).map(with_maybe).collect()
    }

    pub(crate) fn op(&self, state: &State, who: usize) -> Op {
        self.agents[who].2[usize::from(state.agents[who].at)]
    }

    /// Take a step, if it can be taken now.
    pub(crate) fn step(&self, state: &mut State, who: usize, choice: Choice) -> Option<Deed> {
        match choice {
            Choice::Run => self.run(state, who),
            Choice::ReadEarly => self.read_early(state, who),
            Choice::Flush(k) => self.flush(state, who, k),
        }
    }

    fn flush(&self, state: &mut State, who: usize, k: usize) -> Option<Deed> {
        let Agent { queue, queued, .. } = &mut state.agents[who];
        let (to, value) = queue[k];
        let place = usize::from(to);
        let unlocks = (LOCK..BUCKET).contains(&place);
        let waits = unlocks || self.model == Tso || queue[..k].iter().any(|store| store.0 == to);
        if k >= usize::from(*queued) || (k > 0 && waits) {
            return None;
        }
        queue.copy_within(k + 1.., k);
        *queued -= 1;
        queue[usize::from(*queued)] = (0, 0);
        state.memory[place] = value;
        let port = (place - LOCK) % PORTS;
        Some(("has a store reach memory:", place, u8::from(value != 0) << port))
    }

    /// `used` may be read before `maybe` where nothing stands between them; setting `maybe` would.
    fn read_early(&self, state: &mut State, who: usize) -> Option<Deed> {
        let agent = &mut state.agents[who];
        match self.agents[who].2[usize::from(agent.at)..] {
            [Read(..), When(_, MARKED), Set(..), At(MARKED), Read(place, bit), ..]
                if self.model == Weak && agent.early.is_none() =>
            {
                let value = state.memory[place] & bit;
                agent.early = Some(value);
                Some(("reads early", place, value))
            }
            _ => None,
        }
    }

    fn run(&self, state: &mut State, who: usize) -> Option<Deed> {
        let op = self.op(state, who);
        let State { memory, agents } = state;
        let agent = &mut agents[who];
        let waits = match op {
            Set(..) | Clear(..) | GiveBack(..) | Swap(..) | Fence => agent.queued > 0,
            // The last store in the queue is the unlock, so it is empty when that has arrived.
            Lock(port) => agent.queued > 0 || memory[LOCK + port] == 1,
            End => agent.rounds < 2,
            _ => false,
        };
        if waits {
            return None;
        }
        let mut store = |memory: &mut [u8; PLACES], place, value| {
            if self.model == Interleaving {
                memory[place] = value;
            } else {
                agent.queue[usize::from(agent.queued)] = (byte(place), value);
                agent.queued += 1;
            }
        };
        let mut goto = None;
        let deed = match op {
            Read(place, bits) => {
                let queue = &agent.queue[..usize::from(agent.queued)];
                assert!(queue.iter().all(|store| usize::from(store.0) != place));
                let early = agent.early.filter(|_| (USED..MAYBE).contains(&place));
                agent.register = early.unwrap_or(memory[place] & bits);
                ("reads", place, agent.register)
            }
            Walk(port, found) => {
                let busy = memory[BUCKET + port] == 1 && memory[SOCKETS + port] != 0;
                goto = busy.then_some(found);
                ("walks", SOCKETS + port, u8::from(busy) << port)
            }
            Set(place, bits) | Clear(place, bits) => {
                let set = matches!(op, Set(..));
                (agent.register, agent.early) = (memory[place] & bits, None);
                memory[place] = if set { memory[place] | bits } else { memory[place] & !bits };
                (if set { "sets" } else { "clears" }, place, bits)
            }
            GiveBack(place, bits) => {
                memory[place] &= !bits | agent.register;
                ("gives back", place, bits & !agent.register)
            }
            Swap(place, bits, late) => {
                let same = memory[place] == agent.register;
                agent.wronged = !same && memory[place] & bits == 0;
                goto = (!same).then_some(late);
                memory[place] |= if same { bits } else { 0 };
                (if same { "swaps its bits into" } else { "finds changed" }, place, memory[place])
            }
            Fence => ("passes a fence", PLACES, 0),
            Lock(port) => {
                memory[LOCK + port] = 1;
                ("locks", PLACES, 0)
            }
            Unlock(port) => {
                store(memory, LOCK + port, 0);
                ("unlocks", PLACES, 0)
            }
            Link(port, bit, links) => {
                let before = memory[SOCKETS + port];
                let after = if links { before | bit } else { before & !bit };
                store(memory, SOCKETS + port, after);
                if (before == 0) != (after == 0) {
                    store(memory, BUCKET + port, u8::from(links));
                }
                (if links { "links its socket in" } else { "takes its socket out" }, PLACES, 0)
            }
            Hold => ("begins to release", PLACES, 0),
            Bound => ("begins to close", PLACES, 0),
            End => {
                agent.rounds -= 1;
                agent.wronged = false;
                ("comes back", PLACES, 0)
            }
            At(_) | Goto(_) | When(..) | Unless(..) => unreachable!("passed over"),
        };
        let next = if op == End { 0 } else { usize::from(agent.at) + 1 };
        self.go_on(agent, who, goto.map_or(next, |label| self.find(who, label)));
        Some(deed)
    }

    fn find(&self, who: usize, label: Label) -> usize {
        self.agents[who].2.iter().position(|&op| op == At(label)).expect("no label is missing")
    }

    /// On to the next step.
    fn go_on(&self, agent: &mut Agent, who: usize, mut at: usize) {
        loop {
            at = match self.agents[who].2[at] {
                Goto(label) => self.find(who, label),
                When(bits, label) if agent.register & bits != 0 => self.find(who, label),
                Unless(bits, label) if agent.register & bits == 0 => self.find(who, label),
                At(label) => {
                    agent.wronged |=
                        self.scenario.busy != 0 && ["caught", "refused"].contains(&label.0);
                    at + 1
                }
                When(..) | Unless(..) => at + 1,
                op => {
                    if matches!(op, Hold | Bound | End) {
                        (agent.register, agent.early) = (0, None);
                    }
                    agent.at = byte(at);
                    return;
                }
            }
        }
    }
}
