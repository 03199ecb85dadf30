//! The engine's own state, read from its pins. The layouts are those of `bpf/portkeep.bpf.h`.

use std::path::{Path, PathBuf};

use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData};

/// `struct portkeep_reservation`, `_grant`, `_table` and `_state`, in bytes.
const RESERVATION: usize = 96;
const GRANT: usize = 24;
const TABLE: usize = TABLE_HEAD + 3 * 1024 * 8;
const TABLE_HEAD: usize = 32;
const STATE: usize = 48 + 64 * 8;

#[derive(Debug)]
pub(crate) struct Maps(PathBuf);

impl Maps {
    pub(crate) fn open(pins: &Path) -> Self {
        Self(pins.to_owned())
    }

    fn map(&self, name: &str) -> Map {
        let path = self.0.join(format!("portkeep_{name}"));
        let data = MapData::from_pin(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        Map::from_map_data(data).expect("a kind of map that aya knows")
    }

    fn hash<K: Pod, V: Pod>(&self, name: &str) -> Vec<(K, V)> {
        let map = HashMap::<_, K, V>::try_from(self.map(name)).expect(name);
        map.iter().map(|entry| entry.expect(name)).collect()
    }

    /// Reservations that live, and entries of released ones that wait for their anchor.
    pub(crate) fn reservations(&self) -> usize {
        self.hash::<u64, [u8; RESERVATION]>("reservations").len()
    }

    /// Blocks that others than their owner may use, and ports that a call has in hand.
    pub(crate) fn blocks(&self) -> usize {
        self.hash::<u32, [u8; GRANT]>("blocks").len()
    }

    /// The bitmaps of every table there is, without its head, and the last bit of what it says
    /// whose it is: whether that is UDP.
    pub(crate) fn tables(&self) -> Vec<(bool, Vec<u64>)> {
        let bitmaps = |table: [u8; TABLE]| {
            let words = table[TABLE_HEAD..].chunks_exact(8);
            (table[0] & 1 == 1, words.map(|word| long(word, 0)).collect())
        };
        self.whole_tables().map(bitmaps).collect()
    }

    /// For every table there is: reservations and calls in it.
    pub(crate) fn live(&self) -> Vec<u32> {
        self.whole_tables().map(|table| word(&table, 8)).collect()
    }

    /// Every table that is or was some space's.
    fn whole_tables(&self) -> impl Iterator<Item = [u8; TABLE]> {
        let near = Array::<_, [u8; TABLE]>::try_from(self.map("near")).expect("near");
        let near: Vec<_> = near.iter().map(|table| table.expect("near")).collect();
        let far = self.hash::<u32, [u8; TABLE]>("tables").into_iter().map(|(_, table)| table);
        near.into_iter().filter(|table| long(table, 0) != 0 || word(table, 8) != 0).chain(far)
    }

    /// What is charged, account by account; 0 is nothing.
    pub(crate) fn charged(&self) -> Vec<u64> {
        let map = Array::<_, [u8; 16]>::try_from(self.map("accounts")).expect("accounts");
        map.iter().map(|entry| long(&entry.expect("accounts"), 8)).collect()
    }

    /// The counters: binds undone after the fact, walks cut by their budget, walks torn.
    pub(crate) fn counters(&self) -> Counters {
        let map = Array::<_, [u8; STATE]>::try_from(self.map("state")).expect("state");
        let state = map.get(&0, 0).expect("state");
        Counters {
            late_refusals: long(&state, 24),
            walks_cut: long(&state, 32),
            walks_torn: long(&state, 40),
        }
    }

    #[track_caller]
    pub(crate) fn assert_nothing_is_left(&self) {
        assert_eq!(self.reservations(), 0, "reservations are left");
        assert_eq!(self.blocks(), 0, "blocks are left");
        let live = self.live();
        assert!(live.iter().all(|live| *live == 0), "tables are still in use: {live:?}");
        let charged: Vec<_> = self.charged().into_iter().filter(|charged| *charged != 0).collect();
        assert!(charged.is_empty(), "charged: {charged:x?}");
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) late_refusals: u64,
    pub(crate) walks_cut: u64,
    pub(crate) walks_torn: u64,
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

impl Maps {
    /// What all maps together take, as the kernel counts it.
    pub(crate) fn memory(&self) -> u64 {
        let pins = std::fs::read_dir(&self.0).expect("the engine is pinned");
        let names = pins.map(|pin| pin.expect("a pin").file_name().into_string().expect("a name"));
        let maps = names.filter_map(|name| name.strip_prefix("portkeep_").map(str::to_owned));
        // The folder holds links as well, which have no line of this kind.
        maps.filter_map(|name| MapData::from_pin(self.0.join(format!("portkeep_{name}"))).ok())
            .filter_map(|map| {
                let number = std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(map.fd()));
                let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}"));
                let info = info.expect("an open map");
                let taken = info.lines().find_map(|line| line.strip_prefix("memlock:"))?;
                taken.trim().parse::<u64>().ok()
            })
            .sum()
    }
}

impl Maps {
    /// Port spaces that have a table.
    pub(crate) fn spaces(&self) -> usize {
        self.hash::<[u8; 16], u32>("spaces").len()
    }
}

/// Structures of the maps, and the sizes counted on here and by the loader.
pub(crate) const LAYOUTS: [(&str, usize); 5] = [
    ("config", 112),
    ("reservation", RESERVATION),
    ("table", TABLE),
    ("state", STATE),
    ("account", 16),
];
