//! What a watch missed: the entries of the feed between two positions.

use contract::partition::{Partition, Topic};
use redis::Value;

use super::entry::Entry;
use super::hub::Gathered;
use super::position::{Mark, Position};
use crate::fetch::{ReadError, View, unexpected};
use crate::link::{Link, Links};

/// Entries read in one round trip.
const PAGE: usize = 500;

/// Why a watch can't go on from its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// The feed does not reach back that far, or the position is of another view.
    #[error("history is gone")]
    Gone,
    /// The view can't be read just now.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// The changes behind `from`, up to and including `to`.
///
/// # Errors
/// [`ReplayError::Gone`] where some of them are lost.
pub async fn missed(
    view: &View,
    links: &Links,
    topic: Topic,
    from: &Position,
    to: &Position,
) -> Result<Gathered, ReplayError> {
    if from.partial || from.base != to.base || from.marks.len() != to.marks.len() {
        return Err(ReplayError::Gone);
    }
    let mut gathered = Gathered::default();
    for (index, (from, to)) in from.marks.iter().zip(&to.marks).enumerate() {
        if from >= to {
            // At the same place, or this server's feed is a moment behind the one the position is from.
            continue;
        }
        let partition = Partition { topic, index: u16::try_from(index).unwrap_or(0) };
        let mut link = links.current().ok_or(ReadError::Away)?;
        let entries = backwards(view, &mut link, partition, *from, *to).await.map_err(|error| {
            links.report(&link, &error);
            ReplayError::Read(ReadError::Away)
        })?;
        let mut last = *from;
        for entry in entries.into_iter().rev() {
            if !entry.joins(last) {
                return Err(ReplayError::Gone);
            }
            last = last.max(entry.mark());
            gathered.add(index, entry);
        }
        if last < *to {
            return Err(ReplayError::Gone);
        }
    }
    Ok(gathered)
}

/// The partition's entries that end behind `from` and up to `to`, newest first.
async fn backwards(
    view: &View,
    link: &mut Link,
    partition: Partition,
    from: Mark,
    to: Mark,
) -> redis::RedisResult<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut end = "+".to_owned();
    loop {
        let page: Value = redis::cmd("XREVRANGE")
            .arg(view.keys.feed(partition))
            .arg(&end)
            .arg("-")
            .arg("COUNT")
            .arg(PAGE)
            .query_async(&mut link.connection)
            .await?;
        let Value::Array(page) = page else { return Err(unexpected()) };
        let full = page.len() == PAGE;
        for element in page {
            let entry = Entry::of(element).ok_or_else(unexpected)?;
            end = format!("({}", entry.stream_id);
            if entry.mark() <= from {
                return Ok(entries);
            }
            if entry.mark() <= to {
                entries.push(entry);
            }
        }
        if !full {
            return Ok(entries);
        }
    }
}
