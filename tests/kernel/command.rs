//! The command with the kernel engine: unmodified servers, and what it says of them.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use portkeep::Protocol::Tcp;
use socket2::{Domain, Socket, Type};

use crate::client::{errno, stranger};
use crate::host::{Host, cases};
use crate::support::installed;

cases![
    run_lets_an_unmodified_server_in_and_every_stranger_stays_out,
    acquire_holds_no_socket_for_its_ports,
    status_names_the_engine_its_scope_and_its_pool,
    a_busy_port_is_explained_with_its_holder,
    the_engine_that_is_ordered_is_the_one_that_serves,
];

fn portkeep(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portkeep"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// What it prints, and how it ended.
fn output(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = portkeep(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Started, and so far that it has printed its first line.
fn first_line(command: &mut Command) -> (Child, String) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (child, line.trim().to_owned())
}

/// A server that binds by number, sets no option, and tells when it listens.
const SERVER: &str = "
import socket, sys
s = socket.socket()
s.bind(('127.0.0.1', int(sys.argv[1])))
s.listen()
print('listening', flush=True)
s.accept()
";

fn run_lets_an_unmodified_server_in_and_every_stranger_stays_out(_: &Host) {
    if !installed("python3", "python3") {
        return;
    }
    let (mut run, line) = first_line(&mut portkeep(&[
        "run", "--tcp", "20000", "--", "python3", "-c", SERVER, "{tcp}",
    ]));
    assert_eq!(line, "listening");
    for flags in 0..4 {
        // On another address, so that the server's own socket is not what refuses us.
        let address = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), 20000));
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(flags & 1 != 0).unwrap();
        socket.set_reuse_port(flags & 2 != 0).unwrap();
        let bound = socket.bind(&address.into());
        assert_eq!(errno(bound), libc::EADDRINUSE);
    }
    drop(TcpStream::connect((Ipv4Addr::LOCALHOST, 20000)).unwrap());
    assert!(run.wait().unwrap().success());
    stranger(Tcp, (Ipv4Addr::new(127, 0, 0, 2), 20000))
        .expect("the reservation ended with the run");
}

fn acquire_holds_no_socket_for_its_ports(_: &Host) {
    let mut command = portkeep(&["acquire", "--tcp-udp", "20000+500", "--token"]);
    let (mut holder, line) = first_line(&mut command);
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["engine"], &line["count"]), (&"kernel".into(), &500.into()));
    assert_ne!(line["token"]["tcp"], line["token"]["udp"]);
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", holder.id())).unwrap().count();
    assert!(descriptors < 16, "{descriptors} descriptors");
    assert_eq!(errno(stranger(Tcp, (Ipv4Addr::LOCALHOST, 20499))), libc::EADDRINUSE);
    holder.kill().unwrap();
    holder.wait().unwrap();
    stranger(Tcp, (Ipv4Addr::LOCALHOST, 20499)).unwrap();
}

fn status_names_the_engine_its_scope_and_its_pool(_: &Host) {
    let (code, text, _) = output(&["status"]);
    let mut lines = text.lines();
    assert_eq!(code, Some(0));
    let first = lines.next().unwrap();
    assert!(first.starts_with("engine ") && first.contains("kernel") && first.contains("every"));
    assert!(lines.next().unwrap().starts_with("guard ") && text.contains("61000-65535"), "{text}");
    assert!(!text.contains("descriptors"), "it needs none: {text}");
    let (_, text, _) = output(&["status", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&report["engine"], &report["exclusive"]), (&"kernel".into(), &true.into()));
}

fn a_busy_port_is_explained_with_its_holder(_: &Host) {
    let (mut holder, _) = first_line(&mut portkeep(&["acquire", "--tcp", "20000+8"]));
    let (code, _, text) = output(&["acquire", "--tcp", "20004+8", "--while", "stdin"]);
    assert_eq!(code, Some(125));
    let pid = format!("kill {}", holder.id());
    for word in ["TCP port 20004", "20000-20007", "portkeep (pid ", pid.as_str(), "+1"] {
        assert!(text.contains(word), "'{word}' is missing in: {text}");
    }
    let (_, _, text) = output(&["acquire", "--tcp", "40000", "--while", "stdin"]);
    assert!(text.contains("ip_local_reserved_ports=40000"), "{text}");
    let (_, _, text) = output(&["acquire", "--tcp", "+4537", "--while", "stdin"]);
    assert!(text.contains("61000-65535") && text.contains("4536"), "{text}");
    let _anchor = crate::client::block(Tcp, 61000, 4536);
    let (_, _, text) = output(&["acquire", "--tcp", "+2", "--while", "stdin"]);
    assert!(text.contains("61000-65535") && text.contains("longest free run is 0"), "{text}");
    holder.kill().unwrap();
    holder.wait().unwrap();
}

fn the_engine_that_is_ordered_is_the_one_that_serves(_: &Host) {
    let acquire = ["acquire", "--tcp", "--while", "stdin"];
    for engine in ["kernel", "userspace"] {
        let output = portkeep(&acquire).env("PORTKEEP_ENGINE", engine).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(&format!("\"engine\":\"{engine}\"")), "{text}");
    }
    let output = portkeep(&acquire).env("PORTKEEP_ENGINE", "magic").output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("magic") && text.contains("userspace"), "{text}");
}
