//! Colours, on a terminal only.

use std::fmt::Display;
use std::io::IsTerminal;

fn painted(stream: &impl IsTerminal, code: &str, text: impl Display) -> String {
    // https://no-color.org: any value but the empty one switches colours off.
    let off = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if stream.is_terminal() && !off {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_string()
    }
}

pub(crate) fn red(stream: &impl IsTerminal, text: impl Display) -> String {
    painted(stream, "31", text)
}

pub(crate) fn bold(stream: &impl IsTerminal, text: impl Display) -> String {
    painted(stream, "1", text)
}
