//! Every system call of the library, and with them the only `unsafe` code.
//!
//! Each function is one call, named after it; nothing is retried or decided here.

#[cfg(feature = "load")]
mod bpf;
mod diag;
mod process;
mod socket;

#[cfg(feature = "load")]
pub(crate) use bpf::{link_create, mount_bpffs, pin};
pub(crate) use diag::sockets;
pub(crate) use process::{
    descriptor_limit, duplicate_from, pass_descriptors_in, process_id, restore_descriptor_limit_in,
    set_descriptor_limit,
};
pub(crate) use socket::{
    Family, bind, bytes, drop_all_packets, flag, listen, local_address, open, protocol, set_bytes,
    set_flag,
};
