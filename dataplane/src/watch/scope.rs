//! What one watch is about, and how a change looks from there.

use bytes::Bytes;
use contract::query::Filter;
use uuid::Uuid;

use super::position::Mark;
use crate::view::keys::{CODE_NONE, CODE_PLAIN, parse_signal_code};

/// What a watch is about. Watches with the same scope share their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All that pass a filter.
    Filter(Filter),
    /// One entity.
    One(Uuid),
}

/// Index codes as a set, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Codes(u32);

impl Codes {
    /// The set with `code` in it, too.
    #[must_use]
    pub fn with(self, code: u8) -> Self {
        match code {
            b'a'..=b'p' => Self(self.0 | 1 << (code - b'a')),
            CODE_PLAIN => Self(self.0 | 1 << 16),
            _ => self,
        }
    }
}

impl Scope {
    /// Whether an entity with this code is in the scope, if its id is.
    #[must_use]
    pub fn has(&self, code: u8) -> bool {
        match (self, parse_signal_code(code)) {
            (_, None) => code == CODE_PLAIN,
            (Scope::One(_), Some(_)) => true,
            (Scope::Filter(filter), Some((priority, status))) => filter.matches(status, priority),
        }
    }

    fn has_any(&self, codes: Codes) -> bool {
        (b'a'..=b'p').chain([CODE_PLAIN]).any(|code| codes == codes.with(code) && self.has(code))
    }
}

/// An entity's latest state after some changes of it.
#[derive(Debug, Clone)]
pub struct Latest {
    /// The entity.
    pub id: Uuid,
    /// Its version.
    pub version: u64,
    /// The version that the last of the changes named.
    pub named: u64,
    /// Its code before the first of the changes.
    pub before: u8,
    /// Its code now; `-`: it is deleted.
    pub after: u8,
    /// Every code that it had on the way, the first and the last included.
    pub had: Codes,
    /// Its JSON; empty where it is deleted.
    pub json: Bytes,
    /// Its partition's place in the topic.
    pub index: usize,
    /// The entry that named the last of the changes.
    pub mark: Mark,
    /// Set where the state was told before its entry came: in this round of the hub.
    pub told_in: Option<u64>,
}

/// What a watch is told of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It is in the scope and was not before.
    Created,
    /// It is in the scope and was before.
    Updated,
    /// It is gone.
    Deleted,
    /// It has left the filter.
    Left,
}

impl Scope {
    /// What a watch of this scope is told; `None`: nothing.
    ///
    /// An entity that came and was deleted on the way is told as deleted: a deletion is never left out.
    /// One that came and left on the way is told as left: the client may have heard that it came, from a
    /// document that was newer than its entry, or before it broke off.
    #[must_use]
    pub fn told(&self, latest: &Latest) -> Option<Told> {
        match (self.has(latest.before), self.has(latest.after)) {
            // Created and deleted within one batch of the projector: what it was in between is not known, and a
            // deletion too many harms nobody.
            _ if latest.after == CODE_NONE && latest.had == Codes::default() => Some(Told::Deleted),
            _ if latest.after == CODE_NONE => self.has_any(latest.had).then_some(Told::Deleted),
            (false, true) => Some(Told::Created),
            (true, true) => Some(Told::Updated),
            (true, false) => Some(Told::Left),
            (false, false) => self.has_any(latest.had).then_some(Told::Left),
        }
    }
}

impl Told {
    /// Appends the event to a stream's bytes.
    pub fn write(self, out: &mut Vec<u8>, latest: &Latest, position: &str) {
        use std::io::Write;
        let name = match self {
            Told::Created => "created",
            Told::Updated => "updated",
            Told::Deleted | Told::Left => "deleted",
        };
        // Writing to a Vec can't fail.
        let _ = write!(out, "event: {name}\nid: {position}\ndata: ");
        let (id, version) = (latest.id.hyphenated(), latest.version);
        match self {
            Told::Created | Told::Updated => out.extend_from_slice(&latest.json),
            Told::Deleted => {
                let _ = write!(out, "{{\"id\":\"{id}\",\"version\":{version}}}");
            }
            Told::Left => {
                let _ = write!(out, "{{\"id\":\"{id}\",\"version\":{version},\"reason\":\"filter\"}}");
            }
        }
        out.extend_from_slice(b"\n\n");
    }
}

#[cfg(test)]
mod tests {
    use contract::signal::{Priority, Status};

    use super::*;
    use crate::view::keys::signal_code;

    #[test]
    fn entering_and_leaving_a_filter_is_told_and_a_deletion_always() {
        let scope = Scope::Filter(Filter::new(&[Status::Pending], &[]));
        let (inside, outside) =
            (signal_code(Priority::Low, Status::Pending), signal_code(Priority::Low, Status::Active));
        let told = |codes: &[u8]| {
            let had = codes.iter().fold(Codes::default(), |set, code| set.with(*code));
            let (before, after) = (codes[0], codes[codes.len() - 1]);
            scope.told(&Latest {
                id: Uuid::nil(),
                version: 1,
                named: 1,
                before,
                after,
                had,
                json: Bytes::new(),
                index: 0,
                mark: Mark::default(),
                told_in: None,
            })
        };
        assert_eq!(told(b"-"), Some(Told::Deleted));
        assert_eq!(told(&[b'-', inside]), Some(Told::Created));
        assert_eq!(told(&[outside, inside]), Some(Told::Created));
        assert_eq!(told(&[inside, outside, inside]), Some(Told::Updated));
        assert_eq!(told(&[inside, outside]), Some(Told::Left));
        assert_eq!(told(&[outside, inside, outside]), Some(Told::Left));
        assert_eq!(told(&[outside, outside]), None);
        assert_eq!(told(&[inside, b'-']), Some(Told::Deleted));
        assert_eq!(told(&[b'-', inside, b'-']), Some(Told::Deleted));
        assert_eq!(told(&[b'-', outside, b'-']), None);
        assert!(Scope::One(Uuid::nil()).has(outside) && Scope::Filter(Filter::default()).has(CODE_PLAIN));
        assert!(!scope.has(CODE_NONE));
    }
}
