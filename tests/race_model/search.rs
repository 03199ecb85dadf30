//! Every state there is, what is wrong with it, and how it came about.

use std::collections::HashSet;
use std::time::Instant;

use crate::machine::Op::*;
use crate::machine::*;
use crate::protocol::Protocol;
use crate::scenarios::Scenario;

impl World {
    /// What is wrong with this state?
    fn judge(&self, state: &State) -> Option<String> {
        let word = |place| state.memory[place] | state.memory[place + 1];
        let (used, maybe) = (word(USED), word(MAYBE));
        let (mut reserved, mut bound, mut rests) = (0, 0, true);
        for (who, (name, mask, _)) in self.agents.iter().enumerate() {
            let (op, agent) = (self.op(state, who), &state.agents[who]);
            rests &= agent.queued == 0 && (agent.at == 0 || matches!(op, Hold | Bound | End));
            if agent.wronged {
                return Some(format!("{name} is refused for nothing"));
            }
            if op == Hold && (reserved & mask != 0 || used & mask != *mask) {
                return Some(format!("{name} holds a block that is not all its own"));
            }
            reserved |= if op == Hold { *mask } else { 0 };
            bound |= if op == Bound { *mask } else { 0 };
        }
        if bound & reserved != 0 {
            return Some(format!("a stranger is bound to {}, in a block", list(bound & reserved)));
        }
        if rests && used != reserved {
            return Some(format!("used is set for {}, held by nobody", list(used & !reserved)));
        }
        let lost = (bound | self.scenario.busy) & !maybe;
        let text = || {
            format!("a stranger is bound to {}, which the next acquire will not walk", list(lost))
        };
        (rests && lost != 0).then(text)
    }

    /// Visit everything: the number of states, or a shortest way to a bad one.
    fn explore(&self) -> Result<usize, String> {
        let mut states = self.starts();
        let mut seen: HashSet<State> = states.iter().copied().collect();
        let mut ways: Vec<Way> = vec![None; states.len()];
        let flushes = [Choice::Flush(0), Choice::Flush(1), Choice::Flush(2)];
        let mut at = 0;
        while at < states.len() {
            let mut stuck = true;
            for who in 0..self.agents.len() {
                for choice in [Choice::Run, Choice::ReadEarly].into_iter().chain(flushes) {
                    let mut state = states[at];
                    let taken = self.step(&mut state, who, choice).is_some();
                    stuck &= !taken;
                    if taken && seen.insert(state) {
                        states.push(state);
                        ways.push(Some((at, who, choice)));
                    }
                }
            }
            let over = || (0..self.agents.len()).all(|who| self.op(&states[at], who) == End);
            let wrong = (stuck && !over()).then(|| "nobody can go on".into());
            if let Some(wrong) = wrong.or_else(|| self.judge(&states[at])) {
                return Err(self.tell(&states, &ways, at, &wrong));
            }
            at += 1;
        }
        Ok(states.len())
    }

    fn tell(&self, states: &[State], ways: &[Way], mut at: usize, wrong: &str) -> String {
        let mut steps = vec![format!("=> {wrong}")];
        while let Some((before, who, choice)) = ways[at] {
            let name = &self.agents[who].0;
            let (verb, place, bits) =
                self.step(&mut states[before].clone(), who, choice).expect("it was taken before");
            let place = match place {
                TABLE => format!(" table: {bits}"),
                USED..MAYBE => format!(" used: {}", list(bits)),
                MAYBE..LOCK => format!(" maybe: {}", list(bits)),
                LOCK..BUCKET => " lock: open".into(),
                BUCKET..SOCKETS => format!(" bucket: {}", list(bits)),
                SOCKETS..PLACES => format!(" sockets: {}", list(bits)),
                _ => String::new(),
            };
            let end = match self.op(&states[at], who) {
                Hold if matches!(choice, Choice::Run) => ", has its block",
                Bound if matches!(choice, Choice::Run) => ", is bound",
                _ => "",
            };
            steps.push(format!("{name} {verb}{place}{end}"));
            at = before;
        }
        let maybe = states[at].memory[MAYBE] | states[at].memory[MAYBE + 1];
        steps.push(format!("maybe: {}", list(maybe)));
        steps.reverse();
        steps.join("\n    ")
    }
}

/// The state before, and who did what.
type Way = Option<(usize, usize, Choice)>;

pub(crate) fn explore(
    protocol: &Protocol,
    scenario: Scenario,
    model: Model,
    udp: bool,
) -> Result<usize, String> {
    let (start, name) = (Instant::now(), scenario.name);
    let result = World::new(protocol, scenario, model, udp).explore();
    let what = format!("{name}, {model:?}, {}", if udp { "UDP" } else { "TCP" });
    match &result {
        Ok(states) => println!("{what}: {states} states, {:.1?}", start.elapsed()),
        Err(trace) => println!("{what}: violated\n    {trace}"),
    }
    result
}
