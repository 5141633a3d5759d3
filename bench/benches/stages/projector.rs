//! Stages 8 and 9: a batch of events becomes one script call in a real Redis: documents, indexes, feed, checkpoint.
//!
//! All are creations, as in a replay into an empty view. When the signals are used up a new generation begins, in a
//! database that is emptied for it.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Duration;

use contract::partition::{Partition, Topic};
use criterion::{BenchmarkId, Criterion, Throughput};
use tokio::sync::Mutex;

use crate::place::{self, PARTITIONS};
use crate::signals::signal;
use crate::writer::{Writer, Written};

const SIGNALS: usize = 32 * 1024;
const PARTITION: Partition = Partition { topic: Topic::Signals, index: 0 };

struct Replay {
    writer: Writer,
    signals: Vec<Written>,
    /// How many of them are applied.
    done: usize,
}

fn start() -> Arc<Mutex<Replay>> {
    let namespace = place::namespace("projector");
    // A database of the server that no other stage uses.
    let url = format!("{}/1", namespace.redis_url().trim_end_matches("/0"));
    let ours = |id| Partition::of(Topic::Signals, id, PARTITIONS) == PARTITION;
    let signals = (0..).map(signal).filter(|signal| ours(signal.id)).take(SIGNALS);
    let signals = signals.map(|signal| Written::of(&signal)).collect();
    let writer = place::run(async move { Writer::open(&url, &namespace.redis_prefix()).await });
    Arc::new(Mutex::new(Replay { writer, signals, done: 0 }))
}

impl Replay {
    async fn next(&mut self, events: usize) -> Duration {
        if self.done + events > self.signals.len() {
            self.check().await;
            self.writer.ask::<()>(redis::cmd("FLUSHDB").arg("SYNC")).await;
            self.writer.next_generation().await;
            self.done = 0;
        }
        let took = self.writer.apply(PARTITION, &self.signals[self.done..self.done + events]).await;
        self.done += events;
        took
    }

    /// Every signal that was applied is in the index, and the last one's document is there.
    async fn check(&mut self) {
        let (keys, generation) = (self.writer.keys().clone(), self.writer.generation());
        let mut indexed = 0;
        for code in b'a'..=b'p' {
            let mut count = redis::cmd("ZCARD");
            count.arg(keys.index(PARTITION, generation, code));
            indexed += self.writer.ask::<usize>(&count).await;
        }
        assert_eq!(indexed, self.done, "ids in the index");
        if let Some(last) = self.done.checked_sub(1).map(|last| self.signals[last].clone()) {
            let mut get = redis::cmd("GET");
            get.arg(keys.document(PARTITION, generation, last.id));
            let stored: Vec<u8> = self.writer.ask(&get).await;
            let expected = [&b"0000000000000001"[..], &[last.code], &last.document].concat();
            assert_eq!(stored, expected, "the last document");
        }
    }
}

pub fn bench(c: &mut Criterion) {
    let replay = OnceCell::new();
    let mut group = c.benchmark_group("projector");
    for events in [1, 16, 256, 1024] {
        group.throughput(Throughput::Elements(events as u64));
        group.bench_function(BenchmarkId::new("batch", events), |b| {
            let replay = replay.get_or_init(start);
            b.iter_custom(|rounds| {
                let replay = Arc::clone(replay);
                place::run(async move {
                    let mut replay = replay.lock().await;
                    let mut took = Duration::ZERO;
                    for _ in 0..rounds {
                        took += replay.next(events).await;
                    }
                    took
                })
            });
        });
    }
    group.finish();
    if let Some(replay) = replay.get().map(Arc::clone) {
        place::run(async move { replay.lock().await.check().await });
    }
}
