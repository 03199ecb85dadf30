//! Every kind of socket a user can open: which are served, and that no other changes anything.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use portkeep::Protocol;
use socket2::{Domain, Socket, Type};

use crate::client::{acquire, errno, open, version};
use crate::host::{Host, cases};
use crate::programs::peer::NOBODY;
use crate::support::{installed, left_out};

cases![
    a4_only_tcp_mptcp_and_udp_sockets_of_root_are_served,
    a4_only_tcp_mptcp_and_udp_sockets_of_nobody_are_served,
    a4_a_netlink_socket_with_the_number_of_tcp_is_no_anchor,
];

const STREAM: i32 = libc::SOCK_STREAM;
const DGRAM: i32 = libc::SOCK_DGRAM;

/// Family, type and protocol.
type Kind = (i32, i32, i32);

/// One socket: its kind, what came of ACQUIRE, and of everything else; 0 or errno.
struct Tried {
    kind: Kind,
    acquired: i32,
    others: Vec<i32>,
}

fn tried(line: &str) -> Tried {
    let numbers: Vec<i32> = line.split(' ').map(|word| word.parse().expect("a number")).collect();
    let [family, kind, protocol, acquired, ref others @ ..] = numbers[..] else { panic!("{line}") };
    Tried { kind: (family, kind, protocol), acquired, others: others.to_vec() }
}

fn served() -> BTreeSet<Kind> {
    [libc::AF_INET, libc::AF_INET6]
        .into_iter()
        .flat_map(|family| {
            [(STREAM, libc::IPPROTO_TCP), (STREAM, libc::IPPROTO_MPTCP), (DGRAM, libc::IPPROTO_UDP)]
                .map(|(kind, protocol)| (family, kind, protocol))
        })
        .collect()
}

fn only_these_are_served(host: &Host, user: u32) {
    if !installed("python3", "python3") {
        return;
    }
    // Ping sockets, for everybody.
    host.set("ipv4/ping_group_range", "0 2147483647");
    let mut python = Command::new("python3");
    python.env("PATH", "/usr/local/bin:/usr/bin:/bin").uid(user).gid(user);
    python.args(["-c", include_str!("programs/kinds.py")]);
    let mut python = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(python.stdout.take().unwrap()).lines().map(Result::unwrap);
    let sockets: Vec<_> =
        lines.take_while(|line| !line.is_empty()).map(|line| tried(&line)).collect();
    let anchors = sockets.iter().filter(|socket| socket.acquired == 0);

    assert_eq!(anchors.clone().map(|socket| socket.kind).collect::<BTreeSet<_>>(), served());
    assert_eq!(host.maps().reservations(), anchors.count(), "as many as were told so");
    let ours = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET];
    for Tried { kind, acquired, others } in &sockets {
        let answers: BTreeSet<_> = others.iter().chain([acquired]).copied().collect();
        if served().contains(kind) {
            // Not for the kind of socket, that is.
            assert_eq!(*acquired, 0, "{kind:?}");
            assert!(!answers.contains(&libc::EOPNOTSUPP), "{kind:?}: {others:?}");
        } else if ours.contains(&kind.0) {
            assert_eq!(answers, BTreeSet::from([libc::EOPNOTSUPP]), "{kind:?}: {others:?}");
        } else {
            // Where the kernel does not ask us, its own answer.
            let refusals = BTreeSet::from([libc::EOPNOTSUPP, libc::ENOPROTOOPT, libc::EINVAL]);
            assert!(answers.is_subset(&refusals), "{kind:?}: {others:?}");
        }
    }
    let has = |kind| sockets.iter().any(|socket| socket.kind == kind);
    assert!(has((libc::AF_NETLINK, libc::SOCK_RAW, 6)), "the kind that was never released");
    assert!(has((libc::AF_INET, DGRAM, libc::IPPROTO_ICMP)), "ping");
    assert!(has((libc::AF_INET6, DGRAM, libc::IPPROTO_UDPLITE)));
    assert!(has((libc::AF_UNIX, STREAM, 0)));
    if user == 0 {
        assert!(has((libc::AF_INET, libc::SOCK_RAW, 6)));
        assert!(has((libc::AF_PACKET, libc::SOCK_RAW, 0)));
    }
    drop(python.stdin.take());
    assert!(python.wait().unwrap().success());
    host.maps().assert_nothing_is_left();
}

fn a4_only_tcp_mptcp_and_udp_sockets_of_root_are_served(host: &Host) {
    only_these_are_served(host, 0);
}

fn a4_only_tcp_mptcp_and_udp_sockets_of_nobody_are_served(host: &Host) {
    only_these_are_served(host, NOBODY);
}

fn a4_a_netlink_socket_with_the_number_of_tcp_is_no_anchor(host: &Host) {
    const NETLINK_XFRM: i32 = 6;
    for protocol in [NETLINK_XFRM, libc::NETLINK_ROUTE] {
        for kind in [Type::RAW, Type::DGRAM] {
            let domain = Domain::from(libc::AF_NETLINK);
            let Ok(netlink) = Socket::new(domain, kind, Some(protocol.into())) else {
                return left_out("this kernel has no NETLINK_XFRM");
            };
            assert_eq!(errno(acquire(&netlink, 20000, 10_000)), libc::EOPNOTSUPP);
            assert_eq!(errno(version(&netlink)), libc::EOPNOTSUPP);
        }
    }
    host.maps().assert_nothing_is_left();
    // The quota is not charged either.
    acquire(&open(Protocol::Tcp), 20000, 10_000).unwrap();
}
