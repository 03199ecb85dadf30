//! The kernel hands out ports by itself, where no block can be kept: reservations stay out of there,
//! or the administrator keeps the kernel out.

use std::net::{Ipv4Addr, Ipv6Addr};

use portkeep::Protocol::{self, Tcp, Udp};
use portkeep::{EngineKind, ErrorKind, PortRange};
use socket2::{Domain, Socket};

use crate::client::{acquire, block, errno, kind, newest, open, port, stranger};
use crate::host::{Host, cases, cases_without_engine};
use crate::support::rounds;

cases![
    a09_a_block_that_touches_the_ephemeral_range_is_refused_to_the_port,
    a09_a_block_inside_needs_every_one_of_its_ports_in_the_reserved_list,
    a09_a_widened_range_is_minded_from_the_next_acquire_on,
    a09_no_stranger_fails_or_lands_in_a_block_that_the_reserved_list_covers,
    a09_the_error_names_the_range_and_the_sysctl_that_helps,
];

cases_without_engine![a09_wildcards_pass_over_what_the_kernel_hands_out];

const BOTH: [Protocol; 2] = [Tcp, Udp];

fn refused(start: u16, count: u16) -> bool {
    BOTH.map(|protocol| match acquire(&open(protocol), start, count) {
        Ok(()) => false,
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::EADDRINUSE), "{start}+{count}");
            true
        }
    })
    .into_iter()
    .reduce(|tcp, udp| {
        assert_eq!(tcp, udp, "{start}+{count}");
        tcp
    })
    .expect("two")
}

fn a09_a_block_that_touches_the_ephemeral_range_is_refused_to_the_port(host: &Host) {
    host.set("ipv4/ip_local_port_range", "32768 60999");
    for (start, count) in [(32767, 1), (32760, 8), (61000, 1), (61000, 4536), (1, 32767)] {
        assert!(!refused(start, count), "{start}+{count} is outside");
    }
    for (start, count) in
        [(32767, 2), (32760, 9), (60999, 1), (60999, 2), (32768, 1), (40000, 64), (1, 65535)]
    {
        assert!(refused(start, count), "{start}+{count} is inside");
    }
    host.maps().assert_nothing_is_left();
}

fn a09_a_block_inside_needs_every_one_of_its_ports_in_the_reserved_list(host: &Host) {
    host.set("ipv4/ip_local_reserved_ports", "32768-32770,40000-40009,40064,60999");
    for (start, count) in [(40000, 10), (40009, 1), (40064, 1), (32700, 71), (60999, 100)] {
        assert!(!refused(start, count), "{start}+{count} is covered");
    }
    for (start, count) in [(39999, 2), (40009, 2), (40000, 65), (40063, 2), (32700, 72)] {
        assert!(refused(start, count), "{start}+{count} is not");
    }
    // A reservation outlives its line in the list; the next one does not get in.
    let (anchor, _) = block(Tcp, 40000, 10);
    host.set("ipv4/ip_local_reserved_ports", "\n");
    assert_eq!(errno(stranger(Tcp, (Ipv4Addr::LOCALHOST, 40005))), libc::EADDRINUSE);
    drop(anchor);
    assert!(refused(40000, 10));
}

fn a09_a_widened_range_is_minded_from_the_next_acquire_on(host: &Host) {
    host.set("ipv4/ip_local_port_range", "50000 50999");
    assert!(!refused(40000, 16));
    host.set("ipv4/ip_local_port_range", "40015 50999");
    assert!(refused(40000, 16));
    assert!(!refused(40000, 15));
    // An automatic bind under the wide range is not forgotten under the narrow one, although no
    // hook has seen it.
    let taken = Socket::new(Domain::IPV6, kind(Udp), None).unwrap();
    let peer = std::net::SocketAddr::from((Ipv6Addr::LOCALHOST, 9));
    taken.connect(&peer.into()).unwrap();
    let at = port(&taken);
    host.set("ipv4/ip_local_port_range", "30000 30999");
    assert_eq!(errno(acquire(&open(Udp), at, 1)), libc::EADDRINUSE);
    drop(taken);
    acquire(&open(Udp), at, 1).unwrap();
}

fn a09_wildcards_pass_over_what_the_kernel_hands_out(host: &Host) {
    host.load_with(|load| load.config.pool = "60990-61009".parse::<PortRange>().expect("a range"));
    host.set("ipv4/ip_local_reserved_ports", "60992-60995,60999");
    for protocol in BOTH {
        let anchor = open(protocol);
        // 60999-61009 are eleven in a row, 60992-60995 are four.
        acquire(&anchor, 0, 11).unwrap();
        assert_eq!(newest(&anchor).start, 60999);
        assert_eq!(errno(acquire(&anchor, 0, 5)), libc::ENOBUFS);
        acquire(&anchor, 0, 4).unwrap();
        assert_eq!(newest(&anchor).start, 60992);
        assert_eq!(errno(acquire(&anchor, 0, 1)), libc::ENOBUFS);
    }
}

fn a09_no_stranger_fails_or_lands_in_a_block_that_the_reserved_list_covers(host: &Host) {
    let strangers = rounds(1000, 20_000);
    // One half of the default range, as one block in each protocol.
    host.set("ipv4/ip_local_reserved_ports", "32768-46883");
    for protocol in BOTH {
        let (_anchor, mine) = block(protocol, 32768, 14_116);
        let inside = |socket: &Socket| (mine.start..=mine.last()).contains(&port(socket));
        let server = stranger(protocol, (Ipv4Addr::LOCALHOST, 1234)).unwrap();
        if protocol == Tcp {
            server.listen(128).unwrap();
        }
        let server = server.local_addr().unwrap();
        // Some stay bound, so that the kernel has to look around.
        let mut kept = Vec::new();
        for round in 0..strangers {
            let bound = stranger(protocol, (Ipv4Addr::LOCALHOST, 0))
                .unwrap_or_else(|error| panic!("bind {round}: {error}"));
            assert!(!inside(&bound), "bind {round}");
            let connected = Socket::new(Domain::IPV4, kind(protocol), None).unwrap();
            // No queue of connections that nobody accepts.
            connected.set_nonblocking(true).unwrap();
            match connected.connect(&server) {
                Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => {
                    panic!("connect {round}: {error}")
                }
                _ => assert!(!inside(&connected), "connect {round}"),
            }
            if kept.len() < 500 {
                kept.push(bound);
            }
        }
    }
    assert_eq!(host.maps().counters().late_refusals, 0);
}

fn a09_the_error_names_the_range_and_the_sysctl_that_helps(host: &Host) {
    host.set("ipv4/ip_local_reserved_ports", "50000-50001");
    let request = portkeep::tcp(2).at(40000).engine(EngineKind::Kernel);
    let error = request.acquire().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddressInUse, "{error}");
    let text = error.to_string();
    assert!(text.contains("40000-40001") && text.contains("32768-60999"), "{text}");
    // The advice, taken literally; it keeps what others have in the list.
    let (_, advice) = text.split_once("sysctl -w net.ipv4.ip_local_reserved_ports=").expect(&text);
    let (list, _) = advice.split_once('\'').expect(&text);
    assert!(list.contains("50000-50001"), "{list}");
    host.set("ipv4/ip_local_reserved_ports", list);
    assert_eq!(request.acquire().unwrap().range(), "40000-40001".parse().unwrap());
}
