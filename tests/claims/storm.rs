//! Eight processes acquire at the same time and keep their numbers, then thousands of foreign
//! sockets are opened in the same range, then every number is bound. Beside it the common way, bind
//! to port 0 and close, which loses what its users say it loses.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use portkeep::{PortRange, Protocol};
use socket2::Socket;

use crate::helper::{Channel, ask_all, crew, listed, numbers};
use crate::process::alone;
use crate::sockets::{LOOPBACK, bind, open, port, report, request};
use crate::support::{NetNs, rounds};

const PROCESSES: usize = 8;
/// Acquisitions of each process.
const TIMES: usize = 50;
const FOREIGN_PROCESSES: usize = 4;
const FOREIGN: usize = 5_000;

/// Numbers that were acquired or picked, and what came of them.
#[derive(Default)]
struct Outcome {
    numbers: usize,
    duplicates: usize,
    stolen: usize,
    foreign: usize,
}

impl Outcome {
    fn add(&mut self, other: &Self) {
        self.numbers += other.numbers;
        self.duplicates += other.duplicates;
        self.stolen += other.stolen;
        self.foreign += other.foreign;
    }
}

/// One storm: `role` is what the eight processes do.
fn storm(protocol: Protocol, role: &str) -> Outcome {
    let mut holders = crew(PROCESSES, role);
    let answers = ask_all(&mut holders, "go");
    let all: Vec<u16> = answers.iter().flat_map(|answer| numbers(answer)).collect();
    let mut owners: HashMap<u16, usize> = HashMap::new();
    for number in &all {
        *owners.entry(*number).or_default() += 1;
    }

    let foreign = format!("foreign {} {}", protocol.name(), FOREIGN / FOREIGN_PROCESSES);
    let mut strangers = crew(FOREIGN_PROCESSES, foreign);
    let strange = ask_all(&mut strangers, "go");
    let strange: Vec<u16> = strange.iter().flat_map(|answer| numbers(answer)).collect();

    // A number is stolen when a stranger has it or nobody could bind it.
    let mut stolen: HashSet<u16> =
        strange.iter().copied().filter(|port| owners.contains_key(port)).collect();
    let bound: HashSet<u16> =
        ask_all(&mut holders, "bind").iter().flat_map(|answer| numbers(answer)).collect();
    stolen.extend(owners.keys().filter(|port| !bound.contains(port)));
    Outcome {
        numbers: all.len(),
        duplicates: all.len() - owners.len(),
        stolen: stolen.len(),
        foreign: strange.len(),
    }
}

/// Storms for blocks of `count`, and for as many numbers picked one by one.
fn storms(protocol: Protocol, count: usize, range: (u16, u16)) {
    let Some(namespace) = NetNs::enter() else { return };
    namespace.ephemeral(range.0, range.1);
    let name = protocol.name();
    let (mut kept, mut picked) = (Outcome::default(), Outcome::default());
    for _ in 0..rounds(1, 5) {
        kept.add(&storm(protocol, &format!("keep {name} {count} {}-{}", range.0, range.1)));
        picked.add(&storm(protocol, &format!("pick {name} {}", count * TIMES)));
    }
    report(&format!(
        "storm, {protocol} blocks of {count} in {}-{}: {} of {} ports in two hands, {} stolen by \
         {} foreign sockets; bare picker: {} of {} in two hands, {} stolen by {}",
        range.0,
        range.1,
        kept.duplicates,
        kept.numbers,
        kept.stolen,
        kept.foreign,
        picked.duplicates,
        picked.numbers,
        picked.stolen,
        picked.foreign,
    ));
    assert_eq!((kept.duplicates, kept.stolen), (0, 0));
    assert_eq!(kept.numbers, PROCESSES * TIMES * count * rounds(1, 5));
    assert_eq!(kept.foreign, FOREIGN * rounds(1, 5), "a storm of full strength");
    assert_ne!(picked.stolen, 0, "a storm that cannot win proves nothing");
}

/// The range that Linux starts with, in which others have measured the common pickers.
const USUAL: (u16, u16) = (32_768, 60_999);
/// One that the foreign sockets fill almost to the last port.
const TIGHT: (u16, u16) = (40_000, 46_799);

#[test]
fn single_tcp_ports_survive_the_storm() {
    alone(|| storms(Protocol::Tcp, 1, USUAL));
}

#[test]
fn single_udp_ports_survive_the_storm() {
    alone(|| storms(Protocol::Udp, 1, USUAL));
}

#[test]
fn tcp_blocks_survive_the_storm() {
    alone(|| storms(Protocol::Tcp, 4, TIGHT));
}

#[test]
fn udp_blocks_survive_the_storm() {
    alone(|| storms(Protocol::Udp, 4, TIGHT));
}

/// The helper that acquires, and binds through its reservations.
pub(crate) fn keep(channel: &mut Channel, protocol: Protocol, count: &str, range: &str) {
    let count: u16 = count.parse().expect("a count");
    let range: PortRange = range.parse().expect("a range");
    channel.say("ready");
    channel.hear();
    let acquire = |_| request(protocol, count).pool(range).acquire().expect("there is room");
    let blocks: Vec<_> = (0..TIMES).map(acquire).collect();
    let ports = |block: &portkeep::Reservation| block.range().iter().collect::<Vec<_>>();
    channel.say(listed(&blocks.iter().flat_map(ports).collect::<Vec<_>>()));
    channel.hear();
    let mut bound = Vec::new();
    for block in &blocks {
        // Each in its own way and on its own address.
        for (number, way) in block.range().iter().zip([0, 1, 2].into_iter().cycle()) {
            let address = match way {
                0 => SocketAddr::from((LOOPBACK, number)),
                1 => (Ipv4Addr::UNSPECIFIED, number).into(),
                _ => (Ipv6Addr::UNSPECIFIED, number).into(),
            };
            let socket = open(protocol, &address);
            let got = block.bind(&socket, address).expect("the number is ours");
            assert_eq!(got, address);
            if protocol == Protocol::Tcp {
                socket.listen(1).expect("and ours alone");
            }
            bound.push(socket);
        }
    }
    channel.say(listed(&bound.iter().map(port).collect::<Vec<_>>()));
    channel.hear();
}

/// The helper that picks, and hopes.
pub(crate) fn pick(channel: &mut Channel, protocol: Protocol, times: &str) {
    channel.say("ready");
    channel.hear();
    let pick = |_| port(&bind(protocol, (LOOPBACK, 0)).expect("there is room"));
    let picked: Vec<u16> = (0..times.parse().expect("a count")).map(pick).collect();
    channel.say(listed(&picked));
    channel.hear();
    let bound: Vec<Socket> =
        picked.iter().filter_map(|number| bind(protocol, (LOOPBACK, *number)).ok()).collect();
    channel.say(listed(&bound.iter().map(port).collect::<Vec<_>>()));
    channel.hear();
}

/// The helper that opens foreign sockets: one half bound to port 0, one half connected.
pub(crate) fn foreign(channel: &mut Channel, protocol: Protocol, count: &str) {
    let count: usize = count.parse().expect("a count");
    // Outside of every range here, and another one for each helper.
    let sink = (20_000..20_064)
        .find_map(|number| TcpListener::bind((LOOPBACK, number)).ok())
        .expect("few helpers are there");
    channel.say("ready");
    channel.hear();
    let mut held = Vec::new();
    let mut accepted = Vec::new();
    let mut ports = Vec::new();
    for number in 0..count {
        let socket = if number % 2 == 0 {
            bind(protocol, (LOOPBACK, 0))
        } else {
            connected(protocol, &sink.local_addr().expect("an open socket"))
        };
        let Ok(socket) = socket else { continue };
        if number % 2 == 1 && protocol == Protocol::Tcp {
            accepted.push(sink.accept().expect("it has just connected"));
        }
        ports.push(port(&socket));
        held.push(socket);
    }
    channel.say(listed(&ports));
    channel.hear();
}

fn connected(protocol: Protocol, to: &SocketAddr) -> io::Result<Socket> {
    let socket = open(protocol, to);
    socket.connect(&(*to).into())?;
    Ok(socket)
}
