//! Ports nobody asked for by number: the kernel chooses them without a hook of ours, so only its own
//! settings keep it out of a block. Each flood first shows that it does get inside without them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::time::Duration;

use portkeep::Protocol;
use socket2::{Domain, Socket, Type};

use crate::client::{associate, block, errno, kind, open, port, stranger};
use crate::host::{Host, cases};
use crate::socket;
use crate::support::rounds;

cases![
    listening_and_connecting_sockets_never_land_inside,
    automatic_binds_never_land_inside,
    a_late_choice_of_port_never_lands_inside,
    a_port_asked_for_with_late_choice_is_refused_at_once,
    a_sockets_own_range_of_ports_does_not_reach_inside,
];

const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];
const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// All that the kernel may choose from, and the block in the middle of it; another one follows
/// right behind.
const EPHEMERAL: &str = "20000 20063";
const INSIDE: u16 = 20016;
const BEHIND: u16 = 20064;
const COUNT: u16 = 16;

/// Where connections go: to ports that are neither.
struct Targets {
    listeners: [(TcpListener, Socket); 2],
}

impl Targets {
    fn new() -> Self {
        let listen = |address: IpAddr| {
            let udp = stranger(Protocol::Udp, (address, 9000)).unwrap();
            (TcpListener::bind((address, 9000)).unwrap(), udp)
        };
        Self { listeners: [V4, V6].map(listen) }
    }

    /// Connects, and returns the local port. The connection is reset, so that nothing lingers.
    fn connected(&self, socket: &Socket, to: IpAddr) -> io::Result<u16> {
        socket.connect(&SocketAddr::new(to, 9000).into())?;
        let own = port(socket);
        if socket.r#type()? == Type::STREAM {
            socket.set_linger(Some(Duration::ZERO))?;
            drop(self.listeners[usize::from(to == V6)].0.accept()?);
        }
        Ok(own)
    }
}

fn fresh(protocol: Protocol, address: IpAddr) -> Socket {
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    Socket::new(domain, kind(protocol), None).unwrap()
}

fn in_a_block(port: u16) -> bool {
    (INSIDE..INSIDE + COUNT).contains(&port) || (BEHIND..BEHIND + COUNT).contains(&port)
}

/// Counts how often each way to be given a port ends in one of the blocks.
fn inside_blocks(ways: &[&dyn Fn(IpAddr) -> io::Result<u16>]) -> Vec<usize> {
    let count = |way: &&dyn Fn(IpAddr) -> io::Result<u16>| {
        (0..rounds(2_000, 50_000))
            .filter(|round| in_a_block(way(if round % 2 == 0 { V4 } else { V6 }).unwrap()))
            .count()
    };
    ways.iter().map(count).collect()
}

/// The flood without us, then with a block that the namespace's settings cover and one behind.
fn never_inside(host: &Host, ways: &[&dyn Fn(IpAddr) -> io::Result<u16>]) {
    host.set("ipv4/ip_local_port_range", EPHEMERAL);
    let before = inside_blocks(ways);
    assert!(before.iter().all(|hits| *hits > 0), "floods must be able to win: {before:?}");
    host.set("ipv4/ip_local_reserved_ports", &format!("{INSIDE}-{}", INSIDE + COUNT - 1));
    let _blocks =
        BOTH.map(|protocol| (block(protocol, INSIDE, COUNT).0, block(protocol, BEHIND, COUNT).0));
    assert_eq!(inside_blocks(ways), vec![0; ways.len()]);
    assert_eq!(host.maps().counters().late_refusals, 0, "none had to be caught behind the kernel");
}

fn listening_and_connecting_sockets_never_land_inside(host: &Host) {
    let targets = Targets::new();
    never_inside(
        host,
        &[
            &|address| {
                let listener = fresh(Protocol::Tcp, address);
                listener.listen(1)?;
                Ok(port(&listener))
            },
            &|address| targets.connected(&fresh(Protocol::Tcp, address), address),
            &|address| targets.connected(&fresh(Protocol::Udp, address), address),
            &|address| {
                let sender = fresh(Protocol::Udp, address);
                sender.send_to(b"x", &SocketAddr::new(address, 9000).into())?;
                Ok(port(&sender))
            },
        ],
    );
}

fn automatic_binds_never_land_inside(host: &Host) {
    let bound = |protocol: Protocol, address: IpAddr| Ok(port(&stranger(protocol, (address, 0))?));
    never_inside(
        host,
        &[&|address| bound(Protocol::Tcp, address), &|address| bound(Protocol::Udp, address)],
    );
}

/// Binds an address and leaves the port to connect.
fn choosing_late(protocol: Protocol, address: IpAddr, at: u16) -> io::Result<Socket> {
    const IP_BIND_ADDRESS_NO_PORT: i32 = libc::IP_BIND_ADDRESS_NO_PORT;
    let socket = fresh(protocol, address);
    socket::set_flag(socket.as_fd(), libc::IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, true)?;
    socket.bind(&SocketAddr::new(address, at).into())?;
    Ok(socket)
}

fn a_late_choice_of_port_never_lands_inside(host: &Host) {
    let targets = Targets::new();
    let late = |protocol: Protocol, address: IpAddr| {
        let socket = choosing_late(protocol, address, 0)?;
        assert_eq!(port(&socket), 0);
        targets.connected(&socket, address)
    };
    never_inside(
        host,
        &[&|address| late(Protocol::Tcp, address), &|address| late(Protocol::Udp, address)],
    );
}

fn a_port_asked_for_with_late_choice_is_refused_at_once(_: &Host) {
    for protocol in BOTH {
        for address in [V4, V6] {
            drop(choosing_late(protocol, address, INSIDE).unwrap());
            let (_anchor, mine) = block(protocol, INSIDE, COUNT);
            assert_eq!(errno(choosing_late(protocol, address, mine.last())), libc::EADDRINUSE);
            let own = open(protocol);
            associate(&own, mine.token).unwrap();
            own.bind(&SocketAddr::from((Ipv6Addr::LOCALHOST, mine.last())).into()).unwrap();
        }
    }
}

fn a_sockets_own_range_of_ports_does_not_reach_inside(host: &Host) {
    const IP_LOCAL_PORT_RANGE: i32 = 51;
    host.set("ipv4/ip_local_port_range", EPHEMERAL);
    host.set("ipv4/ip_local_reserved_ports", &format!("{INSIDE}-{}", INSIDE + COUNT - 1));
    let targets = Targets::new();
    let landed = |protocol: Protocol, first: u16, by_connect: bool| {
        let socket = fresh(protocol, V4);
        let range = (u32::from(first + COUNT - 1) << 16 | u32::from(first)).to_ne_bytes();
        socket::set_bytes(socket.as_fd(), libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, &range)?;
        if by_connect {
            return targets.connected(&socket, V4);
        }
        socket.bind(&SocketAddr::new(V4, 0).into())?;
        Ok(port(&socket))
    };
    let _blocks =
        BOTH.map(|protocol| (block(protocol, INSIDE, COUNT).0, block(protocol, BEHIND, COUNT).0));
    for protocol in BOTH {
        for by_connect in [false, true] {
            for _ in 0..rounds(200, 5_000) {
                let own = landed(protocol, 20000, by_connect).unwrap();
                assert!((20000..INSIDE).contains(&own), "the option works: {own}");
                for first in [INSIDE, BEHIND] {
                    match landed(protocol, first, by_connect) {
                        Ok(at) => assert!(!in_a_block(at), "{protocol:?}: {at}"),
                        // Nothing is left there, the kernel says.
                        Err(error) => {
                            let error = error.raw_os_error();
                            let full = [libc::EADDRINUSE, libc::EADDRNOTAVAIL, libc::EAGAIN];
                            assert!(full.map(Some).contains(&error), "{error:?}");
                        }
                    }
                }
            }
        }
    }
    assert_eq!(host.maps().counters().late_refusals, 0);
}
