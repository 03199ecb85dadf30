//! What a held port does with traffic: nothing, and the consumer gets all of it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use portkeep::Protocol::Udp;

use crate::engine::{Host, cases};
use crate::sockets::{REUSE, everywhere, everywhere6, loopback, loopback6, open};

cases![
    r08_a_held_tcp_port_refuses_connections,
    r08_a_held_udp_port_keeps_no_datagram,
    r08_a_udp_consumer_gets_every_datagram,
    r08_a_udp_consumer_that_shares_gets_every_datagram,
    r08_a_udp_consumer_gets_nothing_from_before,
    r08_a_tcp_consumer_gets_every_connection,
];

/// A socket that listened would take connections that nobody serves.
fn r08_a_held_tcp_port_refuses_connections(host: &Host) {
    let block = host.tcp(2);
    for port in block.range().iter() {
        for address in [loopback(port), loopback6(port)] {
            let error = TcpStream::connect(address).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{address}");
        }
    }
    // The same after a listener has come and gone.
    drop(block.listener(loopback(block.range().start())).unwrap());
    let error = TcpStream::connect(loopback(block.range().start())).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

/// A socket of the kernel's UDP tables.
struct Row {
    queued: u64,
    dropped: u64,
}

/// The rows of `port`, of both families, in the namespace of this thread.
fn udp_rows(port: u16) -> Vec<Row> {
    let suffix = format!(":{port:04X}");
    let tables = ["udp", "udp6"].map(|name| {
        std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).expect("/proc is mounted")
    });
    let rows = tables.iter().flat_map(|table| table.lines().skip(1));
    rows.map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|columns| columns[1].ends_with(&suffix))
        .map(|columns| Row {
            queued: u64::from_str_radix(columns[4].split(':').nth(1).unwrap(), 16).unwrap(),
            dropped: columns.last().unwrap().parse().unwrap(),
        })
        .collect()
}

fn send(address: SocketAddr, count: usize) {
    let sender = UdpSocket::bind((address.ip(), 0)).unwrap();
    for _ in 0..count {
        sender.send_to(b"datagram", address).unwrap();
    }
}

/// Nothing is queued where nobody will ever read.
fn r08_a_held_udp_port_keeps_no_datagram(host: &Host) {
    let block = host.udp(1);
    let port = block.range().start();
    for address in [loopback(port), loopback6(port)] {
        send(address, 1000);
    }
    let rows = udp_rows(port);
    assert!(rows.iter().all(|row| row.queued == 0));
    if host.engine.holds_sockets {
        // They did arrive.
        assert_eq!(rows.iter().map(|row| row.dropped).sum::<u64>(), 2000);
    }
}

/// Not one is lost to whatever else is on the port.
#[track_caller]
fn receives_all(consumer: &UdpSocket, target: fn(u16) -> SocketAddr) {
    consumer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let target = target(consumer.local_addr().unwrap().port());
    let sender = UdpSocket::bind((target.ip(), 0)).unwrap();
    let (mut buffer, mut received) = ([0; 16], 0);
    // In portions that the receive buffer holds.
    for portion in 0..40_u8 {
        for number in 0..50_u8 {
            sender.send_to(&[portion, number], target).unwrap();
        }
        for number in 0..50_u8 {
            let size = consumer.recv(&mut buffer).expect("no datagram is lost");
            assert_eq!(buffer[..size], [portion, number]);
            received += 1;
        }
    }
    assert_eq!(received, 2000);
}

fn r08_a_udp_consumer_gets_every_datagram(host: &Host) {
    for address in [loopback, loopback6] {
        let block = host.udp(1);
        receives_all(&block.udp_socket(address(0)).unwrap(), address);
    }
}

/// Nor to what had to stand beside it while it was let in.
fn r08_a_udp_consumer_that_shares_gets_every_datagram(host: &Host) {
    for flags in REUSE {
        for (bound, target) in [
            (loopback(0), loopback as fn(u16) -> SocketAddr),
            (everywhere(0), loopback),
            (everywhere6(0), loopback),
            (everywhere6(0), loopback6),
        ] {
            let block = host.udp(1);
            let own = open(Udp, &bound, flags).unwrap();
            block.bind(&own, bound).unwrap();
            receives_all(&UdpSocket::from(own), target);
        }
    }
}

/// The first datagram a consumer reads was sent to the consumer.
fn r08_a_udp_consumer_gets_nothing_from_before(host: &Host) {
    let block = host.udp(1);
    let address = loopback(block.range().start());
    send(address, 100);
    let consumer = block.udp_socket(address).unwrap();
    let sender = UdpSocket::bind(loopback(0)).unwrap();
    sender.send_to(b"now", address).unwrap();
    consumer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut buffer = [0; 16];
    let size = consumer.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..size], b"now");
}

/// The holder that stays beside a listener takes no connection away from it.
fn r08_a_tcp_consumer_gets_every_connection(host: &Host) {
    let block = host.tcp(1);
    for address in [loopback(0), loopback6(0)] {
        let listener = block.listener(address).unwrap();
        for number in 0..100_u8 {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            client.write_all(&[number]).unwrap();
            let (mut server, peer) = listener.accept().unwrap();
            assert_eq!(peer, client.local_addr().unwrap());
            let mut byte = [0];
            server.read_exact(&mut byte).unwrap();
            assert_eq!(byte, [number]);
        }
    }
}
