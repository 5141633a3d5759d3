//! The hot path's reads: whatever waits is read in one round.
//!
//! *Input*: an API key and, mostly, one entity each. *Output*: each one's answer. *Bound*:
//! [`QUEUE`] reads wait, at most [`ROUND`] go in a round, with some [`ENTITIES`] entities in all; a full queue is answered
//! `overloaded`. *On shutdown*: ends when the last sender is gone.
//!
//! While a round is on its way the next one gathers, so rounds grow with the load and an idle reader
//! waits for nothing. Each API key is read and parsed once per round, each header once per round and
//! partition.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, LazyLock};

use contract::identity::KeyRecord;
use contract::partition::{Partition, Topic};
use prometheus::{Histogram, IntCounterVec};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::fetch::{Found, ReadError, View};
use crate::link::Links;

/// Reads that may wait.
pub const QUEUE: usize = 8192;
/// Reads of one round.
pub const ROUND: usize = 1024;
/// Entities after which a round is closed: reads with tokens ask for many each, and everybody waits for the round.
pub const ENTITIES: usize = 2048;

static KEY_PARTITION: Partition = Partition { topic: Topic::Keys, index: 0 };

static ROUND_SIZE: LazyLock<Histogram> = LazyLock::new(|| {
    prometheus::register_histogram_with_registry!(
        "nexus_view_round_reads",
        "Reads answered by one round trip to Redis",
        vec![1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0],
        runtime::telemetry::registry()
    )
    .expect("registered once")
});
static FAILED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    prometheus::register_int_counter_vec_with_registry!(
        "nexus_view_reads_failed_total",
        "Reads that the view could not answer, by reason",
        &["reason"],
        runtime::telemetry::registry()
    )
    .expect("registered once")
});

/// What the view holds of an API key.
#[derive(Debug, Clone)]
pub enum KeyState {
    /// Nothing, or a tombstone: never made, or revoked.
    Absent,
    /// Its record.
    Known {
        /// As the view holds it.
        record: Arc<KeyRecord>,
        /// [`KeyRecord::digest`].
        sha256: [u8; 32],
    },
}

impl KeyState {
    /// A record whose digest is none opens no door.
    #[must_use]
    pub fn of(record: KeyRecord) -> Self {
        match record.digest() {
            Some(sha256) => Self::Known { record: Arc::new(record), sha256 },
            None => Self::Absent,
        }
    }
}

/// The answer to one read.
#[derive(Debug)]
pub struct Answer {
    /// The key that was asked for.
    pub key: Option<KeyState>,
    /// The entities that were asked for, in their order.
    pub entities: Vec<Result<Found, ReadError>>,
}

struct Job {
    key: Option<Uuid>,
    entities: Vec<(Partition, Uuid)>,
    reply: oneshot::Sender<Result<Answer, ReadError>>,
}

/// Where reads are handed in.
#[derive(Debug, Clone)]
pub struct Reader {
    jobs: mpsc::Sender<Job>,
}

impl Reader {
    /// Starts a reader.
    #[must_use]
    pub fn start(view: Arc<View>, links: Links) -> Self {
        let (sender, jobs) = mpsc::channel(QUEUE);
        tokio::spawn(run(view, links, jobs));
        Self { jobs: sender }
    }

    /// The record of the API key `key`, and what the view holds of `entities`, read at one time.
    ///
    /// # Errors
    /// [`ReadError`]; one that concerns an entity's partition alone is in the answer.
    ///
    /// # Cancel safety
    /// Dropping the future drops the answer and nothing else.
    pub async fn read(&self, key: Option<Uuid>, entities: Vec<(Partition, Uuid)>) -> Result<Answer, ReadError> {
        let (reply, answer) = oneshot::channel();
        self.jobs.try_send(Job { key, entities, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ReadError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => ReadError::Away,
        })?;
        answer.await.unwrap_or(Err(ReadError::Away))
    }
}

async fn run(view: Arc<View>, links: Links, mut jobs: mpsc::Receiver<Job>) {
    let mut waiting: VecDeque<Job> = VecDeque::with_capacity(ROUND);
    let mut arriving: Vec<Job> = Vec::with_capacity(ROUND);
    let mut round: Vec<Job> = Vec::with_capacity(ROUND);
    let mut wants: Vec<(Partition, Uuid)> = Vec::with_capacity(2 * ROUND);
    let mut key_places: HashMap<Uuid, usize> = HashMap::new();
    loop {
        if waiting.is_empty() {
            if jobs.recv_many(&mut arriving, ROUND).await == 0 {
                return;
            }
            waiting.extend(arriving.drain(..));
        }
        close(&mut waiting, &mut round);
        #[allow(clippy::cast_precision_loss)]
        ROUND_SIZE.observe(round.len() as f64);
        let Some(link) = links.current() else {
            fail(&mut round, ReadError::Away, "away");
            continue;
        };
        wants.clear();
        key_places.clear();
        for key in round.iter().filter_map(|job| job.key) {
            key_places.entry(key).or_insert_with(|| {
                wants.push((KEY_PARTITION, key));
                wants.len() - 1
            });
        }
        let first_entity = wants.len();
        wants.extend(round.iter().flat_map(|job| &job.entities));
        let mut found = match view.fetch(&link, &wants).await {
            Ok(found) => found,
            Err(error) => {
                links.report(&link, &error);
                fail(&mut round, ReadError::Away, "away");
                continue;
            }
        };
        let mut entities = found.split_off(first_entity).into_iter();
        let keys: Vec<Result<KeyState, ReadError>> = found.into_iter().map(|found| found.map(key_state)).collect();
        for job in round.drain(..) {
            let entities = entities.by_ref().take(job.entities.len()).collect();
            let key = job.key.map(|key| keys[key_places[&key]].clone()).transpose();
            let answer = key.map(|key| Answer { key, entities });
            if answer.is_err() {
                FAILED.with_label_values(&["not-ready"]).inc();
            }
            // The client may have gone away.
            let _ = job.reply.send(answer);
        }
    }
}

/// Moves the next round out of `waiting`: at least one read, and none more once there are enough entities.
fn close(waiting: &mut VecDeque<Job>, round: &mut Vec<Job>) {
    let mut entities = 0;
    while entities < ENTITIES
        && let Some(job) = waiting.pop_front()
    {
        entities += job.entities.len();
        round.push(job);
    }
}

fn fail(round: &mut Vec<Job>, error: ReadError, reason: &str) {
    FAILED.with_label_values(&[reason]).inc_by(round.len() as u64);
    for job in round.drain(..) {
        let _ = job.reply.send(Err(error));
    }
}

/// A record that can't be read opens no door.
fn key_state(found: Found) -> KeyState {
    let Some(document) = found.document.filter(|document| !document.is_tombstone()) else { return KeyState::Absent };
    match serde_json::from_slice(&document.json) {
        Ok(record) => KeyState::of(record),
        Err(error) => {
            tracing::error!(%error, "the record of an API key is unreadable");
            KeyState::Absent
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_closed_by_its_entities_and_leaves_nobody_out() {
        let job = |entities: usize| {
            let (reply, _) = oneshot::channel();
            Job { key: None, entities: vec![(KEY_PARTITION, Uuid::nil()); entities], reply }
        };
        let sizes = |mut waiting: VecDeque<Job>| {
            let mut rounds = Vec::new();
            while !waiting.is_empty() {
                let mut round = Vec::new();
                close(&mut waiting, &mut round);
                rounds.push(round.iter().map(|job| job.entities.len()).collect::<Vec<_>>());
            }
            rounds
        };
        let half = ENTITIES / 2;
        assert_eq!(sizes([1, 0, 1, 0].map(job).into()), [vec![1, 0, 1, 0]]);
        assert_eq!(sizes([half, half, half].map(job).into()), [vec![half, half], vec![half]]);
        assert_eq!(sizes([2 * ENTITIES, 1].map(job).into()), [vec![2 * ENTITIES], vec![1]]);
    }
}
