//! The helper's side of the pipe.

use std::io;
use std::net::SocketAddr;
use std::str::FromStr;

use portkeep::{PortRange, Ports, Protocol, Reservation, Token};
use socket2::Socket;

use super::{Answer, Helper, PATIENCE, Refusal};
use crate::engine::{ENGINES, EngineUnderTest};
use crate::sockets::{self, Flag};

/// Obeys until standard input ends.
pub(crate) fn serve() {
    let name = std::env::args().nth(2).expect("the name of an engine");
    let engine = ENGINES.iter().find(|engine| engine.name == name).expect("an engine under test");
    let mut state = State { engine, blocks: Vec::new(), sockets: Vec::new(), nested: None };
    for line in io::stdin().lines() {
        let line = line.expect("lines are text");
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match state.obey(&words) {
            Ok(words) => format!("ok {}", words.join(" ")),
            Err(refusal) => format!("err {} {}", refusal.kind, refusal.errno),
        };
        println!("{}", answer.trim_end());
    }
}

/// What the helper has open.
struct State {
    engine: &'static EngineUnderTest,
    blocks: Vec<Option<Reservation>>,
    sockets: Vec<Socket>,
    nested: Option<Helper>,
}

fn read<T: FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("cannot read '{text}'"))
}

fn protocol(text: &str) -> Protocol {
    [Protocol::Tcp, Protocol::Udp].into_iter().find(|p| p.name() == text).expect("tcp or udp")
}

fn token(text: &str) -> Token {
    text.parse().expect("a token")
}

impl State {
    fn obey(&mut self, words: &[&str]) -> Answer {
        match words {
            ["acquire", protocols, ports, options @ ..] => {
                let request = match *protocols {
                    "both" => portkeep::tcp_udp(1),
                    one => crate::engine::request(protocol(one), 1),
                };
                let mut request = request.ports(read::<Ports>(ports));
                for option in options {
                    request = match *option {
                        "descendants" => request.grant(portkeep::Grant::Descendants),
                        pool => request.pool(read(pool)),
                    };
                }
                let block = request.acquire()?;
                assert_eq!(block.engine(), self.engine.kind);
                let tokens = block.protocols().iter().filter_map(|one| block.token_for(*one));
                let tokens = tokens.map(|token| format!("{:016x}", token.expose()));
                let words = [block.range().to_string()].into_iter().chain(tokens).collect();
                self.blocks.push(Some(block));
                Ok(words)
            }
            ["bind", block, kind, address] => {
                let address: SocketAddr = read(address);
                let socket = sockets::open(protocol(kind), &address, &[])?;
                let block = self.blocks[read::<usize>(block)].as_ref().expect("a live block");
                let bound = block.bind(&socket, address)?;
                self.keep(socket, bound)
            }
            ["bind-token", number, kind, address] => {
                let address: SocketAddr = read(address);
                let socket = sockets::open(protocol(kind), &address, &[])?;
                let bound = portkeep::bind(&socket, token(number), address)?;
                self.keep(socket, bound)
            }
            ["release-token", number, kind] => {
                portkeep::release(token(number), protocol(kind))?;
                Ok(Vec::new())
            }
            ["release", block] => {
                self.blocks[read::<usize>(block)].take().expect("a live block").release()?;
                Ok(Vec::new())
            }
            ["drop", block] => {
                drop(self.blocks[read::<usize>(block)].take().expect("a live block"));
                Ok(Vec::new())
            }
            ["stranger", kind, address, options @ ..] => {
                let address: SocketAddr = read(address);
                let flags: Vec<Flag> =
                    options.iter().filter(|o| **o != "listen").map(|o| read(o)).collect();
                let socket = sockets::bind_plainly(protocol(kind), address, &flags)?;
                if options.contains(&"listen") {
                    socket.listen(16)?;
                }
                self.keep(socket, address)
            }
            ["receive", count] => self.receive(read(count)),
            ["fill", how, kind, address] => self.fill(how, protocol(kind), read(address)),
            ["try", kind, range, rounds] => Ok(try_all(protocol(kind), read(range), read(rounds))),
            ["descriptors"] => {
                let open = std::fs::read_dir("/proc/self/fd").expect("/proc is mounted");
                Ok(vec![open.count().to_string()])
            }
            ["daemon"] => {
                nix::unistd::daemon(true, true).expect("a process can fork");
                Ok(vec![std::process::id().to_string()])
            }
            ["nested", words @ ..] => {
                let start = || Helper::start(self.engine);
                self.nested.get_or_insert_with(start).ask(&words.join(" "))
            }
            ["forget"] => {
                self.blocks.drain(..).for_each(std::mem::forget);
                Ok(Vec::new())
            }
            ["close"] => {
                self.sockets.clear();
                Ok(Vec::new())
            }
            _ => panic!("unknown command: {words:?}"),
        }
    }

    fn keep(&mut self, socket: Socket, bound: SocketAddr) -> Answer {
        self.sockets.push(socket);
        Ok(vec![bound.to_string()])
    }

    /// Reads so many datagrams from the newest socket, says `ready` by an answer of its own first.
    fn receive(&mut self, count: usize) -> Answer {
        let socket = self.sockets.last().expect("a socket was bound");
        socket.set_read_timeout(Some(PATIENCE / 4))?;
        println!("ok ready");
        let mut buffer = [std::mem::MaybeUninit::uninit(); 64];
        for received in 0..count {
            if socket.recv(&mut buffer).is_err() {
                return Ok(vec![received.to_string()]);
            }
        }
        Ok(vec![count.to_string()])
    }

    /// Takes ports from automatic assignment until it has none left, and tells which it gave.
    fn fill(&mut self, how: &str, protocol: Protocol, address: SocketAddr) -> Answer {
        let mut ports = Vec::new();
        loop {
            let socket = sockets::open(protocol, &address, &[])?;
            let bound = match how {
                "bind" => socket.bind(&address.into()),
                "connect" => socket.connect(&address.into()),
                "send" => socket.send_to(b"x", &address.into()).map(drop),
                _ => panic!("no way to fill: {how}"),
            };
            match bound.map_err(|error| error.raw_os_error()) {
                Ok(()) => {
                    ports.push(sockets::port_of(&socket).to_string());
                    self.sockets.push(socket);
                }
                // bind, connect and send each have their own word for "none left".
                Err(Some(libc::EADDRINUSE | libc::EADDRNOTAVAIL | libc::EAGAIN)) => {
                    return Ok(ports);
                }
                Err(errno) => return Err(Refusal::io(errno.unwrap_or(0))),
            }
        }
    }
}

/// Binds every port of a range, round after round, and tells on which it got in.
fn try_all(protocol: Protocol, range: PortRange, rounds: usize) -> Vec<String> {
    println!("ok ready");
    let mut got = Vec::new();
    for _ in 0..rounds {
        for port in range.iter() {
            if sockets::bind_plainly(protocol, sockets::loopback(port), &[]).is_ok() {
                got.push(port.to_string());
            }
        }
    }
    got
}
