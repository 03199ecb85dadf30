//! Which engine serves a process: the kernel engine wherever it answers, unless told otherwise.

use std::sync::atomic::{AtomicU8, Ordering};

use super::kernel::{self, Kernel, abi};
pub(crate) use super::kernel::{adopt, holder};
pub(crate) use super::socket::{bindable, open_socket};
use super::userspace::{self, Userspace};
use super::{Block, Choice, Engine, EngineKind};
use crate::error::{Error, ErrorKind, Result};
use crate::ports::PortRange;
use crate::request::{DEFAULT_POOL, PortRequest};
use crate::token::Token;

/// Says which engine to use, for tests and for programs that must not depend on what is loaded.
const VARIABLE: &str = "PORTKEEP_ENGINE";

/// Asks anew: what is loaded, and what was ordered.
pub(crate) fn probe() -> Result<Choice> {
    let ordered = match std::env::var(VARIABLE) {
        Ok(name) if !name.is_empty() => Some(name.parse::<EngineKind>()?),
        _ => None,
    };
    let userspace = |reason| Choice { kind: EngineKind::Userspace, reason, exclusive: true };
    if ordered == Some(EngineKind::Userspace) {
        return Ok(userspace("PORTKEEP_ENGINE says so"));
    }
    match kernel::version()? {
        Some(version) => Ok(Choice {
            kind: EngineKind::Kernel,
            reason: "it is loaded",
            exclusive: version.features & abi::EXCLUSIVE != 0,
        }),
        None if ordered.is_some() => Err(absent()),
        None => Ok(userspace("the kernel engine is not loaded")),
    }
}

/// Where an engine serves wildcard requests from.
pub(crate) fn pool(engine: EngineKind) -> Result<PortRange> {
    match engine {
        EngineKind::Userspace => Ok(DEFAULT_POOL),
        EngineKind::Kernel => kernel::pool::own(),
    }
}

fn absent() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "the kernel engine is asked for but not loaded here; root loads it with 'portkeep load'",
    )
}

/// The engine this process found the first time, so that one process has one engine and a probe
/// costs nothing from then on.
static FOUND: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 0;
const USERSPACE: u8 = 1;
const KERNEL: u8 = 2;

fn found() -> Result<EngineKind> {
    match FOUND.load(Ordering::Relaxed) {
        USERSPACE => return Ok(EngineKind::Userspace),
        KERNEL => return Ok(EngineKind::Kernel),
        _ => {}
    }
    let kind = probe()?.kind;
    FOUND.store(if kind == EngineKind::Kernel { KERNEL } else { USERSPACE }, Ordering::Relaxed);
    Ok(kind)
}

/// Acquires with the engine that the request or the process has chosen.
pub(crate) fn acquire(request: &PortRequest) -> Result<Box<dyn Block>> {
    let engine = match request.engine {
        Some(kind) => kind,
        None => found()?,
    };
    match engine {
        EngineKind::Userspace => Userspace.acquire(request),
        EngineKind::Kernel => Kernel.acquire(request).or_else(|error| {
            // Unloaded since we asked: ask again.
            let gone = error.kind() == ErrorKind::Unsupported && kernel::version()?.is_none();
            match (gone, request.engine) {
                (false, _) => Err(error),
                (true, Some(_)) => Err(absent()),
                (true, None) => {
                    FOUND.store(UNKNOWN, Ordering::Relaxed);
                    match found()? {
                        EngineKind::Userspace => Userspace.acquire(request),
                        EngineKind::Kernel => Kernel.acquire(request),
                    }
                }
            }
        }),
    }
}

/// The engine that `token` belongs to, as far as this process can tell.
pub(crate) fn by_token(token: Token) -> Result<&'static dyn Engine> {
    // What the userspace engine does not know, a kernel engine may.
    if userspace::knows(token) || kernel::version()?.is_none() {
        Ok(&Userspace)
    } else {
        Ok(&Kernel)
    }
}
