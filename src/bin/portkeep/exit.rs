//! What the status of the command means, as with env(1) and timeout(1).

use std::io;
use std::process::ExitCode;

use crate::explain;

pub(crate) const HELP: &str = "\
Exit status: that of the command, and the same signal where it dies of one; 125 when portkeep \
itself fails; 126 when the command cannot be started, 127 when it cannot be found.";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Success,
    /// Nobody has the port that was asked about.
    Nobody,
    /// portkeep itself failed; the command was not started.
    Ours,
    CannotStart,
    NotFound,
}

impl Exit {
    fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Nobody => 1,
            Self::Ours => 125,
            Self::CannotStart => 126,
            Self::NotFound => 127,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// A failure on its way to standard error.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) text: String,
}

impl Failure {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { exit: Exit::Ours, text: text.into() }
    }
}

impl From<portkeep::Error> for Failure {
    fn from(error: portkeep::Error) -> Self {
        Self::new(explain::explain(&error))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_those_of_env_and_timeout() {
        let codes = [Exit::Success, Exit::Ours, Exit::CannotStart, Exit::NotFound].map(Exit::code);
        assert_eq!(codes, [0, 125, 126, 127]);
        for code in &codes[1..] {
            assert!(HELP.contains(&code.to_string()), "the help names {code}");
        }
    }
}
