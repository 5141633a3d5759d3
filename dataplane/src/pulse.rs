//! What the view as a whole looks like, a few times a second: for readiness, status, and to notice that
//! a generation has changed where nobody reads.
//!
//! *Input*: headers, marks and the watermark in Redis. *Output*: [`Pulse`]s. *Bound*: one. *On shutdown*:
//! ends with the process.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use contract::partition::{Partition, Topic};
use contract::position::Watermark;
use contract::time::Timestamp;
use redis::{RedisResult, Value};
use tokio::sync::watch;

use crate::fetch::{View, unexpected};
use crate::link::{Link, Links};
use crate::projector::Point;
use crate::view::header::Header;

/// How often it looks.
pub const INTERVAL: Duration = Duration::from_millis(200);
/// Watermarks whose latency is remembered: ten minutes of them.
const LATENCIES: usize = 600;
/// Watermarks that may wait to be applied.
const WAITING: usize = 600;

/// The newest watermark, and when it was read from its topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadWatermark {
    /// The record.
    pub watermark: Watermark,
    /// When the projector read it, in ms since 1970.
    pub read_ms: i64,
}

/// One look at the view.
#[derive(Debug, Clone, Default)]
pub struct Pulse {
    /// The run id of the Redis that answered; none: it is away.
    pub run_id: Option<Arc<str>>,
    /// The number of partitions of signals, as the view says it.
    pub partitions: Option<u16>,
    /// Each partition's header, where it has one.
    pub headers: BTreeMap<Partition, Header>,
    /// Events that could not be applied, by partition.
    pub parked: BTreeMap<Partition, u64>,
    /// The newest watermark.
    pub watermark: Option<ReadWatermark>,
    /// The time of the newest watermark that is applied whole, in microseconds since 1970.
    pub applied_watermark: Option<i64>,
    /// From the time in a watermark to its being applied, in ms: the latest ones, oldest first.
    pub latencies_ms: Arc<VecDeque<f64>>,
}

impl Pulse {
    /// Why the view can't be read; none: it can.
    #[must_use]
    pub fn unreadable(&self) -> Option<String> {
        let Some(run_id) = &self.run_id else { return Some("Redis is away".to_owned()) };
        let Some(partitions) = self.partitions else { return Some("there is no view in this Redis yet".to_owned()) };
        for partition in Partition::all(partitions) {
            match self.headers.get(&partition) {
                None => return Some(format!("partition {partition} has no header")),
                Some(header) if header.run_id != **run_id => {
                    return Some(format!("partition {partition} was written on another run of Redis"));
                }
                Some(header) if !header.ready => return Some(format!("partition {partition} is being filled")),
                Some(_) => {}
            }
        }
        None
    }

    /// Whether everything before `watermark` is applied.
    #[must_use]
    pub fn has_applied(&self, watermark: &Watermark) -> bool {
        watermark.seqs.iter().all(|(partition, seq)| {
            self.headers.get(partition).is_some_and(|header| {
                header.epoch > watermark.epoch || (header.epoch == watermark.epoch && header.seq >= *seq)
            })
        })
    }
}

/// Starts looking. The receiver holds the latest look.
#[must_use]
pub fn start(view: Arc<View>, links: Links) -> watch::Receiver<Arc<Pulse>> {
    let (sender, receiver) = watch::channel(Arc::new(Pulse::default()));
    tokio::spawn(async move {
        let mut watermarks = Watermarks::default();
        let mut tick = tokio::time::interval(INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if sender.is_closed() {
                return;
            }
            let pulse = match links.current() {
                Some(mut link) => {
                    let known = sender.borrow().partitions;
                    look(&view, &mut link, known).await.unwrap_or_else(|error| {
                        links.report(&link, &error);
                        Pulse::default()
                    })
                }
                None => Pulse::default(),
            };
            sender.send_replace(Arc::new(watermarks.follow(pulse, Timestamp::now().millis())));
        }
    });
    receiver
}

async fn look(view: &View, link: &mut Link, known: Option<u16>) -> RedisResult<Pulse> {
    let mut pulse = Pulse { run_id: Some(Arc::clone(&link.run_id)), ..Pulse::default() };
    let partitions = known.map(Partition::all).unwrap_or_default();
    let mut pipeline = redis::pipe();
    pipeline.cmd("GET").arg(view.keys.layout()).cmd("GET").arg(view.keys.watermark());
    for partition in &partitions {
        pipeline.cmd("GET").arg(view.keys.header(*partition));
        pipeline.cmd("HLEN").arg(view.keys.poison(*partition, view.generation(*partition)));
    }
    let answers: Vec<Value> = pipeline.query_async(&mut link.connection).await?;
    let mut answers = answers.into_iter();
    let (layout, watermark) = answers.next().zip(answers.next()).ok_or_else(unexpected)?;
    pulse.partitions = text(&layout).and_then(|layout| layout.strip_prefix("1 ")).and_then(|n| n.parse().ok());
    if let Some(signals) = pulse.partitions {
        view.saw_signals(signals);
    }
    pulse.watermark = text(&watermark).and_then(read_watermark);
    if let Some(read) = &pulse.watermark {
        view.saw_history(read.watermark.history);
    }
    for partition in partitions {
        let (header, parked) = answers.next().zip(answers.next()).ok_or_else(unexpected)?;
        if let Value::Int(parked @ 1..) = parked {
            pulse.parked.insert(partition, parked.unsigned_abs());
        }
        if let Some(header) = text(&header).and_then(|header| header.parse::<Header>().ok()) {
            view.saw(partition, header.generation);
            pulse.headers.insert(partition, header);
        }
    }
    Ok(pulse)
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

fn read_watermark(text: &str) -> Option<ReadWatermark> {
    let (json, read_ms) = text.rsplit_once('\n')?;
    Some(ReadWatermark { watermark: serde_json::from_str(json).ok()?, read_ms: read_ms.parse().ok()? })
}

/// Follows watermarks until they are applied.
#[derive(Debug, Default)]
struct Watermarks {
    waiting: VecDeque<ReadWatermark>,
    newest: Option<i64>,
    applied: Option<i64>,
    latencies_ms: Arc<VecDeque<f64>>,
    /// When the last look was, in ms since 1970.
    looked_ms: i64,
    /// How far each partition was then, or at the last look that saw it.
    points: BTreeMap<Partition, Point>,
}

impl Watermarks {
    fn follow(&mut self, mut pulse: Pulse, now_ms: i64) -> Pulse {
        if let Some(read) = &pulse.watermark
            && self.newest.is_none_or(|newest| read.watermark.time > newest)
        {
            self.newest = Some(read.watermark.time);
            self.waiting.push_back(read.clone());
            if self.waiting.len() > WAITING {
                self.waiting.pop_front();
            }
        }
        while let Some(first) = self.waiting.front() {
            if !pulse.has_applied(&first.watermark) {
                break;
            }
            let ends = first.watermark.seqs.iter().filter_map(|(partition, seq)| {
                let at = Point { epoch: first.watermark.epoch, seq: *seq };
                self.passed_ms(*partition, at, pulse.headers.get(partition)?, now_ms)
            });
            let applied_ms = ends.fold(first.read_ms, i64::max).min(now_ms);
            #[allow(clippy::cast_precision_loss)]
            let latency = (applied_ms.saturating_mul(1000) - first.watermark.time).max(0) as f64 / 1000.0;
            let latencies = Arc::make_mut(&mut self.latencies_ms);
            latencies.push_back(latency);
            if latencies.len() > LATENCIES {
                latencies.pop_front();
            }
            self.applied = Some(first.watermark.time);
            self.waiting.pop_front();
        }
        self.looked_ms = now_ms;
        self.points.extend(pulse.headers.iter().map(|(partition, header)| (*partition, header.point())));
        pulse.applied_watermark = self.applied;
        pulse.latencies_ms = Arc::clone(&self.latencies_ms);
        pulse
    }

    /// When a partition whose header is at or past `at` came to it, in ms since 1970; `None` where the look before saw it
    /// there, or there was none.
    fn passed_ms(&self, partition: Partition, at: Point, header: &Header, now_ms: i64) -> Option<i64> {
        let last_ms = i64::try_from(header.applied_ms).unwrap_or(i64::MAX).min(now_ms);
        let now = header.point();
        // A header names the time of its last batch alone: exact only where that one ended here.
        if now == at {
            return Some(last_ms);
        }
        let before = *self.points.get(&partition).filter(|before| **before < at)?;
        if before.epoch != at.epoch || now.epoch != at.epoch {
            return Some(last_ms);
        }
        // Between two looks, events are taken to have come evenly: off by no more than the time between them.
        let spent_ms = u64::try_from(last_ms - self.looked_ms).unwrap_or(0);
        let share_ms = spent_ms.saturating_mul(at.seq - before.seq) / (now.seq - before.seq);
        Some(self.looked_ms.saturating_add_unsigned(share_ms))
    }
}

/// Every partition of `topic` in a view with `signals` partitions of signals.
#[must_use]
pub fn partitions_of(topic: Topic, signals: u16) -> Vec<Partition> {
    (0..topic.partitions(signals)).map(|index| Partition { topic, index }).collect()
}

#[cfg(test)]
mod tests {
    use contract::token::ServerRun;

    use super::*;

    const PARTITIONS: [Partition; 2] =
        [Partition { topic: Topic::Signals, index: 0 }, Partition { topic: Topic::Signals, index: 1 }];

    /// A look at two partitions, the second of which goes on all the time.
    fn look(seqs: [u64; 2], applied_ms: [u64; 2], watermark: Option<ReadWatermark>) -> Pulse {
        let header = |place: usize| Header {
            generation: 1,
            epoch: 1,
            history: 0,
            seq: seqs[place],
            offset: 0,
            run_id: "run".to_owned(),
            ready: true,
            partitions: 2,
            applied_ms: applied_ms[place],
            base: 1,
        };
        let headers = [0, 1].map(|place| (PARTITIONS[place], header(place)));
        Pulse { headers: headers.into_iter().collect(), watermark, ..Pulse::default() }
    }

    /// Made at `ms` and read 2 ms later.
    fn watermark(ms: i64, seqs: [u64; 2]) -> Option<ReadWatermark> {
        let seqs = PARTITIONS.into_iter().zip(seqs).collect();
        let run = ServerRun { timeline: 1, started: 1 };
        let watermark = Watermark { epoch: 1, history: 0, time: ms * 1000, run, seqs };
        Some(ReadWatermark { watermark, read_ms: ms + 2 })
    }

    #[test]
    fn a_watermark_waits_for_the_partition_that_stands_still() {
        let mut watermarks = Watermarks::default();
        // The first stands still at 10 while a watermark a second names more of it.
        let mut last = Pulse::default();
        for second in 0..30 {
            let (ms, seq) = (1_000 * second, u64::try_from(second).expect("small"));
            let named = watermark(ms, [11 + 10 * seq, 10 * seq]);
            let applied_ms = u64::try_from(ms + 100).expect("small");
            last = watermarks.follow(look([10, 10 * seq + 5], [0, applied_ms], named), ms + 100);
        }
        assert!(last.latencies_ms.is_empty());
        // Within one look it catches up with them all, and is past each but the last.
        let caught_up = watermarks.follow(look([301, 400], [29_290, 29_295], None), 29_300);
        let latencies: Vec<f64> = caught_up.latencies_ms.iter().copied().collect();
        assert_eq!(latencies.len(), 30);
        for (second, latency) in (0..30_i32).zip(&latencies) {
            let truly = 29_100.0 - 1_000.0 * f64::from(second);
            assert!((truly..=truly + 200.0).contains(latency), "{second}: {latency}");
        }
    }

    #[test]
    fn a_watermark_that_is_applied_at_once_is_no_later_for_the_looks_being_rare() {
        let mut watermarks = Watermarks::default();
        watermarks.follow(look([1_000, 1_000], [1_000, 1_000], None), 1_000);
        // Both went on evenly: 5 a ms.
        let named = watermark(1_100, [1_510, 1_520]);
        let seen = watermarks.follow(look([2_000, 2_000], [1_200, 1_200], named), 1_200);
        assert_eq!(seen.latencies_ms.iter().copied().collect::<Vec<_>>(), [4.0]);
        // Exactly at its number: when it came there.
        let named = watermark(1_300, [2_000, 2_001]);
        let seen = watermarks.follow(look([2_000, 2_001], [1_200, 1_307], named), 1_400);
        assert_eq!(seen.latencies_ms.back(), Some(&7.0));
    }
}
