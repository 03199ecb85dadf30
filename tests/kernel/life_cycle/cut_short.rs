//! Loaders and unloaders that are killed at any moment.

use super::*;

pub(super) fn a_killed_load_leaves_a_whole_engine_or_none(host: &Host) {
    let start = Instant::now();
    succeed(&mut host.portkeep(&["load"]));
    // Where others keep the machine busy, patience would only be spent on asleep.
    let whole = start.elapsed().min(Duration::from_secs(3));
    succeed(&mut host.portkeep(&["unload"]));
    let rounds = u32::try_from(rounds(10, 300)).unwrap();
    let mut survived = 0;
    for round in 0..rounds {
        let mut load =
            host.portkeep(&["load"]).stdout(std::process::Stdio::null()).spawn().unwrap();
        // From the very start to a little after the end.
        std::thread::sleep(whole * round * 6 / (rounds * 5));
        load.kill().unwrap();
        load.wait().unwrap();
        if loaded() {
            survived += 1;
            assert_works();
            succeed(&mut host.portkeep(&["unload"]));
        }
        // Whatever is left does nothing to anybody.
        assert_eq!(errno(acquire(&open(Tcp), 20000, 4)), libc::ENOPROTOOPT);
        stranger(Tcp, (Ipv4Addr::LOCALHOST, 20000)).unwrap();
    }
    println!("{survived} of {rounds} loads were done before they were killed");
    assert!(succeed(&mut host.portkeep(&["load"])).contains("is loaded"));
    assert_works();
    assert_eq!(pinned(host), ["portkeep"], "no staging folder");
}

pub(super) fn a_killed_unload_stands_in_nobodys_way(host: &Host) {
    host.inside.load();
    let start = Instant::now();
    succeed(&mut host.portkeep(&["unload"]));
    let whole = start.elapsed().min(Duration::from_secs(3));
    let rounds = u32::try_from(rounds(5, 300)).unwrap();
    for round in 0..rounds {
        host.inside.load();
        let (anchor, _) = block(Tcp, 20000, 4);
        let mut unload = host.portkeep(&["unload", "--force"]);
        let mut unload = unload.stdout(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole * round / rounds);
        unload.kill().unwrap();
        unload.wait().unwrap();
        if round % 2 == 0 {
            succeed(&mut host.portkeep(&["load"]));
            assert_works();
            drop(anchor);
        } else {
            succeed(&mut host.portkeep(&["unload", "--force"]));
            assert!(!loaded());
        }
        stranger(Tcp, (Ipv4Addr::LOCALHOST, 20000)).unwrap();
        succeed(&mut host.portkeep(&["unload"]));
        assert_eq!(pinned(host), [""; 0], "round {round}");
    }
}

/// Half-way through an unload: what asks is answered as if nothing were loaded, but ports are still
/// refused.
pub(super) fn an_unload_that_was_killed_half_way_is_finished_by_the_next_load_or_unload(
    host: &Host,
) {
    for verb in ["load", "unload"] {
        host.inside.load();
        let (_anchor, _) = block(Tcp, 20000, 4);
        turn_off(host);
        assert_eq!(errno(stranger(Tcp, (Ipv4Addr::LOCALHOST, 20000))), libc::EADDRINUSE);
        assert!(succeed(&mut host.portkeep(&[verb])).contains("loaded"));
        stranger(Tcp, (Ipv4Addr::LOCALHOST, 20000)).unwrap();
        assert_eq!(loaded(), verb == "load");
        portkeep::load::unload(&host.inside.site(), false).unwrap();
    }
}

/// What of ours is in the BPF file system.
pub(super) fn pinned(host: &Host) -> Vec<String> {
    let entries = fs::read_dir(host.inside.pins().parent().unwrap()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    // The kernel puts two files of its own there.
    names.filter(|name| !name.ends_with(".debug")).collect()
}

/// The last moment to be killed in: everything is in its place, but not yet switched on.
pub(super) fn a_load_that_was_killed_before_the_engine_was_on_is_done_anew(host: &Host) {
    host.inside.load();
    turn_off(host);
    assert!(!loaded());
    assert!(succeed(&mut host.portkeep(&["load"])).contains("is loaded"));
    assert_works();
}

/// Takes back the last thing that a loader writes.
pub(super) fn turn_off(host: &Host) {
    let map = MapData::from_pin(host.inside.pins().join("portkeep_config")).unwrap();
    let mut map = Array::<_, [u8; 112]>::try_from(Map::from_map_data(map).unwrap()).unwrap();
    let mut settings = map.get(&0, 0).unwrap();
    settings[..4].fill(0);
    map.set(0, settings, 0).unwrap();
}
