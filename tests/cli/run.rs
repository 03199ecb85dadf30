//! `portkeep run`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{finish, outcome, pool_of_its_own, portkeep, refuses};

fn sh(options: &[&str], script: &str) -> (Option<i32>, String, String) {
    finish(&[&["run"], options, &["--", "sh", "-c", script]].concat())
}

#[test]
fn the_command_sees_its_ports() {
    let (status, stdout, stderr) = sh(
        &["--tcp", "+3", "--udp", "+2", "--even"],
        "echo $PORT {tcp} $PORTKEEP_TCP $PORTKEEP_TCP_RANGE {tcp.range} {udp.last} $PORTKEEP_UDP",
    );
    assert_eq!(status, Some(0), "{stderr}");
    let words: Vec<&str> = stdout.split_whitespace().collect();
    let first: u16 = words[0].parse().unwrap();
    assert_eq!(first % 2, 0);
    assert_eq!(words[1], words[0]);
    assert_eq!(words[2], format!("{first},{},{}", first + 1, first + 2));
    assert_eq!(words[3], format!("{first}-{}", first + 2));
    assert_eq!(words[4], words[3]);
    assert_eq!(words[6].split(',').nth(1).unwrap(), words[5]);
}

#[test]
fn without_options_it_is_one_tcp_port() {
    let (_, stdout, _) = sh(&[], "echo $PORT $PORTKEEP_TCP ${PORTKEEP_UDP-none}");
    let words: Vec<&str> = stdout.split_whitespace().collect();
    assert_eq!((words[0], words[2]), (words[1], "none"));
}

#[test]
fn an_outer_runs_ports_do_not_leak_into_an_inner_one() {
    let inner = format!(
        "'{}' run --udp -- sh -c 'echo ${{PORTKEEP_TCP-none}} $PORT = $PORTKEEP_UDP'",
        env!("CARGO_BIN_EXE_portkeep")
    );
    let (status, stdout, stderr) = sh(&["--tcp", "+2"], &inner);
    assert_eq!(status, Some(0), "{stderr}");
    let words: Vec<&str> = stdout.split_whitespace().collect();
    assert_eq!((words[0], words[1]), ("none", words[3]));
}

#[test]
fn a_pool_from_the_environment_is_used() {
    let output = portkeep(&["run", "--", "sh", "-c", "echo $PORT"])
        .env("PORTKEEP_POOL", "20100-20199")
        .output()
        .unwrap();
    let (_, stdout, _) = outcome(&output);
    let port: u16 = stdout.trim().parse().unwrap();
    assert!((20100..20200).contains(&port));
}

#[test]
fn the_status_is_the_commands() {
    assert_eq!(sh(&[], "exit 0").0, Some(0));
    assert_eq!(sh(&[], "exit 77").0, Some(77));
    refuses(&["run", "--", "/no/such/command"], 127, &["/no/such/command", "No such file"]);
    refuses(&["run", "--", "/etc/passwd"], 126, &["/etc/passwd", "Permission denied"]);
}

#[test]
fn the_guard_is_told_when_asked_for() {
    let told = |engine: &str| {
        let mut command = portkeep(&["run", "-v", "--", "true"]);
        outcome(&command.env("PORTKEEP_ENGINE", engine).output().unwrap())
    };
    let line = |because: &str| format!("guard: shared, because {because}\n");
    assert_eq!(told("userspace"), (Some(0), String::new(), line("PORTKEEP_ENGINE says so")));
    assert_eq!(told(""), (Some(0), String::new(), line("the kernel engine is not loaded")));
    let (_, _, stderr) = sh(&[], "true");
    assert_eq!(stderr, "", "not asked for");
}

#[test]
fn a_command_that_dies_of_a_signal_takes_us_with_it() {
    for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGSEGV] {
        let script = format!("kill -{} $$", signal as i32);
        let status = portkeep(&["run", "--", "sh", "-c", &script]).status().unwrap();
        assert_eq!(status.signal(), Some(signal as i32), "{status}");
    }
}

#[test]
fn signals_are_passed_on_and_the_answer_comes_back() {
    let mut child = portkeep(&["run", "--", "sh", "-c"])
        .arg("trap 'echo got it; exit 5' TERM; echo ready; while :; do sleep 0.05; done")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "got it");
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

#[test]
fn an_ignored_signal_stays_ignored_in_the_command() {
    let script = format!(
        "trap '' HUP; '{}' run -- sh -c 'kill -HUP $$; echo still here'",
        env!("CARGO_BIN_EXE_portkeep")
    );
    let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(outcome(&output), (Some(0), "still here\n".into(), String::new()));
}

#[test]
fn the_ports_are_held_while_the_command_runs_and_free_afterwards() {
    let pool = pool_of_its_own();
    let mut child = portkeep(&["run", "--pool", &pool, "--", "sh", "-c", "echo {tcp}; read end"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let port: u16 = line.trim().parse().unwrap();
    let plain = || {
        let any = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let address: std::net::SocketAddr = ([127, 0, 0, 1], port).into();
        any.bind(&address.into())
    };
    plain().expect_err("a plain stranger is kept out");
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(child.wait().unwrap().success());
    plain().expect("free when the command has ended");
}

#[test]
fn bad_input_gets_one_line_and_leaves_nothing_held() {
    refuses(&["run"], 125, &["<CMD>"]);
    refuses(&["run", "--tcp", "+0", "--", "true"], 125, &["+0"]);
    refuses(&["run", "--tcp", "65535+2", "--", "true"], 125, &["65536", "65535"]);
    refuses(&["run", "--tcp", "http", "--", "true"], 125, &["http", "5000-5019"]);
    refuses(&["run", "--tcp", "+4537", "--", "true"], 125, &["4536", "61000-65535"]);
    refuses(&["run", "--", "echo", "{tcp.2}"], 125, &["{tcp.2}", "only 1 TCP port"]);
    refuses(&["run", "--", "echo", "{udp}"], 125, &["{udp}", "--udp"]);
    refuses(&["run", "--tcp", "5001+2", "--even", "--", "true"], 125, &["5001", "2"]);
    refuses(&["frobnicate"], 125, &["frobnicate"]);
}

#[test]
fn a_busy_port_is_named_with_its_holder_and_nothing_is_held() {
    let range = pool_of_its_own();
    let ports: portkeep::PortRange = range.parse().unwrap();
    let (first, last) = (ports.start(), ports.last());
    let listener = TcpListener::bind(("127.0.0.1", last)).unwrap();
    let pid = format!("pid {}", std::process::id());
    let words = [format!("TCP port {last}"), pid, format!("uid {}", nix::unistd::geteuid())];
    refuses(&["run", "--tcp", &range, "--", "true"], 125, &words.each_ref().map(String::as_str));
    TcpListener::bind(("127.0.0.1", first)).expect("the rest of the block is free again");
    drop(listener);
}

#[test]
fn the_descriptor_limit_is_raised_for_us_alone() {
    let with_limits = |soft: &str, hard: &str, command: &str| {
        let program = env!("CARGO_BIN_EXE_portkeep");
        let script = format!("ulimit -Sn {soft}; ulimit -Hn {hard}; exec '{program}' {command}");
        outcome(&std::process::Command::new("sh").args(["-c", &script]).output().unwrap())
    };
    let (status, stdout, stderr) =
        with_limits("40", "2000", "run --pool 22000-22999 --tcp +300 -- sh -c 'ulimit -Sn'");
    assert_eq!((status, stdout.as_str()), (Some(0), "40\n"), "{stderr}");

    let (status, _, stderr) = with_limits("40", "200", "run --pool 22000-22999 --tcp +300 -- true");
    assert_eq!(status, Some(125));
    let needed = stderr.split("limit of ").nth(1).unwrap().split(',').next().unwrap();
    let needed: u32 = needed.parse().unwrap();
    assert!((303..330).contains(&needed) && stderr.contains("hard limit is 200"), "{stderr}");

    // And the number it names is one that does.
    let enough = needed.to_string();
    let (status, _, stderr) =
        with_limits("40", &enough, "run --pool 22000-22999 --tcp +300 -- true");
    assert_eq!(status, Some(0), "{stderr}");
}

/// The first command of the README: a server that knows nothing of us, on a port that is its own.
#[test]
fn a_server_runs_on_its_reserved_port() {
    let server = std::path::Path::new(env!("CARGO_BIN_EXE_portkeep"))
        .with_file_name("examples")
        .join("hello");
    assert!(server.exists(), "build it with 'cargo build --examples'");
    // The connection is closed by the server, which leaves the port in TIME_WAIT for a minute.
    let pool = pool_of_its_own();
    let mut child = portkeep(&["run", "--pool", &pool, "--", server.to_str().unwrap(), "{tcp}"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.strip_prefix("http://").unwrap().split('/').next().unwrap();
    let mut answer = String::new();
    let mut connection = TcpStream::connect(address).unwrap();
    connection.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    connection.read_to_string(&mut answer).unwrap();
    let port = address.split(':').nth(1).unwrap();
    assert!(answer.ends_with(&format!("Port {port} is mine.\n")), "{answer}");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(Signal::SIGTERM as i32));
}
