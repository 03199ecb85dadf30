//! The engines, how to put each into force, and the answers in which they may differ.

use std::env;
use std::process::Command;
use std::sync::OnceLock;
use std::thread;

use nix::sched::{CloneFlags, unshare};
use portkeep::{EngineKind, ErrorKind, PortRange, PortRequest, Protocol, Reservation};

use crate::helper::Helper;
use crate::sandbox::{Inside, Sandbox};
use crate::support::{NetNs, left_out};

/// The engines that this build of the library has.
pub(crate) const ENGINES: &[EngineUnderTest] =
    if cfg!(any(not(target_os = "linux"), portkeep_unsupported)) {
        &[]
    } else {
        &[USERSPACE, KERNEL]
    };

const USERSPACE: EngineUnderTest = EngineUnderTest {
    name: "userspace",
    kind: EngineKind::Userspace,
    place: || Some(Place::Here),
    enter: || None,
    set_up: |_| {},
    foreign_token: (ErrorKind::InvalidToken, libc::EINVAL),
    dead_reservation: (ErrorKind::InvalidToken, libc::EINVAL),
    holds_sockets: true,
    keeps_plainly_bound_ports: false,
    admits_own_user_until_listen: true,
};

const KERNEL: EngineUnderTest = EngineUnderTest {
    name: "kernel",
    kind: EngineKind::Kernel,
    place: || Sandbox::new().map(Place::Sandbox),
    enter: || {
        let inside = Inside::enter();
        inside.load();
        Some(inside)
    },
    // Two tests ask for ports that the kernel would hand out by itself.
    set_up: |netns| netns.set("net/ipv4/ip_local_reserved_ports", "36895,42030-42069"),
    foreign_token: (ErrorKind::PermissionDenied, libc::EACCES),
    dead_reservation: (ErrorKind::InvalidToken, libc::EINVAL),
    holds_sockets: false,
    keeps_plainly_bound_ports: true,
    admits_own_user_until_listen: false,
};

/// Where the process that asks an engine is started.
#[derive(Debug)]
pub(crate) enum Place {
    Here,
    Sandbox(Sandbox),
}

impl Place {
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        match self {
            Self::Sandbox(sandbox) => sandbox.command(arguments),
            Self::Here => {
                let mut command = Command::new(env::current_exe().expect("/proc is mounted"));
                command.args(arguments);
                command
            }
        }
    }
}

/// An engine, and its answers where the contract leaves a choice.
pub(crate) struct EngineUnderTest {
    pub(crate) name: &'static str,
    pub(crate) kind: EngineKind,
    /// Where it can be asked. `None`: nowhere on this machine, and said so.
    pub(crate) place: fn() -> Option<Place>,
    /// Puts it into force for the process that asks, which has one thread.
    pub(crate) enter: fn() -> Option<Inside>,
    /// Prepares the namespace of one test.
    pub(crate) set_up: fn(&NetNs),
    /// Bind by a token of another process: `EACCES` (spec 9.26), or `EINVAL` where a token means
    /// nothing outside its process.
    pub(crate) foreign_token: (ErrorKind, i32),
    /// Bind through a reservation that was released by its token (spec 8.2, last row).
    pub(crate) dead_reservation: (ErrorKind, i32),
    /// It costs a descriptor a port, and shows sockets in the kernel's tables.
    pub(crate) holds_sockets: bool,
    /// A port returns to the block also when the socket that was bound there has no `SO_REUSEADDR`,
    /// and other addresses of that port are guarded while it is bound.
    pub(crate) keeps_plainly_bound_ports: bool,
    /// A TCP socket that was bound through a reservation and has not listened lets in others of the
    /// same user, address and `SO_REUSEPORT`; those of other users stay out.
    pub(crate) admits_own_user_until_listen: bool,
}

/// One test: a claim, and the function that tries to refute it.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Host),
}

/// The table of a module's tests.
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        pub(crate) const CASES: &[crate::engine::Case] =
            &[$(crate::engine::Case { name: stringify!($name), run: $name }),*];
    };
}
pub(crate) use cases;

/// Where one test runs: with its engine in force, and as root in a network namespace of its own.
pub(crate) struct Host {
    pub(crate) engine: &'static EngineUnderTest,
    netns: Option<NetNs>,
}

impl Host {
    pub(crate) fn new(engine: &'static EngineUnderTest) -> Option<Self> {
        let netns = if has_namespaces() { Some(NetNs::enter()?) } else { None };
        netns.iter().for_each(engine.set_up);
        Some(Self { engine, netns })
    }

    /// The namespace, for tests that need fixed ports or change settings. They are left out
    /// without one.
    pub(crate) fn netns(&self) -> Option<&NetNs> {
        if self.netns.is_none() {
            left_out("it needs a network namespace of its own, so root");
        }
        self.netns.as_ref()
    }

    /// Acquires, and makes sure that the engine under test is the one that serves.
    #[track_caller]
    pub(crate) fn acquire(&self, request: &PortRequest) -> Reservation {
        let block = request.acquire().expect("the ports are free");
        assert_eq!(block.engine(), self.engine.kind);
        block
    }

    #[track_caller]
    pub(crate) fn tcp(&self, count: u16) -> Reservation {
        self.acquire(&portkeep::tcp(count))
    }

    #[track_caller]
    pub(crate) fn udp(&self, count: u16) -> Reservation {
        self.acquire(&portkeep::udp(count))
    }

    /// Ports that are free in both protocols.
    #[track_caller]
    pub(crate) fn free_range(&self, count: u16) -> PortRange {
        self.acquire(&portkeep::tcp_udp(count)).range()
    }

    /// Another process, on the same host.
    pub(crate) fn helper(&self) -> Helper {
        Helper::start(self.engine)
    }

    /// Another process that is no descendant of ours.
    pub(crate) fn stranger(&self) -> Helper {
        let mut stranger = self.helper();
        stranger.number("daemon");
        stranger
    }
}

/// The request for one protocol, by value.
pub(crate) fn request(protocol: Protocol, count: u16) -> PortRequest {
    match protocol {
        Protocol::Tcp => portkeep::tcp(count),
        Protocol::Udp => portkeep::udp(count),
    }
}

pub(crate) const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// Whether we may make network namespaces. Asked on a thread that ends with its answer.
pub(crate) fn has_namespaces() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let try_it = || unshare(CloneFlags::CLONE_NEWNET).is_ok();
        thread::spawn(try_it).join().expect("unshare does not panic")
    })
}

/// Checks kind and errno of an error of the library.
#[track_caller]
pub(crate) fn fails<T>(result: portkeep::Result<T>, (kind, errno): (ErrorKind, i32)) {
    match result {
        Ok(_) => panic!("it worked, but {kind:?} was expected"),
        Err(error) => assert_eq!((error.kind(), error.errno()), (kind, Some(errno)), "{error}"),
    }
}

pub(crate) const INVALID_INPUT: (ErrorKind, i32) = (ErrorKind::InvalidInput, libc::EINVAL);
pub(crate) const INVALID_TOKEN: (ErrorKind, i32) = (ErrorKind::InvalidToken, libc::EINVAL);
pub(crate) const IN_USE: (ErrorKind, i32) = (ErrorKind::AddressInUse, libc::EADDRINUSE);
pub(crate) const NO_ROOM: (ErrorKind, i32) = (ErrorKind::NoRoom, libc::ENOBUFS);
pub(crate) const DENIED: (ErrorKind, i32) = (ErrorKind::PermissionDenied, libc::EACCES);
pub(crate) const UNSUPPORTED: (ErrorKind, i32) = (ErrorKind::Unsupported, libc::EOPNOTSUPP);
