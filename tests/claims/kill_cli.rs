//! kill -9 of the command: of `portkeep acquire`, which holds, and of `portkeep run`, whose command
//! then lives on without a guard.

use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use portkeep::{PortRange, Protocol};

use crate::helper::{Channel, Helper};
use crate::process::{Process, alone};
use crate::sockets::{LOOPBACK, assert_free, bind, random, report};
use crate::support::{NetNs, rounds};

fn pool() -> PortRange {
    PortRange::new(40_000, 12).expect("a range")
}

/// `portkeep` with our pool; what follows the verb is in `arguments`.
fn portkeep(verb: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portkeep"));
    command.args([verb, "--pool", &pool().to_string()]).args(arguments);
    command
}

/// Gives it a moment, of any length up to what a whole start takes.
fn a_moment() {
    thread::sleep(Duration::from_micros(random(6_000)));
}

#[test]
fn kill_9_of_acquire_leaves_every_port_free() {
    alone(|| {
        let Some(_namespace) = NetNs::enter() else { return };
        let kills = rounds(100, 1_000);
        for number in 0..kills {
            let (mut output, theirs) = Channel::pair();
            let mut command = portkeep("acquire", &["--tcp-udp", "+4", "--udp", "+2"]);
            let mut holder = Process::start(command.stdin(Stdio::null()).stdout(theirs));
            drop(command);
            if number % 2 == 0 {
                let line = output.hear().expect("a line for the first block");
                let said: serde_json::Value = serde_json::from_str(&line).expect("a line of JSON");
                assert_eq!((&said["count"], &said["pid"]), (&4.into(), &holder.id().into()));
                let start = said["start"].as_u64().and_then(|start| u16::try_from(start).ok());
                let stranger = bind(Protocol::Udp, (LOOPBACK, start.expect("a port")));
                let error = stranger.expect_err("the port is held");
                assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
            } else {
                a_moment();
            }
            holder.kill();
            assert_free(pool(), "after kill -9 of portkeep acquire");
        }
        report(&format!("kill: {kills} times portkeep acquire: every port free"));
    });
}

#[test]
fn kill_9_of_run_frees_what_the_command_has_not_bound() {
    alone(|| {
        let Some(_namespace) = NetNs::enter() else { return };
        let kills = rounds(50, 500);
        for _ in 0..kills {
            let helper = Helper::command("serve");
            let mut command = portkeep("run", &["--tcp", "+4", "--udp", "+2", "--"]);
            command.arg(helper.get_program()).args(helper.get_args());
            command.envs(helper.get_envs().filter_map(|(name, value)| Some((name, value?))));
            let mut run = Helper::start_with(&mut command);
            let bound: u16 = run.hear().parse().expect("the port that the command has bound");
            a_moment();
            run.process.kill();

            // The command lives on, on its port.
            assert_eq!(run.ask("still there?"), "yes");
            drop(TcpStream::connect((LOOPBACK, bound)).expect("the command listens"));
            assert_eq!(run.ask("accept"), "accepted");
            bind(Protocol::Tcp, (Ipv6Addr::UNSPECIFIED, bound)).expect_err("the command has it");
            for port in pool().iter().filter(|port| *port != bound) {
                bind(Protocol::Tcp, (Ipv6Addr::UNSPECIFIED, port)).expect("nobody has it");
            }
            for port in pool().iter() {
                bind(Protocol::Udp, (Ipv6Addr::UNSPECIFIED, port)).expect("nobody has it");
            }

            run.channel.hang_up();
            assert_eq!(run.channel.hear(), None);
            assert_free(pool(), "after the command that was left alone");
        }
        report(&format!("kill: {kills} times portkeep run: only the command's own port was left"));
    });
}

#[test]
fn kill_9_of_run_while_it_starts_its_command_leaves_nothing() {
    alone(|| {
        let Some(_namespace) = NetNs::enter() else { return };
        let kills = rounds(100, 1_000);
        for _ in 0..kills {
            let mut command = portkeep("run", &["--tcp-udp", "+4", "--", "cat"]);
            let (mut line, theirs) = Channel::pair();
            let output = theirs.try_clone().expect("a free descriptor");
            let mut run = Process::start(command.stdin(theirs).stdout(output));
            drop(command);
            a_moment();
            run.kill();
            // When the last process with the other end is gone, so is whatever was started.
            line.hang_up();
            assert_eq!(line.hear(), None);
            assert_free(pool(), "after kill -9 of portkeep run");
        }
        report(&format!("kill: {kills} times portkeep run while it starts: every port free"));
    });
}

/// The command: binds the first of its ports as a server does, and stays.
pub(crate) fn serve(channel: &mut Channel) {
    let ports = std::env::var("PORTKEEP_TCP").expect("portkeep run sets it");
    let first = ports.split(',').next().and_then(|port| port.parse::<u16>().ok());
    let listener = TcpListener::bind((LOOPBACK, first.expect("a number"))).expect("it is ours");
    channel.say(first.expect("a number"));
    while let Some(question) = channel.hear() {
        if question == "accept" {
            let (connection, _) = listener.accept().expect("somebody has connected");
            socket2::SockRef::from(&connection)
                .set_linger(Some(Duration::ZERO))
                .expect("an open socket");
            channel.say("accepted");
        } else {
            channel.say("yes");
        }
    }
}
