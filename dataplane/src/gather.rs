//! Stages 6 to 8 joined: records of a stream, decoded, judged, and put into the next batch.

use contract::event::RecordId;
use contract::partition::Partition;
use rdkafka::Message;
use rdkafka::message::BorrowedMessage;

use crate::dead_letters::DeadLetter;
use crate::decode::{Decoder, RecordHeaders};
use crate::metrics;
use crate::projector::{Batch, Bounds, Effect, Judgement, Point};

/// Most dead letters that one batch brings along, each a copy of its record.
const DEAD_MAX: usize = 64;

/// A record whose place in the line is known.
struct Placed<'m> {
    number: RecordId,
    effect: Effect,
    message: BorrowedMessage<'m>,
}

/// A gap in the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hole {
    /// Where the partition stands.
    pub after: Point,
    /// The record that came instead of the next one.
    pub before: Point,
    /// Its time, in ms since 1970; none where the broker gave none.
    pub before_ms: Option<i64>,
}

impl Hole {
    /// Whether compaction may have made it: the record after it is older than `min.compaction.lag.ms`.
    #[must_use]
    pub fn is_lawful(&self, compaction_lag_ms: i64, now_ms: u64) -> bool {
        let now = i64::try_from(now_ms).unwrap_or(i64::MAX);
        self.before_ms.is_some_and(|then| now.saturating_sub(then) >= compaction_lag_ms)
    }
}

/// What became of a record.
#[derive(Debug, PartialEq, Eq)]
pub enum Offered {
    /// It is in the batch.
    Taken,
    /// It was applied before.
    Repeat,
    /// It follows, but belongs into the next batch: kept until this one is taken.
    Kept,
    /// Numbers are missing before it; it is dropped.
    Hole(Hole),
}

/// The next batch of a partition, as it grows.
pub struct Gather<'m> {
    partition: Partition,
    bounds: Bounds,
    /// `min.compaction.lag.ms`; none: every hole is accepted, because there is no better source.
    compaction_lag_ms: Option<i64>,
    decoder: Decoder,
    batch: Batch<BorrowedMessage<'m>>,
    kept: Option<Placed<'m>>,
    dead: Vec<DeadLetter>,
}

impl<'m> Gather<'m> {
    /// Nothing gathered yet; the first record follows `from`.
    pub fn after(partition: Partition, from: Point, bounds: Bounds, compaction_lag_ms: Option<i64>) -> Self {
        Self {
            partition,
            bounds,
            compaction_lag_ms,
            decoder: Decoder::default(),
            batch: Batch::after(from),
            kept: None,
            dead: Vec::new(),
        }
    }

    /// The last number gathered.
    pub fn point(&self) -> Point {
        self.batch.to
    }

    /// Whether nothing is gathered.
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.kept.is_none() && self.dead.is_empty()
    }

    /// Whether another record may be offered.
    pub fn has_room(&self) -> bool {
        self.kept.is_none()
            && self.batch.records < self.bounds.records
            && self.batch.bytes() < self.bounds.bytes
            && self.dead.len() < DEAD_MAX
    }

    /// Takes the record that the log holds next.
    pub fn offer(&mut self, message: BorrowedMessage<'m>) -> Offered {
        let headers = RecordHeaders::of(&message);
        let number = headers.id.filter(|number| number.partition == self.partition.index);
        let Some(number) = number else {
            // Nobody counts it, so it can't be missed either; but it must not vanish unseen.
            self.dead.push(DeadLetter::of(&message, None, "the record has no number of this partition"));
            return Offered::Repeat;
        };
        match self.batch.to.judge(number) {
            Judgement::Repeat => return Offered::Repeat,
            Judgement::Next => {}
            Judgement::Hole => {
                let before = Point { epoch: number.epoch, seq: number.seq };
                let hole = Hole { after: self.batch.to, before, before_ms: message.timestamp().to_millis() };
                if let Some(lag_ms) = self.compaction_lag_ms
                    && !hole.is_lawful(lag_ms, crate::view::now_ms())
                {
                    return Offered::Hole(hole);
                }
            }
        }
        if let Some(handed_ms) = message.timestamp().to_millis() {
            let now = i64::try_from(crate::view::now_ms()).unwrap_or(i64::MAX);
            metrics::TRANSIT_SECONDS.observe(now.saturating_sub(handed_ms).max(0) as f64 / 1e3);
        }
        let effect = self.decoder.decode(self.partition.topic, headers, message.key(), message.payload());
        self.put(Placed { number, effect, message })
    }

    fn put(&mut self, placed: Placed<'m>) -> Offered {
        let Placed { number, effect, message } = placed;
        let bytes = message.payload_len();
        if !self.batch.accepts(number, &effect, bytes, self.bounds) {
            self.kept = Some(Placed { number, effect, message });
            return Offered::Kept;
        }
        if let Effect::Poison { reason, .. } = &effect {
            tracing::warn!(partition = %self.partition, seq = number.seq, reason, "poison, parked");
            self.dead.push(DeadLetter::of(&message, Some(number.seq), reason));
        }
        let offset = message.offset();
        self.batch.push(number, offset, effect, bytes, message);
        Offered::Taken
    }

    /// What was gathered, and the dead letters that have to be parked before it is applied.
    pub fn take(&mut self) -> (Batch<BorrowedMessage<'m>>, Vec<DeadLetter>) {
        let next = Batch::after(self.batch.to);
        let batch = std::mem::replace(&mut self.batch, next);
        let dead = std::mem::take(&mut self.dead);
        if let Some(placed) = self.kept.take() {
            self.put(placed);
        }
        (batch, dead)
    }
}

/// The document that a record carries; nothing for a deletion.
pub fn document<'a>(message: &'a BorrowedMessage<'_>) -> &'a [u8] {
    message.payload().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_is_lawful_only_before_a_record_that_compaction_could_reach() {
        let at = |seq| Point { epoch: 1, seq };
        let hole = |before_ms| Hole { after: at(1), before: at(3), before_ms };
        assert!(hole(Some(1_000)).is_lawful(500, 1_500));
        assert!(!hole(Some(1_001)).is_lawful(500, 1_500));
        assert!(hole(Some(2_000)).is_lawful(0, 2_000));
        assert!(!hole(None).is_lawful(0, 2_000), "no time, no proof");
    }
}
