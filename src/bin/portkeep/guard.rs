//! How strongly the ports of a command that `run` starts are guarded.

use std::fmt;

use portkeep::{EngineKind, Status};

/// Who is kept out while the command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    /// The kernel refuses every stranger.
    Kernel,
    /// The ports are held with `SO_REUSEADDR`: whoever sets it too gets in.
    Shared { because: &'static str },
}

impl Guard {
    /// What `run` can do where it finds this.
    pub(crate) fn of(status: &Status) -> Self {
        match status.engine {
            EngineKind::Kernel => Self::Kernel,
            _ => Self::Shared { because: status.reason },
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Shared { .. } => "shared",
        }
    }

    /// Why it is not a stronger one.
    pub(crate) fn because(self) -> Option<&'static str> {
        match self {
            Self::Kernel => None,
            Self::Shared { because } => Some(because),
        }
    }
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.because() {
            None => f.write_str(self.name()),
            Some(because) => write!(f, "{}, because {because}", self.name()),
        }
    }
}
