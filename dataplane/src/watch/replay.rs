//! What a watch missed: the changes in the feed between two positions, page by page.
//!
//! *Bound*: [`MISSED_MAX`] changes and [`MISSED_BYTES`] of them are kept for one watch, and [`PAGE`] of
//! their documents; who missed more starts over, which costs no more than what there is.

use std::collections::VecDeque;

use contract::partition::{Partition, Topic};
use redis::Value;

use super::entry::{Change, Entry};
use super::hub::Gathered;
use super::position::{Mark, Position};
use crate::fetch::{ReadError, View, unexpected};
use crate::link::{Link, Links};

/// Entries read in one round trip: some hundred bytes each in everyday use, up to 110 KB after a bulk load.
const READ_ENTRIES: usize = 50;
/// Most changes that are replayed for one watch.
pub const MISSED_MAX: usize = 100_000;
/// Most bytes that they and their entries take here.
pub const MISSED_BYTES: usize = 4 * 1024 * 1024;
/// Changes of one page, about: a page has whole entries.
pub const PAGE: usize = 256;

/// Why a watch can't go on from its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// The feed does not reach back that far, or the position is of another view.
    #[error("history is gone")]
    Gone,
    /// More was missed than is replayed.
    #[error("more was missed than {MISSED_MAX} changes or {MISSED_BYTES} bytes of them")]
    TooMuch,
    /// The view can't be read just now.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// What is left of the budget.
#[derive(Debug)]
struct Budget {
    changes: usize,
    bytes: usize,
}

impl Budget {
    /// Takes what `entry` costs; false where that is more than is left.
    fn takes(&mut self, entry: &Entry) -> bool {
        let changes = entry.changes.len();
        let bytes = size_of::<Entry>() + entry.stream_id.len() + changes * size_of::<Change>();
        let left = self.changes.checked_sub(changes).zip(self.bytes.checked_sub(bytes));
        if let Some((changes, bytes)) = left {
            *self = Self { changes, bytes };
        }
        left.is_some()
    }
}

/// What a watch missed, oldest first within each partition.
#[derive(Debug, Default)]
pub struct Missed {
    entries: VecDeque<(usize, Entry)>,
}

impl Missed {
    /// The changes behind `from`, up to and including `to`.
    ///
    /// # Errors
    /// [`ReplayError::Gone`] where some of them are lost, [`ReplayError::TooMuch`] where there are too many.
    pub async fn between(
        view: &View,
        links: &Links,
        topic: Topic,
        from: &Position,
        to: &Position,
    ) -> Result<Self, ReplayError> {
        if from.partial || from.base != to.base || from.marks.len() != to.marks.len() {
            return Err(ReplayError::Gone);
        }
        let mut budget = Budget { changes: MISSED_MAX, bytes: MISSED_BYTES };
        let mut missed = Self::default();
        for (index, (from, to)) in from.marks.iter().zip(&to.marks).enumerate() {
            if from >= to {
                // At the same place, or this server's feed is a moment behind the one the position is from.
                continue;
            }
            let partition = Partition { topic, index: u16::try_from(index).unwrap_or(0) };
            let entries = backwards(view, links, partition, *from, *to, &mut budget).await?;
            let mut last = *from;
            for entry in entries.into_iter().rev() {
                if !entry.joins(last) {
                    return Err(ReplayError::Gone);
                }
                last = last.max(entry.mark());
                missed.entries.push_back((index, entry));
            }
            if last < *to {
                return Err(ReplayError::Gone);
            }
        }
        Ok(missed)
    }

    /// The next [`PAGE`] changes or so, of one partition, merged by entity; `at` moves behind them.
    /// `None` when there are no more.
    pub fn next_page(&mut self, at: &mut Position) -> Option<Gathered> {
        let index = self.entries.front()?.0;
        let mut page = Gathered::default();
        while page.changes.len() < PAGE {
            let Some((_, entry)) = self.entries.pop_front_if(|(other, _)| *other == index) else { break };
            if let Some(mark) = at.marks.get_mut(index) {
                *mark = (*mark).max(entry.mark());
            }
            page.add(index, entry);
        }
        Some(page)
    }
}

/// The partition's entries that end behind `from` and up to `to`, newest first.
async fn backwards(
    view: &View,
    links: &Links,
    partition: Partition,
    from: Mark,
    to: Mark,
    budget: &mut Budget,
) -> Result<Vec<Entry>, ReplayError> {
    let mut link = links.current().ok_or(ReadError::Away)?;
    let mut entries = Vec::new();
    let mut end = "+".to_owned();
    loop {
        let page = read_page(view, &mut link, partition, &end).await.map_err(|error| {
            links.report(&link, &error);
            ReadError::Away
        })?;
        let is_last = page.len() < READ_ENTRIES;
        for entry in page {
            if entry.mark() <= from {
                return Ok(entries);
            }
            end = format!("({}", entry.stream_id);
            if entry.mark() <= to {
                if !budget.takes(&entry) {
                    return Err(ReplayError::TooMuch);
                }
                entries.push(entry);
            }
        }
        if is_last {
            return Ok(entries);
        }
    }
}

/// Entries before `end`, newest first.
async fn read_page(view: &View, link: &mut Link, partition: Partition, end: &str) -> redis::RedisResult<Vec<Entry>> {
    let mut command = redis::cmd("XREVRANGE");
    command.arg(view.keys.feed(partition)).arg(end).arg("-").arg("COUNT").arg(READ_ENTRIES);
    match command.query_async(&mut link.connection).await? {
        Value::Array(page) => page.into_iter().map(|element| Entry::of(element).ok_or_else(unexpected)).collect(),
        _ => Err(unexpected()),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn entry(to: u64, changes: usize) -> Entry {
        let change = |n| Change { id: Uuid::from_u64_pair(to, n), version: 1, before: b'-', after: b'a' };
        let changes = (0..changes as u64).map(change).collect();
        Entry { stream_id: format!("{to}-0"), epoch: 1, from: to, to, changes }
    }

    #[test]
    fn what_is_kept_for_a_watch_is_bounded_in_changes_and_in_bytes() {
        let spent = |entry: &Entry| {
            let mut budget = Budget { changes: MISSED_MAX, bytes: MISSED_BYTES };
            std::iter::repeat_with(|| budget.takes(entry)).take_while(|takes| *takes).count()
        };
        assert_eq!(spent(&entry(1, 1000)), MISSED_MAX / 1000);
        let empty = spent(&entry(1, 0));
        assert!(empty > 10_000 && empty * size_of::<Entry>() <= MISSED_BYTES, "{empty}");
    }

    #[test]
    fn pages_are_of_one_partition_and_move_the_position_entry_by_entry() {
        let mut missed = Missed::default();
        for (index, to, changes) in [(0, 1, 200), (0, 2, 200), (0, 3, 10), (2, 8, 1), (2, 7, 1)] {
            missed.entries.push_back((index, entry(to, changes)));
        }
        let mut at = Position { base: 1, marks: vec![Mark { epoch: 1, seq: 0 }; 3], partial: false };
        let mut seen = Vec::new();
        while let Some(page) = missed.next_page(&mut at) {
            seen.push((page.changes.len(), at.marks.iter().map(|mark| mark.seq).collect::<Vec<_>>()));
        }
        assert_eq!(seen, [(400, vec![2, 0, 0]), (10, vec![3, 0, 0]), (2, vec![3, 0, 8])]);
    }
}
