//! Where the kernel engine is put: a control group whose sockets it watches, and a folder of a BPF
//! file system that keeps it alive.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::sys;

/// Where to load the kernel engine; both parts are found in the mount table when left out.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// The control group (version 2); the root of the hierarchy when left out.
    pub cgroup: Option<PathBuf>,
    /// The folder for the pins, `portkeep` in the BPF file system when left out. It must not exist
    /// yet; the folder above it must lie in a BPF file system.
    pub pin_dir: Option<PathBuf>,
}

/// The root of a hierarchy of control groups has this inode, whatever part of it is mounted where.
const ROOT_CGROUP: u64 = 1;

/// Where a BPF file system belongs when none is mounted.
const BPFFS: &str = "/sys/fs/bpf";

impl Site {
    pub(super) fn cgroup(&self) -> Result<(File, PathBuf)> {
        let path = match &self.cgroup {
            Some(path) => path.clone(),
            None => mounted("cgroup2")?.ok_or_else(|| {
                missing("no control groups of version 2 are mounted: mount -t cgroup2 none DIR")
            })?,
        };
        let opened = File::open(&path).map_err(|cause| at("open", &path, &cause))?;
        if !lies_in("cgroup2", &path)? {
            return Err(Error::invalid(format!(
                "{} is not a control group of version 2",
                path.display()
            )));
        }
        Ok((opened, path))
    }

    /// Whether every process of the machine is below this control group.
    pub(super) fn is_root(cgroup: &File) -> Result<bool> {
        let inode =
            cgroup.metadata().map_err(|cause| Error::os("cannot look at it", &cause))?.ino();
        Ok(inode == ROOT_CGROUP)
    }

    /// The folder of the pins, in a BPF file system that is mounted by now.
    pub(super) fn pin_dir(&self) -> Result<PathBuf> {
        if let Some(path) = &self.pin_dir {
            return Ok(path.clone());
        }
        if let Some(mounted) = mounted("bpf")? {
            return Ok(mounted.join("portkeep"));
        }
        let mount = Path::new(BPFFS);
        sys::mount_bpffs(mount).map_err(|cause| at("mount a BPF file system on", mount, &cause))?;
        Ok(mount.join("portkeep"))
    }

    /// The folder of the pins as it is now; `None` where no BPF file system is mounted.
    pub(super) fn existing_pin_dir(&self) -> Result<Option<PathBuf>> {
        match &self.pin_dir {
            Some(path) => Ok(Some(path.clone())),
            None => Ok(mounted("bpf")?.map(|mounted| mounted.join("portkeep"))),
        }
    }
}

/// The first mount of a file system, [proc_pid_mountinfo(5)](https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html).
fn mounted(kind: &str) -> Result<Option<PathBuf>> {
    Ok(mount_table()?.lines().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        let path = mount.split(' ').nth(4)?;
        (source.split(' ').next()? == kind).then(|| PathBuf::from(unescaped(path)))
    }))
}

/// Refuses a place for pins that is not in a BPF file system; the kernel would only say that it is
/// not permitted.
pub(super) fn must_hold_pins(pins: &Path) -> Result<()> {
    let above = pins.parent().unwrap_or(Path::new("/"));
    if lies_in("bpf", above)? {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{} is not in a BPF file system, so nothing can be pinned there: mount -t bpf bpf DIR",
        above.display()
    )))
}

/// Whether this file or folder is in a file system of this kind, wherever that is mounted.
fn lies_in(kind: &str, path: &Path) -> Result<bool> {
    let device = fs::metadata(path).map_err(|cause| at("look at", path, &cause))?.dev();
    let device = format!("{}:{}", libc::major(device), libc::minor(device));
    Ok(mount_table()?.lines().any(|line| {
        let Some((mount, source)) = line.split_once(" - ") else { return false };
        mount.split(' ').nth(2) == Some(&device) && source.split(' ').next() == Some(kind)
    }))
}

fn mount_table() -> Result<String> {
    fs::read_to_string("/proc/self/mountinfo")
        .map_err(|cause| Error::os("cannot read the mount table", &cause))
}

/// The table writes blanks, tabs, line ends and backslashes in three octal digits.
fn unescaped(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(path.to_owned(), |path, (written, meant)| path.replace(written, meant))
}

pub(super) fn at(doing: &str, path: &Path, cause: &io::Error) -> Error {
    Error::os(format_args!("cannot {doing} {}", path.display()), cause)
}

pub(super) fn missing(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unsupported, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_table_is_read_as_it_is_written() {
        assert!(mounted("proc").unwrap().is_some());
        assert_eq!(mounted("no such file system").unwrap(), None);
        assert_eq!(unescaped("/a\\040b\\134c"), "/a b\\c");
    }
}
