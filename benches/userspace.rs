//! What the userspace engine costs, as ratios to the bare system calls beneath it.
//!
//! Both sides of a ratio run in turns in one process. Shown are the median of the turns' ratios and
//! the span from the tenth to the ninetieth of a hundred. Run it with `cargo bench --bench userspace`, on a machine that does nothing else.

#[path = "support/turns.rs"]
#[expect(dead_code, reason = "shared with a benchmark that needs more of it")]
mod turns;

use std::io::{BufRead, BufReader};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};

use portkeep::{ErrorKind, PortRange, PortRequest};
use socket2::{Domain, SockFilter, Socket, Type};

use self::turns::pairs;

const POOL: &str = "20000-29999";

fn main() {
    acquire();
    refuse();
    bind();
    run();
}

/// Bare calls: a socket that covers both families, bound to a port.
fn hold(kind: Type, port: u16, filter: bool) -> Socket {
    let socket = Socket::new(Domain::IPV6, kind, None).expect("a socket");
    if filter {
        let keep_no_byte = SockFilter::new(6, 0, 0, 0);
        socket.attach_filter(&[keep_no_byte]).expect("a filter");
    }
    socket.bind(&everywhere(port).into()).expect("a free port");
    socket
}

fn everywhere(port: u16) -> SocketAddr {
    SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0).into()
}

fn headline(title: &str, bare: &str) {
    turns::headline(title, "portkeep", bare);
}

fn acquire() {
    headline("acquire a free block, by name", "bare calls");
    for count in [1, 16, 100, 1_000, 15_000] {
        let rounds = (100_000 / usize::from(count)).clamp(20, 4_000);
        let block = move |request: PortRequest| request.at(10_000).acquire().expect("free");
        let bare = move |kind, filter| {
            let hold = move |port| hold(kind, port, filter);
            move || (10_000..10_000 + count).map(hold).collect::<Vec<_>>()
        };
        pairs(rounds, || block(portkeep::tcp(count)), bare(Type::STREAM, false))
            .line(&format!("TCP {count}: socket, bind"), Some(1.15));
        pairs(rounds, || block(portkeep::udp(count)), bare(Type::DGRAM, true))
            .line(&format!("UDP {count}: socket, filter, bind"), Some(1.15));
        pairs(rounds, || block(portkeep::udp(count)), bare(Type::DGRAM, false))
            .line(&format!("UDP {count}: socket, bind without the filter"), None);
    }
    headline("acquire a free block, from the pool", "bare calls");
    for count in [1, 16, 1_000] {
        let rounds = (100_000 / usize::from(count)).clamp(20, 4_000);
        pairs(
            rounds,
            || portkeep::tcp(count).acquire().expect("room"),
            || (10_000..10_000 + count).map(|p| hold(Type::STREAM, p, false)).collect::<Vec<_>>(),
        )
        .line(&format!("TCP {count}: socket, bind"), Some(1.15));
    }
}

/// Another process that holds ports: `portkeep acquire`, ended on drop.
struct Others(Child);

impl Others {
    fn hold(blocks: impl IntoIterator<Item = String>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portkeep"));
        command.arg("acquire");
        let mut lines = 0;
        for block in blocks {
            command.args(["--tcp", &block]);
            lines += 1;
        }
        let mut child = command.stdout(Stdio::piped()).spawn().expect("portkeep starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        for _ in 0..lines {
            stdout.read_line(&mut String::new()).expect("a line for each block");
        }
        Self(child)
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        self.0.kill().expect("our child");
        self.0.wait().expect("our child");
    }
}

/// One failing bind a port of the pool.
fn failing_binds(pool: PortRange) -> Socket {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None).expect("a socket");
    for port in pool.iter() {
        socket.bind(&everywhere(port).into()).expect_err("held by others");
    }
    socket
}

fn refused(count: u16, pool: PortRange) {
    let error = portkeep::tcp(count).pool(pool).acquire().expect_err("no room");
    assert_eq!(error.kind(), ErrorKind::NoRoom);
}

fn refuse() {
    let pool: PortRange = POOL.parse().expect("a range");
    headline("refuse, on a pool of 10,000 others hold wholly", "failing binds");
    let others = Others::hold([POOL.to_owned()]);
    for count in [1, 2, 16, 1_000] {
        pairs(60, || refused(count, pool), || failing_binds(pool))
            .line(&format!("TCP {count}: one failing bind a port"), Some(1.2));
    }
    drop(others);

    let pool: PortRange = "20000-22999".parse().expect("a range");
    headline("on a pool of 3,000 others hold every second of", "bare calls");
    let others = Others::hold(pool.iter().step_by(2).map(|port| port.to_string()));
    let socket = |kind| Socket::new(Domain::IPV6, kind, None).expect("a socket");
    pairs(
        60,
        || refused(2, pool),
        || {
            // The least that tells all that the refusal says: bind each port, close what was free.
            let mut spare = socket(Type::STREAM);
            for port in pool.iter() {
                if spare.bind(&everywhere(port).into()).is_ok() {
                    spare = socket(Type::STREAM);
                }
            }
        },
    )
    .line("refuse 2: bind each port once", None);
    pairs(
        2_000,
        || portkeep::tcp(1).pool(pool).acquire().expect("room"),
        || hold(Type::STREAM, 10_000, false),
    )
    .line("acquire 1: socket, bind", None);
    drop(others);
}

fn bind() {
    headline("bind through a reservation", "standard library");
    let block = portkeep::tcp_udp(64).acquire().expect("room");
    let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let start = block.range().start();
    pairs(
        4_000,
        || block.listener(loopback(start)).expect("ours"),
        || TcpListener::bind(loopback(10_000)).expect("free"),
    )
    .line("a listener on a chosen port", None);
    let mut next = 0;
    pairs(
        62,
        || {
            next += 1;
            block.udp_socket(loopback(start + next - 1)).expect("ours")
        },
        || UdpSocket::bind(loopback(10_000)).expect("free"),
    )
    .line("a UDP socket on a chosen port", None);
}

fn run() {
    headline("start and end a command", "the command alone");
    let status = |command: &mut Command| assert!(command.status().expect("it starts").success());
    let report = pairs(
        1_000,
        || status(Command::new(env!("CARGO_BIN_EXE_portkeep")).args(["run", "--", "/bin/true"])),
        || status(&mut Command::new("/bin/true")),
    );
    report.line("portkeep run -- /bin/true", None);
    report.added("added by run", 3.0);
}
