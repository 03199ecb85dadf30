//! Real servers under `portkeep run`, started again and again while strangers take every port they
//! can get, in a namespace whose ephemeral range is the pool. Beside them the same servers on
//! numbers that were picked and let go: a flood that cannot win would prove nothing.

use std::time::Instant;

use portkeep::PortRange;

use crate::helper::{Channel, Helper};
use crate::process::alone;
use crate::server::{Kind, Place, Start};
use crate::sockets::report;
use crate::strangers::Flood;
use crate::support::{NetNs, installed, rounds};

/// As many at a time as the machine has processors.
const WORKERS: usize = 2;

/// Has servers started by several processes at a time. Returns how many of the starts were spoilt,
/// and what the first of those was.
fn spoilt(kind: Kind, how: &str, pool: PortRange, count: usize) -> (usize, String) {
    let each = count / WORKERS;
    let program = kind.program().0;
    let role = format!("starts {program} {how} {pool} {each}");
    let mut workers: Vec<_> = (0..WORKERS).map(|_| Helper::start(&role)).collect();
    let (mut spoilt, mut first) = (0, String::new());
    for _ in 0..each {
        for worker in &mut workers {
            let line = worker.hear();
            if let Some(what) = line.strip_prefix("spoilt: ") {
                spoilt += 1;
                if first.is_empty() {
                    what.clone_into(&mut first);
                }
            } else {
                assert_eq!(line, "good");
            }
        }
    }
    (spoilt, first)
}

/// The helper: starts, asks and ends servers.
pub(crate) fn starts(
    channel: &mut Channel,
    program: &str,
    how: &str,
    pool: PortRange,
    count: &str,
) {
    let kinds = [Kind::Python, Kind::Redis, Kind::Nginx];
    let kind = kinds.into_iter().find(|kind| kind.program().0 == program).expect("a server");
    let place = Place::new(kind);
    let count: usize = count.parse().expect("a number");
    for number in 0..count {
        let start =
            if how == "reserved" { place.start_reserved(pool) } else { place.start_picked() };
        let spoilt = match start {
            Start::Good(server) => {
                let look_around = number.is_multiple_of(10);
                let company = if look_around { server.company() } else { Vec::new() };
                let answers = place.answers(&server);
                server.end();
                (!answers || !company.is_empty())
                    .then(|| format!("answers: {answers}, beside it: {company:?}"))
            }
            Start::Stolen(said) => Some(said),
        };
        match spoilt {
            Some(what) => channel.say(format_args!("spoilt: {what}")),
            None => channel.say("good"),
        }
    }
}

fn outlasts_the_flood(kind: Kind) {
    let (program, package) = kind.program();
    if !installed(program, package) {
        return;
    }
    let Some(namespace) = NetNs::enter() else { return };
    let pool = PortRange::new(40_000, 300).expect("a range");
    namespace.ephemeral(pool.start(), pool.last());
    let flood = Flood::begin(pool);

    let (starts, picks) = (rounds(100, 2_000), rounds(20, 200));
    let begin = Instant::now();
    let (stolen, example) = spoilt(kind, "reserved", pool, starts);
    let took = begin.elapsed().as_secs_f32();
    let (lost, _) = spoilt(kind, "picked", pool, picks);
    report(&format!(
        "flood, {program}: {stolen} of {starts} ports stolen under portkeep run ({took:.0} s), \
         {lost} of {picks} from a bare picker; strangers got {}",
        flood.end()
    ));
    assert_eq!(stolen, 0, "{example}");
    assert_ne!(lost, 0, "a flood that cannot win proves nothing");
}

#[test]
fn python_http_server_outlasts_the_flood() {
    alone(|| outlasts_the_flood(Kind::Python));
}

#[test]
fn redis_outlasts_the_flood() {
    alone(|| outlasts_the_flood(Kind::Redis));
}

#[test]
fn nginx_outlasts_the_flood() {
    alone(|| outlasts_the_flood(Kind::Nginx));
}
