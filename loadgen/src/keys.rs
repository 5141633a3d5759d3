//! Compact storage for what is kept of every key of a run, which may be millions of them.
//!
//! Records lie one behind the other in pieces of fixed size, so that growing copies nothing and leaves no half-empty
//! doubled vector behind; a table of their numbers finds them by id: six to eleven and a half bytes a record, as the table
//! is before and after it doubles. Records are never removed: whoever forgets a key can't say of it that it must not come
//! back.

use hashbrown::HashTable;

use crate::random::mix;

/// Records in a piece.
const PIECE: usize = 1024;

/// Values in pieces of fixed size.
#[derive(Debug)]
pub struct Pieces<T> {
    pieces: Vec<Vec<T>>,
    len: usize,
}

impl<T> Default for Pieces<T> {
    fn default() -> Self {
        Self { pieces: Vec::new(), len: 0 }
    }
}

impl<T> Pieces<T> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True without any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a value.
    pub fn push(&mut self, value: T) {
        if self.len.is_multiple_of(PIECE) {
            self.pieces.push(Vec::with_capacity(PIECE));
        }
        if let Some(piece) = self.pieces.last_mut() {
            piece.push(value);
            self.len += 1;
        }
    }

    /// The value at `place`.
    #[must_use]
    pub fn get(&self, place: usize) -> Option<&T> {
        self.pieces.get(place / PIECE)?.get(place % PIECE)
    }

    /// The value at `place`, to change.
    pub fn get_mut(&mut self, place: usize) -> Option<&mut T> {
        self.pieces.get_mut(place / PIECE)?.get_mut(place % PIECE)
    }

    /// All, in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.pieces.iter().flatten()
    }

    /// What this takes on the heap, in bytes, unused room included.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let pieces: usize = self.pieces.iter().map(|piece| piece.capacity() * size_of::<T>()).sum();
        pieces + self.pieces.capacity() * size_of::<Vec<T>>()
    }
}

impl<T> std::ops::Index<usize> for Pieces<T> {
    type Output = T;

    fn index(&self, place: usize) -> &T {
        &self.pieces[place / PIECE][place % PIECE]
    }
}

impl<T> std::ops::IndexMut<usize> for Pieces<T> {
    fn index_mut(&mut self, place: usize) -> &mut T {
        &mut self.pieces[place / PIECE][place % PIECE]
    }
}

/// An id that asks for no alignment: a `u128` would round every record up to a multiple of 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedId([u32; 4]);

impl From<u128> for PackedId {
    fn from(id: u128) -> Self {
        Self([(id >> 96) as u32, (id >> 64) as u32, (id >> 32) as u32, id as u32])
    }
}

impl From<PackedId> for u128 {
    fn from(PackedId(words): PackedId) -> Self {
        words.iter().fold(0, |id, &word| id << 32 | Self::from(word))
    }
}

/// What has an id.
pub trait Record {
    /// The id.
    fn id(&self) -> u128;
}

/// Records by id.
#[derive(Debug)]
pub struct Keyed<R> {
    records: Pieces<R>,
    /// Each record's number in `records`.
    numbers: HashTable<u32>,
}

impl<R> Default for Keyed<R> {
    fn default() -> Self {
        Self { records: Pieces::default(), numbers: HashTable::new() }
    }
}

fn hash(id: u128) -> u64 {
    mix((id >> 64) as u64 ^ (id as u64).rotate_left(17))
}

impl<R: Record> Keyed<R> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// True without any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The record in the order of arrival.
    #[must_use]
    pub fn nth(&self, number: usize) -> Option<&R> {
        self.records.get(number)
    }

    /// All, in the order of arrival.
    pub fn iter(&self) -> impl Iterator<Item = &R> {
        self.records.iter()
    }

    fn find(&self, id: u128) -> Option<usize> {
        let found = self.numbers.find(hash(id), |&number| self.records[number as usize].id() == id);
        found.map(|&number| number as usize)
    }

    /// The record of `id`.
    #[must_use]
    pub fn get(&self, id: u128) -> Option<&R> {
        self.records.get(self.find(id)?)
    }

    /// The record of `id`, to change (but for its id).
    pub fn get_mut(&mut self, id: u128) -> Option<&mut R> {
        let number = self.find(id)?;
        self.records.get_mut(number)
    }

    /// Puts `record` in the place of the one with its id, or behind all others.
    ///
    /// # Panics
    /// Beyond four thousand million records.
    pub fn put(&mut self, record: R) {
        if let Some(there) = self.get_mut(record.id()) {
            *there = record;
            return;
        }
        let number = u32::try_from(self.records.len()).expect("memory ends long before");
        let hash_of = |&number: &u32| hash(self.records[number as usize].id());
        self.numbers.insert_unique(hash(record.id()), number, hash_of);
        self.records.push(record);
    }

    /// What this takes on the heap, in bytes, unused room included.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.records.heap_bytes() + self.numbers.allocation_size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, Copy)]
    struct Pair(PackedId, u32);

    impl Record for Pair {
        fn id(&self) -> u128 {
            self.0.into()
        }
    }

    #[test]
    fn every_record_is_found_by_its_id_and_nothing_else_is() {
        let mut keyed = Keyed::default();
        let id = |n: u32| u128::from(mix(n.into())) << 64 | u128::from(n);
        assert!(keyed.get(id(1)).is_none());
        for n in 0..20_000 {
            keyed.put(Pair(id(n).into(), n));
        }
        keyed.put(Pair(id(7).into(), 70));
        assert_eq!(keyed.len(), 20_000);
        for n in 0..20_000 {
            assert_eq!(keyed.get(id(n)).unwrap().1, if n == 7 { 70 } else { n });
            assert!(keyed.get(id(n) ^ 1 << 63).is_none());
        }
        assert_eq!(keyed.nth(19_999).unwrap().1, 19_999);
        assert!(keyed.iter().map(|pair| pair.1).skip(8).eq(8..20_000));
    }

    #[test]
    fn the_index_costs_at_most_twelve_bytes_a_record_at_any_count() {
        let mut keyed = Keyed::default();
        for n in 1..=100_000_u32 {
            keyed.put(Pair(u128::from(n).into(), n));
            let pieces = keyed.len().next_multiple_of(PIECE) * size_of::<Pair>();
            let index = keyed.heap_bytes() - pieces;
            assert!(n < 1_000 || index <= n as usize * 12, "{index} bytes for {n}");
        }
    }
}
