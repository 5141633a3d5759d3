//! Stage 3: from a handler's hands through the queue to a worker and back, one request at a time and 64 at once.
//!
//! The requests are ones that the store answers without any statement (they break a rule of their own), so that what is
//! left is the hand-off: queue, batch, task, session, answer, reply.

use std::cell::OnceCell;
use std::time::{Duration, Instant};

use contract::problem::{FieldError, Problem};
use control::batcher::{Batcher, BatcherSettings};
use control::request::{Request, Work};
use criterion::{BenchmarkId, Criterion, Throughput};

use crate::database::{Database, create, creations, request};
use crate::place;

struct Place {
    database: Database,
    batcher: Batcher,
    /// Statements that committed before anything was measured.
    commits: u64,
}

fn start() -> Place {
    let database = Database::new("batcher");
    let (store, metrics) = (database.store.clone(), database.metrics.clone());
    let batcher = place::run(async move {
        // What is remembered of the epoch comes with the first command; from then on nothing has to be looked up.
        create(&store, &creations(1)).await;
        Batcher::start(store, BatcherSettings::default(), metrics)
    });
    let commits = database.metrics.commit_seconds.get_sample_count();
    Place { database, batcher, commits }
}

pub fn bench(c: &mut Criterion) {
    let place = OnceCell::new();
    let mut group = c.benchmark_group("batcher");
    for at_once in [1, 64] {
        group.throughput(Throughput::Elements(at_once));
        group.bench_function(BenchmarkId::new("hand_off", at_once), |b| {
            let batcher = &place.get_or_init(start).batcher;
            b.iter_custom(|rounds| {
                let batcher = batcher.clone();
                place::run(async move {
                    let mut took = Duration::ZERO;
                    for _ in 0..rounds {
                        took += hand_off(&batcher, at_once).await;
                    }
                    took
                })
            });
        });
    }
    group.finish();
    if let Some(Place { database, commits, .. }) = place.get() {
        assert_eq!(database.metrics.commit_seconds.get_sample_count(), *commits, "no statement was sent");
        assert_eq!(database.rows(), 1);
    }
}

async fn hand_off(batcher: &Batcher, at_once: u64) -> Duration {
    let problem = Problem::validation(vec![FieldError::new("/title", "is required")]);
    let requests: Vec<Request> = (0..at_once).map(|_| request(Work::Invalid(problem.clone()))).collect();
    let mut statuses = Vec::with_capacity(requests.len());
    let begun = Instant::now();
    let replies: Vec<_> = requests.into_iter().map(|request| batcher.submit(request).expect("room")).collect();
    for reply in replies {
        statuses.push(reply.await.expect("a reply").expect("an answer").status);
    }
    let took = begun.elapsed();
    assert!(statuses.iter().all(|status| *status == 422), "{statuses:?}");
    took
}
