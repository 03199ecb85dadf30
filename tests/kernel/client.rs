//! The socket options as any program uses them, written from the header and not from the library.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use portkeep::Protocol;
use socket2::{Domain, Socket, Type};

use crate::socket;

pub(crate) const LEVEL: i32 = 0x504B;
pub(crate) const ACQUIRE: i32 = 1;
pub(crate) const ASSOCIATE: i32 = 2;
pub(crate) const RELEASE: i32 = 3;
pub(crate) const INSTANCE: i32 = 4;
pub(crate) const VERSION: i32 = 5;
pub(crate) const ADOPT: i32 = 6;
pub(crate) const GRANT: i32 = 7;
pub(crate) const POOL: i32 = 8;
pub(crate) const QUERY: i32 = 0x10000;

pub(crate) const PROCESS: u32 = 0;
pub(crate) const DESCENDANTS: u32 = 1;
pub(crate) const SAME_NUMBERS: u16 = 1;

/// The number of MPTCP, which socket2 has only with a later kernel in mind.
pub(crate) const MPTCP: i32 = 262;

pub(crate) const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// What was reserved: `struct portkeep_instance`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instance {
    pub(crate) start: u16,
    pub(crate) count: u16,
    pub(crate) token: u64,
}

impl Instance {
    pub(crate) fn last(self) -> u16 {
        self.start + (self.count - 1)
    }
}

/// Who has a port: `struct portkeep_holder`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) start: u16,
    pub(crate) count: u16,
    pub(crate) kind: u32,
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    pub(crate) acquired: u64,
    pub(crate) command: String,
}

/// A request in full: `struct portkeep_request`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Request {
    pub(crate) start: u16,
    pub(crate) count: u16,
    pub(crate) grant: u32,
    pub(crate) alignment: u16,
    pub(crate) flags: u16,
    pub(crate) zero: u32,
    pub(crate) grant_id: u64,
}

impl Request {
    pub(crate) fn bytes(self) -> [u8; 24] {
        let mut value = [0; 24];
        value[..2].copy_from_slice(&self.start.to_be_bytes());
        value[2..4].copy_from_slice(&self.count.to_ne_bytes());
        value[4..8].copy_from_slice(&self.grant.to_ne_bytes());
        value[8..10].copy_from_slice(&self.alignment.to_ne_bytes());
        value[10..12].copy_from_slice(&self.flags.to_ne_bytes());
        value[12..16].copy_from_slice(&self.zero.to_ne_bytes());
        value[16..].copy_from_slice(&self.grant_id.to_ne_bytes());
        value
    }
}

pub(crate) fn kind(protocol: Protocol) -> Type {
    match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    }
}

/// A new socket, which may become an anchor.
pub(crate) fn open(protocol: Protocol) -> Socket {
    Socket::new(Domain::IPV6, kind(protocol), None).expect("a socket")
}

pub(crate) fn set(socket: &impl AsFd, option: i32, value: &[u8]) -> io::Result<()> {
    socket::set_bytes(socket.as_fd(), LEVEL, option, value)
}

pub(crate) fn get(socket: &impl AsFd, option: i32, value: &mut [u8]) -> io::Result<usize> {
    socket::bytes(socket.as_fd(), LEVEL, option, value)
}

/// ACQUIRE with the short value; `start` 0 is a wildcard.
pub(crate) fn acquire(socket: &impl AsFd, start: u16, count: u16) -> io::Result<()> {
    let mut value = [0; 4];
    value[..2].copy_from_slice(&start.to_be_bytes());
    value[2..].copy_from_slice(&count.to_ne_bytes());
    set(socket, ACQUIRE, &value)
}

/// ACQUIRE with the long value.
pub(crate) fn request(socket: &impl AsFd, request: Request) -> io::Result<()> {
    set(socket, ACQUIRE, &request.bytes())
}

/// INSTANCE: everything that is anchored here, newest first.
pub(crate) fn instances(socket: &impl AsFd) -> io::Result<Vec<Instance>> {
    let mut value = vec![0; 256 * 16];
    let size = get(socket, INSTANCE, &mut value)?;
    let instances = value[..size].chunks_exact(16).map(|entry| Instance {
        start: u16::from_be_bytes([entry[0], entry[1]]),
        count: u16::from_ne_bytes([entry[2], entry[3]]),
        token: u64::from_ne_bytes(entry[8..].try_into().expect("eight bytes")),
    });
    Ok(instances.collect())
}

/// The newest reservation that is anchored here.
#[track_caller]
pub(crate) fn newest(socket: &impl AsFd) -> Instance {
    instances(socket).expect("something is anchored")[0]
}

pub(crate) fn by_token(socket: &impl AsFd, option: i32, token: u64) -> io::Result<()> {
    set(socket, option, &token.to_ne_bytes())
}

pub(crate) fn associate(socket: &impl AsFd, token: u64) -> io::Result<()> {
    by_token(socket, ASSOCIATE, token)
}

pub(crate) fn release(socket: &impl AsFd, token: u64) -> io::Result<()> {
    by_token(socket, RELEASE, token)
}

/// VERSION: interface and features.
pub(crate) fn version(socket: &impl AsFd) -> io::Result<(u32, u32)> {
    let mut value = [0; 8];
    let size = get(socket, VERSION, &mut value)?;
    assert_eq!(size, 8);
    let word = |at: usize| u32::from_ne_bytes(value[at..at + 4].try_into().expect("four bytes"));
    Ok((word(0), word(4)))
}

/// QUERY: `None` when nobody has the port.
pub(crate) fn query(socket: &impl AsFd, port: u16) -> io::Result<Option<Holder>> {
    let mut value = [0; 40];
    let size = get(socket, QUERY + i32::from(port), &mut value)?;
    assert_eq!(size, 40);
    let word = |at: usize| u32::from_ne_bytes(value[at..at + 4].try_into().expect("four bytes"));
    let holder = Holder {
        start: u16::from_be_bytes([value[0], value[1]]),
        count: u16::from_ne_bytes([value[2], value[3]]),
        kind: word(4),
        pid: word(8),
        uid: word(12),
        acquired: u64::from_ne_bytes(value[16..24].try_into().expect("eight bytes")),
        command: String::from_utf8_lossy(&value[24..]).trim_end_matches('\0').to_owned(),
    };
    Ok((holder.kind != 0).then_some(holder))
}

/// A socket that knows nothing of us, bound to this address.
pub(crate) fn stranger(protocol: Protocol, address: impl Into<SocketAddr>) -> io::Result<Socket> {
    let address = address.into();
    let socket = Socket::new(Domain::for_address(address), kind(protocol), None)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// An anchor with one block on it, and what it got.
#[track_caller]
pub(crate) fn block(protocol: Protocol, start: u16, count: u16) -> (Socket, Instance) {
    let anchor = open(protocol);
    acquire(&anchor, start, count).expect("the ports are free");
    let instance = newest(&anchor);
    (anchor, instance)
}

/// The errno of what must fail.
#[track_caller]
pub(crate) fn errno<T>(result: io::Result<T>) -> i32 {
    let error = result.err().expect("it must fail");
    error.raw_os_error().expect("the kernel said it")
}

/// The port a socket is bound to; 0 while it is not.
pub(crate) fn port(socket: &Socket) -> u16 {
    let address = socket.local_addr().expect("a socket has an address");
    address.as_socket().expect("of the internet").port()
}

/// A way to use a port space: a kind of socket, and an address it can bind or connect to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) protocol: Protocol,
    pub(crate) multipath: bool,
    pub(crate) domain: Domain,
    pub(crate) address: IpAddr,
    pub(crate) only_v6: bool,
}

impl Way {
    /// TCP, UDP and MPTCP, over IPv4, IPv6 and both; where they start from.
    pub(crate) fn all() -> Vec<Self> {
        let addresses: [(Domain, IpAddr, bool); 6] = [
            (Domain::IPV4, Ipv4Addr::LOCALHOST.into(), false),
            (Domain::IPV4, Ipv4Addr::UNSPECIFIED.into(), false),
            (Domain::IPV6, Ipv6Addr::LOCALHOST.into(), true),
            (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into(), true),
            (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into(), false),
            (Domain::IPV6, Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), false),
        ];
        let kinds = [(Protocol::Tcp, false), (Protocol::Udp, false), (Protocol::Tcp, true)];
        let ways = kinds.into_iter().flat_map(|(protocol, multipath)| {
            addresses.map(|(domain, address, only_v6)| {
                let only_v6 = only_v6 && domain == Domain::IPV6;
                Self { protocol, multipath, domain, address, only_v6 }
            })
        });
        ways.collect()
    }

    pub(crate) fn open(self) -> Socket {
        let number = self.multipath.then(|| socket2::Protocol::from(MPTCP));
        let socket = Socket::new(self.domain, kind(self.protocol), number).expect("a socket");
        if self.domain == Domain::IPV6 {
            socket.set_only_v6(self.only_v6).expect("it is unbound");
        }
        socket
    }

    /// A socket that draws from this reservation.
    #[track_caller]
    pub(crate) fn associated(self, instance: Instance) -> Socket {
        let socket = self.open();
        associate(&socket, instance.token).expect("it is ours");
        socket
    }

    /// Binds this port; returns the one it got.
    pub(crate) fn bind(self, socket: &Socket, at: u16) -> io::Result<u16> {
        socket.bind(&SocketAddr::new(self.address, at).into())?;
        Ok(port(socket))
    }
}

impl Instance {
    pub(crate) fn contains(self, port: u16) -> bool {
        (self.start..=self.last()).contains(&port)
    }
}
