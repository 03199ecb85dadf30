//! An engine that is loaded, as its pins show it: whether it is on, its settings, what lives in it.
//!
//! The layouts are those of `bpf/portkeep.bpf.h`; `tests/kernel/abi.rs` compares them.

use std::path::Path;

use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData};

use super::load::{errno, rejected};
use super::site::at;
use crate::error::{Error, ErrorKind, Result};
use crate::ports::PortRange;

/// `struct portkeep_config`, as bytes.
pub(super) const CONFIG_SIZE: usize = 112;
pub(super) type Settings = [u8; CONFIG_SIZE];
pub(super) const PARTIAL: u32 = 1;

/// `struct portkeep_reservation`, as bytes; its token comes first.
pub(super) const RESERVATION_SIZE: usize = 96;

/// `struct portkeep_table`, as bytes.
pub(super) const TABLE_SIZE: usize = 24_608;

pub(super) fn pool_word(pool: PortRange) -> u32 {
    u32::from(pool.start()) | u32::from(pool.last()) << 16
}

pub(super) type PinnedConfig = Array<MapData, Settings>;

pub(super) fn pinned_config(pins: &Path) -> Result<PinnedConfig> {
    Array::try_from(pinned(&pins.join("portkeep_config"))?)
        .map_err(|cause| rejected("config", &cause))
}

/// Whether a loader got to its end with this one, and no unloader began.
pub(super) fn is_on(config: &PinnedConfig) -> Result<bool> {
    let settings = config.get(&0, 0).map_err(|cause| rejected("config", &cause))?;
    Ok(settings[..4] != [0; 4])
}

/// Gives a loaded engine another pool. It reads that as one word, so it sees the old or the new one.
pub(super) fn change_pool(config: &mut PinnedConfig, pool: PortRange) -> Result<()> {
    let mut settings = config.get(&0, 0).map_err(|cause| rejected("config", &cause))?;
    settings[8..12].copy_from_slice(&pool_word(pool).to_ne_bytes());
    config.set(0, settings, 0).map_err(|cause| rejected("config", &cause))
}

/// From here on the programs let everything pass. The kernel detaches them some time after the last
/// pin is gone, and nobody is told when, so they have to be harmless before.
pub(super) fn switch_off(pins: &Path) -> Result<()> {
    let mut config = pinned_config(pins)?;
    let mut settings = config.get(&0, 0).map_err(|cause| rejected("config", &cause))?;
    settings[..4].fill(0);
    config.set(0, settings, 0).map_err(|cause| rejected("config", &cause))?;
    // Without its table a port space has no reserved ports, without its entry a token is dead.
    let mut near = Array::<_, [u8; TABLE_SIZE]>::try_from(pinned(&pins.join("portkeep_near"))?)
        .map_err(|cause| rejected("portkeep_near", &cause))?;
    for number in 0..near.len() {
        near.set(number, [0; TABLE_SIZE], 0).map_err(|cause| rejected("portkeep_near", &cause))?;
    }
    empty::<u32, [u8; TABLE_SIZE]>(pins, "portkeep_tables")?;
    empty::<u64, [u8; RESERVATION_SIZE]>(pins, "portkeep_reservations")
}

pub(super) fn empty<K: Pod, V: Pod>(pins: &Path, name: &str) -> Result<()> {
    let mut map = HashMap::<_, K, V>::try_from(pinned(&pins.join(name))?)
        .map_err(|cause| rejected(name, &cause))?;
    let keys: Vec<K> = map.keys().flatten().collect();
    for key in keys {
        // Gone already when an anchor was closed meanwhile.
        let _ = map.remove(&key);
    }
    Ok(())
}

/// A map of the engine that is loaded.
pub(super) fn pinned(path: &Path) -> Result<Map> {
    MapData::from_pin(path).and_then(Map::from_map_data).map_err(|cause| match errno(&cause) {
        Some(errno) => at("open", path, errno),
        None => Error::new(ErrorKind::Os, format!("cannot open {}: {cause}", path.display())),
    })
}

/// How many reservations the engine behind these pins has.
pub(super) fn live_reservations(pins: &Path) -> Result<usize> {
    let map = pinned(&pins.join("portkeep_reservations"))?;
    let map = HashMap::<_, u64, [u8; RESERVATION_SIZE]>::try_from(map)
        .map_err(|cause| rejected("portkeep_reservations", &cause))?;
    // A released one stays as an entry without a token until its anchor is next used.
    let live = |value: &[u8; RESERVATION_SIZE]| value[..8] != [0; 8];
    Ok(map.iter().flatten().filter(|(_, value)| live(value)).count())
}
