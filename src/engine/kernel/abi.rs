//! The socket options of the kernel engine, as `bpf/portkeep.bpf.h` defines them: numbers, and the
//! bytes of their values.
//!
//! Ports are big-endian, everything else is in host byte order. `tests/kernel/abi.rs` compares what
//! is written here with the header.

use std::time::Duration;

use crate::holder::Holder;
use crate::ports::PortRange;
use crate::request::{Grant, PortRequest};
use crate::token::Token;

pub(crate) const LEVEL: i32 = 0x504B;

pub(crate) const ACQUIRE: i32 = 1;
pub(crate) const ASSOCIATE: i32 = 2;
pub(crate) const RELEASE: i32 = 3;
pub(crate) const INSTANCE: i32 = 4;
pub(crate) const VERSION: i32 = 5;
pub(crate) const ADOPT: i32 = 6;
pub(crate) const GRANT: i32 = 7;
pub(crate) const POOL: i32 = 8;
pub(crate) const QUERY: i32 = 0x10000;

/// Strangers are kept out whatever their cgroup.
pub(crate) const EXCLUSIVE: u32 = 1;

const SAME_NUMBERS: u16 = 1;

/// The value of `ACQUIRE`.
pub(crate) fn request(request: &PortRequest, start: u16, count: u16) -> [u8; 24] {
    let same = if request.protocols.len() > 1 { SAME_NUMBERS } else { 0 };
    let mut value = [0; 24];
    value[0..2].copy_from_slice(&start.to_be_bytes());
    value[2..4].copy_from_slice(&count.to_ne_bytes());
    value[4..8].copy_from_slice(&grant(request.grant).to_ne_bytes());
    value[8..10].copy_from_slice(&request.alignment.to_ne_bytes());
    value[10..12].copy_from_slice(&same.to_ne_bytes());
    value
}

/// The value of `GRANT`.
pub(crate) fn grant_to(token: Token, to: Grant) -> [u8; 24] {
    let mut value = [0; 24];
    value[0..8].copy_from_slice(&token.expose().to_ne_bytes());
    value[8..12].copy_from_slice(&grant(to).to_ne_bytes());
    value
}

fn grant(grant: Grant) -> u32 {
    match grant {
        Grant::Process => 0,
        Grant::Descendants => 1,
    }
}

/// One entry of `INSTANCE`.
pub(crate) const INSTANCE_SIZE: usize = 16;

pub(crate) fn instance(value: &[u8]) -> Option<(PortRange, Token)> {
    Some((range(value)?, Token::from_u64(number(value, 8)?)?))
}

/// The value of `POOL`, and the first field of several others.
pub(crate) fn range(value: &[u8]) -> Option<PortRange> {
    let start = u16::from_be_bytes(value.get(0..2)?.try_into().ok()?);
    let count = u16::from_ne_bytes(value.get(2..4)?.try_into().ok()?);
    PortRange::new(start, count).ok()
}

/// The value of `VERSION`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) interface: u32,
    pub(crate) features: u32,
}

pub(crate) const VERSION_SIZE: usize = 8;

impl Version {
    pub(crate) fn read(value: [u8; VERSION_SIZE]) -> Self {
        let (interface, features) = value.split_at(4);
        let word = |bytes: &[u8]| u32::from_ne_bytes(bytes.try_into().expect("four bytes"));
        Self { interface: word(interface), features: word(features) }
    }
}

pub(crate) const HOLDER_SIZE: usize = 40;

/// The value of `QUERY`; `None` when nobody has the port.
pub(crate) fn holder(value: &[u8; HOLDER_SIZE]) -> Option<Holder> {
    let word = |at: usize| u32::from_ne_bytes(value[at..at + 4].try_into().expect("four bytes"));
    let command = value[24..].split(|byte| *byte == 0).next().unwrap_or_default();
    (word(4) != 0).then_some(())?;
    Some(Holder {
        range: range(value)?,
        pid: word(8),
        uid: word(12),
        command: String::from_utf8_lossy(command).into_owned(),
        acquired: Duration::from_nanos(number(value, 16)?),
    })
}

fn number(value: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(value.get(at..at + 8)?.try_into().ok()?))
}
