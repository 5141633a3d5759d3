//! Writes a view as the projector does: its batches, its script call, its headers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use contract::event::RecordId;
use contract::id::Uuid;
use contract::partition::Partition;
use contract::signal::Signal;
use dataplane::projector::{Batch, Effect, Point};
use dataplane::redis_link::Redis;
use dataplane::view::header::Header;
use dataplane::view::keys::{Keys, signal_code};
use dataplane::view::{Outcome, Target, View};

use crate::place::PARTITIONS;

/// The epoch of all that is written here.
pub const EPOCH: u64 = 1_790_000_000_000;

/// A change as it comes out of stage 7.
#[derive(Debug, Clone)]
pub struct Written {
    pub id: Uuid,
    pub version: u64,
    pub code: u8,
    pub document: Vec<u8>,
}

impl Written {
    pub fn of(signal: &Signal) -> Self {
        let code = signal_code(signal.priority, signal.status);
        Self { id: signal.id, version: signal.version, code, document: signal.render() }
    }
}

/// Where a partition stands, and where its batches go.
struct Lane {
    target: Target,
    point: Point,
    offset: i64,
}

pub struct Writer {
    view: View,
    generation: u64,
    lanes: BTreeMap<Partition, Lane>,
}

impl Writer {
    /// A writer below `prefix`, and an empty generation in every partition.
    pub async fn open(redis_url: &str, prefix: &str) -> Self {
        let link = Redis::new(redis_url).expect("a URL").connect().await.expect("Redis");
        let view = View::open(link, Keys::new(prefix)).await.expect("scripts");
        let mut writer = Self { view, generation: 0, lanes: BTreeMap::new() };
        let mut layout = redis::cmd("SET");
        layout.arg(writer.keys().layout()).arg(format!("1 {PARTITIONS}"));
        writer.ask::<()>(&layout).await;
        writer.next_generation().await;
        writer
    }

    /// Begins an empty generation in every partition.
    pub async fn next_generation(&mut self) {
        self.generation += 1;
        for partition in Partition::all(PARTITIONS) {
            let header = Header {
                generation: self.generation,
                epoch: EPOCH,
                history: 0,
                seq: 0,
                offset: -1,
                run_id: self.view.run_id().to_owned(),
                ready: true,
                partitions: PARTITIONS,
                applied_ms: 1,
                base: EPOCH,
            };
            let mut set = redis::cmd("SET");
            set.arg(self.keys().header(partition)).arg(header.to_string());
            self.ask::<()>(&set).await;
            let target = Target::serving(self.keys(), partition, self.generation);
            self.lanes.insert(partition, Lane { target, point: Point { epoch: EPOCH, seq: 0 }, offset: -1 });
        }
    }

    pub fn keys(&self) -> &Keys {
        self.view.keys()
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The answer of Redis to a command.
    pub async fn ask<T: redis::FromRedisValue>(&mut self, command: &redis::Cmd) -> T {
        self.view.link().query(command).await.expect("an answer")
    }

    /// Applies one batch to a partition; how long it took, from what was decoded to the script's answer.
    pub async fn apply(&mut self, partition: Partition, changes: &[Written]) -> Duration {
        let Self { view, lanes, .. } = self;
        let lane = lanes.get_mut(&partition).expect("a partition of this view");
        let begun = Instant::now();
        let mut batch = Batch::after(lane.point);
        let (mut seq, mut offset) = (lane.point.seq, lane.offset);
        for change in changes {
            (seq, offset) = (seq + 1, offset + 1);
            let number = RecordId { epoch: EPOCH, partition: partition.index, seq };
            let Written { id, version, code, document } = change;
            let effect = Effect::Change { id: *id, version: *version, code: *code, repair: false };
            batch.push(number, offset, effect, document.len(), document.as_slice());
        }
        let call = view.apply_call(&lane.target, &batch, false, |document| document);
        let outcome = view.apply(&call).await.expect("an answer");
        let took = begun.elapsed();
        let Outcome::Applied(header) = outcome else { panic!("not applied: {outcome:?}") };
        assert_eq!((header.point(), header.offset), (batch.to, offset));
        (lane.point, lane.offset) = (batch.to, offset);
        took
    }
}
