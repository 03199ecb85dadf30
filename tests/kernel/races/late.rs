//! Former owners, who bind or connect when their ports are somebody else's.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering::SeqCst};
use std::thread;

use portkeep::Protocol;
use socket2::{Domain, Socket};

use super::{BASE, PORTS, only_busy};
use crate::client::{BOTH, acquire, associate, kind, newest, open, port, release, stranger};
use crate::host::Host;
use crate::support::rounds;
use crate::tools::{Dice, Interruption, stay_on};

/// What goes from the owner to the heir, and back.
#[derive(Default)]
struct Handed {
    first: AtomicU16,
    token: AtomicU64,
    /// Counts while the heir has nothing to do.
    waiting: AtomicU64,
    /// What came of the heir's acquire: not known yet, or one of the two below.
    outcome: AtomicU8,
    /// The owner has nothing bound any more.
    over: AtomicBool,
    stop: AtomicBool,
}

const REFUSED: u8 = 1;
const GRANTED: u8 = 2;

/// Releases what it is handed, at a random moment, acquires the same ports for itself, and keeps
/// them until the round is over. Returns how often it got them.
fn heir(protocol: Protocol, handed: &Handed) -> u64 {
    stay_on(1);
    let (own, mut dice, mut granted) = (open(protocol), Dice(5), 0);
    while !handed.stop.load(SeqCst) {
        let token = handed.token.swap(0, SeqCst);
        if token == 0 {
            handed.waiting.fetch_add(1, SeqCst);
            continue;
        }
        (0..dice.roll(100)).for_each(|_| std::hint::spin_loop());
        release(&own, token).expect("it lives, and tokens are for everybody of this process");
        let got = acquire(&own, handed.first.load(SeqCst), 2);
        handed.outcome.store(if got.is_ok() { GRANTED } else { REFUSED }, SeqCst);
        while !handed.over.swap(false, SeqCst) && !handed.stop.load(SeqCst) {
            std::hint::spin_loop();
        }
        match got {
            Ok(()) => {
                granted += 1;
                release(&own, newest(&own).token).expect("it is mine");
            }
            Err(error) => only_busy(&error),
        }
    }
    granted
}

/// While the owner of a reservation binds or connects an associated socket, the heir releases and
/// acquires. The owner is interrupted, so that what takes it nanoseconds sometimes takes long enough
/// for all that; and keeps what it has bound until the heir has tried, so that no miss is missed.
fn late(protocol: Protocol, rounds: usize, take: fn(&Socket, &SocketAddr) -> io::Result<()>) {
    let handed = Handed::default();
    let (mut bound, mut too_late, mut violations) = (0, 0, 0);
    // Somebody to connect to, who does not answer: no connection outlives its socket.
    let target = stranger(protocol, (Ipv4Addr::LOCALHOST, 9999)).expect("it is free");
    let target = target.local_addr().expect("it is bound").as_socket().expect("of the internet");
    let granted = thread::scope(|scope| {
        let heir = scope.spawn(|| heir(protocol, &handed));
        stay_on(0);
        let (interruption, mut dice) = (Interruption::new(), Dice(3));
        let mut round = || {
            let (anchor, first) = (open(protocol), BASE + dice.roll(PORTS - 1));
            if let Err(error) = acquire(&anchor, first, 2) {
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
            interruption.after(dice.roll(10_000));
            handed.token.store(token, SeqCst);
            let taken = take(&socket, &target).map_err(|error| error.raw_os_error());
            let at = port(&socket);
            let outcome = loop {
                match handed.outcome.swap(0, SeqCst) {
                    0 => assert!(!heir.is_finished(), "the heir failed"),
                    outcome => break outcome,
                }
                thread::yield_now();
            };
            match taken {
                Err(Some(libc::EACCES)) => {
                    too_late += 1;
                    assert_eq!(at, 0, "refused, and not bound");
                }
                Err(Some(libc::ECONNREFUSED)) | Ok(()) => {
                    bound += 1;
                    assert!((first..first + 2).contains(&at), "bound to {at}");
                    violations += u64::from(outcome == GRANTED);
                }
                Err(error) => panic!("errno {error:?}"),
            }
            drop(socket);
            handed.over.store(true, SeqCst);
        };
        let result = catch_unwind(AssertUnwindSafe(|| (0..rounds).for_each(|_| round())));
        handed.stop.store(true, SeqCst);
        result.expect("every round ends as it may");
        heir.join().expect("it gets the ports or is refused")
    });
    eprintln!(
        "{protocol:?}: {rounds} rounds, {bound} bound, {too_late} too late; the heir got {granted}; \
         {violations} violations"
    );
    assert_eq!(violations, 0);
    assert!(bound > 0 && too_late > 0 && granted > 0, "no contest");
}

pub(crate) fn no_former_owner_binds_into_a_later_owner_s_block(_: &Host) {
    for protocol in BOTH {
        late(protocol, rounds(500, 50_000), |socket, _| {
            socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
        });
    }
}

pub(crate) fn no_former_owner_connects_from_a_later_owner_s_block(_: &Host) {
    for protocol in BOTH {
        late(protocol, rounds(500, 50_000), |socket, to| socket.connect(&(*to).into()));
    }
}
