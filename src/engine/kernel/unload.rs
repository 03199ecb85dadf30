//! Unloading the kernel engine: what `portkeep unload` does.

use std::fs;

use super::load::{Outcome, as_root, lock, remove, staging};
use super::pinned::{is_on, live_reservations, pinned_config, switch_off};
use super::site::{Site, at};
use crate::error::{Error, ErrorKind, Result};

/// Unloads the kernel engine. Reserved ports are free from then on; sockets keep what they have.
///
/// # Errors
///
/// [`ErrorKind::AddressInUse`] when reservations live and `force` is not set; the text says how many.
/// [`ErrorKind::PermissionDenied`] without root.
pub fn unload(site: &Site, force: bool) -> Result<Outcome> {
    try_unload(site, force).map_err(as_root)
}

fn try_unload(site: &Site, force: bool) -> Result<Outcome> {
    let Some(pins) = site.existing_pin_dir()? else { return Ok(Outcome::Already) };
    let _lock = lock(&pins)?;
    remove(&staging(&pins))?;
    if !pins.exists() {
        return Ok(Outcome::Already);
    }
    let live = live_reservations(&pins)?;
    if live > 0 && !force && is_on(&pinned_config(&pins)?)? {
        return Err(Error::new(
            ErrorKind::AddressInUse,
            format!("{live} reservations live; end them first, or end them all with --force"),
        ));
    }
    switch_off(&pins)?;
    // Out of sight at once, so that nobody ever meets half an engine.
    let leaving = staging(&pins);
    fs::rename(&pins, &leaving).map_err(|cause| at("move", &pins, &cause))?;
    remove(&leaving)?;
    Ok(Outcome::Done)
}
