//! How many entries a change feed keeps: as many as fit into its bytes.
//!
//! Redis trims a stream by the number of its entries, and an entry is as large as its batch: from some
//! hundred bytes to 110 KB after a bulk load. So the sizes of the newest entries are remembered here.

use std::collections::VecDeque;

/// Entries that a change feed keeps at the most.
pub const FEED_ENTRIES: usize = 10_000;
/// Bytes that a partition's change feed keeps, about; the newest entry stays, however large.
pub const FEED_BYTES: usize = 16 * 1024 * 1024;
/// What one change takes in an entry (docs/view-layout.md).
const CHANGE_BYTES: usize = 55;
/// What an entry takes besides its changes: its id, names and numbers, and its share of the stream.
const ENTRY_BYTES: usize = 100;

/// Bytes of an entry of `changes` changes, about.
#[must_use]
pub const fn entry_bytes(changes: usize) -> usize {
    ENTRY_BYTES + changes * CHANGE_BYTES
}

/// The sizes of a feed's newest entries.
#[derive(Debug, Default)]
pub struct FeedCap {
    newest: VecDeque<usize>,
    bytes: usize,
    /// Whether there is nothing before them: it was trimmed away.
    whole: bool,
}

impl FeedCap {
    /// The feed that is there, of `entries` entries and `bytes` bytes, belongs to it, before all others.
    pub fn found(&mut self, entries: usize, bytes: usize) {
        let each = bytes.checked_div(entries).unwrap_or(0);
        for _ in 0..entries.min(FEED_ENTRIES) {
            self.newest.push_front(each);
            self.bytes += each;
        }
    }

    /// Another entry is written. Returns how many the feed may keep, this one included.
    pub fn push(&mut self, changes: usize) -> usize {
        let size = entry_bytes(changes);
        self.newest.push_back(size);
        self.bytes += size;
        while self.newest.len() > FEED_ENTRIES || (self.bytes > FEED_BYTES && self.newest.len() > 1) {
            self.bytes -= self.newest.pop_front().unwrap_or(0);
            self.whole = true;
        }
        if self.whole { self.newest.len() } else { FEED_ENTRIES }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A feed whose entries are trimmed as it is told; returns the largest it ever was, and its entries.
    fn written(cap: &mut FeedCap, before: &[usize], batches: impl Iterator<Item = usize>) -> (usize, usize) {
        let mut feed: VecDeque<usize> = before.iter().copied().collect();
        let mut largest = 0;
        for changes in batches {
            let keep = cap.push(changes);
            feed.push_back(entry_bytes(changes));
            while feed.len() > keep {
                feed.pop_front();
            }
            largest = largest.max(feed.iter().sum());
        }
        (largest, feed.len())
    }

    #[test]
    fn a_feed_of_small_entries_keeps_their_full_number_and_one_of_large_entries_its_bytes() {
        assert_eq!(written(&mut FeedCap::default(), &[], std::iter::repeat_n(10, 12_000)).1, FEED_ENTRIES);
        let (largest, entries) = written(&mut FeedCap::default(), &[], std::iter::repeat_n(1024, 12_000));
        assert!(largest <= FEED_BYTES && entries > 250, "{largest} bytes in {entries} entries");
        let mut cap = FeedCap::default();
        written(&mut cap, &[], std::iter::repeat_n(2048, 1_000));
        // After the bulk load the number grows again.
        assert_eq!(written(&mut cap, &[], std::iter::repeat_n(1, 11_000)).1, FEED_ENTRIES);
    }

    #[test]
    fn one_large_batch_does_not_cost_the_history_of_small_ones() {
        let batches = std::iter::repeat_n(10, 9_000).chain([1024]).chain(std::iter::repeat_n(10, 900));
        assert_eq!(written(&mut FeedCap::default(), &[], batches).1, 9_901);
    }

    #[test]
    fn a_feed_that_is_found_counts() {
        let before = vec![entry_bytes(1024); 290];
        let mut cap = FeedCap::default();
        cap.found(before.len(), before.iter().sum());
        let (largest, _) = written(&mut cap, &before, std::iter::repeat_n(1024, 1_000));
        assert!(largest <= FEED_BYTES, "{largest}");
    }
}
