//! Floods: processes that are killed at any moment, and users who ask for what they cannot get.

use std::io::{BufRead, BufReader, Read};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use portkeep::Protocol;

use crate::client::{BOTH, Request, SAME_NUMBERS, block, instances, open, request, stranger};
use crate::host::{Host, cases};
use crate::state::{Setting, configure};
use crate::support::rounds;
use crate::tools::compile;

cases![
    no_port_is_lost_however_often_its_owner_is_killed,
    a01_nobody_s_bind_is_refused_while_a_user_acquires_a_busy_block_in_a_loop,
];

fn no_port_is_lost_however_often_its_owner_is_killed(host: &Host) {
    let Some(storm) = compile("storm") else { return };
    let kills = rounds(2_000, 100_000);
    let run = Command::new(storm).args([&kills.to_string(), "1"]).output().expect("it starts");
    assert!(run.status.success(), "{run:?}");
    let said = String::from_utf8(run.stdout).expect("numbers");
    let (died, calls) = said.trim().split_once('\n').expect("two lines");
    let died: Vec<usize> =
        died.split_whitespace().map(|number| number.parse().expect("a number")).collect();
    eprintln!("{kills} kills in {calls} calls; by the call before: {died:?}");
    assert_eq!(died.iter().sum::<usize>(), kills);
    assert!(died.iter().all(|&kills| kills > 0), "some moment was never hit: {died:?}");
    host.maps().assert_nothing_is_left();
    let anchor = open(Protocol::Tcp);
    let pool = Request { start: 61000, count: 4536, flags: SAME_NUMBERS, ..Request::default() };
    request(&anchor, pool).expect("the whole pool is free");
    assert_eq!(instances(&anchor).expect("two").len(), 2);
}

/// How long a flood may take to rise, where others keep the processors busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the loop did before there was a look without claiming: 19,989 of 20,000 binds were refused.
fn a01_nobody_s_bind_is_refused_while_a_user_acquires_a_busy_block_in_a_loop(host: &Host) {
    let Some(program) = compile("race_busy") else { return };
    let least = rounds(2_000, 20_000);
    host.set("ipv4/ip_local_port_range", "65500 65534");
    // All that the quota lets a user try; then without a quota, up to the last ports there are.
    for (quota, start, count, busy) in [(2048, 8050, 64, 8113), (0, 1024, 64448, 65400)] {
        configure(host, Setting::UserPorts, quota);
        configure(host, Setting::UserOutside, if quota == 0 { 0 } else { 65 });
        for hold in ["socket", "block"] {
            let words = [65534, start, count, busy].map(|number| number.to_string());
            let mut user = Command::new(&program)
                .args(words)
                .arg(hold)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("it starts");
            let mut said = BufReader::new(user.stdout.take().expect("a pipe"));
            let mut line = String::new();
            said.read_line(&mut line).expect("a pipe");
            assert_eq!(line, "ready\n", "it fails as it should");
            // A try may take milliseconds: 64,448 ports are looked at one by one.
            let flood = thread::spawn(move || {
                line.clear();
                said.read_line(&mut line).expect("a pipe");
                assert_eq!(line, "flood\n", "every try fails as it should");
                said
            });
            let (begun, mut binds, mut refused) = (Instant::now(), 0, 0);
            while binds < least || !(flood.is_finished() || begun.elapsed() > PATIENCE) {
                binds += 1;
                let bound = stranger(Protocol::Tcp, (Ipv4Addr::LOCALHOST, 8080));
                refused += usize::from(bound.is_err());
            }
            let mut said = flood.join().expect("a flood");
            drop(user.stdin.take());
            let mut tries = String::new();
            said.read_to_string(&mut tries).expect("a pipe");
            assert!(user.wait().expect("it ends").success(), "every try failed as it should");
            let tries: usize = tries.trim().parse().expect("a number");
            eprintln!(
                "{start}+{count}, busy by a {hold}: {tries} tries, {refused} of {binds} refused"
            );
            assert!(refused * 10_000 <= binds, "{refused} of {binds} binds refused");
        }
    }
    // The block is not for ever busy.
    let _anchors = BOTH.map(|protocol| block(protocol, 8050, 64));
}
