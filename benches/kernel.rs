//! What the kernel engine costs its users and everybody else, as ratios to bare system calls.
//!
//! All of it happens in a sandbox with an engine of its own, so it needs root. "Bare" calls are made
//! on sockets of a sibling control group without any program, in the same network namespace; "empty"
//! ones on sockets of a group with a pair of programs that do nothing. Run it with
//! `cargo bench --bench kernel`, on a machine that does nothing else.

#[path = "../tests/kernel/client.rs"]
#[expect(dead_code, reason = "shared with tests that need more of it")]
mod client;
#[path = "support/places.rs"]
mod places;
#[path = "../tests/support/sandbox.rs"]
#[expect(dead_code, reason = "shared with tests that need more of it")]
mod sandbox;
#[path = "../src/sys/socket.rs"]
#[expect(dead_code, reason = "the library's own system calls, shared because they are not public")]
mod socket;
#[path = "../tests/support/mod.rs"]
#[expect(dead_code, reason = "shared with tests that need more of it")]
mod support;
#[path = "support/turns.rs"]
#[expect(dead_code, reason = "shared with a benchmark that needs more of it")]
mod turns;

/// What `socket.rs` expects of its crate.
mod ports {
    pub(crate) use portkeep::Protocol;
}

use std::fs;
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Stdio;
use std::time::{Duration, Instant};

use aya::maps::MapData;
use portkeep::{DEFAULT_POOL, EngineKind, PortRange, Protocol};
use socket2::{Domain, Socket};

use self::places::{Place, Places};
use self::sandbox::Sandbox;
use self::support::NetNs;
use self::turns::{Report, Side, Spread, headline, pairs, pairs_after};

/// The first argument of the process that measures.
const INSIDE: &str = "inside";

/// Far longer than it takes.
const PATIENCE: Duration = Duration::from_secs(1_800);

/// How often both sides are timed, and how often what is compared runs in each turn, so that the
/// clock itself does not count.
const ROUNDS: usize = 500;
const EACH: u32 = 100;

/// Where blocks by name are taken, outside every pool and ephemeral range used here.
const START: u16 = 20_000;

/// A port nobody reserves.
const FREE: u16 = 65_000;

fn main() {
    if std::env::args().nth(1).as_deref() == Some(INSIDE) {
        measure(&Places::enter());
        return;
    }
    let Some(sandbox) = Sandbox::new() else { return };
    let mut child =
        sandbox.command(&[INSIDE]).stdin(Stdio::null()).spawn().expect("this binary starts");
    let status = sandbox.finish(&mut child, PATIENCE).expect("our child");
    drop(sandbox);
    assert_eq!(status, Some(0), "what was measured until then is above");
}

fn measure(places: &Places) {
    load(places);
    memory(places);
    reserve(places);
    sixty_thousand(places);
    refuse(places);
    refuse_in_a_large_pool(places);
    strangers(places);
    tax(places);
    bind(places);
    connect(places);
    library(places);
}

/// Repeats what is timed in a turn.
fn times<T>(count: u32, mut what: impl FnMut() -> T) {
    for _ in 0..count {
        black_box(what());
    }
}

/// A socket of this place.
fn made_in(places: &Places, place: Place, protocol: Protocol) -> Socket {
    places.go(place);
    client::open(protocol)
}

/// Both sides in turns, each making its sockets in a place of its own.
fn in_places<A, B>(
    places: &Places,
    (ours, theirs): (Place, Place),
    each: u32,
    mut our: impl FnMut() -> A,
    mut their: impl FnMut() -> B,
) -> Report {
    let go = |side| places.go(if side == Side::Ours { ours } else { theirs });
    pairs_after(ROUNDS, go, || times(each, &mut our), || times(each, &mut their)).each(each)
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// The three calls of a reservation's life.
fn cycle(anchor: &Socket, start: u16, count: u16) {
    client::acquire(anchor, start, count).expect("the ports are free");
    let mut block = [0; 16];
    client::get(anchor, client::INSTANCE, &mut block).expect("it was acquired");
    client::set(anchor, client::RELEASE, &block[8..]).expect("it is ours");
}

/// Three calls of the same kinds that an empty pair of programs answers.
fn empty_cycle(socket: &Socket) {
    client::acquire(socket, 0, 16).expect("taken by the program");
    let mut block = [0; 16];
    client::get(socket, client::INSTANCE, &mut block).expect("answered by the program");
    client::set(socket, client::RELEASE, &block[8..]).expect("taken by the program");
}

/// Three calls of the same kinds that reach the kernel.
fn bare_cycle(socket: &Socket) {
    set_flag(socket);
    get_flag(socket);
    set_flag(socket);
}

fn set_flag(socket: &Socket) {
    let value = 1_i32.to_ne_bytes();
    socket::set_bytes(socket.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, &value)
        .expect("any socket has it");
}

fn get_flag(socket: &Socket) {
    let mut value = [0; 4];
    socket::bytes(socket.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, &mut value)
        .expect("any socket has it");
}

fn milliseconds(name: &str, samples: &[Duration]) {
    let Spread { low, median, high } =
        Spread::of(samples.iter().map(|took| took.as_secs_f64() * 1e3).collect());
    println!("{name:<50} {median:>11.3} ms ({low:.3}..{high:.3})");
}

fn load(places: &Places) {
    println!("\nload and unload");
    let (mut loads, mut unloads) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        let start = Instant::now();
        places.load(DEFAULT_POOL);
        loads.push(start.elapsed());
        let start = Instant::now();
        places.unload();
        unloads.push(start.elapsed());
    }
    milliseconds("load, attach and pin", &loads);
    milliseconds("unload", &unloads);
    places.load(DEFAULT_POOL);
}

/// What the kernel says that each map takes, by name.
fn memory_of(places: &Places) -> Vec<(String, u64)> {
    let mut maps = Vec::new();
    for entry in fs::read_dir(places.pins()).expect("the engine is loaded") {
        let path = entry.expect("the engine is loaded").path();
        let map = MapData::from_pin(&path).expect("the pins are ours");
        let info = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
        let info = fs::read_to_string(info).expect("/proc is mounted");
        // The links are pinned here too, and take nothing.
        let Some(bytes) = info.lines().find_map(|line| line.strip_prefix("memlock:")) else {
            continue;
        };
        let bytes = bytes.trim().parse().expect("a number");
        let name = path.file_name().expect("a pin").to_string_lossy().into_owned();
        maps.push((name, bytes));
    }
    maps.sort();
    maps
}

fn memory(places: &Places) {
    const MANY: u16 = 10_000;
    println!("\nmemory, by the maps' own figures");
    let all = || memory_of(places).into_iter().map(|(_, bytes)| bytes).sum::<u64>();
    let show = |name: &str, bytes: u64| println!("{name:<50} {bytes:>11} bytes");
    for (name, bytes) in memory_of(places) {
        show(&format!("idle: {name}"), bytes);
    }
    let idle = all();
    show("idle: all", idle);
    places.go(Place::Engine);
    let first = client::block(Protocol::Tcp, START, 1);
    let one = all();
    show("the first reservation of a port space", one - idle);
    let _many = singles(START + 1, 1, MANY);
    show("each of 10,000 more", (all() - one) / u64::from(MANY));
    drop(first);
}

/// This many reservations of one port each, every `step` ports, on as few anchors as can be.
fn singles(start: u16, step: u16, count: u16) -> Vec<Socket> {
    blocks(start, step, count, 1)
}

fn blocks(start: u16, step: u16, count: u16, ports: u16) -> Vec<Socket> {
    const ANCHOR_MAX: usize = 256;
    let numbers: Vec<u16> = (0..count).map(|i| start + i * step).collect();
    let anchor = |numbers: &[u16]| {
        let anchor = client::open(Protocol::Tcp);
        for number in numbers {
            client::acquire(&anchor, *number, ports).expect("the ports are free");
        }
        anchor
    };
    numbers.chunks(ANCHOR_MAX).map(anchor).collect()
}

fn reserve(places: &Places) {
    headline("acquire, read the instance, release", "portkeep", "bare calls");
    let bare = |protocol| made_in(places, Place::Bare, protocol);
    let ours = |protocol| made_in(places, Place::Engine, protocol);
    let (tcp, udp) = (ours(Protocol::Tcp), ours(Protocol::Udp));
    // Nobody knows yet what is bound in a new port space: the first look at a port is dearer.
    for anchor in [&tcp, &udp] {
        cycle(anchor, DEFAULT_POOL.start(), DEFAULT_POOL.count());
        cycle(anchor, START, 1_000);
    }
    let kinds = [
        ("TCP 16 from the pool", &tcp, 0, Protocol::Tcp),
        ("TCP 16 by name", &tcp, START, Protocol::Tcp),
        ("UDP 16 from the pool", &udp, 0, Protocol::Udp),
        ("UDP 16 by name", &udp, START, Protocol::Udp),
    ];
    for (name, anchor, start, protocol) in kinds {
        let bare = bare(protocol);
        let report = pairs(
            ROUNDS,
            || times(EACH, || cycle(anchor, start, 16)),
            || times(EACH, || bare_cycle(&bare)),
        );
        report.each(EACH).line(name, Some(3.0));
    }
    if places.has_empty() {
        headline("the same", "portkeep", "empty programs");
        for (name, anchor, start, protocol) in kinds {
            let empty = made_in(places, Place::Empty, protocol);
            let report = pairs(
                ROUNDS,
                || times(EACH, || cycle(anchor, start, 16)),
                || times(EACH, || empty_cycle(&empty)),
            );
            report.each(EACH).line(name, Some(2.2));
        }
    }
    headline("the same, more ports", "portkeep", "16 ports");
    for (name, start) in [("TCP 1,000 from the pool", 0), ("TCP 1,000 by name", START)] {
        let report = pairs(
            ROUNDS,
            || times(EACH, || cycle(&tcp, start, 1_000)),
            || times(EACH, || cycle(&tcp, start, 16)),
        );
        report.each(EACH).line(name, Some(1.5));
    }
}

/// A network namespace that hands out ports from the default pool on, so that what is below can be
/// reserved.
fn open_below() -> Option<NetNs> {
    let space = NetNs::enter()?;
    space.ephemeral(61_000, 65_535);
    Some(space)
}

/// The largest block the spaces of [`open_below`] have room for.
fn large() -> PortRange {
    "1000-60999".parse().expect("a range")
}

fn sixty_thousand(places: &Places) {
    headline("60,000 ports by name", "portkeep", "16 ports");
    places.go(Place::Engine);
    let large = large();
    let Some(_space) = open_below() else { return };
    let anchor = client::open(Protocol::Tcp);
    cycle(&anchor, large.start(), large.count());
    pairs(
        ROUNDS,
        || times(10, || cycle(&anchor, large.start(), large.count())),
        || times(10, || cycle(&anchor, START, 16)),
    )
    .each(10)
    .line("acquire, read the instance, release", Some(25.0));
    let first = |count| {
        let samples = (0..20).filter_map(|_| {
            let _space = open_below()?;
            let anchor = client::open(Protocol::Tcp);
            let start = Instant::now();
            client::acquire(&anchor, large.start(), count).expect("the ports are free");
            Some(start.elapsed())
        });
        samples.collect::<Vec<_>>()
    };
    milliseconds("first acquire in a port space, of 60,000", &first(large.count()));
    milliseconds("first acquire in a port space, of 16", &first(16));
}

/// Refuses two ports in a row in the namespace we are in, against granting them to `empty`, an anchor
/// of a space where nothing else is reserved.
fn refusal(name: &str, limit: f64, empty: &Socket) {
    const COUNT: u16 = 2;
    let full = client::open(Protocol::Tcp);
    let take_back = |_| {
        for block in client::instances(empty).unwrap_or_default() {
            client::release(empty, block.token).expect("it is ours");
        }
    };
    let report = pairs_after(
        ROUNDS,
        take_back,
        || {
            times(EACH, || {
                let error = client::acquire(&full, 0, COUNT).expect_err("there is no room");
                assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS));
            });
        },
        || times(EACH, || client::acquire(empty, 0, COUNT).expect("there is room")),
    );
    take_back(Side::Ours);
    report.each(EACH).line(name, Some(limit));
}

fn refuse(places: &Places) {
    headline("refuse 2 ports, pool of 4,536", "refused", "granted");
    places.go(Place::Engine);
    let pool = DEFAULT_POOL;
    let empty = client::open(Protocol::Tcp);
    cycle(&empty, pool.start(), pool.count());
    let Some(_space) = NetNs::enter() else { return };
    let full = client::block(Protocol::Tcp, pool.start(), pool.count());
    refusal("full", 2.0, &empty);
    drop(full);
    let _fragments = singles(pool.start(), 2, pool.count() / 2);
    refusal("every second port reserved", 2.0, &empty);
}

fn refuse_in_a_large_pool(places: &Places) {
    headline("refuse 2 ports, pool of 60,000", "refused", "granted");
    places.go(Place::Engine);
    let pool = large();
    let Some(_outer) = open_below() else { return };
    let empty = client::open(Protocol::Tcp);
    cycle(&empty, pool.start(), pool.count());
    let Some(_inner) = open_below() else { return };
    let full = client::block(Protocol::Tcp, pool.start(), pool.count());
    places.load(pool);
    refusal("full", 10.0, &empty);
    drop(full);
    // There cannot be enough reservations for every second port.
    let fragments = blocks(pool.start(), 4, pool.count() / 4, 3);
    refusal("every fourth port free", 10.0, &empty);
    drop(fragments);
    places.load(DEFAULT_POOL);
}

/// What a socket that knows nothing of us pays.
fn stranger(places: &Places, ours: Place, name: &str, limit: Option<f64>) {
    for (protocol, word) in [(Protocol::Tcp, "TCP"), (Protocol::Udp, "UDP")] {
        let stranger = || client::stranger(protocol, loopback(FREE)).expect("nobody has it");
        in_places(places, (ours, Place::Bare), EACH, stranger, stranger)
            .line(&format!("{word}, {name}"), limit);
    }
}

fn strangers(places: &Places) {
    headline("a stranger's socket, bind, close", "portkeep", "bare calls");
    stranger(places, Place::Control, "bare against bare, for the noise", None);
    places.go(Place::Engine);
    let Some(_space) = open_below() else { return };
    stranger(places, Place::Engine, "nothing reserved", Some(1.03));
    places.go(Place::Engine);
    let large = large();
    let both = client::Request {
        start: large.start(),
        count: large.count(),
        flags: client::SAME_NUMBERS,
        ..client::Request::default()
    };
    let anchor = client::open(Protocol::Tcp);
    client::request(&anchor, both).expect("the ports are free");
    stranger(places, Place::Engine, "60,000 ports reserved", Some(1.03));
    drop(anchor);
    places.go(Place::Engine);
    let _many = singles(START, 1, 10_000);
    stranger(places, Place::Engine, "10,000 reservations", Some(1.03));

    headline("with those, a stranger refused", "portkeep", "port taken");
    places.go(Place::Bare);
    let _taken = client::stranger(Protocol::Tcp, loopback(FREE)).expect("nobody has it");
    let refused = |port| client::stranger(Protocol::Tcp, loopback(port)).expect_err("taken");
    in_places(
        places,
        (Place::Engine, Place::Bare),
        EACH,
        || refused(START + 5_000),
        || refused(FREE),
    )
    .line("TCP socket, bind, close", None);

    headline("with those, who has a port", "portkeep", "getsockopt");
    let socket = made_in(places, Place::Engine, Protocol::Tcp);
    let bare = made_in(places, Place::Bare, Protocol::Tcp);
    for (name, port) in [("a reserved one", START + 5_000), ("a free one", FREE)] {
        let report = pairs(
            ROUNDS,
            || times(10, || client::query(&socket, port).expect("anybody may ask")),
            || times(10, || get_flag(&bare)),
        );
        report.each(10).line(name, None);
    }
}

fn tax(places: &Places) {
    headline("an option that is none of ours", "there", "bare calls");
    let bare = made_in(places, Place::Bare, Protocol::Tcp);
    let compare = |what: &str, place, limit| {
        let there = made_in(places, place, Protocol::Tcp);
        let line = |call: &str, report: Report| {
            report.each(10 * EACH).line(&format!("{call}, {what}"), limit);
        };
        let each = 10 * EACH;
        let set = |socket| move || times(each, || set_flag(socket));
        let get = |socket| move || times(each, || get_flag(socket));
        line("setsockopt", pairs(ROUNDS, set(&there), set(&bare)));
        line("getsockopt", pairs(ROUNDS, get(&there), get(&bare)));
    };
    compare("portkeep", Place::Engine, Some(1.85));
    if places.has_empty() {
        compare("empty programs", Place::Empty, None);
    }
}

/// A socket with an option set, so that both sides make as many calls.
fn associated(protocol: Protocol, token: u64) -> Socket {
    let socket = Socket::new(Domain::IPV4, client::kind(protocol), None).expect("a socket");
    client::associate(&socket, token).expect("the token is ours");
    socket
}

fn flagged(protocol: Protocol) -> Socket {
    let socket = Socket::new(Domain::IPV4, client::kind(protocol), None).expect("a socket");
    set_flag(&socket);
    socket
}

fn bind(places: &Places) {
    const SIDES: (Place, Place) = (Place::Engine, Place::Bare);
    headline("socket, associate, bind, close", "portkeep", "bare calls");
    let bind = |socket: Socket, port| socket.bind(&loopback(port).into()).expect("it is free");
    for (protocol, word) in [(Protocol::Tcp, "TCP"), (Protocol::Udp, "UDP")] {
        places.go(Place::Engine);
        let (_anchor, block) = client::block(protocol, 0, 64);
        for (port, bare, what) in [(0, 0, "to port 0"), (block.start + 7, FREE, "to a port")] {
            in_places(
                places,
                SIDES,
                EACH,
                || bind(associated(protocol, block.token), port),
                || bind(flagged(protocol), bare),
            )
            .line(&format!("{word} {what}"), None);
        }
    }
    places.go(Place::Engine);
    let anchor = client::open(Protocol::Tcp);
    let grant = client::DESCENDANTS;
    let request = client::Request { start: START, count: 64, grant, ..client::Request::default() };
    client::request(&anchor, request).expect("the ports are free");
    let plain = |port| client::stranger(Protocol::Tcp, loopback(port)).expect("let in");
    in_places(places, SIDES, EACH, || plain(START + 7), || plain(FREE))
        .line("TCP to a port, without associate, let in", None);
}

fn connect(places: &Places) {
    const SIDES: (Place, Place) = (Place::Engine, Place::Bare);
    headline("socket, associate, connect, close", "portkeep", "bare calls");
    places.go(Place::Bare);
    let listener = TcpListener::bind(loopback(0)).expect("a port is free");
    let address = listener.local_addr().expect("it is bound").into();
    let connect = |socket: Socket| {
        // Reset, so that the port does not linger.
        socket.set_linger(Some(Duration::ZERO)).expect("TCP sockets have it");
        socket.connect(&address).expect("somebody listens");
        drop(socket);
        listener.accept().expect("there was a connection")
    };
    places.go(Place::Engine);
    let (_anchor, block) = client::block(Protocol::Tcp, 0, 64);
    in_places(
        places,
        SIDES,
        EACH,
        || connect(associated(Protocol::Tcp, block.token)),
        || connect(flagged(Protocol::Tcp)),
    )
    .line("TCP, and accept", None);
    places.go(Place::Engine);
    let (_anchor, block) = client::block(Protocol::Udp, 0, 64);
    let connect = |socket: Socket| socket.connect(&loopback(9).into()).expect("UDP just sets it");
    in_places(
        places,
        SIDES,
        EACH,
        || connect(associated(Protocol::Udp, block.token)),
        || connect(flagged(Protocol::Udp)),
    )
    .line("UDP", None);
}

fn library(places: &Places) {
    let acquire = |engine| {
        portkeep::tcp(16).engine(engine).acquire().expect("room").release().expect("it is ours");
    };
    headline("the library: acquire and release 16 TCP ports", "kernel", "the other");
    in_places(
        places,
        (Place::Engine, Place::Bare),
        EACH,
        || acquire(EngineKind::Kernel),
        || acquire(EngineKind::Userspace),
    )
    .line("against the userspace engine", None);
    let pick = || {
        let listener = TcpListener::bind(loopback(0)).expect("a port is free");
        listener.local_addr().expect("it is bound").port()
    };
    in_places(places, (Place::Engine, Place::Bare), EACH, || acquire(EngineKind::Kernel), pick)
        .line("against a picker: bind to 0, read it, close", None);
}
