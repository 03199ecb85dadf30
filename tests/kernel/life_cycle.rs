//! Load, load again, unload, in every order and cut short anywhere, with the real command.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use aya::maps::{Array, Map, MapData};
use portkeep::Protocol::{Tcp, Udp};
use portkeep::{EngineKind, ErrorKind};

use crate::client::{acquire, block, errno, instances, newest, open, stranger, version};
use crate::host::{Host, Other, cases, cases_without_engine};
use crate::support::rounds;

mod cut_short;
mod place;

use self::cut_short::*;
use self::place::*;

cases![
    a_second_load_keeps_reservations_and_puts_the_pool_into_force,
    unload_refuses_while_reservations_live_and_says_how_many,
    after_an_unload_the_library_says_so_or_falls_back,
];

cases_without_engine![
    a_killed_load_leaves_a_whole_engine_or_none,
    a_killed_unload_stands_in_nobodys_way,
    an_unload_that_was_killed_half_way_is_finished_by_the_next_load_or_unload,
    a_load_that_was_killed_before_the_engine_was_on_is_done_anew,
    two_loads_at_once_make_one_engine,
    without_an_engine_there_is_nothing_to_unload,
    the_place_is_told_by_options_or_by_variables,
    what_is_wrong_with_a_load_is_one_line_that_names_it_and_nothing_stays,
    where_no_bpf_file_system_is_mounted_load_mounts_it,
];

pub(crate) const NOBODY: u32 = 65534;

/// Standard output of what must succeed.
#[track_caller]
pub(crate) fn succeed(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert!(status.success() && said.is_empty(), "{status}: {said}");
    String::from_utf8(stdout).unwrap()
}

/// The one line of what must fail.
#[track_caller]
pub(crate) fn fail(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(125), "{said}");
    assert!(stdout.is_empty());
    assert!(said.starts_with("portkeep: ") && said.lines().count() == 1, "{said}");
    said
}

pub(crate) fn loaded() -> bool {
    match version(&open(Tcp)) {
        Ok((interface, _)) => interface == 1,
        Err(error) => {
            let errno = error.raw_os_error();
            assert!(matches!(errno, Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP)), "{error}");
            false
        }
    }
}

/// The engine works, in all its parts.
#[track_caller]
pub(crate) fn assert_works() {
    assert!(loaded());
    for protocol in [Tcp, Udp] {
        let (anchor, mine) = block(protocol, 0, 4);
        assert_eq!(errno(stranger(protocol, (Ipv4Addr::LOCALHOST, mine.start))), libc::EADDRINUSE);
        drop(anchor);
        stranger(protocol, (Ipv4Addr::LOCALHOST, mine.start)).unwrap();
    }
}

fn a_second_load_keeps_reservations_and_puts_the_pool_into_force(host: &Host) {
    let (anchor, mine) = block(Tcp, 0, 4);
    let folder = tempfile::tempdir().unwrap();
    let load = || {
        let mut command = host.portkeep(&["load"]);
        command.env("PORTKEEP_CONFIG_DIR", folder.path());
        command
    };
    assert!(succeed(&mut load()).contains("already"));
    assert_eq!(instances(&anchor).unwrap(), [mine]);
    assert_eq!(version(&anchor).unwrap().1 & 1, 1, "as exclusive as it was");
    fs::write(folder.path().join("portkeep.toml"), "pool = '62000-62007'\n").unwrap();
    assert!(succeed(&mut load()).contains("already"));
    assert_eq!(instances(&anchor).unwrap(), [mine]);
    assert_eq!(errno(stranger(Tcp, (Ipv4Addr::LOCALHOST, mine.start))), libc::EADDRINUSE);
    let next = open(Tcp);
    acquire(&next, 0, 8).unwrap();
    assert_eq!(newest(&next).start, 62000);
    assert_eq!(errno(acquire(&next, 0, 1)), libc::ENOBUFS);
    // A file that says nothing any more means the default again; one with a mistake, no change.
    fs::write(folder.path().join("portkeep.toml"), "pool = '62000'-'62007'\n").unwrap();
    fail(&mut load());
    assert_eq!(errno(acquire(&next, 0, 1)), libc::ENOBUFS);
    fs::remove_file(folder.path().join("portkeep.toml")).unwrap();
    succeed(&mut load());
    acquire(&next, 0, 1).unwrap();
}

fn two_loads_at_once_make_one_engine(host: &Host) {
    for _ in 0..rounds(3, 100) {
        let loads = [(); 2].map(|()| {
            host.portkeep(&["load"]).stdout(std::process::Stdio::piped()).spawn().unwrap()
        });
        let said = loads.map(|load| {
            let output = load.wait_with_output().unwrap();
            assert!(output.status.success());
            String::from_utf8(output.stdout).unwrap()
        });
        assert_eq!(said.iter().filter(|said| said.contains("already")).count(), 1, "{said:?}");
        assert_works();
        succeed(&mut host.portkeep(&["unload"]));
        assert!(!loaded(), "no second engine is left");
    }
}

fn unload_refuses_while_reservations_live_and_says_how_many(host: &Host) {
    let mut user = Other::of_user(NOBODY);
    user.must("a = block(20000, 4); acquire(a, 0, 4); b = block(0, 4, udp)");
    // Released: it is an entry of its anchor, and no reservation any more.
    let (anchor, mine) = block(Tcp, 30000, 4);
    crate::client::release(&open(Tcp), mine.token).unwrap();
    let said = fail(&mut host.portkeep(&["unload"]));
    assert!(said.contains("3 reservations") && said.contains("--force"), "{said}");
    assert_eq!(errno(stranger(Tcp, (Ipv4Addr::LOCALHOST, 20000))), libc::EADDRINUSE);
    assert_works();
    user.must("b.close()");
    assert!(fail(&mut host.portkeep(&["unload"])).contains("2 reservations"));
    assert!(succeed(&mut host.portkeep(&["unload", "--force"])).contains("is unloaded"));
    stranger(Tcp, (Ipv4Addr::LOCALHOST, 20000)).unwrap();
    assert!(!loaded());
    // A new engine knows nothing of the old one's anchors.
    host.inside.load();
    stranger(Tcp, (Ipv4Addr::LOCALHOST, 20000)).unwrap();
    assert_eq!(user.ask("token(a)"), Err(libc::ENOENT));
    user.must("acquire(a, 20000, 4)");
    assert_eq!(errno(instances(&anchor)), libc::ENOENT);
    user.kill();
    assert!(succeed(&mut host.portkeep(&["unload"])).contains("is unloaded"));
}

fn after_an_unload_the_library_says_so_or_falls_back(host: &Host) {
    let ours = portkeep::tcp(4).acquire().unwrap();
    assert_eq!(ours.engine(), EngineKind::Kernel);
    portkeep::load::unload(&host.inside.site(), true).unwrap();
    let error = ours.listener((Ipv4Addr::LOCALHOST, 0)).expect_err("its token is dead");
    assert_ne!(error.to_string(), "");
    stranger(Tcp, (Ipv4Addr::LOCALHOST, ours.range().start())).unwrap();
    let error = portkeep::tcp(4).engine(EngineKind::Kernel).acquire().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("portkeep load"), "{error}");
    let theirs = portkeep::tcp(4).acquire().unwrap();
    assert_eq!(theirs.engine(), EngineKind::Userspace);
}

fn without_an_engine_there_is_nothing_to_unload(host: &Host) {
    for words in [&["unload"][..], &["unload", "--force"]] {
        assert!(succeed(&mut host.portkeep(words)).contains("was not loaded"));
    }
    assert!(!host.inside.pins().exists());
}
