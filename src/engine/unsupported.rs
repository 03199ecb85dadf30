//! Stands in for `choice` where portkeep has no engine: everything compiles and says so.

use super::{Block, Choice, Engine};
use crate::error::{Error, ErrorKind, Result};
use crate::request::PortRequest;
use crate::token::Token;

pub(crate) fn probe() -> Result<Choice> {
    Err(unsupported())
}

pub(crate) fn pool(_: super::EngineKind) -> Result<crate::PortRange> {
    Err(unsupported())
}

pub(crate) fn acquire(_: &PortRequest) -> Result<Box<dyn Block>> {
    Err(unsupported())
}

pub(crate) fn by_token(_: Token) -> Result<&'static dyn Engine> {
    Err(unsupported())
}

pub(crate) fn holder(_: crate::Protocol, _: u16) -> Result<Option<crate::Holder>> {
    Err(unsupported())
}

#[cfg(unix)]
pub(crate) fn adopt(_: std::os::fd::OwnedFd) -> Result<Box<dyn Block>> {
    Err(unsupported())
}

#[cfg(unix)]
pub(crate) fn bindable(
    _: std::os::fd::BorrowedFd<'_>,
    _: &std::net::SocketAddr,
) -> Result<crate::Protocol> {
    Err(unsupported())
}

#[cfg(unix)]
pub(crate) fn open_socket(
    _: crate::Protocol,
    _: &std::net::SocketAddr,
) -> Result<std::os::fd::OwnedFd> {
    Err(unsupported())
}

fn unsupported() -> Error {
    let system = std::env::consts::OS;
    Error::new(
        ErrorKind::Unsupported,
        format!("portkeep reserves ports on Linux only; it has no engine for {system}"),
    )
}

#[cfg(test)]
mod tests {
    use crate::{ErrorKind, Protocol, Token};

    #[test]
    fn every_door_says_unsupported() {
        let unsupported = |error: crate::Error| {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains(std::env::consts::OS));
        };
        unsupported(crate::tcp(1).acquire().unwrap_err());
        unsupported(crate::status().unwrap_err());
        let token = Token::from_u64(1).unwrap();
        unsupported(crate::release(token, Protocol::Tcp).unwrap_err());
        #[cfg(unix)]
        unsupported(crate::bind(&std::io::stdout(), token, ([127, 0, 0, 1], 0)).unwrap_err());
    }
}
