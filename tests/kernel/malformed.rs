//! Options, lengths, values and pointers that make no sense.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::client::{BOTH, Instance, associate, block, errno, instances, open, release};
use crate::host::{Host, cases};
use crate::state::bitmaps;
use crate::support::rounds;
use crate::tools::compile;

cases![
    no_malformed_call_changes_anything_or_upsets_the_kernel,
    a_token_with_any_bit_wrong_is_no_token,
];

/// Bits reserved, blocks begun, entries, and charges.
type State = (Vec<(Vec<u16>, Vec<u16>)>, usize, usize, Vec<u64>);

fn state(host: &Host) -> State {
    let tables = bitmaps(host).iter().map(|table| (table.used(), table.starts())).collect();
    let maps = host.maps();
    (tables, maps.reservations(), maps.blocks(), maps.charged())
}

/// What the kernel says of itself when it is upset; the log where it can be read.
fn complaints() -> (String, usize) {
    let tainted = fs::read_to_string("/proc/sys/kernel/tainted").expect("/proc is mounted");
    let log = Command::new("dmesg").output().map(|run| run.stdout).unwrap_or_default();
    let upset = |line: &&str| ["WARNING:", "BUG:", "Oops:"].iter().any(|word| line.contains(word));
    (tainted, String::from_utf8_lossy(&log).lines().filter(upset).count())
}

fn no_malformed_call_changes_anything_or_upsets_the_kernel(host: &Host) {
    let Some(program) = compile("malformed") else { return };
    let guesses = rounds(100_000, 1_000_000);
    let kept = BOTH.map(|protocol| block(protocol, 20000, 100));
    let (before, calm) = (state(host), complaints());
    for uid in [0, 65534] {
        let mut calls = Command::new(&program)
            .args([uid, guesses, 7].map(|number| number.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        let mut said = BufReader::new(calls.stdout.take().expect("a pipe"));
        said.read_line(&mut line).expect("a pipe");
        assert_eq!(line, "done\n", "an answer was wrong; see above");
        // Its sockets are still open, those of the nonsense and none of the guesses.
        assert_eq!(state(host), before, "uid {uid}");
        drop(calls.stdin.take());
        assert!(calls.wait().expect("it ends").success());
    }
    assert_eq!(complaints(), calm);
    for (anchor, mine) in &kept {
        assert_eq!(instances(anchor).expect("it is still there"), [*mine]);
    }
}

fn a_token_with_any_bit_wrong_is_no_token(host: &Host) {
    let (anchor, Instance { token, .. }) = block(BOTH[0], 0, 4);
    let before = state(host);
    for wrong in (0..64).map(|bit| token ^ 1 << bit).chain([0, !0, token.swap_bytes()]) {
        assert_eq!(errno(associate(&open(BOTH[0]), wrong)), libc::EINVAL);
        assert_eq!(errno(release(&anchor, wrong)), libc::EINVAL);
    }
    assert_eq!(state(host), before);
    associate(&open(BOTH[0]), token).expect("the right one");
}
