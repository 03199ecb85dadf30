//! `--listen-fds`: sockets that are there before the server is.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::process::Stdio;

use crate::process::Process;
use crate::support::installed;
use crate::{port_of_its_own, portkeep, stranger};

/// Takes its sockets as sd_listen_fds(3) does, waits for a line, and answers one connection.
const ACTIVATED: &str = r#"
import os, socket, sys
assert os.environ["LISTEN_PID"] == str(os.getpid()), os.environ["LISTEN_PID"]
names = os.environ["LISTEN_FDNAMES"].split(":")
count = int(os.environ["LISTEN_FDS"])
sockets = [socket.socket(fileno=3 + number) for number in range(count)]
for name, one in zip(names, sockets, strict=True):
    kind = {socket.SOCK_STREAM: "tcp", socket.SOCK_DGRAM: "udp"}[one.type]
    listens = one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    address = one.getsockname()
    print(name, kind, address[1], "listens" if listens else "bound", os.get_blocking(one.fileno()))
print(address[0], flush=True)
sys.stdin.readline()
connection, _ = sockets[0].accept()
connection.sendall(connection.recv(64).upper())
connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
"#;

#[test]
fn connections_wait_for_a_server_that_is_not_ready() {
    if !installed("python3", "python3") {
        return;
    }
    let port = port_of_its_own();
    let mut command = portkeep(&["run", "--tcp", &port.to_string(), "--listen-fds", "--"]);
    let (mut input, theirs) = std::io::pipe().map(|(reader, writer)| (writer, reader)).unwrap();
    command.args(["python3", "-c", ACTIVATED]).stdin(theirs).stdout(Stdio::null());
    let mut run = Process::start(&mut command);
    let mut connection = loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(connection) => break connection,
            // Not yet reserved, even.
            Err(_) => assert!(!ended(&run), "it has ended too early"),
        }
    };
    connection.write_all(b"hello").unwrap();
    input.write_all(b"go on\n").unwrap();
    let mut answer = [0; 5];
    connection.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HELLO");
    assert!(run.wait().success());
    stranger(port).expect("the port is free again");
}

fn ended(run: &Process) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", run.id())).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}

/// What the server says of its sockets, one line for each, and of the address of the last one.
fn sockets(options: &[&str], count: usize) -> String {
    let words = [&["run"], options, &["--", "python3", "-c", ACTIVATED]].concat();
    // At the end of its input it goes on and would accept for ever.
    let mut command = std::process::Command::new("timeout");
    let run = portkeep(&words);
    command.args(["-k", "9", "30"]).arg(run.get_program()).args(run.get_args());
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut child = command.stdin(Stdio::piped()).stdout(writer).spawn().unwrap();
    drop(command);
    let mut said = String::new();
    let mut bytes = [0; 4096];
    while said.matches('\n').count() <= count {
        match reader.read(&mut bytes).unwrap() {
            0 => break,
            size => said.push_str(std::str::from_utf8(&bytes[..size]).unwrap()),
        }
    }
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    child.wait().unwrap();
    said
}

#[test]
fn every_port_has_its_socket_in_the_order_of_the_lists() {
    if !installed("python3", "python3") {
        return;
    }
    let (tcp, udp, both) = (port_of_its_own(), port_of_its_own(), port_of_its_own());
    let said = sockets(
        &[
            "--udp",
            &udp.to_string(),
            "--tcp-udp",
            &both.to_string(),
            "--tcp",
            &tcp.to_string(),
            "--listen-fds",
        ],
        4,
    );
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines[..4],
        [
            format!("tcp-{tcp} tcp {tcp} listens True"),
            format!("tcp-{both} tcp {both} listens True"),
            format!("udp-{both} udp {both} bound True"),
            format!("udp-{udp} udp {udp} bound True"),
        ]
    );
}

#[test]
fn names_and_address_are_what_was_asked_for() {
    if !installed("python3", "python3") {
        return;
    }
    let said =
        sockets(&["--tcp", "+2", "--listen-fds=http:control", "--listen-on", "127.0.0.2"], 2);
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("http tcp ") && lines[1].starts_with("control tcp "), "{said}");
    assert_eq!(lines[2], "127.0.0.2");
    // Datagrams are there for the server as well.
    let said = sockets(&["--udp", "--listen-fds", "--listen-on", "::1"], 1);
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!((words[3], words[5]), ("bound", "::1"), "{said}");
    let free = words[2].parse().unwrap();
    UdpSocket::bind(("::1", free)).expect("free again");
}

#[test]
fn many_sockets_are_passed_whatever_had_their_numbers() {
    let script = "exec 3</dev/null 6</dev/null 9</dev/null; \
                  exec \"$0\" run --pool 23500-23699 --tcp +100 --listen-fds -- sh -c \
                  'ls -l /proc/$$/fd | grep -c \"socket:\"; ls /proc/$$/fd | sort -n | tail -1'";
    let mut command = std::process::Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_portkeep")]).stdin(Stdio::null());
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    let numbers: Vec<u32> = said.split_whitespace().map(|word| word.parse().unwrap()).collect();
    assert_eq!(numbers[0], 100, "{errors}");
    assert!(output.status.success(), "{errors}");
}

#[test]
fn what_cannot_be_started_is_told_as_ever() {
    for (command, code) in [("/no/such/command", 127), ("/etc/passwd", 126)] {
        let output = portkeep(&["run", "--listen-fds", "--", command]).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code));
        assert!(text.starts_with("portkeep: cannot start") && text.contains(command), "{text}");
        assert_eq!(text.matches('\n').count(), 1, "{text}");
    }
    let output = portkeep(&["run", "--listen-fds=a:b", "--", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    let output = portkeep(&["run", "--listen-on", "::1", "--", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "it is for --listen-fds");
}
