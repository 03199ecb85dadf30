//! One port space for IPv4 and IPv6 (spec 9.14, 9.15).

use std::io;
use std::net::{TcpListener, TcpStream};

use crate::engine::{BOTH, Host, IN_USE, cases, fails, request};
use crate::sockets::{
    Flag, REUSE, addresses, bind_plainly, everywhere, everywhere6, loopback, loopback6,
    mapped_loopback, open, port_of, refused,
};

cases![
    t32_strangers_of_either_family_are_refused,
    t32_strangers_that_want_ipv6_only_are_refused,
    t32_sockets_of_either_family_bind_inside,
    t32_two_families_do_not_share_a_port_by_accident,
    t32_a_machine_without_ipv6_addresses_is_served,
    t32_a_machine_with_bindv6only_is_served,
];

/// Spec 12, line 32.
fn t32_strangers_of_either_family_are_refused(host: &Host) {
    for protocol in BOTH {
        let block = host.acquire(&request(protocol, 2));
        for address in addresses(block.range().last()) {
            for flags in REUSE {
                refused(protocol, address, flags);
            }
        }
    }
}

/// Spec 12, line 32.
fn t32_strangers_that_want_ipv6_only_are_refused(host: &Host) {
    for protocol in BOTH {
        let block = host.acquire(&request(protocol, 1));
        let port = block.range().start();
        for flag in [Flag::ReuseAddress, Flag::ReusePort] {
            for address in [loopback6(port), everywhere6(port)] {
                refused(protocol, address, &[Flag::OnlyV6]);
                refused(protocol, address, &[Flag::OnlyV6, flag]);
            }
        }
    }
}

/// Spec 12, line 32.
fn t32_sockets_of_either_family_bind_inside(host: &Host) {
    for protocol in BOTH {
        let mut all: Vec<_> = addresses(0).iter().map(|address| (*address, vec![])).collect();
        all.push((loopback6(0), vec![Flag::OnlyV6]));
        all.push((everywhere6(0), vec![Flag::OnlyV6]));
        for (address, flags) in all {
            let block = host.acquire(&request(protocol, 2));
            let named = (address.ip(), block.range().last()).into();
            for address in [named, address] {
                let socket = open(protocol, &address, &flags).unwrap();
                let bound =
                    block.bind(&socket, address).unwrap_or_else(|e| panic!("{address}: {e}"));
                assert!(block.range().contains(bound.port()));
                assert_eq!((bound.ip(), port_of(&socket)), (address.ip(), bound.port()));
            }
        }
    }
}

/// Spec 8.2: ordinary rules, by which a dual-stack socket has both families.
fn t32_two_families_do_not_share_a_port_by_accident(host: &Host) {
    for protocol in BOTH {
        let block = host.acquire(&request(protocol, 1));
        let port = block.range().start();
        let dual = open(protocol, &everywhere6(0), &[]).unwrap();
        block.bind(&dual, everywhere6(port)).unwrap();
        for address in [loopback(port), everywhere(port), mapped_loopback(port)] {
            let socket = open(protocol, &address, &[]).unwrap();
            fails(block.bind(&socket, address), IN_USE);
        }
    }
}

/// The engine still keeps strangers out, and a listener that it lets in still hears.
#[track_caller]
fn is_served_over_ipv4(host: &Host) {
    let mut helper = host.helper();
    let theirs = helper.acquire("both +2").unwrap();
    for protocol in BOTH {
        for port in theirs.range.iter() {
            for address in [loopback(port), everywhere(port)] {
                refused(protocol, address, &[]);
                refused(protocol, address, &[Flag::ReuseAddress, Flag::ReusePort]);
            }
        }
    }
    let address = helper.ask("bind 0 tcp 127.0.0.1:0").unwrap();
    assert!(theirs.range.contains(address[0].parse::<std::net::SocketAddr>().unwrap().port()));

    let block = host.tcp(2);
    let listener = block.listener(loopback(0)).unwrap();
    TcpStream::connect(listener.local_addr().unwrap()).unwrap();
}

/// Architecture, section 4: IPv4 only where IPv6 is off.
fn t32_a_machine_without_ipv6_addresses_is_served(host: &Host) {
    let Some(netns) = host.netns() else { return };
    netns.set("net/ipv6/conf/all/disable_ipv6", "1");
    netns.set("net/ipv6/conf/lo/disable_ipv6", "1");
    let gone = TcpListener::bind(loopback6(0)).unwrap_err();
    assert_eq!(gone.kind(), io::ErrorKind::AddrNotAvailable);
    is_served_over_ipv4(host);
}

/// Spec 9.15, where new IPv6 sockets leave IPv4 alone unless told otherwise.
fn t32_a_machine_with_bindv6only_is_served(host: &Host) {
    let Some(netns) = host.netns() else { return };
    netns.set("net/ipv6/bindv6only", "1");
    for protocol in BOTH {
        let socket = bind_plainly(protocol, everywhere6(0), &[]).unwrap();
        assert!(socket.only_v6().unwrap());
    }
    let mut helper = host.helper();
    let theirs = helper.acquire("both +2").unwrap();
    for protocol in BOTH {
        for port in theirs.range.iter() {
            for address in [loopback(port), everywhere(port), loopback6(port), everywhere6(port)] {
                refused(protocol, address, &[]);
            }
        }
    }
    helper.ask("bind 0 tcp 127.0.0.1:0").unwrap();
    helper.ask("bind 0 tcp [::1]:0").unwrap();
    helper.ask("bind 0 udp 127.0.0.1:0").unwrap();
    helper.ask("bind 0 udp [::1]:0").unwrap();
}
