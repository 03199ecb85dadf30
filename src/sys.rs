//! Every system call of the library, and with them the only `unsafe` code.
//!
//! Each function is one call, named after it; nothing is retried or decided here.

mod diag;
mod process;
mod socket;

pub(crate) use diag::sockets;
pub(crate) use process::{
    descriptor_limit, process_id, restore_descriptor_limit_in, set_descriptor_limit,
};
pub(crate) use socket::{
    Family, bind, drop_all_packets, flag, listen, local_address, open, protocol, set_flag,
};
