//! Where a watch is: what an event's `id` holds, and `Last-Event-ID` gives back.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use contract::partition::{PARTITIONS_MAX, fnv1a};

/// How far one partition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mark {
    /// The epoch of the number.
    pub epoch: u64,
    /// The last number that was seen.
    pub seq: u64,
}

/// A place in the change feeds of all partitions of a topic. Good on every view server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Position {
    /// The epoch that the serving generation was filled from; a place in another one is no place here.
    pub base: u64,
    /// Partition by partition.
    pub marks: Vec<Mark>,
    /// Set while the first part of a watch is under way: who breaks off there has to start over.
    pub partial: bool,
}

const FORMAT: u8 = 1;

impl Position {
    /// Whether this place is at or past `other` in every partition.
    #[must_use]
    pub fn covers(&self, other: &Position) -> bool {
        self.base == other.base
            && self.marks.len() == other.marks.len()
            && self.marks.iter().zip(&other.marks).all(|(mine, theirs)| mine >= theirs)
    }

    /// As text without spaces: format, partial, base, number of marks, then epoch (less the base) and
    /// seq of each as LEB128, and a checksum, in base64url.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut out = vec![FORMAT, u8::from(self.partial)];
        push(&mut out, self.base);
        push(&mut out, self.marks.len() as u64);
        for mark in &self.marks {
            push(&mut out, mark.epoch.wrapping_sub(self.base));
            push(&mut out, mark.seq);
        }
        let sum = checksum(&out);
        out.extend_from_slice(&sum);
        URL_SAFE_NO_PAD.encode(out)
    }

    /// Reads what [`Position::encode`] wrote; `None` for anything else.
    #[must_use]
    pub fn decode(text: &str) -> Option<Self> {
        if text.len() > 1024 {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (body, sum) = bytes.split_last_chunk::<4>()?;
        if checksum(body) != *sum {
            return None;
        }
        let [FORMAT, partial @ (0 | 1), rest @ ..] = body else { return None };
        let rest = &mut &*rest;
        let base = take(rest)?;
        let count = take(rest)?;
        if count > u64::from(PARTITIONS_MAX) {
            return None;
        }
        let mut marks = Vec::new();
        for _ in 0..count {
            marks.push(Mark { epoch: take(rest)?.wrapping_add(base), seq: take(rest)? });
        }
        rest.is_empty().then_some(Self { base, marks, partial: *partial == 1 })
    }
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let hash = fnv1a(bytes);
    (((hash >> 32) ^ hash) as u32).to_be_bytes()
}

fn push(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_position_comes_back(base: u64, marks in proptest::collection::vec(any::<(u64, u64)>(), 0..24), partial: bool) {
            let marks = marks.into_iter().map(|(epoch, seq)| Mark { epoch, seq }).collect();
            let position = Position { base, marks, partial };
            prop_assert_eq!(Position::decode(&position.encode()), Some(position));
        }

        #[test]
        fn reading_never_panics(text in "\\PC{0,80}") {
            let _ = Position::decode(&text);
        }
    }

    #[test]
    fn the_id_of_an_everyday_watch_is_short() {
        let mark = Mark { epoch: 1_790_000_000_000, seq: 1_000_000 };
        let position = Position { base: 1_790_000_000_000, marks: vec![mark; 4], partial: false };
        assert!(position.encode().len() <= 48, "{}", position.encode().len());
        let ahead = Position { marks: vec![Mark { seq: 1_000_001, ..mark }; 4], ..position.clone() };
        assert!(ahead.covers(&position) && position.covers(&position) && !position.covers(&ahead));
    }
}
