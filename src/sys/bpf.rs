//! The commands of bpf(2) that the loader's library lacks: links on a control group, and pins.
//!
//! [bpf(2)](https://man7.org/linux/man-pages/man2/bpf.2.html)
#![expect(unsafe_code, reason = "bpf(2) has no wrapper in libc")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const OBJ_PIN: libc::c_int = 6;
const LINK_CREATE: libc::c_int = 28;

/// Zero-filled to the size the kernel of today knows; it takes shorter ones.
#[repr(C, align(8))]
struct Attributes([u8; 64]);

impl Attributes {
    fn new(fields: &[(usize, &[u8])]) -> Self {
        let mut attributes = Self([0; 64]);
        for (at, bytes) in fields {
            attributes.0[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        attributes
    }

    fn call(&self, command: libc::c_int) -> io::Result<i32> {
        // SAFETY: the kernel reads 64 bytes, which `self` has, and what they point to, which the
        // callers below keep alive.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_ptr(), 64) };
        match i32::try_from(result) {
            Ok(result) if result >= 0 => Ok(result),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Attaches a program to a control group beside whatever is there, until the link is closed and no
/// pin of it is left. `kind` is an `enum bpf_attach_type`.
pub(crate) fn link_create(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    kind: u32,
) -> io::Result<OwnedFd> {
    let attributes = Attributes::new(&[
        (0, &program.as_raw_fd().to_ne_bytes()),
        (4, &cgroup.as_raw_fd().to_ne_bytes()),
        (8, &kind.to_ne_bytes()),
    ]);
    let fd = attributes.call(LINK_CREATE)?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Keeps a map, program or link alive under a name in a BPF file system.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let address = path.as_ptr().addr() as u64;
    Attributes::new(&[(0, &address.to_ne_bytes()), (8, &object.as_raw_fd().to_ne_bytes())])
        .call(OBJ_PIN)
        .map(drop)
}

/// Mounts a BPF file system, [mount(2)](https://man7.org/linux/man-pages/man2/mount.2.html).
pub(crate) fn mount_bpffs(on: &Path) -> io::Result<()> {
    let on = CString::new(on.as_os_str().as_bytes())?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: strings that outlive the call, and no data.
    let result = unsafe {
        libc::mount(c"bpf".as_ptr(), on.as_ptr(), c"bpf".as_ptr(), flags, std::ptr::null())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
