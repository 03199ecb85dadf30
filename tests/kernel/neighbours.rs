//! Other people's BPF programs on the same hooks, and other people's options: as without us.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

use aya::Ebpf;
use aya::programs::{CgroupAttachMode, CgroupSock, CgroupSockAddr, CgroupSockopt};
use portkeep::Protocol::{Tcp, Udp};
use socket2::{Domain, Socket, Type};

use crate::client::{
    acquire, associate, block, errno, instances, newest, open, port, query, stranger, version,
};
use crate::host::{Host, cases, cases_without_engine, move_to};
use crate::socket::{bytes, set_bytes};
use crate::support::installed;

cases![
    a20_a_policy_that_refuses_version_is_an_error_and_not_a_reason_to_fall_back,
    a_bind_that_a_program_after_ours_refuses_leaks_nothing,
];

cases_without_engine![
    a05_socket_option_programs_above_beside_and_below_ours_keep_working,
    a06_an_acquire_that_a_program_before_ours_refuses_reserves_nothing,
    a06_an_acquire_that_a_program_after_ours_refuses_ends_with_the_anchor,
    options_of_other_levels_answer_as_without_us_also_over_a_page,
];

const PRIVATE_LEVEL: i32 = 0x4E42;

/// Where the other program is, seen from ours. The kernel runs the programs of a lower group before
/// those of a higher one, and in one group the oldest first.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Above,
    BesideAndLater,
    BesideAndEarlier,
    Below,
}

impl Place {
    const BEFORE_OURS: [Self; 2] = [Self::BesideAndEarlier, Self::Below];
    const AFTER_OURS: [Self; 2] = [Self::Above, Self::BesideAndLater];
}

/// The neighbour's object, compiled; `None` leaves the test out.
fn compiled() -> Option<Vec<u8>> {
    if !installed("clang-19", "clang-19") || !installed("gcc", "gcc") {
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let (text, object) = (folder.path().join("neighbour.c"), folder.path().join("neighbour.o"));
    fs::write(&text, include_str!("programs/neighbour.bpf.c")).unwrap();
    // Where Debian keeps <asm/types.h>.
    let machine = Command::new("gcc").arg("-print-multiarch").output().unwrap().stdout;
    let headers = format!("/usr/include/{}", String::from_utf8(machine).unwrap().trim());
    let mut clang = Command::new("clang-19");
    clang.args(["-O2", "-g", "-target", "bpf", "-Wall", "-Werror", "-idirafter", &headers, "-c"]);
    assert!(clang.arg(&text).arg("-o").arg(&object).status().unwrap().success());
    Some(fs::read(object).unwrap())
}

/// Attaches programs of the neighbour to a group, as long as the result lives.
fn attach(object: &[u8], group: &Path, names: &[&str]) -> Ebpf {
    let mut programs = Ebpf::load(object).unwrap();
    let group = File::open(group).unwrap();
    for name in names {
        let program = programs.program_mut(name).unwrap();
        if let Ok(program) = <&mut CgroupSockopt>::try_from(&mut *program) {
            program.load().unwrap();
            program.attach(&group, CgroupAttachMode::Single).unwrap();
        } else if let Ok(program) = <&mut CgroupSockAddr>::try_from(&mut *program) {
            program.load().unwrap();
            program.attach(&group, CgroupAttachMode::Single).unwrap();
        } else {
            let program = <&mut CgroupSock>::try_from(program).unwrap();
            program.load().unwrap();
            program.attach(&group, CgroupAttachMode::Single).unwrap();
        }
    }
    programs
}

/// Runs `test` with our engine and the neighbour's programs in these places to one another.
fn in_place(host: &Host, object: &[u8], place: Place, names: &[&str], test: impl FnOnce()) {
    let above = host.inside.group().to_owned();
    let below = host.group_below("below");
    move_to(&below);
    let (ours, theirs) = match place {
        Place::Above => (&below, &above),
        Place::BesideAndLater | Place::BesideAndEarlier => (&above, &above),
        Place::Below => (&above, &below),
    };
    let attach = || attach(object, theirs, names);
    let early = (place == Place::BesideAndEarlier).then(attach);
    host.load_with(|load| load.site.cgroup = Some(ours.clone()));
    let late = early.is_none().then(attach);
    test();
    drop((early, late));
    host.maps().assert_nothing_is_left();
    portkeep::load::unload(&host.inside.site(), false).unwrap();
    move_to(&above);
    fs::remove_dir(below).unwrap();
}

fn a05_socket_option_programs_above_beside_and_below_ours_keep_working(host: &Host) {
    let Some(object) = compiled() else { return };
    for place in [Place::BEFORE_OURS, Place::AFTER_OURS].concat() {
        in_place(host, &object, place, &["rewrite", "respond"], || {
            for protocol in [Tcp, Udp] {
                let (anchor, mine) = block(protocol, 0, 4);
                for socket in [&anchor, &open(protocol)] {
                    let mut half = [6, 0, 0, 0];
                    let priority = (libc::SOL_SOCKET, libc::SO_PRIORITY);
                    set_bytes(socket.as_fd(), priority.0, priority.1, &half).unwrap();
                    bytes(socket.as_fd(), priority.0, priority.1, &mut half).unwrap();
                    assert_eq!(half, [3, 0, 0, 0], "{place:?}: its rewriting");
                    set_bytes(socket.as_fd(), PRIVATE_LEVEL, 1, &[0; 4])
                        .unwrap_or_else(|error| panic!("{place:?}: its set: {error}"));
                    let mut value = [0; 8];
                    let size = bytes(socket.as_fd(), PRIVATE_LEVEL, 1, &mut value)
                        .unwrap_or_else(|error| panic!("{place:?}: its get: {error}"));
                    assert_eq!((size, value[0]), (4, 99), "{place:?}");
                }
                assert_eq!(newest(&anchor), mine, "{place:?}: ours");
                assert_eq!(version(&anchor).unwrap().0, 1);
                let at = (Ipv4Addr::LOCALHOST, mine.start);
                assert_eq!(errno(stranger(protocol, at)), libc::EADDRINUSE);
            }
        });
    }
}

fn a06_an_acquire_that_a_program_before_ours_refuses_reserves_nothing(host: &Host) {
    let Some(object) = compiled() else { return };
    for place in Place::BEFORE_OURS {
        in_place(host, &object, place, &["forbid_set"], || {
            let anchor = open(Tcp);
            assert_eq!(errno(acquire(&anchor, 20000, 8)), libc::EPERM, "{place:?}");
            assert_eq!(errno(acquire(&anchor, 0, 8)), libc::EPERM, "{place:?}");
            host.maps().assert_nothing_is_left();
            assert_eq!(host.maps().live().len(), 0, "not even a table");
            assert_eq!(errno(instances(&anchor)), libc::ENOENT);
            stranger(Tcp, (Ipv4Addr::LOCALHOST, 20003)).unwrap();
        });
    }
}

/// A program cannot see what those after it will say. So this is what is promised instead.
fn a06_an_acquire_that_a_program_after_ours_refuses_ends_with_the_anchor(host: &Host) {
    let Some(object) = compiled() else { return };
    for place in Place::AFTER_OURS {
        in_place(host, &object, place, &["forbid_set"], || {
            let anchor = open(Tcp);
            assert_eq!(errno(acquire(&anchor, 20000, 8)), libc::EPERM, "{place:?}");
            assert!(query(&open(Tcp), 20003).unwrap().is_some(), "{place:?}");
            drop(anchor);
            stranger(Tcp, (Ipv4Addr::LOCALHOST, 20003)).unwrap();
        });
    }
}

fn a20_a_policy_that_refuses_version_is_an_error_and_not_a_reason_to_fall_back(host: &Host) {
    let Some(object) = compiled() else { return };
    let _policy = attach(&object, host.inside.group(), &["forbid_get"]);
    let error = portkeep::tcp(1).acquire().expect_err("no other engine behind our back");
    assert_eq!((error.kind(), error.errno()), (portkeep::ErrorKind::PermissionDenied, Some(1)));
    assert!(error.to_string().contains("kernel engine"), "{error}");
    assert!(portkeep::status().is_err());
}

fn a_bind_that_a_program_after_ours_refuses_leaks_nothing(host: &Host) {
    let Some(object) = compiled() else { return };
    for hook in ["forbid_bind", "forbid_bound"] {
        let (anchor, mine) = block(Udp, 20000, 4);
        let consumer = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        associate(&consumer, mine.token).unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into();
        {
            let _policy = attach(&object, host.inside.group(), &[hook]);
            // More often than the block has ports.
            for _ in 0..20 {
                assert_eq!(errno(consumer.bind(&any)), libc::EPERM, "{hook}");
            }
            assert_eq!(errno(stranger(Udp, (Ipv4Addr::LOCALHOST, 20100))), libc::EPERM);
        }
        consumer.bind(&any).unwrap_or_else(|error| panic!("{hook}: {error}"));
        assert!((20000..20004).contains(&port(&consumer)));
        stranger(Udp, (Ipv4Addr::LOCALHOST, 20100)).unwrap();
        drop((anchor, consumer));
        // No port that was chosen for a bind that came to nothing is taken.
        for at in 20000..20004 {
            stranger(Udp, (Ipv4Addr::LOCALHOST, at)).unwrap();
        }
        host.maps().assert_nothing_is_left();
    }
}

/// What options of many kinds and sizes answer: errno, or size and first bytes.
fn answers() -> Vec<String> {
    const IP_MSFILTER: i32 = 41;
    const IPT_SO_SET_REPLACE: i32 = 64;
    const IPT_SO_GET_INFO: i32 = 64;
    const MCAST_MSFILTER: i32 = 48;
    const TCP_ZEROCOPY_RECEIVE: i32 = 35;
    const SIZES: [usize; 9] = [0, 1, 4, 40, 128, 4095, 4096, 4097, 8192];
    // (level, option): what must be long, what may be, and what nobody knows.
    let asked = [
        (libc::SOL_IP, IP_MSFILTER),
        (libc::SOL_IP, IPT_SO_SET_REPLACE),
        (libc::SOL_IP, IPT_SO_GET_INFO + 1),
        (libc::SOL_IP, libc::IP_TTL),
        (libc::SOL_IP, MCAST_MSFILTER),
        (libc::SOL_IPV6, MCAST_MSFILTER),
        (libc::SOL_IPV6, libc::IPV6_PKTINFO),
        (libc::SOL_TCP, libc::TCP_INFO),
        (libc::SOL_TCP, libc::TCP_CONGESTION),
        (libc::SOL_TCP, TCP_ZEROCOPY_RECEIVE),
        (libc::SOL_SOCKET, libc::SO_PRIORITY),
        (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER),
        (libc::SOL_SOCKET, libc::SO_BINDTODEVICE),
        (libc::SOL_SOCKET, libc::SO_LINGER),
        (0x1234, 1),
    ];
    let shown = |value: &[u8]| format!("{:x?}", &value[..value.len().min(8)]);
    let mut answers = Vec::new();
    for (domain, kind) in
        [Domain::IPV4, Domain::IPV6].into_iter().flat_map(|d| [(d, Type::STREAM), (d, Type::DGRAM)])
    {
        for (level, option) in asked {
            for size in SIZES {
                let socket = Socket::new(domain, kind, None).unwrap();
                let mut value = vec![0; size];
                let set = set_bytes(socket.as_fd(), level, option, &value);
                let get = bytes(socket.as_fd(), level, option, &mut value);
                answers.push(format!(
                    "{domain:?} {kind:?} {level} {option} {size}: {:?} {:?}",
                    set.map_err(|error| error.raw_os_error()),
                    get.map(|size| (size, shown(&value[..size]))).map_err(|e| e.raw_os_error()),
                ));
            }
        }
    }
    answers.push(format!("sources: {:?}", sources()));
    answers
}

/// A filter of 60 sources, 7,824 bytes, set and read back: a long value that the kernel accepts.
fn sources() -> Result<(usize, Vec<u8>), Option<i32>> {
    const MCAST_JOIN_GROUP: i32 = 42;
    const MCAST_MSFILTER: i32 = 48;
    const SOURCES: u8 = 60;
    let address = |last: u8, multicast: bool| {
        let mut address = [0; 128];
        address[..2].copy_from_slice(&2_u16.to_ne_bytes());
        address[4..8].copy_from_slice(&[if multicast { 239 } else { 10 }, 0, 0, last]);
        address
    };
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    let loopback = [1, 0, 0, 0, 0, 0, 0, 0];
    let group = [&loopback[..], &address(1, true)].concat();
    let failed = |error: std::io::Error| error.raw_os_error();
    set_bytes(socket.as_fd(), libc::SOL_IP, MCAST_JOIN_GROUP, &group).map_err(failed)?;
    // struct group_filter: interface, group, mode 1 (include), how many, sources.
    let mut filter = [&group[..], &1_u32.to_ne_bytes(), &u32::from(SOURCES).to_ne_bytes()].concat();
    for source in 1..=SOURCES {
        filter.extend(address(source, false));
    }
    assert!(filter.len() > 4096);
    set_bytes(socket.as_fd(), libc::SOL_IP, MCAST_MSFILTER, &filter).map_err(failed)?;
    let size = bytes(socket.as_fd(), libc::SOL_IP, MCAST_MSFILTER, &mut filter).map_err(failed)?;
    filter.truncate(size);
    Ok((size, filter))
}

fn options_of_other_levels_answer_as_without_us_also_over_a_page(host: &Host) {
    host.set("ipv4/igmp_max_msf", "64");
    let without = answers();
    host.inside.load();
    for (with, without) in answers().iter().zip(&without) {
        assert_eq!(with, without);
    }
    let (size, filter) = sources().expect("the kernel takes a long filter");
    assert!(size > 4096 && filter[size - 128 + 7] == 60, "and all of it arrives: {size}");
}
