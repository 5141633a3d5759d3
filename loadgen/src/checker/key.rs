//! What the checker keeps of a key: all of it while something is open, 28 bytes once everything is explained.

use super::{Expected, Write};
use crate::journal::Sighting;
use crate::keys::{PackedId, Record};

/// Versions above this are kept in full: the bit marks a deletion.
const DELETED: u32 = 1 << 31;

/// A key of which everything accepted was seen and everything seen was accepted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settled {
    id: PackedId,
    /// Hash of the document at the version.
    hash: [u32; 2],
    /// The version, and [`DELETED`].
    state: u32,
}

impl Record for Settled {
    fn id(&self) -> u128 {
        self.id.into()
    }
}

impl Settled {
    fn version(&self) -> u32 {
        self.state & !DELETED
    }

    fn deleted(&self) -> bool {
        self.state & DELETED != 0
    }

    pub(super) fn expected(&self) -> Expected {
        Expected { version: self.version(), deleted: self.deleted() }
    }
}

/// The versions of a key.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Key {
    /// When `seen` was first seen; 0 of a key that had been settled, which does not keep it.
    pub(super) seen_at: u64,
    /// Hash of the document at `seen`.
    pub(super) seen_hash: u64,
    /// Highest version seen.
    pub(super) seen: u32,
    /// Highest version accepted.
    pub(super) accepted_max: u32,
    /// A deletion was accepted whose version is not known.
    pub(super) unplaced: bool,
    /// A deletion was seen.
    pub(super) seen_deleted: bool,
    /// A deletion was accepted.
    pub(super) accepted_deleted: bool,
}

impl From<&Settled> for Key {
    fn from(settled: &Settled) -> Self {
        let (version, deleted) = (settled.version(), settled.deleted());
        Self {
            seen_at: 0,
            seen_hash: u64::from(settled.hash[0]) << 32 | u64::from(settled.hash[1]),
            seen: version,
            accepted_max: version,
            unplaced: false,
            seen_deleted: deleted,
            accepted_deleted: deleted,
        }
    }
}

/// A key with something open.
#[derive(Debug, Default)]
pub(super) struct Open {
    pub(super) key: Key,
    /// Versions below the highest accepted one that were not, as ranges, both ends in it, in their order.
    pub(super) missing: Vec<(u32, u32)>,
    /// Accepted, not visible yet.
    pub(super) writes: Vec<Write>,
    /// Seen before the answers that explain them had all come.
    pub(super) early: Vec<Sighting>,
    /// The end of the first snapshot that did not have it, if nothing was seen of it since.
    pub(super) absent_at: Option<u64>,
}

impl Open {
    /// Takes note of the version of an accepted write. Returns false when it had been accepted before.
    pub(super) fn accept(&mut self, version: u32) -> bool {
        let max = self.key.accepted_max;
        if version == 0 {
            self.key.unplaced = true;
        } else if version > max {
            if version > max + 1 {
                self.missing.push((max + 1, version - 1));
            }
            self.key.accepted_max = version;
        } else {
            let Some(at) = self.missing.iter().position(|&(from, to)| (from..=to).contains(&version)) else {
                return false;
            };
            let (from, to) = self.missing[at];
            let rest = [(from, version - 1), (version + 1, to)].into_iter().filter(|(from, to)| from <= to);
            self.missing.splice(at..=at, rest);
        }
        true
    }

    /// Every version up to the highest was accepted.
    fn whole(&self) -> bool {
        self.key.accepted_max > 0 && self.missing.is_empty() && !self.key.unplaced
    }

    /// What the planes should show of it at the end; `None` where an outcome is unknown.
    pub(super) fn expected(&self) -> Option<Expected> {
        let Key { accepted_max: version, accepted_deleted: deleted, .. } = self.key;
        self.whole().then_some(Expected { version, deleted })
    }

    /// The short form, where nothing would be lost by it.
    pub(super) fn settled(&self, id: u128) -> Option<Settled> {
        let Self { key, writes, early, .. } = self;
        let explained = self.whole()
            && key.seen == key.accepted_max
            && key.seen_deleted == key.accepted_deleted
            && key.seen < DELETED;
        (explained && writes.is_empty() && early.is_empty()).then(|| Settled {
            id: id.into(),
            hash: [(key.seen_hash >> 32) as u32, key.seen_hash as u32],
            state: key.seen | if key.seen_deleted { DELETED } else { 0 },
        })
    }
}
