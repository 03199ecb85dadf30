//! Tokens, and the end by release (spec 4.1, 5, 8.3).

use std::net::TcpStream;

use portkeep::Protocol::{self, Tcp, Udp};
use portkeep::Token;

use crate::engine::{BOTH, Host, IN_USE, INVALID_TOKEN, cases, fails, request};
use crate::sockets::{all_free, all_refused, loopback, open, port_of};

cases![
    t17_bind_by_token_is_bind,
    t23_a_foreign_token_binds_nothing_and_releases_nothing,
    t24_after_release_others_can_bind,
    t25_sockets_that_are_bound_outlive_the_release,
    t26_a_second_release_is_invalid,
    t30_zero_and_unknown_numbers_are_no_tokens,
    t31_a_token_of_the_other_protocol_is_invalid,
    r08_3_a_reservation_released_by_token_binds_nothing,
    r05_1_each_protocol_of_a_tcp_udp_block_has_a_token_of_its_own,
];

/// Binds a fresh socket by token.
fn bind(token: Token, protocol: Protocol, port: u16) -> portkeep::Result<u16> {
    let socket = open(protocol, &loopback(0), &[]).unwrap();
    let bound = portkeep::bind(&socket, token, loopback(port));
    assert_eq!(bound.is_ok(), port_of(&socket) != 0, "bound, or as good as new");
    bound.map(|address| address.port())
}

/// Spec 12, lines 17 and 18, for code that has only the token.
fn t17_bind_by_token_is_bind(host: &Host) {
    for protocol in BOTH {
        let block = host.acquire(&request(protocol, 3));
        let token = Token::from_u64(block.token().expose()).unwrap();
        let socket = open(protocol, &loopback(0), &[]).unwrap();
        let last = block.range().last();
        assert_eq!(portkeep::bind(&socket, token, loopback(last)).unwrap(), loopback(last));
        let any = bind(token, protocol, 0).unwrap();
        assert!(block.range().contains(any) && any != last);
    }
}

/// Spec 12, line 23; spec 4.1, row 4; spec 5.1, row 2.
fn t23_a_foreign_token_binds_nothing_and_releases_nothing(host: &Host) {
    for protocol in BOTH {
        let block = host.acquire(&request(protocol, 2));
        let (mut foreign, name) = (host.helper(), protocol.name());
        let token = format!("{:016x}", block.token().expose());
        for port in [0, block.range().start()] {
            assert_eq!(
                foreign.ask(&format!("bind-token {token} {name} 127.0.0.1:{port}")),
                Err(host.engine.foreign_token.into())
            );
        }
        let release = format!("release-token {token} {name}");
        assert_eq!(foreign.ask(&release), Err(INVALID_TOKEN.into()));

        all_refused(protocol, block.range());
        bind(block.token(), protocol, 0).unwrap();

        // The other way round, for a process that has blocks of its own.
        let theirs = foreign.acquire(&format!("{name} +2")).unwrap();
        fails(bind(theirs.token, protocol, 0), host.engine.foreign_token);
        fails(portkeep::release(theirs.token, protocol), INVALID_TOKEN);
        all_refused(protocol, theirs.range);
    }
}

/// Spec 12, line 24.
fn t24_after_release_others_can_bind(host: &Host) {
    for protocol in BOTH {
        for by_token in [false, true] {
            let block = host.acquire(&request(protocol, 4));
            let range = block.range();
            all_refused(protocol, range);
            let kept = if by_token {
                portkeep::release(block.token(), protocol).unwrap();
                Some(block)
            } else {
                block.release().unwrap();
                None
            };
            all_free(protocol, range.iter());
            let line = format!("stranger {} 127.0.0.1:{}", protocol.name(), range.start());
            host.helper().ask(&line).unwrap();
            assert_eq!(host.acquire(&request(protocol, 4).at(range.start())).range(), range);
            drop(kept);
        }
    }
}

/// Spec 12, line 25; spec 5.2, 8.3, 9.22.
fn t25_sockets_that_are_bound_outlive_the_release(host: &Host) {
    let block = host.acquire(&portkeep::tcp_udp(3));
    let range = block.range();
    let listener = block.listener(loopback(0)).unwrap();
    let bound = open(Tcp, &loopback(0), &[]).unwrap();
    let bound_port = block.bind(&bound, loopback(0)).unwrap().port();
    let datagrams = block.udp_socket(loopback(0)).unwrap();
    block.release().unwrap();

    TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    listener.accept().unwrap();
    bound.listen(1).unwrap();
    TcpStream::connect(loopback(bound_port)).unwrap();
    datagrams.send_to(b"x", datagrams.local_addr().unwrap()).unwrap();
    assert_eq!(datagrams.recv(&mut [0]).unwrap(), 1);

    // Their ports are in use like anybody's, the others are free.
    let listening = listener.local_addr().unwrap().port();
    for port in [listening, bound_port] {
        fails(portkeep::tcp(1).at(port).acquire(), IN_USE);
    }
    all_free(Tcp, range.iter().filter(|port| ![listening, bound_port].contains(port)));
    let udp = datagrams.local_addr().unwrap().port();
    all_free(Udp, range.iter().filter(|port| *port != udp));
}

/// Spec 12, line 26; spec 9.23.
fn t26_a_second_release_is_invalid(host: &Host) {
    for protocol in BOTH {
        let block = host.acquire(&request(protocol, 2));
        let token = block.token();
        portkeep::release(token, protocol).unwrap();
        fails(portkeep::release(token, protocol), INVALID_TOKEN);
        fails(block.release(), INVALID_TOKEN);

        let block = host.acquire(&request(protocol, 2));
        let token = block.token();
        block.release().unwrap();
        fails(portkeep::release(token, protocol), INVALID_TOKEN);
        fails(bind(token, protocol, 0), INVALID_TOKEN);
    }
}

/// Spec 12, line 30; spec 4.1, row 2; spec 5.1, row 1.
fn t30_zero_and_unknown_numbers_are_no_tokens(host: &Host) {
    assert_eq!(Token::from_u64(0), None);
    let block = host.acquire(&portkeep::tcp_udp(1));
    for number in [1, u64::MAX, block.token().expose() ^ 1, block.token().expose() << 32 | 1] {
        let token = Token::from_u64(number).unwrap();
        for protocol in BOTH {
            fails(bind(token, protocol, 0), INVALID_TOKEN);
            fails(bind(token, protocol, block.range().start()), INVALID_TOKEN);
            fails(portkeep::release(token, protocol), INVALID_TOKEN);
        }
    }
    all_refused(Tcp, block.range());
}

/// Spec 12, line 31; spec 5.1, row 4.
fn t31_a_token_of_the_other_protocol_is_invalid(host: &Host) {
    for (mine, theirs) in [(Tcp, Udp), (Udp, Tcp)] {
        let block = host.acquire(&request(mine, 2));
        for port in [0, block.range().start()] {
            fails(bind(block.token(), theirs, port), INVALID_TOKEN);
            let socket = open(theirs, &loopback(0), &[]).unwrap();
            fails(block.bind(&socket, loopback(port)), INVALID_TOKEN);
        }
        match theirs {
            Tcp => fails(block.listener(loopback(0)), INVALID_TOKEN),
            Udp => fails(block.udp_socket(loopback(0)), INVALID_TOKEN),
        }
        fails(portkeep::release(block.token(), theirs), INVALID_TOKEN);
        all_refused(mine, block.range());
        bind(block.token(), mine, 0).unwrap();
    }
}

/// Spec 8.2, last row; 8.3, row 2.
fn r08_3_a_reservation_released_by_token_binds_nothing(host: &Host) {
    for protocol in BOTH {
        let block = host.acquire(&request(protocol, 2));
        portkeep::release(block.token(), protocol).unwrap();
        for port in [0, block.range().start()] {
            let socket = open(protocol, &loopback(0), &[]).unwrap();
            fails(block.bind(&socket, loopback(port)), host.engine.dead_reservation);
            assert_eq!(port_of(&socket), 0);
        }
        // Its drop does not end what somebody has acquired there since.
        let successor = host.acquire(&request(protocol, 2).at(block.range().start()));
        drop(block);
        all_refused(protocol, successor.range());
        bind(successor.token(), protocol, 0).unwrap();
    }
}

/// Spec 5.1, row 4, for a block that is in both spaces: each half has a token and a life of its own.
fn r05_1_each_protocol_of_a_tcp_udp_block_has_a_token_of_its_own(host: &Host) {
    for (one, other) in [(Tcp, Udp), (Udp, Tcp)] {
        let block = host.acquire(&portkeep::tcp_udp(2));
        let [mine, theirs] = [one, other].map(|protocol| block.token_for(protocol).unwrap());
        assert_ne!(mine, theirs);
        fails(portkeep::release(mine, other), INVALID_TOKEN);
        portkeep::release(mine, one).unwrap();
        all_free(one, block.range().iter());
        all_refused(other, block.range());
        fails(portkeep::release(mine, one), INVALID_TOKEN);
        bind(theirs, other, 0).unwrap();
        let range = block.range();
        // What is left goes too, and the caller learns that it was not everything.
        fails(block.release(), INVALID_TOKEN);
        all_free(other, range.iter());
    }
}
