//! The portkeep command.

fn main() {}
