//! The administrator's settings: `portkeep.toml` in the folder of the configuration.

use std::fs;
use std::io::ErrorKind::NotFound;
use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::ports::PortRange;
use crate::request::DEFAULT_POOL;

/// What the kernel engine is loaded with.
///
/// ```toml
/// # Wildcard requests are served from here. It should lie outside the ephemeral range.
/// pool = "61000-65535"
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// Where wildcard requests are served from; [`DEFAULT_POOL`] when left out.
    #[serde(deserialize_with = "range")]
    pub pool: PortRange,
}

impl Default for Config {
    fn default() -> Self {
        Self { pool: DEFAULT_POOL }
    }
}

impl Config {
    /// Reads `portkeep.toml` in `folder`; a file that is not there says nothing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) when the file is not TOML, has a
    /// key that means nothing, or a range that is none; the text names the file and the place in it.
    /// [`ErrorKind::Os`](crate::ErrorKind::Os) when it cannot be read.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("portkeep.toml");
        let text = match fs::read_to_string(&path) {
            Err(cause) if cause.kind() == NotFound => return Ok(Self::default()),
            text => text.map_err(|cause| {
                Error::os(format_args!("cannot read {}", path.display()), &cause)
            })?,
        };
        toml::from_str(&text).map_err(|cause| {
            let before = cause.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            Error::invalid(format!("{}, line {line}: {}", path.display(), cause.message()))
        })
    }
}

fn range<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<PortRange, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("portkeep.toml"), text).unwrap();
        Config::read(folder.path())
    }

    #[test]
    fn what_is_left_out_has_its_default_and_what_is_unknown_is_refused() {
        assert_eq!(Config::read(Path::new("/no/such/folder")).unwrap(), Config::default());
        assert_eq!(read("").unwrap().pool, DEFAULT_POOL);
        assert_eq!(read("pool = '50000-50999'\n").unwrap().pool.to_string(), "50000-50999");
        for (text, word) in [
            ("# a comment\npole = '1-2'\n", "line 2: unknown field `pole`"),
            ("pool = '+3'\n", "pool"),
            ("pool = 3\n", "line 1"),
            ("pool = '5-4'\n", "line 1"),
            ("pool", "line 1"),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::InvalidInput);
            assert!(error.to_string().contains(word), "{text}: {error}");
            assert!(error.to_string().contains("portkeep.toml"), "{error}");
        }
    }
}
