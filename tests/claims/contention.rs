//! Many want what few can have: searches end with the right answer, and losers keep nothing.

use std::net::Ipv6Addr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portkeep::{ErrorKind, PortRange, Protocol};

use crate::helper::{Channel, Helper, ask_all, crew, listed, numbers};
use crate::process::alone;
use crate::sockets::{assert_free, bind, report, request};
use crate::support::{NetNs, rounds};

fn range(start: u16, count: u16) -> PortRange {
    PortRange::new(start, count).expect("a range")
}

/// A process that has every `step`th port of a range, through the library or with bare sockets.
fn occupied(pool: PortRange, step: usize) -> Vec<Helper> {
    crew(1, format!("occupy {pool} {step}"))
}

/// The helper: plain sockets on one half of its ports, and reservations of the others.
pub(crate) fn occupy(channel: &mut Channel, pool: PortRange, step: &str) {
    let mut sockets = Vec::new();
    let mut blocks = Vec::new();
    for (number, port) in pool.iter().step_by(step.parse().expect("a number")).enumerate() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            if number % 2 == 0 {
                sockets.push(bind(protocol, (Ipv6Addr::UNSPECIFIED, port)).expect("it is free"));
            } else {
                blocks.push(request(protocol, 1).at(port).acquire().expect("it is free"));
            }
        }
    }
    channel.say("ready");
    channel.hear();
}

#[test]
fn in_a_pool_full_of_holes_one_port_is_found_and_two_are_refused() {
    alone(|| {
        let Some(_namespace) = NetNs::enter() else { return };
        let pool = range(40_000, 500);
        let _others = occupied(pool, 2);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let held: Vec<_> = (0..250)
                .map(|_| request(protocol, 1).pool(pool).acquire().expect("a hole"))
                .collect();
            assert!(held.iter().all(|block| block.range().start() % 2 == 1));
            let error = request(protocol, 1).pool(pool).acquire().expect_err("no hole is left");
            assert_eq!(error.kind(), ErrorKind::NoRoom);
            drop(held);

            let error =
                request(protocol, 2).pool(pool).acquire().expect_err("the holes are too small");
            assert_eq!(error.kind(), ErrorKind::NoRoom);
            let text = error.to_string();
            assert!(text.contains("500 ports") && text.contains("free run is 1"), "{text}");
            for port in pool.iter().skip(1).step_by(2) {
                bind(protocol, (Ipv6Addr::UNSPECIFIED, port)).expect("the refusal left nothing");
            }
        }
    });
}

#[test]
fn a_full_pool_is_refused_with_its_size() {
    alone(|| {
        let Some(_namespace) = NetNs::enter() else { return };
        let pool = range(40_000, 600);
        let others = occupied(pool, 1);
        for want in [portkeep::tcp(1), portkeep::udp(3), portkeep::tcp_udp(8).even()] {
            let error = want.pool(pool).acquire().expect_err("nothing is free");
            assert_eq!(error.kind(), ErrorKind::NoRoom);
            let text = error.to_string();
            assert!(text.contains("600 ports") && text.contains("free run is 0"), "{text}");
        }
        drop(others);
        assert_free(pool, "when the others are gone");
    });
}

/// Four processes want `count` ports each of a pool, at the same moment, `times` times. Panics when
/// one of them was refused although there was room.
fn four_want(protocol: &str, pool: PortRange, count: u16, alignment: u16, times: usize) {
    let mut crew = crew(4, format!("want {pool} {protocol} {count} {alignment}"));
    let mut winners = [0; 5];
    let mut room_left = Vec::new();
    for _ in 0..times {
        let answers = ask_all(&mut crew, "go");
        let mut starts: Vec<u16> = answers.iter().flat_map(|answer| numbers(answer)).collect();
        starts.sort_unstable();
        let mut next = pool.start();
        for start in starts.iter().copied().chain([pool.last() + 1]) {
            assert!(start >= next, "two blocks overlap: {starts:?}, each of {count}");
            if start > next {
                assert_free(range(next, start - next), "beside the winners");
            }
            if starts.len() < 4 && next.next_multiple_of(alignment) + count <= start {
                room_left.push(format!("{starts:?} but not {next}-{}", start - 1));
            }
            next = start + count;
        }
        winners[starts.len()] += 1;
        ask_all(&mut crew, "release");
        assert_free(pool, "when the winners are gone");
    }
    report(&format!(
        "contention: of four that want {count} {protocol} ports of {}, 0 to 4 got them {winners:?} \
         times; {} times room was left for one that was refused",
        pool.count(),
        room_left.len()
    ));
    assert_eq!(room_left, Vec::<String>::new(), "of {times} times");
}

#[test]
fn as_many_succeed_as_there_are_places() {
    alone(|| {
        let Some(_namespace) = NetNs::enter() else { return };
        // There are two places for a block that starts at a multiple of its length, so the first to
        // come cannot spoil the rest.
        let pool = range(40_960, 640);
        four_want("tcp", pool, 256, 256, rounds(50, 1_000));
        four_want("udp", pool, 256, 256, rounds(50, 1_000));
    });
}

#[test]
fn who_is_refused_could_not_have_been_served() {
    alone(|| {
        let Some(_namespace) = NetNs::enter() else { return };
        // One block in the middle leaves no room for a second.
        four_want("tcp", range(40_000, 500), 200, 1, rounds(50, 1_000));
    });
}

/// The helper: one wish a line, granted or not.
pub(crate) fn want(channel: &mut Channel, pool: PortRange, protocol: &str, block: [&str; 2]) {
    let [count, alignment] = block.map(|word| word.parse().expect("a number"));
    let request = if protocol == "tcp" { portkeep::tcp(count) } else { portkeep::udp(count) };
    let request = request.pool(pool).aligned(alignment);
    channel.say("ready");
    while channel.hear().is_some() {
        let won = request.acquire();
        if let Err(error) = &won {
            assert_eq!(error.kind(), ErrorKind::NoRoom, "{error}");
        }
        let start: Vec<u16> = won.iter().map(|block| block.range().start()).collect();
        channel.say(listed(&start));
        channel.hear();
        drop(won);
        channel.say("");
    }
}

/// Two processes want the same port at the same moment, `times` times over the ports of `range`.
/// Returns how often one of them got it, and how often none.
pub(crate) fn duel(ports: PortRange, times: usize) -> (usize, usize) {
    let mut crew = crew(2, "same");
    let (mut one, mut none) = (0, 0);
    for port in ports.iter().cycle().take(times) {
        // Late enough for both to have heard of it.
        let moment = since_1970() + Duration::from_micros(150);
        let answers = ask_all(&mut crew, format_args!("{port} {}", moment.as_nanos()));
        match answers.iter().filter(|answer| *answer == "won").count() {
            0 => none += 1,
            1 => one += 1,
            _ => panic!("both got TCP port {port}"),
        }
        ask_all(&mut crew, "release");
    }
    (one, none)
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is set")
}

/// The helper: tries to get a port at a given moment.
pub(crate) fn same(channel: &mut Channel) {
    channel.say("ready");
    while let Some(line) = channel.hear() {
        let (port, moment) = line.split_once(' ').expect("two numbers");
        let request = portkeep::tcp(1).at(port.parse().expect("a port"));
        let moment = Duration::from_nanos(moment.parse().expect("a time"));
        while since_1970() < moment {
            std::hint::spin_loop();
        }
        let won = request.acquire();
        match &won {
            Ok(_) => channel.say("won"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::AddressInUse, "{error}");
                channel.say("lost");
            }
        }
        channel.hear();
        drop(won);
        channel.say("released");
    }
}
