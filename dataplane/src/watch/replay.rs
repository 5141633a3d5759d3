//! What a watch missed: the changes in the feed between two positions, page by page.
//!
//! The feed can't be searched for a number, so it is read backwards to where the watch was, and nothing of
//! it is kept; then forwards, as fast as the client takes it. *Bound*: one page for each watch; a watch
//! that missed more than [`MISSED_MAX`] changes, or [`MISSED_BYTES`] of the feed, starts over, which costs
//! no more than what there is. [`READS_AT_ONCE`] pages are on their way at a time.

use std::collections::VecDeque;

use contract::partition::{Partition, Topic};
use redis::Value;
use tokio::sync::Semaphore;

use super::entry::Entry;
use super::hub::Gathered;
use super::position::{Mark, Position};
use crate::fetch::{ReadError, View, unexpected};
use crate::link::{Link, Links};
use crate::view::feed_cap;

/// Entries read in one round trip, backwards and forwards: some hundred bytes each in everyday use, up to
/// 110 KB after a bulk load.
const BACK_ENTRIES: usize = 50;
const PAGE_ENTRIES: usize = 16;
/// Pages read at once, by all watches: when a server comes back, all of them resume together.
const READS_AT_ONCE: usize = 8;
/// Most changes that are replayed for one watch.
pub const MISSED_MAX: usize = 100_000;
/// Most bytes of the feed that they may stand in.
pub const MISSED_BYTES: usize = 8 * 1024 * 1024;

static READS: Semaphore = Semaphore::const_new(READS_AT_ONCE);

/// Why a watch can't go on from its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// The feed does not reach back that far, or the position is of another view.
    #[error("history is gone")]
    Gone,
    /// More was missed than is replayed.
    #[error("more was missed than {MISSED_MAX} changes, or {MISSED_BYTES} bytes of the feed")]
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
    const WHOLE: Self = Self { changes: MISSED_MAX, bytes: MISSED_BYTES };

    /// Takes what `entry` costs; false where that is more than is left.
    fn takes(&mut self, entry: &Entry) -> bool {
        let changes = entry.changes.len();
        let left = self.changes.checked_sub(changes).zip(self.bytes.checked_sub(feed_cap::entry_bytes(changes)));
        if let Some((changes, bytes)) = left {
            *self = Self { changes, bytes };
        }
        left.is_some()
    }
}

/// What a watch missed and was not sent yet.
#[derive(Debug)]
pub struct Missed {
    topic: Topic,
    stretches: VecDeque<Stretch>,
}

/// The missed part of one partition's feed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stretch {
    index: usize,
    /// Where the next page begins, in words of `XRANGE`.
    begin: String,
    /// Where the watch was.
    from: Mark,
    /// What was read last.
    last: Mark,
    /// What is to be read last.
    to: Mark,
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
        let mut budget = Budget::WHOLE;
        let mut missed = Self { topic, stretches: VecDeque::new() };
        for (index, (from, to)) in from.marks.iter().zip(&to.marks).enumerate() {
            // At the same place, or this server's feed is a moment behind the one the position is from.
            if from < to {
                let partition = missed.partition(index);
                let begin = backwards(view, links, partition, *from, *to, &mut budget).await?;
                missed.stretches.push_back(Stretch { index, begin, from: *from, last: *from, to: *to });
            }
        }
        Ok(missed)
    }

    fn partition(&self, index: usize) -> Partition {
        Partition { topic: self.topic, index: u16::try_from(index).unwrap_or(0) }
    }

    /// The changes of the next some entries, which are of one partition, merged by entity; `at` moves
    /// behind them. `None` when there are no more.
    ///
    /// # Errors
    /// [`ReplayError::Gone`] where they were lost meanwhile. After [`ReplayError::Read`] ask again.
    ///
    /// # Cancel safety
    /// Nothing moves before the page is there.
    pub async fn next_page(
        &mut self,
        view: &View,
        links: &Links,
        at: &mut Position,
    ) -> Result<Option<Gathered>, ReplayError> {
        let Some(stretch) = self.stretches.front() else { return Ok(None) };
        let mut range = redis::cmd("XRANGE");
        range.arg(view.keys.feed(self.partition(stretch.index)));
        range.arg(&stretch.begin).arg("+").arg("COUNT").arg(PAGE_ENTRIES);
        let entries = read(links, &range).await?;
        let stretch = self.stretches.front_mut().expect("nobody else takes stretches away");
        let page = stretch.take(entries)?;
        let index = stretch.index;
        if let Some(mark) = at.marks.get_mut(index) {
            *mark = (*mark).max(stretch.last);
        }
        if stretch.last >= stretch.to {
            self.stretches.pop_front();
        }
        let mut gathered = Gathered::default();
        for entry in page {
            gathered.add(index, entry);
        }
        Ok(Some(gathered))
    }
}

impl Stretch {
    /// What of `entries`, which follow those read last, was missed.
    fn take(&mut self, entries: Vec<Entry>) -> Result<Vec<Entry>, ReplayError> {
        let is_last = entries.len() < PAGE_ENTRIES;
        let (mut begin, mut last) = (self.begin.clone(), self.last);
        let mut page = Vec::new();
        for entry in entries {
            if !entry.joins(last) {
                return Err(ReplayError::Gone);
            }
            begin = format!("({}", entry.stream_id);
            // A batch that failed and was repeated in smaller ones stands before them. It may end behind the place to
            // reach, and be the only one that names what it applied before it failed.
            if entry.mark() > self.from && entry.before() < self.to {
                if entry.mark() <= self.to {
                    last = last.max(entry.mark());
                }
                page.push(entry);
            }
            if last >= self.to {
                break;
            }
        }
        if is_last && last < self.to {
            return Err(ReplayError::Gone);
        }
        (self.begin, self.last) = (begin, last);
        Ok(page)
    }
}

/// Where the partition's entries begin that end behind `from`, in words of `XRANGE`; those up to `to` count.
async fn backwards(
    view: &View,
    links: &Links,
    partition: Partition,
    from: Mark,
    to: Mark,
    budget: &mut Budget,
) -> Result<String, ReplayError> {
    let mut begin = "-".to_owned();
    let mut end = "+".to_owned();
    loop {
        let mut range = redis::cmd("XREVRANGE");
        range.arg(view.keys.feed(partition)).arg(&end).arg("-").arg("COUNT").arg(BACK_ENTRIES);
        let entries = read(links, &range).await?;
        let is_last = entries.len() < BACK_ENTRIES;
        for entry in entries {
            if entry.mark() <= from {
                return Ok(begin);
            }
            if entry.before() < to && !budget.takes(&entry) {
                return Err(ReplayError::TooMuch);
            }
            end = format!("({}", entry.stream_id);
            begin = entry.stream_id;
        }
        if is_last {
            return Ok(begin);
        }
    }
}

/// The entries that a command on a feed answers.
async fn read(links: &Links, command: &redis::Cmd) -> Result<Vec<Entry>, ReadError> {
    let _turn = READS.acquire().await;
    let mut link: Link = links.current().ok_or(ReadError::Away)?;
    let answer = match command.query_async(&mut link.connection).await {
        Ok(Value::Array(page)) => page.into_iter().map(|element| Entry::of(element).ok_or_else(unexpected)).collect(),
        Ok(_) => Err(unexpected()),
        Err(error) => Err(error),
    };
    answer.map_err(|error| {
        links.report(&link, &error);
        ReadError::Away
    })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::watch::entry::Change;

    fn entry(from: u64, to: u64, changes: u64) -> Entry {
        let change = |n| Change { id: Uuid::from_u64_pair(to, n), version: 1, before: b'-', after: b'a' };
        Entry { stream_id: format!("{to}-0"), epoch: 1, from, to, changes: (0..changes).map(change).collect() }
    }

    fn mark(seq: u64) -> Mark {
        Mark { epoch: 1, seq }
    }

    #[test]
    fn what_is_replayed_for_a_watch_is_bounded_in_changes_and_in_bytes() {
        let spent = |entry: &Entry| {
            let mut budget = Budget::WHOLE;
            std::iter::repeat_with(|| budget.takes(entry)).take_while(|takes| *takes).count()
        };
        assert_eq!(spent(&entry(1, 1, 1000)), MISSED_MAX / 1000);
        let empty = spent(&entry(1, 1, 0));
        assert!((10_000..=MISSED_BYTES / 64).contains(&empty), "{empty}");
    }

    #[test]
    fn a_stretch_takes_what_it_missed_and_notices_what_is_lost() {
        let fresh = Stretch { index: 0, begin: "-".into(), from: mark(4), last: mark(4), to: mark(9) };
        let take = |entries: &[(u64, u64)]| {
            let mut stretch = fresh.clone();
            let page = stretch.take(entries.iter().map(|(from, to)| entry(*from, *to, 1)).collect());
            page.map(|page| (page.iter().map(|entry| entry.to).collect::<Vec<_>>(), stretch.begin, stretch.last.seq))
        };
        // The second batch failed midway and was repeated as two.
        assert_eq!(take(&[(1, 6), (5, 8), (5, 7), (8, 9), (10, 12)]), Ok((vec![6, 8, 7, 9], "(9-0".into(), 9)));
        assert_eq!(take(&[(5, 9), (5, 12), (10, 11)]).map(|(page, ..)| page), Ok(vec![9]), "done is done");
        assert_eq!(take(&[(5, 12), (5, 9), (10, 11)]).map(|(page, ..)| page), Ok(vec![12, 9]), "it reaches further");
        assert_eq!(take(&[(5, 5), (7, 9)]), Err(ReplayError::Gone), "a hole");
        assert_eq!(take(&[(5, 7)]), Err(ReplayError::Gone), "an end before the place to reach");
        let many: Vec<(u64, u64)> = vec![(5, 5); PAGE_ENTRIES];
        assert_eq!(take(&many), Ok((vec![5; PAGE_ENTRIES], "(5-0".into(), 5)), "the next page goes on");
    }
}
