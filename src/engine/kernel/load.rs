//! Loading the kernel engine: what `portkeep load` does.
//!
//! Everything is first pinned in a folder beside the final one and published by renaming that, so
//! there is the whole engine or none. A lock on the folder above keeps loaders apart. An engine does
//! nothing until its configuration says so, which is the last thing a loader writes and the first
//! that an unloader takes back; what a killed one leaves behind is therefore known as dead, wherever
//! it is, and the next one removes it.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::maps::{Array, Map};
use aya::programs::Program;
use aya::{Ebpf, EbpfLoader};

use super::pinned::{PARTIAL, Settings, change_pool, is_on, pinned_config, pool_word, switch_off};
pub use super::site::Site;
use super::site::{at, missing};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::ports::PortRange;
use crate::sys;

/// The programs, built from `bpf/portkeep.bpf.c`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../bpf/portkeep.bpf.o");

/// Each program, and where it is attached (`enum bpf_attach_type`), in the order that matters:
/// whoever binds must be seen before anybody can acquire.
const HOOKS: [(&str, u32); 9] = [
    ("portkeep_post4", 12),
    ("portkeep_post6", 13),
    ("portkeep_bind4", 8),
    ("portkeep_bind6", 9),
    ("portkeep_conn4", 10),
    ("portkeep_conn6", 11),
    ("portkeep_free", 34),
    ("portkeep_get", 21),
    ("portkeep_set", 22),
];

const MAPS: [&str; 10] = [
    "portkeep_config",
    "portkeep_state",
    "portkeep_spaces",
    "portkeep_near",
    "portkeep_tables",
    "portkeep_blank",
    "portkeep_reservations",
    "portkeep_blocks",
    "portkeep_accounts",
    "portkeep_sockets",
];

/// The oldest kernel whose tables the programs know how to walk.
const FLOOR: (u32, u32) = (6, 8);

/// What [`load`] and [`unload`](super::unload::unload) did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// What was asked for.
    Done,
    /// Nothing: it was so already.
    Already,
}

/// How to load the kernel engine.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// Where.
    pub site: Site,
    /// What the administrator wants.
    pub config: Config,
    /// Trust that every socket of the namespaces in question is created below the control group,
    /// though it is not the root. For tests, which may not touch the root.
    pub assume_exclusive: bool,
}

/// Loads the kernel engine. Where it is loaded already, this only puts the configuration into force.
///
/// Needs CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN in the initial user namespace, so root, and Linux
/// 6.8 with type information (`/sys/kernel/btf/vmlinux`).
///
/// # Errors
///
/// [`ErrorKind::Unsupported`] names what this kernel or machine lacks, [`ErrorKind::InvalidInput`] a
/// place that is no control group, or where nothing can be pinned;
/// [`ErrorKind::PermissionDenied`] without root; [`ErrorKind::Os`] for whatever else the kernel says.
/// Nothing is loaded then.
pub fn load(options: &Load) -> Result<Outcome> {
    try_load(options).map_err(as_root)
}

fn try_load(options: &Load) -> Result<Outcome> {
    check_kernel()?;
    let (cgroup, cgroup_path) = options.site.cgroup()?;
    let pins = options.site.pin_dir()?;
    let _lock = lock(&pins)?;
    super::site::must_hold_pins(&pins)?;
    if pins.exists() {
        let mut config = pinned_config(&pins)?;
        if is_on(&config)? {
            change_pool(&mut config, options.config.pool)?;
            return Ok(Outcome::Already);
        }
        // The one that was killed may have been an unloader, half-way.
        switch_off(&pins)?;
        remove(&pins)?;
    }
    let staging = staging(&pins);
    remove(&staging)?;

    let mut programs =
        EbpfLoader::new().load(OBJECT).map_err(|cause| rejected("object", &cause))?;
    let partial = !options.assume_exclusive && !Site::is_root(&cgroup)?;
    configure(&mut programs, options.config.pool, partial, 0)?;
    fs::create_dir(&staging).map_err(|cause| at("make", &staging, &cause))?;
    let staged = stage(&mut programs, &cgroup, &cgroup_path, &staging)
        .and_then(|()| fs::rename(&staging, &pins).map_err(|cause| at("publish", &pins, &cause)))
        .and_then(|()| configure(&mut programs, options.config.pool, partial, 1));
    if staged.is_err() {
        let _ = remove(&staging);
        let _ = remove(&pins);
    }
    staged.map(|()| Outcome::Done)
}

/// Attaches and pins; the links are held by their pins alone afterwards.
fn stage(programs: &mut Ebpf, cgroup: &File, cgroup_path: &Path, staging: &Path) -> Result<()> {
    for (name, kind) in HOOKS {
        let program = programs.program_mut(name).ok_or_else(|| broken(name))?;
        match program {
            Program::CgroupSockopt(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            Program::CgroupSock(program) => program.load(),
            _ => return Err(broken(name)),
        }
        .map_err(|cause| rejected(name, &cause))?;
        let fd = program.fd().map_err(|cause| rejected(name, &cause))?.as_fd();
        let link = sys::link_create(fd, cgroup.as_fd(), kind)
            .map_err(|cause| at(&format!("attach {name} to"), cgroup_path, &cause))?;
        let path = staging.join(name);
        sys::pin(link.as_fd(), &path).map_err(|cause| at("pin", &path, &cause))?;
    }
    for name in MAPS {
        let path = staging.join(name);
        let map = programs.map(name).ok_or_else(|| broken(name))?;
        let (Map::Array(data) | Map::HashMap(data) | Map::SkStorage(data)) = map else {
            return Err(broken(name));
        };
        sys::pin(data.fd().as_fd(), &path).map_err(|cause| at("pin", &path, &cause))?;
    }
    Ok(())
}

/// Writes `struct portkeep_config`. While `interface` is 0 the options answer as if nothing were
/// loaded.
fn configure(programs: &mut Ebpf, pool: PortRange, partial: bool, interface: u32) -> Result<()> {
    let map = programs.map_mut("portkeep_config").ok_or_else(|| broken("portkeep_config"))?;
    let mut map =
        Array::<_, Settings>::try_from(map).map_err(|cause| rejected("config", &cause))?;
    let mut config = map.get(&0, 0).map_err(|cause| rejected("config", &cause))?;
    let words: [u32; 8] = [
        interface,
        if partial { PARTIAL } else { 0 },
        pool_word(pool),
        2_048,
        64,
        2_048,
        32,
        1_000_000,
    ];
    for (place, word) in config.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    // The key of the tokens is written once, at the first of the two calls.
    let key = &mut config[32..48];
    if key.iter().all(|byte| *byte == 0) {
        File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(key))
            .map_err(|cause| Error::os("cannot draw the key of the tokens", &cause))?;
    }
    map.set(0, config, 0).map_err(|cause| rejected("config", &cause))
}

pub(super) fn staging(pins: &Path) -> PathBuf {
    let mut name = pins.file_name().unwrap_or_default().to_owned();
    // A BPF file system takes no name with a dot.
    name.push("-staging");
    pins.with_file_name(name)
}

/// An exclusive lock on the folder above the pins, held until it is dropped.
pub(super) fn lock(pins: &Path) -> Result<File> {
    let above = pins.parent().unwrap_or(Path::new("/"));
    let folder = File::open(above).map_err(|cause| at("open", above, &cause))?;
    folder.lock().map_err(|cause| at("lock", above, &cause))?;
    Ok(folder)
}

/// Removes a folder of pins, if it is there.
pub(super) fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
            Err(at("remove", folder, &cause))
        }
        _ => Ok(()),
    }
}

/// Says what an ordinary user lacks: the kernel names the first call that it did not like.
pub(super) fn as_root(error: Error) -> Error {
    let root = || fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    if error.kind() != ErrorKind::PermissionDenied || root() {
        return error;
    }
    Error::new(ErrorKind::PermissionDenied, format!("this takes root: {error}"))
}

fn check_kernel() -> Result<()> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse().ok());
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < FLOOR {
        let (major, minor) = FLOOR;
        return Err(missing(format!(
            "the kernel engine needs Linux {major}.{minor}, and this is {}",
            release.trim()
        )));
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Err(missing(
            "the kernel engine needs the kernel's type information, /sys/kernel/btf/vmlinux \
             (CONFIG_DEBUG_INFO_BTF)",
        ));
    }
    Ok(())
}

fn broken(name: &str) -> Error {
    missing(format!("the programs in this portkeep have no {name}: it was built wrongly"))
}

/// What the kernel or aya said about a part, with the errno if there is one below.
pub(super) fn rejected(what: &str, cause: &(dyn std::error::Error + 'static)) -> Error {
    if let Some(errno) = errno(cause) {
        return Error::os(format_args!("the kernel does not take {what}"), errno);
    }
    let mut innermost = cause;
    while let Some(below) = innermost.source() {
        innermost = below;
    }
    let text = innermost.to_string();
    missing(format!("the kernel does not take {what}: {}", text.lines().next().unwrap_or_default()))
}

/// The error of the system call that is behind one of aya's.
pub(super) fn errno<'a>(
    cause: &'a (dyn std::error::Error + 'static),
) -> Option<&'a std::io::Error> {
    std::iter::successors(Some(cause), |error| error.source())
        .find_map(|error| error.downcast_ref::<std::io::Error>())
}
