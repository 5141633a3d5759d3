//! The running line: messages in commit order become records, records become broker transactions,
//! transactions become Postgres' copy of the position, and then the slot is confirmed.

use std::time::Duration;

use bytes::Bytes;
use contract::bundle::{self, BUNDLE_PREFIX};
use contract::event::{EVENT_PREFIX, WATERMARK_PREFIX};
use contract::partition::{Partition, fnv1a};
use contract::position::{LastMessage, LastRecord, Lsn, Position, WATERMARK_KEY, Watermark, WatermarkMessage};
use contract::time::Timestamp;
use contract::token::ServerRun;
use futures_util::FutureExt as _;
use pgwire_replication::lsn::Lsn as WireLsn;
use pgwire_replication::{ReplicationClient, ReplicationEvent};
use runtime::sabotage::{self, Sabotage};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::database::{Database, Published};
use super::metrics::metrics;
use super::record::{Draft, Names, Texts};
use super::takeover::publish_position;
use super::{RelayError, RelaySettings, Reporter};
use crate::history::{Found, Redelivery};
use crate::publisher::{Outgoing, Publisher};
use crate::relay_status::{RelayState, RelayStatus};

/// Longest that a broker transaction stays open. Its end holds the line up for some 20 ms: with one a second that is
/// two events in a hundred, and l2c's p99 at 1,000/s; with one in four seconds it is not.
const TRANSACTION_MAX: Duration = Duration::from_secs(4);
/// How long the line rests after a commit. The broker answers it before its markers are written; a record before that
/// meets `CONCURRENT_TRANSACTIONS`, for which the client waits 20 ms whatever its settings say.
const REST: Duration = Duration::from_millis(4);
/// Silence after which it is committed earlier.
const SILENCE: Duration = Duration::from_millis(100);
/// How often the copy is stored and a watermark goes through the WAL.
const BEAT: Duration = Duration::from_secs(1);
/// How long a shutdown may take to commit what is published.
const LAST_COMMIT: Duration = Duration::from_secs(2);
/// Events, and messages without one, taken from the stream before everything else gets its turn.
const TURN: usize = 256;
/// Microseconds from 1970 to 2000, where Postgres' timestamps begin.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// How far the line is: what the next position will say.
pub(super) struct Progress {
    position: Position,
    record_offset: i64,
    signals: u16,
    partitions: Vec<Partition>,
    /// Per partition (in the order of [`Partition::all`]) its last record.
    last: Vec<LastRecord>,
    /// The last of our messages in the last whole transaction, where it is newer than the position's.
    last_message: Option<(u32, Bytes)>,
    /// The newest watermark sent.
    watermark: Option<Timestamp>,
}

impl Progress {
    /// After the position `found`, where signals have `signals` partitions.
    pub fn after(found: Found, signals: u16) -> Self {
        let partitions = Partition::all(signals);
        let none = LastRecord { offset: -1, seq: 0, deleted: None };
        let last = partitions.iter().map(|at| found.position.partitions.get(at).copied().unwrap_or(none)).collect();
        Self {
            position: found.position,
            record_offset: found.offset,
            signals,
            partitions,
            last,
            last_message: None,
            watermark: None,
        }
    }

    /// The position that covers all that is acknowledged.
    fn position(&mut self, publisher: &Publisher) -> &Position {
        for (slot, (at, last)) in self.partitions.iter().zip(&mut self.last).enumerate() {
            last.offset = publisher.last_offset(slot).unwrap_or(last.offset);
            if last.seq > 0 {
                self.position.partitions.insert(*at, *last);
            }
        }
        if let Some((index, content)) = self.last_message.take() {
            self.position.last = Some(LastMessage { index, hash: fnv1a(&content) });
        }
        &self.position
    }

    fn seqs(&self) -> impl Iterator<Item = (Partition, u64)> {
        self.partitions.iter().zip(&self.last).map(|(at, last)| (*at, last.seq))
    }
}

/// The transaction of Postgres that the stream is in.
struct Inside {
    committed: Timestamp,
    messages: u32,
    last: Bytes,
}

/// The broker transaction that is open.
struct Open {
    begun: Instant,
    touched: Instant,
}

/// Slot, producer and progress of one take-over.
pub(super) struct Line {
    client: ReplicationClient,
    publisher: Publisher,
    database: Option<Database>,
    names: Names,
    watermarks: String,
    run: ServerRun,
    progress: Progress,
    redelivery: Redelivery,
    inside: Option<Inside>,
    open: Option<Open>,
    /// The oldest watermark that the broker may not have yet, and the last one's offset before it was sent.
    unacknowledged: Option<(Timestamp, Option<i64>)>,
    texts: Texts,
}

impl Line {
    pub fn new(
        client: ReplicationClient,
        publisher: Publisher,
        database: Database,
        settings: &RelaySettings,
        run: ServerRun,
        progress: Progress,
        redelivery: Redelivery,
    ) -> Self {
        Self {
            client,
            publisher,
            database: Some(database),
            names: Names::new(&settings.topics.prefix),
            watermarks: settings.topics.watermarks(),
            run,
            progress,
            redelivery,
            inside: None,
            open: None,
            unacknowledged: None,
            texts: Texts::default(),
        }
    }

    /// Streams until `shutdown` or the first error.
    pub async fn run(mut self, reporter: &Reporter, shutdown: &CancellationToken) -> Result<(), RelayError> {
        if !self.skip_redelivered(shutdown).await? {
            return Ok(());
        }
        let (epoch, history) = (self.progress.position.epoch, self.progress.position.history);
        let mut database = self.database.take().expect("a line runs once");
        if !database.store_proven(epoch, self.run).await? {
            return Err(RelayError::Superseded(epoch));
        }
        // What was found may not be in the copy yet; storing it again, word for word, is harmless.
        let record = serde_json::to_string(&self.progress.position).expect("a position is JSON");
        let found =
            Published { record_offset: self.progress.record_offset, record, end_lsn: self.progress.position.end_lsn };
        self.progress.position.run = self.run;
        let published = watch::Sender::new(found);
        let (confirm, mut confirmed) = mpsc::channel(4);
        let beating = beat(database, epoch, history, published.subscribe(), confirm);
        let mut beating = AbortOnDropHandle::new(tokio::spawn(beating));
        self.report(reporter);
        reporter.set(RelayState::Streaming, "");
        metrics().streaming.set(1);

        let timer = sleep_until(Instant::now());
        tokio::pin!(timer);
        let mut due = false;
        loop {
            if due && self.inside.is_none() && self.open.is_some() {
                let newest = self.commit().await?;
                published.send_replace(newest);
                self.report(reporter);
                due = false;
                sleep(REST).await;
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                error = self.publisher.failed() => return Err(error.into()),
                ended = &mut beating => return Err(ended.unwrap_or_else(|_| RelayError::Slow("the once-a-second task"))),
                Some(lsn) = confirmed.recv() => self.confirm(lsn),
                () = &mut timer, if self.open.is_some() && !due => match self.commit_at() {
                    Some(at) if at > Instant::now() => timer.as_mut().reset(at),
                    _ => due = true,
                },
                event = self.client.recv() => {
                    let was_open = self.open.is_some();
                    let mut taken = self.take(event).await?;
                    // What has arrived as well, without asking everybody else in between.
                    // Between two transactions a commit that is due has its turn: a turn rarely ends there by chance.
                    while taken < TURN {
                        if self.inside.is_none() && self.commit_at().is_some_and(|at| at <= Instant::now()) {
                            break;
                        }
                        let Some(event) = self.client.recv().now_or_never() else { break };
                        taken += self.take(event).await?;
                    }
                    if !was_open && let Some(at) = self.commit_at() {
                        timer.as_mut().reset(at);
                    }
                    self.tell_acknowledged(reporter);
                }
            }
        }
        self.stop(reporter).await;
        Ok(())
    }

    /// Takes what is published already, up to the event that proves the stream. Returns whether it got there.
    async fn skip_redelivered(&mut self, shutdown: &CancellationToken) -> Result<bool, RelayError> {
        while !self.redelivery.is_over() {
            let event = tokio::select! {
                () = shutdown.cancelled() => return Ok(false),
                event = self.client.recv() => event.map_err(RelayError::Stream)?.ok_or(RelayError::StreamEnded)?,
            };
            match event {
                ReplicationEvent::Message { transactional: true, prefix, content, .. } if is_ours(&prefix) => {
                    self.redelivery.message(&content);
                }
                ReplicationEvent::Commit { end_lsn, .. } => self.redelivery.commit(Lsn(end_lsn.as_u64()))?,
                ReplicationEvent::KeepAlive { wal_end, .. } => self.redelivery.passed(Lsn(wal_end.as_u64()))?,
                _ => {}
            }
        }
        Ok(true)
    }

    /// Returns how many events it brought, at least 1: what it cost.
    async fn take(
        &mut self,
        event: Result<Option<ReplicationEvent>, pgwire_replication::PgWireError>,
    ) -> Result<usize, RelayError> {
        match event.map_err(RelayError::Stream)?.ok_or(RelayError::StreamEnded)? {
            ReplicationEvent::Begin { commit_time_micros, .. } => {
                let committed = Timestamp(commit_time_micros.saturating_add(POSTGRES_EPOCH_US));
                self.inside = Some(Inside { committed, messages: 0, last: Bytes::new() });
            }
            // What is emitted outside a transaction may belong to one that rolls back; other prefixes are
            // other people's.
            ReplicationEvent::Message { transactional: true, prefix, content, .. } if is_ours(&prefix) => {
                return self.message(&prefix, content).await;
            }
            ReplicationEvent::Commit { end_lsn, .. } => {
                if let Some(Inside { messages, last, .. }) = self.inside.take()
                    && messages > 0
                {
                    self.progress.position.end_lsn = Lsn(end_lsn.as_u64());
                    if sabotage::on(Sabotage::ConfirmBeforePublish) {
                        self.confirm(self.progress.position.end_lsn);
                    }
                    self.progress.last_message = Some((messages - 1, last));
                    if let Some(open) = &mut self.open {
                        open.touched = Instant::now();
                    }
                }
            }
            _ => {}
        }
        Ok(1)
    }

    /// One of our messages: it leaves at once. Its transaction has committed, else it would not be here; the
    /// broker's transaction ends only behind a whole one of Postgres.
    async fn message(&mut self, prefix: &str, content: Bytes) -> Result<usize, RelayError> {
        let inside = self.inside.as_mut().ok_or(RelayError::OutsideTransaction)?;
        inside.messages = inside.messages.saturating_add(1);
        inside.last = content.clone();
        let committed = inside.committed;
        if self.open.is_none() {
            self.publisher.begin()?;
            let now = Instant::now();
            self.open = Some(Open { begun: now, touched: now });
        }
        let mut events = 0;
        match prefix {
            BUNDLE_PREFIX => {
                for event in bundle::split(content) {
                    self.leave(Some(event), committed).await?;
                    events += 1;
                }
            }
            EVENT_PREFIX => self.leave(Some(content), committed).await?,
            _ => {
                self.leave(None, committed).await?;
                self.watermark(&content).await?;
            }
        }
        Ok(events.max(1))
    }

    /// What leaves in the place of an event: itself, unless it is sabotaged.
    async fn leave(&mut self, event: Option<Bytes>, committed: Timestamp) -> Result<(), RelayError> {
        for event in sabotage::outgoing(event) {
            self.event(&event, committed).await?;
        }
        Ok(())
    }

    async fn event(&mut self, content: &[u8], committed: Timestamp) -> Result<(), RelayError> {
        let draft = Draft::read(content, self.progress.signals, self.publisher.record_bytes_max(), committed);
        let topic = self.names.of(draft.partition.topic);
        let slot = draft.partition.ordinal(self.progress.signals);
        let last = &mut self.progress.last[slot];
        last.seq += 1;
        last.deleted = draft.value.bytes().is_none().then(|| Timestamp::now().millis());
        let headers = self.texts.headers(&draft, topic, self.progress.position.epoch, last.seq);
        let value = draft.value.bytes();
        let outgoing = Outgoing { topic, partition: draft.partition.index, slot, key: &self.texts.key, value };
        self.publisher.send(outgoing, Some(headers)).await?;
        metrics().events.inc();
        metrics().taken.observe(since(committed));
        metrics().bytes.inc_by(value.map_or(0, <[u8]>::len) as u64);
        if draft.is_poison() {
            metrics().poison.inc();
            let (key, reason) = (&self.texts.key, String::from_utf8_lossy(value.unwrap_or_default()));
            tracing::error!(partition = %draft.partition, key, %reason, "published a marker for a message that is no event");
        }
        Ok(())
    }

    async fn watermark(&mut self, content: &[u8]) -> Result<(), RelayError> {
        let Ok(message) = serde_json::from_slice::<WatermarkMessage>(content) else {
            tracing::error!("a watermark message can't be read, left out");
            return Ok(());
        };
        let watermark = Watermark {
            epoch: self.progress.position.epoch,
            history: self.progress.position.history,
            time: message.time,
            run: ServerRun { timeline: message.timeline, started: message.started },
            seqs: self.progress.seqs().collect(),
        };
        let time = Timestamp(message.time);
        self.progress.watermark = Some(time);
        let value = serde_json::to_vec(&watermark).expect("a watermark is JSON");
        let slot = self.watermark_slot();
        self.unacknowledged = self.unacknowledged.or(Some((time, self.publisher.last_offset(slot))));
        let outgoing =
            Outgoing { topic: &self.watermarks, partition: 0, slot, key: WATERMARK_KEY, value: Some(&value) };
        Ok(self.publisher.send(outgoing, None).await?)
    }

    /// Behind the slots of the partitions and of the position.
    fn watermark_slot(&self) -> usize {
        self.progress.partitions.len() + 1
    }

    /// Tells of a watermark as soon as the broker has it: under load the next commit is seconds away, and a relay
    /// without a new watermark counts as one that does not get through.
    fn tell_acknowledged(&mut self, reporter: &Reporter) {
        if let Some((time, before)) = self.unacknowledged
            && self.publisher.last_offset(self.watermark_slot()) > before
        {
            self.unacknowledged = None;
            self.tell(reporter, Some(time), |_| {});
        }
    }

    /// Tells how far the WAL is ahead, and of the newest watermark that the broker has; `more` sets what else is known.
    fn tell(&self, reporter: &Reporter, watermark: Option<Timestamp>, more: impl FnOnce(&mut RelayStatus)) {
        let lag_bytes = self.lag_bytes();
        metrics().lag.set(i64::try_from(lag_bytes).unwrap_or(i64::MAX));
        if let Some(time) = watermark {
            metrics().watermark.set(time.millis() / 1000);
        }
        reporter.update(|status| {
            status.watermark = watermark.or(status.watermark);
            status.lag_bytes = lag_bytes;
            more(status);
        });
    }

    /// What Postgres has sent or spoken of and the line has not taken, in bytes of WAL.
    fn lag_bytes(&self) -> u64 {
        let sent = self.client.metrics().last_wal_end().as_u64();
        sent.saturating_sub(self.progress.position.end_lsn.0)
    }

    /// When the open broker transaction is to be committed.
    fn commit_at(&self) -> Option<Instant> {
        self.open.as_ref().map(|open| (open.begun + TRANSACTION_MAX).min(open.touched + SILENCE))
    }

    /// Ends the broker transaction with the position that covers it.
    async fn commit(&mut self) -> Result<Published, RelayError> {
        let begun = Instant::now();
        self.publisher.drained().await?;
        let slot = self.progress.partitions.len();
        let position = self.progress.position(&self.publisher);
        let published = publish_position(&self.publisher, &self.watermarks, position, slot).await?;
        self.publisher.commit().await?;
        self.open = None;
        self.progress.record_offset = published.record_offset;
        metrics().transactions.inc();
        metrics().commit.observe(begun.elapsed().as_secs_f64());
        Ok(published)
    }

    /// Confirms to the slot: only ever the end of a published transaction whose position is in Postgres.
    fn confirm(&self, lsn: Lsn) {
        self.client.update_applied_lsn(WireLsn::from_u64(lsn.0));
    }

    /// Tells how the line stands when all that it sent is acknowledged.
    fn report(&mut self, reporter: &Reporter) {
        self.unacknowledged = None;
        self.tell(reporter, self.progress.watermark, |status| {
            status.epoch = Some(self.progress.position.epoch);
            status.seqs = self.progress.seqs().collect();
        });
    }

    /// Commits what is published up to a boundary, or aborts it: nobody shall wait for the broker to notice.
    async fn stop(mut self, reporter: &Reporter) {
        if self.open.is_some() {
            let ended = if self.inside.is_none() {
                timeout(LAST_COMMIT, self.commit()).await.map(|committed| committed.map(drop))
            } else {
                timeout(LAST_COMMIT, self.publisher.abort()).await.map(|aborted| aborted.map_err(RelayError::from))
            };
            match ended {
                Ok(Ok(())) => self.report(reporter),
                Ok(Err(error)) => tracing::warn!(%error, "the last broker transaction was left open"),
                Err(_) => tracing::warn!("the last broker transaction did not end in time"),
            }
        }
        // The slot is free for a standby as soon as the session ends. What was not confirmed comes again and is
        // skipped.
        let _ = timeout(Duration::from_secs(1), self.client.shutdown()).await;
    }
}

/// Once a second: stores the newest published position as Postgres' copy, emits a watermark, and only then
/// has the slot confirmed. Returns why it stopped.
async fn beat(
    mut database: Database,
    epoch: u64,
    history: u64,
    published: watch::Receiver<Published>,
    confirm: mpsc::Sender<Lsn>,
) -> RelayError {
    let mut clock = interval(BEAT);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stored = -1;
    loop {
        clock.tick().await;
        let newest = Some(published.borrow().clone()).filter(|newest| newest.record_offset > stored);
        match database.beat(epoch, history, newest.as_ref()).await {
            Err(error) => return error,
            Ok(is_stored) => match newest {
                Some(newest) if is_stored => {
                    stored = newest.record_offset;
                    if confirm.send(newest.end_lsn).await.is_err() {
                        return RelayError::Slow("the line");
                    }
                }
                // The copy is newer or of another epoch.
                Some(_) => return RelayError::Superseded(epoch),
                None => {}
            },
        }
    }
}

/// Seconds since `then`; none where clocks disagree.
#[allow(clippy::cast_precision_loss)]
fn since(then: Timestamp) -> f64 {
    Timestamp::now().0.saturating_sub(then.0).max(0) as f64 / 1e6
}

fn is_ours(prefix: &str) -> bool {
    [BUNDLE_PREFIX, EVENT_PREFIX, WATERMARK_PREFIX].contains(&prefix)
}
