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
    /// When `seen` was first seen; 0 of a key that had been settled, where nothing asks for it.
    pub(super) seen_at: u64,
    /// Hash of the document at `seen`.
    pub(super) seen_hash: u64,
    /// Highest version seen.
    pub(super) seen: u32,
    /// Highest version accepted.
    pub(super) accepted_max: u32,
    /// How many versions were accepted; equal to `accepted_max` when none is missing.
    pub(super) accepted: u32,
    /// A deletion was seen.
    pub(super) seen_deleted: bool,
    /// A deletion was accepted.
    pub(super) accepted_deleted: bool,
}

impl Key {
    /// What the planes should show of it at the end; `None` where an outcome is unknown.
    pub(super) fn expected(&self) -> Option<Expected> {
        (self.accepted > 0 && self.accepted == self.accepted_max)
            .then_some(Expected { version: self.accepted_max, deleted: self.accepted_deleted })
    }
}

impl From<&Settled> for Key {
    fn from(settled: &Settled) -> Self {
        let (version, deleted) = (settled.version(), settled.deleted());
        Self {
            seen_at: 0,
            seen_hash: u64::from(settled.hash[0]) << 32 | u64::from(settled.hash[1]),
            seen: version,
            accepted_max: version,
            accepted: version,
            seen_deleted: deleted,
            accepted_deleted: deleted,
        }
    }
}

/// A key with something open.
#[derive(Debug, Default)]
pub(super) struct Open {
    pub(super) key: Key,
    /// Accepted, not visible yet.
    pub(super) writes: Vec<Write>,
    /// Seen before the answers that explain them had all come.
    pub(super) early: Vec<Sighting>,
}

impl Open {
    /// The short form, where nothing would be lost by it.
    pub(super) fn settled(&self, id: u128) -> Option<Settled> {
        let Self { key, writes, early } = self;
        let explained = key.accepted > 0
            && key.accepted == key.accepted_max
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
