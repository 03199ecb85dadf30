//! `portkeep who`, asked by anybody.

use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;

use portkeep::Protocol::{Tcp, Udp};

use crate::client::{block, open, query, stranger};
use crate::host::{Host, cases};
use crate::life_cycle::NOBODY;

cases![who_tells_any_user_who_has_a_port];

fn who_tells_any_user_who_has_a_port(host: &Host) {
    let who = |words: &[&str]| {
        let mut command = host.portkeep(&[&["who"], words].concat());
        let output = command.uid(NOBODY).gid(NOBODY).output().unwrap();
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (_anchor, _) = block(Tcp, 20000, 8);
    let _bound = stranger(Udp, (Ipv4Addr::LOCALHOST, 20001)).unwrap();
    let pid = std::process::id();
    let (status, said) = who(&["tcp/20001"]);
    assert_eq!((status, said.lines().count()), (0, 1), "{said}");
    for part in ["tcp/20001", "20000-20007", &format!("pid {pid}"), "uid 0", "kernel"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (status, said) = who(&["udp/20001"]);
    // Whose process it is, another user cannot see.
    assert_eq!((status, said.trim_end()), (0, "udp/20001: a socket of a process of uid 0"));
    let (status, said) = who(&["20001"]);
    assert_eq!((status, said.lines().count()), (0, 2), "{said}");
    let (status, said) = who(&["20008"]);
    assert_eq!((status, said.trim_end()), (1, "tcp/20008 and udp/20008: nobody"));
    assert_eq!(who(&["20008", "--json"]), (1, String::new()));
    let (_, said) = who(&["20001", "--json"]);
    let lines: Vec<serde_json::Value> =
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [reservation, socket] = &lines[..] else { panic!("{said}") };
    assert_eq!(reservation["what"], "reservation");
    assert_eq!((&reservation["start"], &reservation["count"]), (&20000.into(), &8.into()));
    assert_eq!((&reservation["pid"], &reservation["uid"]), (&pid.into(), &0.into()));
    assert_eq!((&socket["what"], &socket["protocol"]), (&"socket".into(), &"udp".into()));
    assert_eq!((&socket["port"], &socket["pid"]), (&20001.into(), &serde_json::Value::Null));
    assert!(query(&open(Tcp), 20001).unwrap().is_some());
}
