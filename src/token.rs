//! The number that names a reservation.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Names one live reservation: 64 bits, never zero, not to be guessed, never given out twice
/// (spec 1.2, 9.19).
///
/// Whoever may use a reservation may do so by token, so it is treated like a password: `Debug`
/// shows nothing of it, and there is no `Display`. [`expose`](Self::expose) is the one way to see
/// it. With the userspace engine a token means something in the process that acquired it only.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(NonZeroU64);

impl Token {
    /// The token with this number; `None` for 0, which is never a token.
    #[must_use]
    pub fn from_u64(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }

    /// The number itself, in host byte order.
    #[must_use]
    pub fn expose(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

impl FromStr for Token {
    type Err = Error;

    /// Reads the sixteen hexadecimal digits that `portkeep acquire --token` prints.
    fn from_str(text: &str) -> Result<Self> {
        let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        digits
            .then(|| u64::from_str_radix(text, 16).ok())
            .flatten()
            .and_then(Self::from_u64)
            // The text itself stays out of the message: it may be a token with a typing error.
            .ok_or_else(|| Error::invalid("a token is sixteen hexadecimal digits, not all zero"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_does_not_show_a_token() {
        let token = Token::from_u64(0x1234_5678_9abc_def0).unwrap();
        assert_eq!(format!("{token:?}"), "Token(hidden)");
        assert_eq!(format!("{:016x}", token.expose()).parse::<Token>().unwrap(), token);
    }

    #[test]
    fn zero_and_other_text_are_no_tokens() {
        assert_eq!(Token::from_u64(0), None);
        for text in ["", "0", "0000000000000000", "0x12345678abcdef", "+23456789abcdef0"] {
            let error = text.parse::<Token>().unwrap_err();
            assert!(text.len() < 3 || !error.to_string().contains(text));
        }
    }
}
