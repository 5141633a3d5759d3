//! The cache of key records: bounded, at most a second old, one read at a time for each key.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use contract::identity::KeyRecord;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use uuid::Uuid;

use crate::reads::{ReadError, Reads};
use crate::request::Invalidates;

/// Most keys remembered, known and unknown ones each: some 5 MiB.
const KEYS_MAX: usize = 10_000;
/// Reads at once of keys that nobody has asked for within the last second. A flood of invented keys
/// waits here and leaves the pool to callers that are known.
const STRANGERS_AT_ONCE: usize = 4;
/// How long such a read waits for its turn; with Postgres away the turns take as long as its time-outs.
const STRANGER_WAIT: Duration = Duration::from_secs(2);
/// Reads in flight beyond which no stranger's is begun: its caller is told to come back. Those of known
/// keys always are, and there are no more of these than [`KEYS_MAX`].
pub(crate) const READING_MAX: usize = 1024;

type Found = Result<Option<Arc<KeyRecord>>, ReadError>;

#[derive(Debug)]
pub(super) struct Records<R> {
    reads: Arc<R>,
    fresh: Duration,
    strangers: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<Uuid, Entry>,
    reading: HashMap<Uuid, Reading>,
    unknown: usize,
}

#[derive(Debug)]
struct Entry {
    /// `None`: there is no such key.
    record: Option<Arc<KeyRecord>>,
    /// When the read began that found it.
    read_at: Instant,
}

/// A read in flight, and everyone who waits for it.
#[derive(Debug)]
struct Reading {
    result: watch::Receiver<Option<Found>>,
    /// Set when the key changed meanwhile: what it finds may be the past.
    stale: bool,
}

enum Step {
    Have(Option<Arc<KeyRecord>>),
    Wait(watch::Receiver<Option<Found>>),
    Crowded,
}

impl<R: Reads> Records<R> {
    pub(super) fn new(reads: Arc<R>, fresh: Duration) -> Self {
        Self { reads, fresh, strangers: Semaphore::new(STRANGERS_AT_ONCE), state: Mutex::default() }
    }

    /// The record of a key as it was at most a second ago; `None` when there is no such key.
    ///
    /// # Errors
    /// [`ReadError::Crowded`] for a key that is not known when too many are being read.
    ///
    /// # Cancel safety
    /// Cancel safe: the read goes on in a task of its own.
    pub(super) async fn get(self: &Arc<Self>, id: Uuid) -> Found {
        loop {
            let mut result = match self.step(id) {
                Step::Have(record) => return Ok(record),
                Step::Wait(result) => result,
                Step::Crowded => return Err(ReadError::Crowded),
            };
            let found = match result.wait_for(Option::is_some).await {
                Ok(found) => found.clone(),
                Err(_) => None,
            };
            match found {
                Some(found) => return found,
                // The read was overtaken by a change of the key: look again.
                None => continue,
            }
        }
    }

    fn step(self: &Arc<Self>, id: Uuid) -> Step {
        let now = Instant::now();
        let mut state = self.lock();
        let have = state.entries.get(&id).map(|entry| (entry.record.clone(), now - entry.read_at));
        // A channel that is closed without a result belonged to a read that panicked.
        let usable = |reading: &&Reading| !reading.stale && reading.result.has_changed().is_ok();
        let reading = state.reading.get(&id).filter(usable).map(|reading| reading.result.clone());
        match (have, reading) {
            (Some((record, age)), reading) if age < self.fresh => {
                // Past half of its life a record that is in use is read again ahead of need.
                if age >= self.fresh / 2 && reading.is_none() && record.is_some() {
                    self.begin(&mut state, id, now, false);
                }
                Step::Have(record)
            }
            (_, Some(result)) => Step::Wait(result),
            (have, None) => {
                let is_stranger = have.is_none_or(|(record, _)| record.is_none());
                if is_stranger && state.reading.len() >= READING_MAX {
                    return Step::Crowded;
                }
                Step::Wait(self.begin(&mut state, id, now, is_stranger))
            }
        }
    }

    fn begin(
        self: &Arc<Self>,
        state: &mut State,
        id: Uuid,
        now: Instant,
        is_stranger: bool,
    ) -> watch::Receiver<Option<Found>> {
        let (sender, result) = watch::channel(None);
        state.reading.insert(id, Reading { result: result.clone(), stale: false });
        let records = Arc::clone(self);
        tokio::spawn(async move {
            let found = if is_stranger { records.read_stranger(id).await } else { records.reads.key(id).await };
            records.end(id, now, found.map(|record| record.map(Arc::new)), &sender);
        });
        result
    }

    async fn read_stranger(&self, id: Uuid) -> Result<Option<KeyRecord>, ReadError> {
        let turn = tokio::time::timeout(STRANGER_WAIT, self.strangers.acquire()).await;
        let _turn = turn.map_err(|_| ReadError::Late)?;
        self.reads.key(id).await
    }

    fn end(&self, id: Uuid, read_at: Instant, found: Found, sender: &watch::Sender<Option<Found>>) {
        let mut state = self.lock();
        // Another read of the same key may have taken this one's place after a change.
        let mine = state.reading.get(&id).is_some_and(|reading| reading.result.same_channel(&sender.subscribe()));
        let valid = mine && state.reading.get(&id).is_some_and(|reading| !reading.stale);
        if mine {
            state.reading.remove(&id);
        }
        if !valid {
            return;
        }
        if let Ok(record) = &found {
            state.keep(id, Entry { record: record.clone(), read_at }, self.fresh);
        }
        sender.send_replace(Some(found));
    }

    pub(super) fn forget(&self, changed: &Invalidates) {
        let mut state = self.lock();
        for id in &changed.keys {
            state.remove(*id);
            if let Some(reading) = state.reading.get_mut(id) {
                reading.stale = true;
            }
        }
        if !changed.identities.is_empty() {
            let belongs = |record: &Arc<KeyRecord>| changed.identities.contains(&record.identity);
            state.entries.retain(|_, entry| !entry.record.as_ref().is_some_and(belongs));
            // Whose key a read in flight will find is not known yet.
            state.reading.values_mut().for_each(|reading| reading.stale = true);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

impl State {
    fn remove(&mut self, id: Uuid) {
        if let Some(entry) = self.entries.remove(&id)
            && entry.record.is_none()
        {
            self.unknown -= 1;
        }
    }

    fn keep(&mut self, id: Uuid, entry: Entry, fresh: Duration) {
        self.remove(id);
        let is_unknown = entry.record.is_none();
        let known = self.entries.len() - self.unknown;
        if if is_unknown { self.unknown } else { known } >= KEYS_MAX {
            let now = Instant::now();
            self.entries.retain(|_, old| old.record.is_none() != is_unknown || now - old.read_at < fresh);
            let full = self.entries.values().filter(|old| old.record.is_none() == is_unknown).count() >= KEYS_MAX;
            if full {
                self.entries.retain(|_, old| old.record.is_none() != is_unknown);
            }
            self.unknown = self.entries.values().filter(|old| old.record.is_none()).count();
        }
        self.unknown += usize::from(is_unknown);
        self.entries.insert(id, entry);
    }
}
