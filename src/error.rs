//! One opaque error for the whole crate.

use std::fmt;
use std::io;

use crate::ports::Protocol;

/// What every fallible function of this crate answers with.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in one line that names the port and the way out.
///
/// [`kind`](Self::kind) is for programs, [`errno`](Self::errno) for those who speak C, and the
/// text for people. Whatever the error, the request left no trace.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    errno: Option<i32>,
    text: String,
    port: Option<(Protocol, u16)>,
}

/// The kinds of [`Error`] that a program may want to tell apart.
///
/// The errno in brackets is the one of spec table 6.1, column "Linux".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A request that can never succeed: an empty range, one past 65535, a bad alignment, a
    /// socket that is bound already (`EINVAL`).
    InvalidInput,
    /// The token is dead, was never given out, or names a block of another protocol (`EINVAL`).
    InvalidToken,
    /// A port asked for is in use, or inside somebody's reservation (`EADDRINUSE`).
    AddressInUse,
    /// The pool has no free run of that length, or the block has no free port left (`ENOBUFS`).
    NoRoom,
    /// Not the owner, a port outside the block, or a privileged port (`EACCES`).
    PermissionDenied,
    /// The process may not open that many descriptors (`EMFILE`).
    DescriptorLimit,
    /// Not on this system, not with this engine, or not with this kind of socket (`EOPNOTSUPP`).
    Unsupported,
    /// The operating system said no for another reason; [`Error::errno`] has its number.
    Os,
}

impl ErrorKind {
    #[cfg(target_os = "linux")]
    fn errno(self) -> Option<i32> {
        Some(match self {
            Self::InvalidInput | Self::InvalidToken => libc::EINVAL,
            Self::AddressInUse => libc::EADDRINUSE,
            Self::NoRoom => libc::ENOBUFS,
            Self::PermissionDenied => libc::EACCES,
            Self::DescriptorLimit => libc::EMFILE,
            Self::Unsupported => libc::EOPNOTSUPP,
            Self::Os => return None,
        })
    }

    #[cfg(not(target_os = "linux"))]
    fn errno(self) -> Option<i32> {
        None
    }
}

impl Error {
    /// What kind of error this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The errno, [errno(3)](https://man7.org/linux/man-pages/man3/errno.3.html): the kernel's own
    /// where the kernel refused, otherwise the one that belongs to the kind. `None` only where the
    /// system has no such numbers.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.0.errno.or_else(|| self.0.kind.errno())
    }

    /// The port that stood in the way, for errors that are about one.
    #[must_use]
    pub fn port(&self) -> Option<(Protocol, u16)> {
        self.0.port
    }

    pub(crate) fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, errno: None, text: text.into(), port: None }))
    }

    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, text)
    }

    /// A refusal of the kernel: `doing` says what was tried.
    pub(crate) fn os(doing: impl fmt::Display, cause: &io::Error) -> Self {
        let kind = match cause.kind() {
            io::ErrorKind::AddrInUse => ErrorKind::AddressInUse,
            io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            _ if cause.raw_os_error() == ErrorKind::DescriptorLimit.errno() => {
                ErrorKind::DescriptorLimit
            }
            _ => ErrorKind::Os,
        };
        let mut error = Self::new(kind, format!("{doing}: {cause}"));
        error.0.errno = cause.raw_os_error();
        error
    }

    /// Attaches the port that the text is about.
    #[must_use]
    pub(crate) fn about(mut self, protocol: Protocol, port: u16) -> Self {
        self.0.port = Some((protocol, port));
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("errno", &self.errno())
            .field("text", &self.0.text)
            .finish_non_exhaustive()
    }
}

impl std::error::Error for Error {}

impl From<Error> for io::Error {
    /// Keeps the whole error as the source; the [`io::ErrorKind`] is that of the errno.
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::Unsupported => io::ErrorKind::Unsupported,
            _ => error
                .errno()
                .map_or(io::ErrorKind::Other, |errno| Self::from_raw_os_error(errno).kind()),
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_convert_to_io_errors_without_loss() {
        let error =
            Error::new(ErrorKind::AddressInUse, "TCP port 80 is in use").about(Protocol::Tcp, 80);
        assert_eq!(error.port(), Some((Protocol::Tcp, 80)));
        let io = io::Error::from(error);
        assert_eq!(io.kind(), io::ErrorKind::AddrInUse);
        let inner = io.get_ref().unwrap().downcast_ref::<Error>().unwrap();
        assert_eq!(inner.errno(), Some(libc::EADDRINUSE));
    }

    #[test]
    fn the_errno_of_the_kernel_is_kept() {
        let error = Error::os("binding", &io::Error::from_raw_os_error(libc::EADDRNOTAVAIL));
        assert_eq!((error.kind(), error.errno()), (ErrorKind::Os, Some(libc::EADDRNOTAVAIL)));
        assert!(error.to_string().starts_with("binding: "));
    }
}
