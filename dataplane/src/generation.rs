//! Generations of the view: filled from an epoch's beginning, in place where nothing serves, else
//! beside the serving one and flipped; retired ones are deleted later.

use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::partition::Partition;
use contract::position::Position;
use futures_util::{FutureExt, StreamExt};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message, Offset};
use runtime::shutdown::Shutdown;

use crate::consumer::LogClient;
use crate::dead_letters::DeadLetters;
use crate::decode::RecordHeaders;
use crate::gather::{Gather, document};
use crate::metrics;
use crate::projector::{Bounds, Point};
use crate::redis_link::LinkError;
use crate::view::header::Header;
use crate::view::{Outcome, Target, View, ViewError, now_ms};

/// Longest that serving batches are held for one flip.
const HOLD: Duration = Duration::from_millis(300);
/// How long a fill that has nothing to do waits before it looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A number for a new generation: the time, and above every earlier one.
#[must_use]
pub fn next_number(earlier: u64) -> u64 {
    now_ms().max(earlier + 1)
}

/// The header of a generation of which nothing is filled yet.
#[must_use]
pub fn blank(number: u64, position: &Position, run_id: &str, partitions: u16) -> Header {
    Header {
        generation: number,
        epoch: position.epoch,
        history: position.history,
        seq: 0,
        offset: -1,
        run_id: run_id.to_owned(),
        ready: false,
        partitions,
        applied_ms: now_ms(),
        base: position.epoch,
    }
}

/// Whether a generation of the position's epoch is whole only past the record that ends the epoch's
/// opening. Only an epoch that begins with the topics themselves has none.
#[must_use]
pub fn needs_end(position: &Position) -> bool {
    position.begin.values().any(|offset| *offset > 0)
}

/// Where to read from so that the record after `header`'s checkpoint is not missed.
///
/// # Errors
/// The broker.
pub async fn resume_offset(
    log: &LogClient,
    partition: Partition,
    header: &Header,
    position: &Position,
) -> Result<i64, KafkaError> {
    if header.offset >= 0 {
        return Ok(header.offset);
    }
    let (low, _) = log.bounds(partition).await?;
    let begin = if position.epoch == header.epoch { position.begin.get(&partition).copied() } else { None };
    Ok(begin.unwrap_or(low).max(low))
}

/// Why a fill beside the serving generation was given up. The view serves on.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// Redis.
    #[error("the view can't be written")]
    View(#[from] ViewError),
    /// The broker.
    #[error("the log can't be read")]
    Kafka(#[from] KafkaError),
    /// Nothing serves: the projector fills in place.
    #[error("nothing serves in {0}; a projector fills it in place")]
    NothingServes(Partition),
    /// The serving generation was replaced meanwhile.
    #[error("{0} got another generation meanwhile")]
    Overtaken(Partition),
    /// The server restarted.
    #[error("Redis was restarted meanwhile")]
    OtherRun,
    /// Neither the fill nor the serving generation got any further.
    #[error(
        "{partition} stands still: for {} s its fill is at {}-{} and the serving generation at {}-{}. A fill goes \
         no further than what serves: start a projector (nexus-dataplane serve, or project) and see in \
         /v1/status that its lag falls, then rebuild again",
        after.as_secs(), at.epoch, at.seq, serving.epoch, serving.seq
    )]
    Stuck {
        /// Where.
        partition: Partition,
        /// How long nothing moved.
        after: Duration,
        /// How far the fill is.
        at: Point,
        /// How far the serving generation is.
        serving: Point,
    },
    /// The process stops.
    #[error("stopped")]
    Stopped,
}

impl From<LinkError> for FillError {
    fn from(error: LinkError) -> Self {
        FillError::View(error.into())
    }
}

/// Everything that a fill beside the serving generation works with.
pub struct Filler {
    /// A client of its own.
    pub log: LogClient,
    /// A connection of its own.
    pub view: View,
    /// Where poison goes.
    pub dead_letters: Arc<DeadLetters>,
    /// The bounds of a batch.
    pub bounds: Bounds,
    /// How long it may stand still.
    pub patience: Duration,
    /// Ends it.
    pub shutdown: Shutdown,
}

impl Filler {
    /// Fills a generation of `partition` from the beginning of `position`'s epoch and flips to it.
    /// Returns its number. `progress` hears how far it is.
    ///
    /// # Errors
    /// [`FillError`]; what was filled is deleted where Redis can still be reached.
    pub async fn fill(
        mut self,
        partition: Partition,
        position: &Position,
        progress: impl Fn(&Header),
    ) -> Result<u64, FillError> {
        let (_, serving) = self.view.header(partition).await?;
        let serving = serving.ok_or(FillError::NothingServes(partition))?;
        if serving.run_id != self.view.run_id() {
            return Err(FillError::OtherRun);
        }
        let number = next_number(serving.generation);
        let header = blank(number, position, &serving.run_id, serving.partitions);
        metrics::FILLS.inc();
        let keys = self.view.keys().clone();
        let mut register = redis::cmd("HSET");
        register.arg(keys.generations(partition)).arg(number).arg(0);
        let () = self.view.link().query(&register).await?;
        let mut set = redis::cmd("SET");
        set.arg(keys.side_header(partition, number)).arg(header.to_string());
        let () = self.view.link().query(&set).await?;
        tracing::info!(%partition, generation = number, epoch = header.epoch, "filling beside the serving generation");
        let filled = self.fill_and_flip(partition, position, &serving, header, progress).await;
        match &filled {
            Ok(()) => {
                metrics::FLIPS.inc();
                tracing::info!(%partition, generation = number, "flipped");
            }
            Err(error) => {
                tracing::warn!(%partition, generation = number, %error, "fill given up");
                if !matches!(error, FillError::Stopped) && delete(&mut self.view, partition, number).await.is_err() {
                    tracing::debug!(%partition, "what was filled will be deleted later");
                }
            }
        }
        filled.map(|()| number)
    }

    async fn fill_and_flip(
        &mut self,
        partition: Partition,
        position: &Position,
        began_beside: &Header,
        mut header: Header,
        progress: impl Fn(&Header),
    ) -> Result<(), FillError> {
        let target = Target::beside(self.view.keys(), partition, header.generation);
        let (_, log_end) = self.log.bounds(partition).await?;
        let offset = resume_offset(&self.log, partition, &header, position).await?;
        let reader = self.log.open(partition, Offset::Offset(offset))?;
        let mut stream = reader.stream();
        // A fill takes the log as it is: a hole that it meets is in every other fill, too.
        let mut gather = Gather::after(partition, header.point(), self.bounds, None);
        let mut waiting: Option<BorrowedMessage<'_>> = None;
        let mut ended = !needs_end(position);
        // Whether all that was in the log when the fill began is applied.
        let mut whole = false;
        let mut hold: Option<(String, Instant)> = None;
        let mut moved = (header.point(), began_beside.point(), Instant::now());
        loop {
            if self.shutdown.is_begun() {
                return Err(FillError::Stopped);
            }
            let (_, serving) = self.view.header(partition).await?;
            let serving = serving.ok_or(FillError::NothingServes(partition))?;
            if serving.generation != began_beside.generation {
                return Err(FillError::Overtaken(partition));
            }
            if serving.run_id != header.run_id {
                return Err(FillError::OtherRun);
            }
            // Never past the serving generation: a flip must find both at the same number, so that the change
            // feed, which only the serving one writes, has no gap.
            let limit = serving.point();
            if (header.point(), limit) != (moved.0, moved.1) {
                moved = (header.point(), limit, Instant::now());
            } else if moved.2.elapsed() > self.patience {
                return Err(FillError::Stuck { partition, after: self.patience, at: header.point(), serving: limit });
            }
            if hold.as_ref().is_some_and(|(_, since)| since.elapsed() > HOLD) {
                hold = None;
                tokio::time::sleep(HOLD).await;
            }
            let near =
                header.epoch == limit.epoch && limit.seq.saturating_sub(header.seq) <= self.bounds.records as u64;
            if whole && ended && near && hold.is_none() {
                hold = self.hold(partition, header.generation).await?;
                continue;
            }
            if whole
                && ended
                && header.point() == limit
                && let Some((token, _)) = &hold
            {
                if let Outcome::Applied(_) = self.view.flip(partition, &serving, &header, token).await? {
                    return Ok(());
                }
                hold = None;
                continue;
            }
            let mut at_end = false;
            while gather.has_room() {
                let next = match waiting.take() {
                    Some(message) => Some(Ok(message)),
                    None if gather.is_empty() => tokio::time::timeout(LOOK_AGAIN, stream.next()).await.unwrap_or(None),
                    None => stream.next().now_or_never().flatten(),
                };
                match next {
                    Some(Ok(message)) => {
                        let number = RecordHeaders::of(&message).id;
                        if number.is_some_and(|number| Point { epoch: number.epoch, seq: number.seq } > limit) {
                            whole |= gather.is_empty() && message.offset() >= log_end;
                            waiting = Some(message);
                            break;
                        }
                        gather.offer(message);
                        // Records that repeat what is filled move no header.
                        moved.2 = Instant::now();
                    }
                    Some(Err(KafkaError::PartitionEOF(_))) => {
                        at_end = true;
                        break;
                    }
                    Some(Err(error)) => return Err(error.into()),
                    None => break,
                }
            }
            if gather.is_empty() {
                whole |= at_end;
                if waiting.is_some() && hold.is_none() {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                continue;
            }
            let (batch, dead) = gather.take();
            for letter in dead {
                self.dead_letters.park(letter).await?;
            }
            if batch.is_empty() {
                continue;
            }
            let call = self.view.apply_call(&target, &batch, false, document);
            let Outcome::Applied(now) = self.view.apply(&call).await? else {
                return Err(FillError::Overtaken(partition));
            };
            ended |= batch.ends_opening;
            whole |= at_end || now.offset + 1 >= log_end;
            header = now;
            progress(&header);
        }
    }

    /// Holds the serving batches for a moment; none where somebody else does.
    async fn hold(&mut self, partition: Partition, generation: u64) -> Result<Option<(String, Instant)>, FillError> {
        let token = format!("{generation} {}", now_ms());
        let mut set = redis::cmd("SET");
        set.arg(self.view.keys().hold(partition)).arg(&token).arg("NX").arg("PX").arg(HOLD.as_millis() as u64);
        let since = Instant::now();
        let done: Option<String> = self.view.link().query(&set).await?;
        if done.is_none() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(done.map(|_| (token, since)))
    }
}

/// Deletes every key of a generation, in slices, so that Redis serves on meanwhile.
///
/// # Errors
/// Redis.
pub async fn delete(view: &mut View, partition: Partition, generation: u64) -> Result<u64, ViewError> {
    let prefix = view.keys().generation(partition, generation);
    let generations = view.keys().generations(partition);
    let mut pattern = String::with_capacity(prefix.len() + 1);
    for character in prefix.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '\\' | '^') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern.push('*');
    let (mut cursor, mut deleted) = (0_u64, 0_u64);
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(500);
        let (next, found): (u64, Vec<Vec<u8>>) = view.link().query(&scan).await?;
        if !found.is_empty() {
            let count: u64 = view.link().query(redis::cmd("UNLINK").arg(found)).await?;
            deleted += count;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if next == 0 {
            break;
        }
        cursor = next;
    }
    let () = view.link().query(redis::cmd("HDEL").arg(generations).arg(generation)).await?;
    tracing::info!(%partition, generation, keys = deleted, "generation deleted");
    Ok(deleted)
}

/// Deletes the generations of a partition that have been retired for `after`, and fills that were
/// abandoned for as long.
///
/// # Errors
/// Redis.
pub async fn sweep(view: &mut View, partition: Partition, after: Duration) -> Result<(), ViewError> {
    let (_, serving) = view.header(partition).await?;
    let Some(serving) = serving else { return Ok(()) };
    let key = view.keys().generations(partition);
    let known: Vec<(u64, u64)> = view.link().query(redis::cmd("HGETALL").arg(&key)).await?;
    let now = now_ms();
    let over = |since: u64| since + u64::try_from(after.as_millis()).unwrap_or(u64::MAX) <= now;
    for (generation, retired) in known.into_iter().filter(|(generation, _)| *generation != serving.generation) {
        if retired > 0 {
            if over(retired) {
                delete(view, partition, generation).await?;
            }
            continue;
        }
        let header = redis::cmd("GET").arg(view.keys().side_header(partition, generation)).to_owned();
        let stored: Option<Vec<u8>> = view.link().query(&header).await?;
        let filling = stored.and_then(|stored| Header::parse(&stored).ok());
        // A fill that goes on moves its header; one that stopped is retired like any other.
        if filling.is_none_or(|header| over(header.applied_ms)) {
            let () = view.link().query(redis::cmd("HSET").arg(&key).arg(generation).arg(now)).await?;
        }
    }
    Ok(())
}
