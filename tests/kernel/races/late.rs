//! Former owners, who bind or connect when their ports are somebody else's.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::SeqCst};
use std::thread;

use portkeep::Protocol;
use socket2::{Domain, Socket};

use super::{BASE, Field, PORTS, only_busy};
use crate::client::{
    ADOPT, BOTH, acquire, associate, by_token, kind, newest, open, port, release, stranger,
};
use crate::host::Host;
use crate::support::rounds;
use crate::tools::{Dice, interrupt, stay_on};

/// What goes from the owner to the heir.
#[derive(Default)]
struct Handed {
    first: AtomicU16,
    token: AtomicU64,
    /// Counts while the heir has nothing to do.
    waiting: AtomicU64,
}

/// While the owner of a reservation binds or connects an associated socket, another thread releases
/// the reservation, at a random moment, and acquires the same ports for itself.
fn late(protocol: Protocol, rounds: usize, take: fn(&Socket, &SocketAddr) -> io::Result<()>) {
    let (field, handed) = (Field::default(), Handed::default());
    let (mut inside, mut too_late) = (0, 0);
    // Somebody to connect to, who does not answer: no connection outlives its socket.
    let target = stranger(protocol, (Ipv4Addr::LOCALHOST, 9999)).expect("it is free");
    let target = target.local_addr().expect("it is bound").as_socket().expect("of the internet");
    thread::scope(|scope| {
        let (field, handed) = (&field, &handed);
        let heir = scope.spawn(move || {
            stay_on(1);
            let (own, mut dice) = (open(protocol), Dice(5));
            while !field.stop.load(SeqCst) {
                let token = handed.token.swap(0, SeqCst);
                if token == 0 {
                    handed.waiting.fetch_add(1, SeqCst);
                    continue;
                }
                let first = handed.first.load(SeqCst);
                (0..dice.roll(200)).for_each(|_| std::hint::spin_loop());
                // The owner may have closed the anchor by now.
                let _ = release(&own, token);
                match acquire(&own, BASE + first, 2) {
                    Ok(()) => {
                        field.hold(first, 2, dice.roll(64));
                        release(&own, newest(&own).token).expect("it is mine");
                    }
                    Err(error) => only_busy(&error),
                }
            }
        });
        // So that what takes the owner nanoseconds sometimes takes long enough for all of the heir's.
        scope.spawn(|| interrupt(0, &field.stop));
        stay_on(0);
        let mut dice = Dice(3);
        let mut round = || {
            let (anchor, first) = (open(protocol), dice.roll(PORTS - 1));
            if let Err(error) = acquire(&anchor, BASE + first, 2) {
                return only_busy(&error);
            }
            let token = newest(&anchor).token;
            let socket = Socket::new(Domain::IPV4, kind(protocol), None).expect("a socket");
            associate(&socket, token).expect("it is mine");
            handed.first.store(first, SeqCst);
            // The heir has its processor at this moment.
            let before = handed.waiting.load(SeqCst);
            while handed.waiting.load(SeqCst) == before && !heir.is_finished() {
                thread::yield_now();
            }
            handed.token.store(token, SeqCst);
            match take(&socket, &target).map_err(|error| error.raw_os_error()) {
                Err(Some(libc::EACCES)) => {
                    too_late += 1;
                    return assert_eq!(port(&socket), 0, "refused, and not bound");
                }
                Err(Some(libc::ECONNREFUSED)) | Ok(()) => (),
                Err(error) => panic!("errno {error:?}"),
            }
            let at = port(&socket);
            assert!((BASE..BASE + PORTS).contains(&at), "bound to {at}");
            field.occupy(at - BASE, 0);
            let dead = by_token(&anchor, ADOPT, token).is_err();
            inside += u64::from(dead);
        };
        let result = catch_unwind(AssertUnwindSafe(|| {
            (0..rounds).for_each(|_| round());
        }));
        field.stop.store(true, SeqCst);
        result.expect("every round ends as it may");
    });
    let (acquired, violations) = (field.acquired.into_inner(), field.violations.into_inner());
    eprintln!(
        "{protocol:?}: {rounds} rounds, {inside} bound in what was released by then, {too_late} too \
         late; {acquired} acquires of the heir; {violations} violations"
    );
    assert_eq!(violations, 0);
    assert!(inside > 0 && too_late > 0 && acquired > 0, "no contest");
}

pub(crate) fn no_former_owner_binds_into_a_later_owner_s_block(_: &Host) {
    for protocol in BOTH {
        late(protocol, rounds(2_000, 200_000), |socket, _| {
            socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
        });
    }
}

pub(crate) fn no_former_owner_connects_from_a_later_owner_s_block(_: &Host) {
    for protocol in BOTH {
        late(protocol, rounds(2_000, 200_000), |socket, to| socket.connect(&(*to).into()));
    }
}
