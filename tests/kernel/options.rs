//! Each option, its answers and its refusals, as the header states them.

use std::net::{Ipv4Addr, Ipv6Addr};

use portkeep::Protocol;
use socket2::{Domain, Socket, Type};

use crate::client::{
    self, ADOPT, INSTANCE, POOL, Request, SAME_NUMBERS, acquire, associate, block, by_token, errno,
    get, instances, newest, open, port, query, release, request, stranger, version,
};
use crate::host::{Host, cases};

cases![
    version_tells_the_interface_and_what_the_engine_can_do,
    pool_tells_where_wildcards_come_from,
    a_block_is_acquired_used_and_released_with_plain_socket_options,
    an_anchor_lists_its_reservations_newest_first_and_takes_256,
    the_same_numbers_are_one_request_with_two_tokens,
    impossible_requests_are_einval,
    query_names_the_owner_to_anybody,
];

const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

fn version_tells_the_interface_and_what_the_engine_can_do(_: &Host) {
    const EXCLUSIVE: u32 = 1;
    const DESCENDANTS: u32 = 2;
    const SAME_NUMBERS: u32 = 32;
    for protocol in BOTH {
        let (interface, features) = version(&open(protocol)).unwrap();
        assert_eq!((interface, features), (1, EXCLUSIVE | DESCENDANTS | SAME_NUMBERS));
    }
    assert_eq!(errno(get(&open(Protocol::Tcp), client::VERSION, &mut [0; 7])), libc::EINVAL);
}

fn pool_tells_where_wildcards_come_from(_: &Host) {
    let mut value = [0; 4];
    assert_eq!(get(&open(Protocol::Udp), POOL, &mut value).unwrap(), 4);
    assert_eq!(u16::from_be_bytes([value[0], value[1]]), 61000);
    assert_eq!(u16::from_ne_bytes([value[2], value[3]]), 4536);
    assert_eq!(errno(get(&open(Protocol::Udp), POOL, &mut [0; 3])), libc::EINVAL);
}

fn a_block_is_acquired_used_and_released_with_plain_socket_options(_: &Host) {
    for protocol in BOTH {
        let (anchor, mine) = block(protocol, 0, 16);
        assert!(mine.start >= 61000 && mine.count == 16, "{mine:?}");
        for at in [mine.start, mine.last()] {
            assert_eq!(errno(stranger(protocol, (Ipv4Addr::LOCALHOST, at))), libc::EADDRINUSE);
        }
        let consumer = Socket::new(Domain::IPV4, client::kind(protocol), None).unwrap();
        associate(&consumer, mine.token).unwrap();
        consumer.bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let at = port(&consumer);
        assert!((mine.start..=mine.last()).contains(&at), "{at} of {mine:?}");
        release(&anchor, mine.token).unwrap();
        assert_eq!(errno(release(&anchor, mine.token)), libc::EINVAL);
        assert_eq!(port(&consumer), at, "a socket keeps its port");
        let other = if at == mine.start { mine.last() } else { mine.start };
        stranger(protocol, (Ipv6Addr::LOCALHOST, other)).unwrap();
    }
}

fn an_anchor_lists_its_reservations_newest_first_and_takes_256(_: &Host) {
    let anchor = open(Protocol::Tcp);
    assert_eq!(errno(instances(&anchor)), libc::ENOENT);
    let starts: Vec<_> = (0..256)
        .map(|_| acquire(&anchor, 0, 1).map(|()| newest(&anchor).start))
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(errno(acquire(&anchor, 0, 1)), libc::ENOBUFS);
    let listed: Vec<_> = instances(&anchor).unwrap().iter().map(|one| one.start).collect();
    assert!(listed.iter().eq(starts.iter().rev()), "newest first");
    let mut short = [0; 40];
    assert_eq!(get(&anchor, INSTANCE, &mut short).unwrap(), 32, "two fit");
    assert_eq!(errno(get(&anchor, INSTANCE, &mut short[..15])), libc::EINVAL);
    // One of the middle goes; there is room for another.
    release(&anchor, instances(&anchor).unwrap()[100].token).unwrap();
    acquire(&anchor, 0, 1).unwrap();
    assert_eq!(instances(&anchor).unwrap().len(), 256);
}

fn the_same_numbers_are_one_request_with_two_tokens(_: &Host) {
    let anchor = open(Protocol::Udp);
    let both = Request { count: 4, flags: SAME_NUMBERS, ..Request::default() };
    request(&anchor, both).unwrap();
    let all = instances(&anchor).unwrap();
    let [udp, tcp] = all[..] else { panic!("{all:?}") };
    assert_eq!((udp.start, udp.count), (tcp.start, tcp.count));
    assert_ne!(udp.token, tcp.token);
    associate(&open(Protocol::Udp), udp.token).unwrap();
    associate(&open(Protocol::Tcp), tcp.token).unwrap();
    assert_eq!(errno(associate(&open(Protocol::Tcp), udp.token)), libc::EINVAL);
    // All or nothing: a socket in one protocol is in the way of both.
    assert_eq!(errno(release(&anchor, tcp.token)), libc::EINVAL, "a socket of its own space");
    release(&open(Protocol::Tcp), tcp.token).unwrap();
    release(&anchor, udp.token).unwrap();
    let _busy = stranger(Protocol::Tcp, (Ipv4Addr::LOCALHOST, 20003)).unwrap();
    assert_eq!(errno(request(&anchor, Request { start: 20000, ..both })), libc::EADDRINUSE);
    stranger(Protocol::Udp, (Ipv4Addr::LOCALHOST, 20000)).unwrap();
}

fn impossible_requests_are_einval(host: &Host) {
    let anchor = open(Protocol::Tcp);
    let good = Request { start: 20000, count: 4, ..Request::default() };
    for bad in [
        Request { count: 0, ..good },
        Request { start: 65535, count: 2, ..good },
        Request { alignment: 3, ..good },
        Request { alignment: 64, ..good },
        Request { flags: 2, ..good },
        Request { zero: 1, ..good },
        Request { grant_id: 1, ..good },
        Request { grant: 5, ..good },
    ] {
        assert_eq!(errno(request(&anchor, bad)), libc::EINVAL, "{bad:?}");
    }
    for grant in 2..5 {
        assert_eq!(errno(request(&anchor, Request { grant, ..good })), libc::EOPNOTSUPP);
    }
    assert_eq!(errno(by_token(&anchor, ADOPT, 0)), libc::EINVAL);
    assert_eq!(errno(by_token(&anchor, ADOPT, 1)), libc::EINVAL);
    host.maps().assert_nothing_is_left();
    request(&anchor, Request { start: 65535, count: 1, ..good }).unwrap();
}

fn query_names_the_owner_to_anybody(_: &Host) {
    let (_anchor, mine) = block(Protocol::Tcp, 20000, 8);
    let anybody = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let holder = query(&anybody, 20007).unwrap().expect("it is reserved");
    assert_eq!((holder.start, holder.count, holder.kind), (mine.start, 8, 1));
    assert_eq!((holder.pid, holder.uid), (std::process::id(), 0));
    assert_eq!(query(&anybody, 20008).unwrap(), None);
    assert_eq!(query(&open(Protocol::Udp), 20007).unwrap(), None, "another port space");
    assert_eq!(errno(query(&anybody, 0)), libc::EINVAL);
}
