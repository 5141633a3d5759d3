//! The change feed of every partition, read once per process.
//!
//! *Input*: the feed streams in Redis, on a connection of its own. *Output*: waiters woken; entries for
//! the hubs of the watches. *Bound*: a read takes [`READ_MAX`] entries of a partition; a full hub holds
//! the reading back, and the streams themselves are the buffer. *On shutdown*: ends with the process.
//!
//! An entry is written in the same script call as the documents it names, so who is woken by it and
//! looks, sees them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use contract::partition::{Partition, Topic};
use prometheus::{IntCounter, IntCounterVec};
use redis::{Client, RedisResult, Value};
use tokio::sync::{Notify, mpsc, watch};
use uuid::Uuid;

use crate::fetch::{View, unexpected};
use crate::link::{self, Link};
use crate::pulse::{Pulse, partitions_of};
use crate::view::header::Header;
use crate::watch::entry::Entry;
use crate::watch::position::{Mark, Position};

/// Entries that one read takes of each partition: after a bulk load up to 110 KB each.
pub const READ_MAX: usize = 64;
const BLOCK: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(100);

static ENTRIES: LazyLock<IntCounter> = LazyLock::new(|| {
    prometheus::register_int_counter_with_registry!(
        "nexus_view_feed_entries_total",
        "Entries read from the change feeds",
        runtime::telemetry::registry()
    )
    .expect("registered once")
});
static RESETS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    prometheus::register_int_counter_vec_with_registry!(
        "nexus_view_feed_resets_total",
        "Times that watches had to start over, by reason",
        &["reason"],
        runtime::telemetry::registry()
    )
    .expect("registered once")
});

/// Those who wait for a change of some entity.
#[derive(Debug, Clone, Default)]
pub struct Waiters(Arc<Mutex<HashMap<Uuid, Vec<Arc<Notify>>>>>);

/// One who waits; forgotten when dropped.
#[derive(Debug)]
pub struct Waiting {
    waiters: Waiters,
    ids: Vec<Uuid>,
    woken: Arc<Notify>,
}

impl Waiters {
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Vec<Arc<Notify>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers for changes of `ids`. Register, then look, then wait: what changes in between wakes.
    #[must_use]
    pub fn register(&self, ids: Vec<Uuid>) -> Waiting {
        let woken = Arc::new(Notify::new());
        let mut all = self.lock();
        for id in &ids {
            all.entry(*id).or_default().push(Arc::clone(&woken));
        }
        drop(all);
        Waiting { waiters: self.clone(), ids, woken }
    }

    fn wake(&self, ids: impl Iterator<Item = Uuid>) {
        let all = self.lock();
        if all.is_empty() {
            return;
        }
        for id in ids {
            for waiting in all.get(&id).into_iter().flatten() {
                waiting.notify_one();
            }
        }
    }

    /// Wakes everyone: nobody knows what changed.
    pub fn wake_all(&self) {
        for waiting in self.lock().values().flatten() {
            waiting.notify_one();
        }
    }
}

impl Waiting {
    /// Returns when one of the entities has changed, or may have, since the registration or the last return.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn woken(&self) {
        self.woken.notified().await;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut all = self.waiters.lock();
        for id in &self.ids {
            if let Some(waiting) = all.get_mut(id) {
                waiting.retain(|other| !Arc::ptr_eq(other, &self.woken));
                if waiting.is_empty() {
                    all.remove(id);
                }
            }
        }
    }
}

/// What a hub is fed.
#[derive(Debug)]
pub enum Fed {
    /// A batch was applied.
    Entry {
        /// The place of its partition in the topic.
        index: usize,
        /// The batch.
        entry: Entry,
    },
    /// Nobody knows what changed before this position.
    Reset(Position),
}

/// The feed's ends.
#[derive(Debug)]
pub struct Feed {
    /// Whose keys' names to use.
    pub view: Arc<View>,
    /// The server.
    pub client: Client,
    /// What the view looks like.
    pub pulse: watch::Receiver<Arc<Pulse>>,
    /// Who waits.
    pub waiters: Waiters,
    /// The hub of each topic that can be watched.
    pub hubs: Vec<(Topic, mpsc::Sender<Fed>)>,
}

/// How far one partition was read.
#[derive(Debug, Clone)]
struct Cursor {
    stream_id: String,
    /// The last number that was named.
    mark: Mark,
    /// Up to where all is applied, for certain: an entry may stem from a call that failed midway.
    applied: Mark,
}

/// How far all were read, and on which server and generation.
#[derive(Debug)]
struct Progress {
    run_id: Arc<str>,
    bases: BTreeMap<Topic, u64>,
    cursors: BTreeMap<Partition, Cursor>,
}

impl Progress {
    fn position(&self, topic: Topic) -> Position {
        let marks = self.cursors.iter().filter(|(partition, _)| partition.topic == topic);
        let marks = marks.map(|(_, cursor)| cursor.applied).collect();
        Position { base: self.bases.get(&topic).copied().unwrap_or_default(), marks, partial: false }
    }
}

impl Feed {
    /// Reads until the process ends.
    pub async fn run(self) {
        let mut progress = None;
        loop {
            let error = match link::connect(&self.client, None).await {
                Ok(mut link) => match self.follow(&mut link, &mut progress).await {
                    Ok(()) => return,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            tracing::debug!(%error, "the change feed can't be read, connecting again");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Reads on one connection; `Ok` when nobody is left to read for.
    async fn follow(&self, link: &mut Link, progress: &mut Option<Progress>) -> RedisResult<()> {
        if progress.as_ref().is_none_or(|progress| progress.run_id != link.run_id) {
            let Some(fresh) = self.locate(link).await? else { return Ok(()) };
            *progress = Some(fresh);
            self.reset(progress, "connected").await;
        }
        // Whatever changed while there was no connection is in the feed; but who waits has waited long.
        self.waiters.wake_all();
        loop {
            let Some(now) = progress.as_mut() else { return Ok(()) };
            let changed = self.bases();
            if now.bases.iter().any(|(topic, base)| changed.get(topic).is_some_and(|other| other != base)) {
                let Some(fresh) = self.locate(link).await? else { return Ok(()) };
                *now = fresh;
                self.waiters.wake_all();
                self.reset(progress, "generation").await;
                continue;
            }
            if self.pulse.has_changed().is_err() {
                return Ok(());
            }
            let streams = read(&self.view, link, &now.cursors).await?;
            let mut joined = true;
            for (partition, entries) in streams {
                let Some(cursor) = now.cursors.get_mut(&partition) else { continue };
                ENTRIES.inc_by(entries.len() as u64);
                self.waiters.wake(entries.iter().flat_map(|entry| entry.changes.iter().map(|change| change.id)));
                let hub = self.hubs.iter().find(|(topic, _)| *topic == partition.topic);
                for entry in entries {
                    cursor.stream_id.clone_from(&entry.stream_id);
                    if !entry.joins(cursor.mark) {
                        tracing::warn!(%partition, last = cursor.mark.seq, from = entry.from, "a hole in the feed");
                        joined = false;
                    }
                    cursor.mark = cursor.mark.max(entry.mark());
                    cursor.applied = cursor.applied.max(entry.before());
                    if let Some((_, hub)) = hub
                        && hub.send(Fed::Entry { index: usize::from(partition.index), entry }).await.is_err()
                    {
                        return Ok(());
                    }
                }
            }
            if !joined {
                self.waiters.wake_all();
                // Located anew: the generation may be another one too, of which the pulse tells later.
                let Some(fresh) = self.locate(link).await? else { return Ok(()) };
                *now = fresh;
                self.reset(progress, "gap").await;
            }
        }
    }

    async fn reset(&self, progress: &Option<Progress>, reason: &str) {
        let Some(progress) = progress else { return };
        RESETS.with_label_values(&[reason]).inc();
        for (topic, hub) in &self.hubs {
            // A hub that is gone ends the loop at its next entry.
            let _ = hub.send(Fed::Reset(progress.position(*topic))).await;
        }
    }

    /// The base epoch of each topic whose partitions agree on one.
    fn bases(&self) -> BTreeMap<Topic, u64> {
        let pulse = self.pulse.borrow();
        let Some(partitions) = pulse.partitions else { return BTreeMap::new() };
        let base = |topic| {
            let mut bases = partitions_of(topic, partitions).into_iter().map(|p| Some(pulse.headers.get(&p)?.base));
            let first = bases.next()??;
            bases.all(|base| base == Some(first)).then_some((topic, first))
        };
        Topic::ALL.into_iter().filter_map(base).collect()
    }

    /// Where the feeds end now. Waits until every partition of the view can be read; `None` when nobody is left to read
    /// for.
    async fn locate(&self, link: &mut Link) -> RedisResult<Option<Progress>> {
        let mut pulse = self.pulse.clone();
        loop {
            let partitions = pulse.borrow_and_update().partitions.map(Partition::all).unwrap_or_default();
            if !partitions.is_empty()
                && let Some(progress) = self.ends(link, &partitions).await?
            {
                return Ok(Some(progress));
            }
            if pulse.changed().await.is_err() {
                return Ok(None);
            }
        }
    }

    async fn ends(&self, link: &mut Link, partitions: &[Partition]) -> RedisResult<Option<Progress>> {
        let mut pipeline = redis::pipe();
        for partition in partitions {
            // The header last: an entry that comes in between only looks as if it came twice.
            pipeline.cmd("XREVRANGE").arg(self.view.keys.feed(*partition)).arg("+").arg("-").arg("COUNT").arg(1);
            pipeline.cmd("GET").arg(self.view.keys.header(*partition));
        }
        let answers: Vec<Value> = pipeline.query_async(&mut link.connection).await?;
        let mut answers = answers.into_iter();
        let mut progress =
            Progress { run_id: Arc::clone(&link.run_id), bases: BTreeMap::new(), cursors: BTreeMap::new() };
        for partition in partitions {
            let (last, header) = answers.next().zip(answers.next()).ok_or_else(unexpected)?;
            let Value::BulkString(header) = header else { return Ok(None) };
            let Ok(header) = Header::parse(&header) else { return Ok(None) };
            // What a fill applies goes into no feed: one that began in the middle of it would have a hole at its end.
            if !header.serves_on(&link.run_id) {
                return Ok(None);
            }
            // A partition flipped before its fellows makes the bases differ for a moment.
            if *progress.bases.entry(partition.topic).or_insert(header.base) != header.base {
                return Ok(None);
            }
            let last = match last {
                Value::Array(elements) => elements.into_iter().next().and_then(Entry::of),
                _ => None,
            };
            let stream_id = last.map_or_else(|| "0-0".to_owned(), |entry| entry.stream_id);
            let mark = Mark { epoch: header.epoch, seq: header.seq };
            progress.cursors.insert(*partition, Cursor { stream_id, mark, applied: mark });
        }
        Ok(Some(progress))
    }
}

/// The entries behind `cursors`, waiting [`BLOCK`] for the first.
async fn read(
    view: &View,
    link: &mut Link,
    cursors: &BTreeMap<Partition, Cursor>,
) -> RedisResult<Vec<(Partition, Vec<Entry>)>> {
    let names: Vec<(Partition, String)> =
        cursors.keys().map(|partition| (*partition, view.keys.feed(*partition))).collect();
    let mut command = redis::cmd("XREAD");
    command.arg("COUNT").arg(READ_MAX).arg("BLOCK").arg(BLOCK.as_millis() as u64).arg("STREAMS");
    for (_, name) in &names {
        command.arg(name);
    }
    for cursor in cursors.values() {
        command.arg(&cursor.stream_id);
    }
    let waited = tokio::time::timeout(BLOCK * 3, command.query_async::<Value>(&mut link.connection)).await;
    let answer = waited
        .unwrap_or_else(|_| Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer to XREAD").into()))?;
    let streams: Vec<(Value, Value)> = match answer {
        Value::Nil => return Ok(Vec::new()),
        Value::Map(streams) => streams,
        Value::Array(streams) => {
            let pair = |stream| match stream {
                Value::Array(pair) => <[Value; 2]>::try_from(pair).ok().map(|[name, entries]| (name, entries)),
                _ => None,
            };
            streams.into_iter().map(pair).collect::<Option<_>>().ok_or_else(unexpected)?
        }
        _ => return Err(unexpected()),
    };
    let mut found = Vec::new();
    for (name, entries) in streams {
        let (Value::BulkString(name), Value::Array(entries)) = (name, entries) else { return Err(unexpected()) };
        let partition = names.iter().find(|(_, known)| known.as_bytes() == name).ok_or_else(unexpected)?.0;
        let entries = entries.into_iter().map(Entry::of).collect::<Option<Vec<_>>>().ok_or_else(unexpected)?;
        found.push((partition, entries));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_registered_before_a_change_is_woken_and_leaves_nothing_behind() {
        let waiters = Waiters::default();
        let (mine, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let waiting = waiters.register(vec![mine, Uuid::from_u128(3)]);
        waiters.wake([other].into_iter());
        assert!(tokio::time::timeout(Duration::from_millis(1), waiting.woken()).await.is_err());
        waiters.wake([mine].into_iter());
        waiting.woken().await;
        waiters.wake_all();
        waiting.woken().await;
        drop(waiting);
        assert!(waiters.lock().is_empty());
    }
}
