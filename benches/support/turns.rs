//! Two sides in turns, and what came of it; shared by the benchmarks.

use std::time::{Duration, Instant};

/// The two sides of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Ours,
    Bare,
}

/// Times both sides in turns, so that a noisy machine disturbs both alike, leaving out what `drop`
/// of their results costs.
pub(crate) fn pairs<A, B>(
    rounds: usize,
    ours: impl FnMut() -> A,
    bare: impl FnMut() -> B,
) -> Report {
    pairs_after(rounds, |_| (), ours, bare)
}

/// The same, with something to do before each side that is not timed.
pub(crate) fn pairs_after<A, B>(
    rounds: usize,
    mut before: impl FnMut(Side),
    mut ours: impl FnMut() -> A,
    mut bare: impl FnMut() -> B,
) -> Report {
    fn time<T>(before: impl FnOnce(), side: impl FnOnce() -> T) -> Duration {
        before();
        let start = Instant::now();
        let result = side();
        let elapsed = start.elapsed();
        drop(result);
        elapsed
    }
    let mut turns = Vec::with_capacity(rounds);
    for round in 0..rounds + 2 {
        let turn = if round % 2 == 0 {
            let ours = time(|| before(Side::Ours), &mut ours);
            (ours, time(|| before(Side::Bare), &mut bare))
        } else {
            let bare = time(|| before(Side::Bare), &mut bare);
            (time(|| before(Side::Ours), &mut ours), bare)
        };
        // The first two warm up.
        if round >= 2 {
            turns.push(turn);
        }
    }
    Report { turns, each: 1 }
}

/// The turns of one comparison.
pub(crate) struct Report {
    turns: Vec<(Duration, Duration)>,
    each: u32,
}

impl Report {
    /// Says that a turn was so many of what the line names.
    pub(crate) fn each(self, each: u32) -> Self {
        Self { each, ..self }
    }

    /// Prints the medians of both sides and of their ratio, with the tenth and the ninetieth of a
    /// hundred, and how that stands to the limit.
    pub(crate) fn line(&self, name: &str, limit: Option<f64>) {
        let each = f64::from(self.each);
        let of = |value: fn(&(Duration, Duration)) -> f64| {
            Spread::of(self.turns.iter().map(value).collect())
        };
        let ours = of(|(ours, _)| ours.as_secs_f64()).median * 1e6 / each;
        let bare = of(|(_, bare)| bare.as_secs_f64()).median * 1e6 / each;
        let ratio = of(|(ours, bare)| ours.as_secs_f64() / bare.as_secs_f64());
        let limit = limit.map_or(String::new(), |limit| {
            let verdict = if ratio.median <= limit { "ok" } else { "OVER" };
            format!("  limit {limit:.2} {verdict}")
        });
        println!(
            "{name:<50} {:>11} us {:>11} us  ratio {:>6.3} ({:.3}..{:.3}){limit}",
            digits(ours),
            digits(bare),
            ratio.median,
            ratio.low,
            ratio.high,
        );
    }

    /// Prints what our side adds to the other, in milliseconds.
    pub(crate) fn added(&self, name: &str, limit: f64) {
        let added = |(ours, bare): &(Duration, Duration)| {
            (ours.as_secs_f64() - bare.as_secs_f64()) * 1e3 / f64::from(self.each)
        };
        let added = Spread::of(self.turns.iter().map(added).collect());
        let verdict = if added.median <= limit { "ok" } else { "OVER" };
        println!("{name:<50} {:>11.2} ms  limit {limit:.2} {verdict}", added.median);
    }
}

/// The median, and between what eight of ten are.
pub(crate) struct Spread {
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
}

impl Spread {
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |hundredth: usize| values[values.len() * hundredth / 100];
        Self { low: at(10), median: at(50), high: at(90) }
    }
}

/// Nanoseconds matter only where there are few microseconds.
fn digits(micro: f64) -> String {
    if micro < 100.0 { format!("{micro:.3}") } else { format!("{micro:.1}") }
}

pub(crate) fn headline(title: &str, ours: &str, bare: &str) {
    println!("\n{title:<50} {ours:>14} {bare:>14}");
}
