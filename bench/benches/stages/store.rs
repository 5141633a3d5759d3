//! Stage 4: one batch, one durable transaction in a real Postgres: rows, the batch's own row, events into the WAL.

use std::cell::{Cell, OnceCell};
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};

use crate::database::{Database, create, creations};
use crate::place;

pub fn bench(c: &mut Criterion) {
    let database = OnceCell::new();
    let created = Cell::new(0);
    let mut group = c.benchmark_group("store");
    for rows in [1, 16, 128, 512] {
        let requests = Arc::new(creations(rows));
        group.throughput(Throughput::Elements(rows));
        group.bench_function(BenchmarkId::new("batch", rows), |b| {
            let store = &database.get_or_init(|| Database::new("store")).store;
            b.iter_custom(|rounds| {
                let (store, requests) = (store.clone(), Arc::clone(&requests));
                created.set(created.get() + rounds * rows);
                place::run(async move {
                    let mut total = Duration::ZERO;
                    for _ in 0..rounds {
                        total += create(&store, &requests).await.0;
                    }
                    total
                })
            });
        });
    }
    group.finish();
    if let Some(database) = database.get() {
        assert_eq!(database.rows(), created.get(), "every accepted command is a row");
    }
}
