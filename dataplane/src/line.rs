//! The loop of one partition: from the checkpoint in the view to the log's end, and on.
//!
//! *Input*: the partition's records. *Output*: batches in the view, dead letters. *Bound*: one batch in
//! flight and one that grows meanwhile ([`Bounds`]). *On shutdown*: the batch in flight is waited for; all
//! else is read again by whoever comes next.

mod begin;
mod tell;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::partition::Partition;
use futures_util::{FutureExt, StreamExt};
use rdkafka::Offset;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::consumer::{LogClient, PartitionReader, Retention};
use crate::dead_letters::{DeadLetter, DeadLetters};
use crate::gather::{Gather, Hole, Offered, document};
use crate::generation::resume_offset;
use crate::metrics;
use crate::projector::{Batch, Bounds, Point};
use crate::rebuild::Rebuilder;
use crate::redis_link::{LinkError, Redis};
use crate::status::{PartitionStatus, ProjectorStatus, State};
use crate::verify::{self, Verdict};
use crate::view::header::Header;
use crate::view::keys::Keys;
use crate::view::{ApplyCall, Outcome, Target, View, ViewError, now_ms};
use crate::watermarks::Newest;

/// Between two tries while Redis or the broker is away: doubled from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(1000));
/// How often an idle line looks whether its header has to change.
const TICK: Duration = Duration::from_millis(500);
/// An idle partition's header tells at least so often that it is current.
const STILL_HERE_MS: u64 = 60_000;
/// A fill that was dropped is begun again after so long.
const REFILL: Duration = Duration::from_secs(60);
/// While somebody flips.
const HELD_PAUSE: Duration = Duration::from_millis(1);

/// Why a line began again, or ended.
#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error("stopped")]
    Asked,
    #[error("the view can't be written")]
    View(#[from] ViewError),
    #[error("the log can't be read")]
    Kafka(#[from] KafkaError),
    #[error("the header was changed by another")]
    Changed,
    #[error("no broker was found for some time")]
    Replaced,
    #[error("the generation is filled")]
    Filled,
    #[error("the checkpoint does not fit the log: {0}")]
    Void(String),
    #[error("numbers are missing: {0:?}")]
    Hole(Hole),
}

impl From<LinkError> for Stop {
    fn from(error: LinkError) -> Self {
        Stop::View(error.into())
    }
}

/// The loop of one partition.
pub struct Line {
    /// The partition.
    pub partition: Partition,
    /// The client that reads it.
    pub log: LogClient,
    /// Where the view is.
    pub redis: Redis,
    /// The names in it.
    pub keys: Keys,
    /// The number of partitions of signals.
    pub partitions: u16,
    /// The bounds of a batch.
    pub bounds: Bounds,
    /// How long the log keeps what it may take away.
    pub retention: Retention,
    /// Where poison goes.
    pub dead_letters: Arc<DeadLetters>,
    /// The relay's newest records.
    pub newest: watch::Receiver<Newest>,
    /// Where it tells how it stands.
    pub status: Arc<watch::Sender<ProjectorStatus>>,
    /// Fills generations beside the serving one.
    pub rebuilder: Rebuilder,
    /// Ends it.
    pub stop: CancellationToken,
}

type Call<'a> = Pin<Box<dyn Future<Output = (ApplyCall, Result<Outcome, ViewError>)> + Send + 'a>>;

/// What one run of the loop remembers for the next.
#[derive(Default)]
struct Memory {
    /// The hole that the run before met.
    hole: Option<(Point, Point)>,
    /// The generation that is being filled in place.
    filling: Option<u64>,
    /// The generation that is past the record that ends its epoch's opening.
    ended: Option<u64>,
    /// What went wrong, until something goes right again.
    failing: Option<String>,
    /// The fill beside the serving generation, and when it was begun.
    beside: Option<(tokio::task::JoinHandle<()>, Instant)>,
}

impl Line {
    /// Runs until it is stopped. Whatever goes wrong, it begins again at the checkpoint in the view.
    pub async fn run(mut self) {
        let mut memory = Memory::default();
        let mut pause = BACKOFF.0;
        loop {
            let began = Instant::now();
            let stop = match self.run_once(&mut memory).await {
                Err(stop) => stop,
                Ok(never) => match never {},
            };
            if matches!(stop, Stop::Asked) || self.stop.is_cancelled() {
                break;
            }
            if !matches!(stop, Stop::Filled) {
                metrics::REPEATS.inc();
                self.report(&stop, &mut memory);
            }
            if began.elapsed() > Duration::from_secs(5) {
                pause = BACKOFF.0;
            }
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep(if matches!(stop, Stop::Changed | Stop::Filled) { HELD_PAUSE } else { pause }) => {}
            }
            if !matches!(stop, Stop::Changed | Stop::Filled) {
                pause = (pause * 2).min(BACKOFF.1);
            }
        }
        self.tell(|status| *status = PartitionStatus { offset: -1, log_end: -1, ..PartitionStatus::default() });
        metrics::READY.with_label_values(&[&self.partition.to_string()]).set(0);
    }

    async fn run_once(&mut self, memory: &mut Memory) -> Result<std::convert::Infallible, Stop> {
        let (mut view, header) = self.begin(memory).await?;
        let filling = memory.filling.is_some() && !header.ready;
        self.show(&header, if filling { State::Filling } else { State::Verifying }, memory);
        let position = self.position().await?;
        if header.offset >= 0 && header.applied_ms + u64::try_from(self.retention.delete_ms / 2).unwrap_or(0) < now_ms()
        {
            return self
                .void(&mut view, &header, memory, "the checkpoint is older than deletes are kept for".into())
                .await;
        }
        let (low, log_end) = self.log.bounds(self.partition).await?;
        self.status.send_if_modified(|status| status.broker_error.take().is_some());
        self.tell(|status| status.log_end = log_end);
        let offset = resume_offset(&self.log, self.partition, &header, &position).await?;
        if header.offset >= 0 && (log_end <= header.offset || low > header.offset) {
            let why = format!("the log reaches from {low} to {log_end}, the checkpoint is {}", header.offset);
            return self.void(&mut view, &header, memory, why).await;
        }
        let reader = self.log.open(self.partition, Offset::Offset(offset))?;
        let ended = self.follow(&mut view, &reader, header.clone(), log_end, memory).await;
        drop(reader);
        match ended {
            Stop::Void(why) => self.void(&mut view, &header, memory, why).await,
            Stop::Hole(hole) => {
                metrics::HOLES.inc();
                let same = memory.hole == Some((hole.after, hole.before));
                memory.hole = Some((hole.after, hole.before));
                if !same {
                    return Err(Stop::Hole(hole));
                }
                self.void(&mut view, &header, memory, format!("numbers are missing in the log: {hole:?}")).await
            }
            Stop::Kafka(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset))
            | Stop::Kafka(KafkaError::MessageConsumption(RDKafkaErrorCode::OffsetOutOfRange)) => {
                self.void(&mut view, &header, memory, "the checkpoint is out of the log's range".into()).await
            }
            other => Err(other),
        }
    }

    /// Applies record after record; returns why it can't go on.
    async fn follow(
        &mut self,
        view: &mut View,
        reader: &PartitionReader,
        header: Header,
        log_end: i64,
        memory: &mut Memory,
    ) -> Stop {
        match self.try_follow(view, reader, header, log_end, memory).await {
            Ok(never) => match never {},
            Err(stop) => stop,
        }
    }

    async fn try_follow(
        &mut self,
        view: &mut View,
        reader: &PartitionReader,
        mut header: Header,
        log_end: i64,
        memory: &mut Memory,
    ) -> Result<std::convert::Infallible, Stop> {
        let mut stream = reader.stream();
        let filling = memory.filling == Some(header.generation) && !header.ready;
        let lag_ms = if filling { None } else { Some(self.retention.compaction_lag_ms) };
        let mut gather = Gather::after(self.partition, header.point(), self.bounds, lag_ms);
        // Whether the log was read to the end that it had when this run began.
        let mut at_end = false;
        if header.offset >= 0 {
            let checkpoint = header.clone();
            loop {
                let next = tokio::select! {
                    () = self.stop.cancelled() => return Err(Stop::Asked),
                    () = reader.replaced() => return Err(Stop::Replaced),
                    next = stream.next() => next,
                };
                let verdict = match next {
                    Some(Ok(message)) => verify::judge(&checkpoint, message, self.partition, lag_ms),
                    Some(Err(KafkaError::PartitionEOF(_))) => {
                        Verdict::Void("no record at or after the checkpoint proves it".to_owned())
                    }
                    Some(Err(error)) if is_passing(&error) => continue,
                    Some(Err(error)) => return Err(error.into()),
                    None => return Err(Stop::Changed),
                };
                match verdict {
                    Verdict::Older => {}
                    Verdict::Proven => break,
                    Verdict::ProvenBefore(message) => {
                        gather.offer(message);
                        break;
                    }
                    Verdict::Void(why) => return Err(Stop::Void(why)),
                }
            }
        }
        let target = if filling {
            Target::filling(&self.keys, self.partition, header.generation)
        } else {
            Target::serving(&self.keys, self.partition, header.generation)
        };
        // A call that failed midway was at most one batch long.
        let careful_to = Point { epoch: header.epoch, seq: header.seq + self.bounds.records as u64 };
        let mut writer = view.clone();
        let mut call: Option<(Call<'_>, Instant, usize, bool)> = None;
        // All lines look in the same moment: their commands go out together, and an idle process sleeps in between.
        let since_tick = Duration::from_millis(now_ms() % TICK.as_millis() as u64);
        let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + TICK - since_tick, TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let state = |header: &Header| match (header.ready, filling) {
            (true, _) => State::Serving,
            (false, true) => State::Filling,
            (false, false) => State::CatchingUp,
        };
        self.show(&header, state(&header), memory);
        loop {
            if call.is_none() && !gather.is_empty() {
                let (batch, dead) = gather.take();
                self.park(dead).await?;
                if !batch.is_empty() {
                    let careful = batch.from < careful_to;
                    let ready_call = view.apply_call(&target, &batch, careful, document);
                    let facts = (batch.records, batch.ends_opening);
                    drop::<Batch<BorrowedMessage<'_>>>(batch);
                    let mut writer = writer.clone();
                    let sent = Box::pin(async move {
                        let answer = writer.apply(&ready_call).await;
                        (ready_call, answer)
                    });
                    call = Some((sent, Instant::now(), facts.0, facts.1));
                }
            }
            if call.is_none() && gather.is_empty() {
                let reached = at_end || header.offset + 1 >= log_end;
                if !header.ready && reached {
                    header = self.try_ready(&mut writer, header, memory).await?;
                    self.show(&header, state(&header), memory);
                    if header.ready && filling {
                        // From here on it serves: entries go into the feed, holes are no longer accepted.
                        memory.filling = None;
                        return Err(Stop::Filled);
                    }
                }
            }
            let room = gather.has_room();
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {
                    if let Some((sent, ..)) = call {
                        let _ = sent.await;
                    }
                    return Err(Stop::Asked);
                }
                (sent, answer) = async { match &mut call { Some((sent, ..)) => sent.await, None => std::future::pending().await } } => {
                    let (_, since, records, ends) = call.take().expect("only a call in flight is awaited");
                    match answer? {
                        Outcome::Applied(now) => {
                            metrics::BATCHES.inc();
                            metrics::EVENTS.inc_by(records as u64);
                            metrics::BATCH_SECONDS.observe(since.elapsed().as_secs_f64());
                            if ends {
                                memory.ended = Some(now.generation);
                            }
                            header = now;
                        }
                        // Another projector was faster.
                        Outcome::Already(now) => {
                            if ends {
                                memory.ended = Some(now.generation);
                            }
                            header = now;
                        }
                        Outcome::Held => {
                            let mut writer = writer.clone();
                            let again = Box::pin(async move {
                                tokio::time::sleep(HELD_PAUSE).await;
                                let answer = writer.apply(&sent).await;
                                (sent, answer)
                            });
                            call = Some((again, since, records, ends));
                            continue;
                        }
                        Outcome::Hole(_) | Outcome::Fenced(_) => return Err(Stop::Changed),
                    }
                    self.well(memory, &header, state(&header));
                }
                () = reader.replaced() => return Err(Stop::Replaced),
                next = stream.next(), if room => {
                    let mut next = next;
                    loop {
                        match next {
                            Some(Ok(message)) => match gather.offer(message) {
                                Offered::Hole(hole) => return Err(Stop::Hole(hole)),
                                Offered::Kept => break,
                                Offered::Taken | Offered::Repeat => {}
                            },
                            Some(Err(KafkaError::PartitionEOF(_))) => at_end = true,
                            Some(Err(error)) if is_passing(&error) => {
                                self.status.send_modify(|status| status.broker_error = Some(error.to_string()));
                            }
                            Some(Err(error)) => return Err(error.into()),
                            None => return Err(Stop::Changed),
                        }
                        if !gather.has_room() {
                            break;
                        }
                        match stream.next().now_or_never() {
                            Some(waiting) => next = waiting,
                            None => break,
                        }
                    }
                }
                _ = tick.tick(), if call.is_none() => {
                    header = self.look(&mut writer, header).await?;
                    self.fill_beside_where_due(&header, memory);
                    if gather.is_empty() {
                        self.well(memory, &header, state(&header));
                    }
                }
            }
        }
    }

    /// A generation belongs to one epoch: where the serving one went on into the next, a new one is filled.
    fn fill_beside_where_due(&self, header: &Header, memory: &mut Memory) {
        let again = memory.beside.as_ref().is_none_or(|(fill, begun)| fill.is_finished() && begun.elapsed() > REFILL);
        if header.base >= header.epoch || !again {
            return;
        }
        let position = self.newest.borrow().position.clone();
        if let Some(position) = position.filter(|position| position.epoch == header.epoch) {
            let fill = self.rebuilder.clone().fill_told(self.partition, position, Arc::clone(&self.status));
            memory.beside = Some((tokio::spawn(fill), Instant::now()));
        }
    }

    async fn park(&self, dead: Vec<DeadLetter>) -> Result<(), Stop> {
        for letter in dead {
            self.dead_letters.park(letter).await?;
            metrics::DEAD_LETTERS.inc();
            self.status.send_modify(|status| status.dead_letters += 1);
        }
        Ok(())
    }

    /// What an idle line does now and then: sees that nobody took the header away, that no later history
    /// began, and says that the partition is current.
    async fn look(&mut self, view: &mut View, header: Header) -> Result<Header, Stop> {
        let (stored, now) = view.header(self.partition).await?;
        let Some(now) = now else { return Err(Stop::Changed) };
        if now.generation != header.generation || now.run_id != header.run_id || now.point() < header.point() {
            return Err(Stop::Changed);
        }
        let (later_history, seq_end) = {
            let newest = self.newest.borrow();
            let position = newest.position.as_ref();
            let later = position.is_some_and(|position| position.history > now.history);
            let last = position.filter(|position| position.epoch == now.epoch);
            (later, last.and_then(|position| position.partitions.get(&self.partition)).map_or(0, |last| last.seq))
        };
        self.tell(|status| status.seq_end = status.seq_end.max(seq_end));
        let stale = now.applied_ms + STILL_HERE_MS < now_ms() && seq_end <= now.seq;
        if (later_history && now.ready) || stale {
            let new = Header { ready: now.ready && !later_history, applied_ms: now_ms(), ..now.clone() };
            return match view.swap(self.partition, &stored, &new).await? {
                Outcome::Applied(header) => Ok(header),
                _ => Ok(now),
            };
        }
        Ok(now)
    }

    /// Sets ready where everything that the log holds is applied; else leaves it.
    async fn try_ready(&mut self, view: &mut View, header: Header, memory: &Memory) -> Result<Header, Stop> {
        let position = self.position().await?;
        let published = position.partitions.get(&self.partition).map_or(0, |last| last.seq);
        let behind = position.epoch > header.epoch || (position.epoch == header.epoch && published > header.seq);
        if behind || position.history > header.history || memory.ended != Some(header.generation) {
            return Ok(header);
        }
        let (stored, now) = view.header(self.partition).await?;
        if now.as_ref() != Some(&header) {
            return match now {
                Some(now) if now.generation == header.generation && now.run_id == header.run_id => Ok(now),
                _ => Err(Stop::Changed),
            };
        }
        let new = Header { ready: true, applied_ms: now_ms(), ..header.clone() };
        match view.swap(self.partition, &stored, &new).await? {
            Outcome::Applied(header) => {
                tracing::info!(partition = %self.partition, generation = header.generation, seq = header.seq, "ready");
                Ok(header)
            }
            _ => Ok(header),
        }
    }
}

/// Whether the client gets over this error by itself.
fn is_passing(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error,
        KafkaError::MessageConsumption(
            Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::OperationTimedOut
                | Code::RequestTimedOut
                | Code::NotLeaderForPartition
                | Code::LeaderNotAvailable
                | Code::Resolve
        )
    )
}
