//! The engine's configuration, for tests that change it, and its bitmaps, word for word.

use aya::maps::{Array, Map, MapData};

use crate::host::Host;

/// Where `struct portkeep_config` has numbers that tests change; a quota of 0 is none.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Setting {
    UserPorts = 12,
    UserOutside = 16,
    WalkSteps = 28,
}

/// Puts a number into the configuration of the running engine.
pub(crate) fn configure(host: &Host, setting: Setting, value: u32) {
    let data = MapData::from_pin(host.inside.pins().join("portkeep_config")).expect("it is loaded");
    let mut map = Array::<_, [u8; 112]>::try_from(Map::Array(data)).expect("the configuration");
    let mut bytes = map.get(&0, 0).expect("the configuration");
    let at = setting as usize;
    bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    map.set(0, bytes, 0).expect("the configuration");
}

/// The bitmaps of a port space: `struct portkeep_table`, without its head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bitmaps {
    pub(crate) protocol: u32,
    words: Vec<u64>,
}

impl Bitmaps {
    fn ports(&self, map: usize) -> Vec<u16> {
        let set = |&port: &u16| {
            let word = self.words[map * 1024 + usize::from(port) / 64];
            word >> (port % 64) & 1 == 1
        };
        (0..=u16::MAX).filter(set).collect()
    }

    /// The ports that are reserved.
    pub(crate) fn used(&self) -> Vec<u16> {
        self.ports(0)
    }

    /// The first ports of blocks.
    pub(crate) fn starts(&self) -> Vec<u16> {
        self.ports(1)
    }
}

/// Those of every port space there is.
pub(crate) fn bitmaps(host: &Host) -> Vec<Bitmaps> {
    let tables = host.maps().tables().into_iter();
    let bitmaps = |(udp, words)| Bitmaps { protocol: if udp { 17 } else { 6 }, words };
    tables.map(bitmaps).collect()
}
