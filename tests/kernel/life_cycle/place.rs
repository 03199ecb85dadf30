//! Where the engine is put, and what is said of places that will not do.

use super::cut_short::pinned;
use super::*;

pub(super) fn the_place_is_told_by_options_or_by_variables(host: &Host) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("portkeep.toml"), "pool = '62000-62007'\n").unwrap();
    let pins = host.inside.pins().with_file_name("elsewhere");
    let [group, place, config] =
        [host.inside.group(), &pins, folder.path()].map(|path| path.to_str().unwrap());
    for by_options in [true, false] {
        let mut load = host.portkeep(&["load"]);
        let mut unload = host.portkeep(&["unload"]);
        if by_options {
            // Against variables that would lead astray.
            load.args(["--cgroup", group, "--pin-dir", place, "--config-dir", config])
                .env("PORTKEEP_CGROUP", "/nonexistent")
                .env("PORTKEEP_PIN_DIR", "/nonexistent/portkeep");
            unload.args(["--pin-dir", place]);
        } else {
            load.env("PORTKEEP_CGROUP", group)
                .env("PORTKEEP_PIN_DIR", place)
                .env("PORTKEEP_CONFIG_DIR", config);
            unload.env("PORTKEEP_PIN_DIR", place);
        }
        succeed(&mut load);
        assert!(pins.exists() && loaded());
        let anchor = open(Tcp);
        acquire(&anchor, 0, 8).unwrap();
        assert_eq!(newest(&anchor).start, 62000);
        drop(anchor);
        assert!(succeed(&mut host.portkeep(&["unload"])).contains("was not loaded"));
        assert!(succeed(&mut unload).contains("is unloaded"));
        assert!(!pins.exists() && !loaded());
    }
}

pub(super) fn what_is_wrong_with_a_load_is_one_line_that_names_it_and_nothing_stays(host: &Host) {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain");
    fs::create_dir(&plain).unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    fs::write(folder.path().join("portkeep.toml"), "pool = '61000-65535'\npoool = 1\n").unwrap();
    let shown = |path: &Path| path.to_str().unwrap().to_owned();
    let missing = shown(&plain.join("no/portkeep"));
    for (option, value, named) in [
        ("--pin-dir", shown(&plain.join("portkeep")), "plain"),
        ("--pin-dir", missing, "plain/no"),
        ("--cgroup", shown(&plain), "plain"),
        ("--cgroup", shown(&file), "file"),
        ("--cgroup", "/no/such/group".to_owned(), "/no/such/group"),
        ("--config-dir", shown(folder.path()), "portkeep.toml, line 2"),
        ("--config-dir", shown(&file), "file/portkeep.toml"),
    ] {
        let said = fail(&mut host.portkeep(&["load", option, &value]));
        assert!(said.contains(named), "{said}");
        assert!(!loaded());
        assert_eq!(pinned(host), [""; 0], "{said}");
        assert_eq!(fs::read_dir(&plain).unwrap().count(), 0, "{said}");
    }
    // Where everybody may go, it is the right that is missing.
    for open in [host.inside.pins().parent().unwrap(), &std::env::temp_dir()] {
        fs::set_permissions(open, std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
    }
    let said = fail(host.portkeep(&["load"]).uid(NOBODY).gid(NOBODY));
    assert!(said.contains("takes root"), "{said}");
    succeed(&mut host.portkeep(&["load"]));
    let said = fail(host.portkeep(&["unload"]).uid(NOBODY).gid(NOBODY));
    assert!(said.contains("takes root"), "{said}");
    assert_works();
}

/// The mount namespace is this test's own, so it may take away and mount what it likes.
pub(super) fn where_no_bpf_file_system_is_mounted_load_mounts_it(host: &Host) {
    let mounts = || {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let bpf = table.lines().filter(|line| line.contains(" - bpf "));
        bpf.map(|line| line.split(' ').nth(4).unwrap().to_owned()).collect::<Vec<_>>()
    };
    for mount in mounts() {
        nix::mount::umount(mount.as_str()).unwrap();
    }
    let here = |words: &[&str]| {
        let mut command = host.portkeep(words);
        command.env_remove("PORTKEEP_PIN_DIR");
        command
    };
    assert!(succeed(&mut here(&["unload"])).contains("was not loaded"));
    assert_eq!(mounts(), [""; 0], "unload mounts nothing");
    assert!(succeed(&mut here(&["load"])).contains("is loaded"));
    assert_eq!(mounts(), ["/sys/fs/bpf"]);
    assert!(Path::new("/sys/fs/bpf/portkeep").exists());
    assert_works();
    assert!(succeed(&mut here(&["load"])).contains("already"), "it finds it again");
    assert!(succeed(&mut here(&["unload"])).contains("is unloaded"));
    assert!(!loaded());
    nix::mount::umount("/sys/fs/bpf").unwrap();
}
