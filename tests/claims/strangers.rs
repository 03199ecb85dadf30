//! The flood: processes that know nothing of us and take whatever port they get.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::atomic::Ordering;
use std::time::Duration;

use portkeep::{PortRange, Protocol};
use socket2::Socket;

use crate::helper::{Channel, Helper};
use crate::sockets::{LOOPBACK, bind, open};

/// Sockets a turn, and the pause after each turn: on a machine with two processors a flood without
/// a pause would be measured by what it takes from the servers' start.
const TURN: u32 = 24;
const PAUSE: Duration = Duration::from_micros(700);

/// Where outgoing connections go: outside every range of these tests.
const SINK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(LOOPBACK), 20_000);

/// The flood of one network namespace.
#[derive(Debug)]
pub(crate) struct Flood(Vec<Helper>);

impl Flood {
    /// Returns when all strangers have begun. They keep about two thirds of the ports busy, and
    /// never the same ones for long.
    pub(crate) fn begin(range: PortRange) -> Self {
        let kinds = ["automatic", "outgoing", "explicit"];
        let mut strangers: Vec<_> =
            kinds.iter().map(|kind| Helper::start(format!("stranger {kind} {range}"))).collect();
        for stranger in &mut strangers {
            assert_eq!(stranger.hear(), "ready");
        }
        Self(strangers)
    }

    /// Ends it and says what the strangers got.
    pub(crate) fn end(mut self) -> String {
        let got: Vec<_> = self.0.iter_mut().map(|stranger| stranger.ask("enough")).collect();
        got.join(", ")
    }
}

/// The sockets that a stranger has at a time.
struct Crowd {
    held: VecDeque<Socket>,
    most: usize,
    tries: u64,
    got: u64,
}

impl Crowd {
    fn take(&mut self, socket: io::Result<Socket>) {
        self.tries += 1;
        match socket {
            Ok(socket) => {
                self.got += 1;
                self.held.push_back(socket);
            }
            // In use, or no port left to connect from.
            Err(error) => assert!(
                matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable),
                "a stranger met {error}"
            ),
        }
        if self.held.len() > self.most {
            self.held.pop_front();
        }
    }
}

/// The helper: takes ports in one way until it is told to end, then says how many.
pub(crate) fn crowd(channel: &mut Channel, kind: &str, range: PortRange) {
    let enough = channel.interruption();
    let ports = usize::from(range.count());
    let most = if kind == "outgoing" { ports / 5 } else { ports / 4 };
    let mut crowd = Crowd { held: VecDeque::new(), most, tries: 0, got: 0 };
    let sink = (kind == "outgoing").then(sink);
    let mut turn: u32 = 0;
    let mut sweep = range.iter().cycle();
    while !enough.load(Ordering::Relaxed) {
        for at in 0..TURN {
            let socket = match kind {
                "automatic" => automatic(turn * TURN + at),
                "outgoing" => outgoing(),
                _ => explicit(turn, sweep.next().expect("it never ends")),
            };
            crowd.take(socket);
        }
        turn = turn.wrapping_add(1) % 1_000_000;
        if crowd.tries == u64::from(TURN) {
            channel.say("ready");
        }
        std::thread::sleep(PAUSE);
    }
    channel.say(format_args!("{kind} {} of {}", crowd.got, crowd.tries));
    drop(sink);
}

fn automatic(number: u32) -> io::Result<Socket> {
    let address = match number % 3 {
        0 => (LOOPBACK, 0).into(),
        1 => (Ipv4Addr::UNSPECIFIED, 0).into(),
        _ => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = open(Protocol::Tcp, &address);
    socket.set_reuse_address(number.is_multiple_of(2))?;
    socket.bind(&address.into())?;
    // Every second one as a server does it that takes any port.
    if number.is_multiple_of(2) {
        socket.listen(1)?;
    }
    Ok(socket)
}

fn outgoing() -> io::Result<Socket> {
    let socket = open(Protocol::Tcp, &SINK);
    // A reset at the end: nothing of the connection stays behind to make the port useless.
    socket.set_linger(Some(Duration::ZERO))?;
    socket.connect(&SINK.into())?;
    Ok(socket)
}

/// On another address every turn: whatever the address, a bind inside a block is a theft.
fn explicit(turn: u32, port: u16) -> io::Result<Socket> {
    let address: SocketAddr = match turn % 4 {
        0 => (Ipv4Addr::UNSPECIFIED, port).into(),
        1 => (LOOPBACK, port).into(),
        2 => (Ipv4Addr::new(127, 0, 0, 2), port).into(),
        _ => (Ipv6Addr::UNSPECIFIED, port).into(),
    };
    bind(Protocol::Tcp, address)
}

/// Accepts connections and keeps the latest, until the process ends.
fn sink() -> std::thread::JoinHandle<()> {
    let listener = TcpListener::bind(SINK).expect("nobody else is there");
    std::thread::spawn(move || {
        let mut latest = VecDeque::new();
        for connection in listener.incoming() {
            latest.push_back(connection);
            if latest.len() > 256 {
                latest.pop_front();
            }
        }
    })
}
