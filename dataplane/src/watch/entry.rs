//! Entries of the change feed (docs/view-layout.md).

use redis::Value;
use uuid::Uuid;

use super::position::Mark;
use crate::view::keys::CODE_NONE;

/// Bytes of one key in an entry.
const KEY: usize = 55;

/// One key's change in one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The entity.
    pub id: Uuid,
    /// Its version after it.
    pub version: u64,
    /// Its index code before; `-` where there was none.
    pub before: u8,
    /// Its index code after; `-` for a deletion.
    pub after: u8,
}

/// One batch of changes of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The id that Redis gave it.
    pub stream_id: String,
    /// The epoch of its numbers.
    pub epoch: u64,
    /// Its first number.
    pub from: u64,
    /// Its last number.
    pub to: u64,
    /// The keys that it applied.
    pub changes: Vec<Change>,
}

impl Entry {
    /// The entry in one element of what `XRANGE` and `XREAD` answer; `None` for what no projector wrote.
    #[must_use]
    pub fn of(element: Value) -> Option<Self> {
        let Value::Array(parts) = element else { return None };
        let mut parts = parts.into_iter();
        let (Some(Value::BulkString(stream_id)), Some(Value::Array(fields)), None) =
            (parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        let mut entry =
            Entry { stream_id: String::from_utf8(stream_id).ok()?, epoch: 0, from: 0, to: 0, changes: Vec::new() };
        let mut fields = fields.into_iter();
        let mut named = 0;
        while let (Some(Value::BulkString(name)), Some(Value::BulkString(value))) = (fields.next(), fields.next()) {
            let number = || std::str::from_utf8(&value).ok()?.parse().ok();
            match name.as_slice() {
                b"e" => entry.epoch = number()?,
                b"f" => entry.from = number()?,
                b"t" => entry.to = number()?,
                b"k" => entry.changes = changes(&value)?,
                _ => continue,
            }
            named += 1;
        }
        (named == 4).then_some(entry)
    }

    /// Its last number.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark { epoch: self.epoch, seq: self.to }
    }

    /// Where the view was when this was written: all up to there is applied. What the entry itself names may not be,
    /// where the call that wrote it failed midway.
    #[must_use]
    pub fn before(&self) -> Mark {
        Mark { epoch: self.epoch, seq: self.from.saturating_sub(1) }
    }

    /// Whether nothing lies between `last` and this entry: it goes on from there, repeats it, or begins
    /// a new epoch.
    #[must_use]
    pub fn joins(&self, last: Mark) -> bool {
        if self.epoch == last.epoch { self.from <= last.seq + 1 } else { self.epoch > last.epoch && self.from <= 1 }
    }
}

fn changes(bytes: &[u8]) -> Option<Vec<Change>> {
    let keys = bytes.chunks_exact(KEY);
    if !keys.remainder().is_empty() {
        return None;
    }
    keys.map(|key| {
        let text = std::str::from_utf8(key).ok()?;
        let deleted = key[52] == b'd';
        Some(Change {
            id: Uuid::try_parse(text.get(..36)?).ok()?,
            version: u64::from_str_radix(text.get(36..52)?, 16).ok()?,
            before: key[53],
            after: if deleted { CODE_NONE } else { key[54] },
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(fields: &[(&str, &str)]) -> Value {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let fields = fields.iter().flat_map(|(name, value)| [bulk(name), bulk(value)]).collect();
        Value::Array(vec![bulk("1-0"), Value::Array(fields)])
    }

    #[test]
    fn an_entry_is_read_as_the_layout_says() {
        let id = Uuid::from_u64_pair(1, 2);
        let keys = format!("{id}000000000000000fc-e{id}0000000000000010de-");
        let entry = Entry::of(element(&[("e", "5"), ("f", "7"), ("t", "8"), ("k", &keys), ("z", "later")]));
        let entry = entry.expect("an entry");
        assert_eq!((entry.epoch, entry.from, entry.to), (5, 7, 8));
        assert_eq!(
            entry.changes,
            [
                Change { id, version: 15, before: b'-', after: b'e' },
                Change { id, version: 16, before: b'e', after: b'-' }
            ]
        );
        for bad in [
            &[("e", "5")][..],
            &[("e", "x"), ("f", "7"), ("t", "8"), ("k", "")],
            &[("e", "5"), ("f", "7"), ("t", "8"), ("k", "short")],
        ] {
            assert_eq!(Entry::of(element(bad)), None);
        }
    }

    #[test]
    fn entries_join_unless_some_are_lost() {
        let entry = |epoch, from| Entry { stream_id: String::new(), epoch, from, to: from + 2, changes: Vec::new() };
        let last = Mark { epoch: 5, seq: 7 };
        assert!(entry(5, 8).joins(last) && entry(5, 6).joins(last) && entry(6, 1).joins(last));
        assert!(!entry(5, 9).joins(last) && !entry(6, 2).joins(last) && !entry(4, 8).joins(last));
    }
}
