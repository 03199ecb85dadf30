//! What the project claims about itself, shown at work: real servers under a flood of strangers,
//! storms of processes that all want ports, holders killed at any moment, and full pools.
//!
//! Everything happens on loopback, in network namespaces of its own. The default form takes a
//! minute or two; `PORTKEEP_TEST_LONG` asks for the figures that the project publishes.

mod closing;
mod contention;
mod flood;
mod helper;
mod kill;
mod kill_cli;
mod process;
mod server;
mod sockets;
mod storm;
mod strangers;
#[path = "../support/mod.rs"]
mod support;
