//! Creates per second through the batcher, on a Postgres of its own: `cargo run --release -p control
//! --example creates [seconds] [submitters] [workers]`. No HTTP, no relay: what the command side alone can do.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use contract::command::{CreateSignal, SignalCommand};
use contract::identity::Role;
use contract::signal::{Payload, Priority};
use control::batcher::{Batcher, BatcherSettings, CommandMetrics};
use control::request::{Caller, Request, Work};
use control::store::{Store, StoreSettings};
use infrastructure::TestStack;
use sqlx::{Connection, Executor, PgConnection};
use uuid::Uuid;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let mut number = |default| arguments.next().unwrap_or(Ok(default)).context("arguments are numbers");
    let (seconds, submitters, workers) = (number(5)?, number(64)?, number(2)?);

    let stack = TestStack::start().await?;
    let namespace = stack.namespace("creates").await;
    // The stack's broker and Redis have nothing to do here.
    tokio::join!(stack.servers().broker.stop(), stack.servers().redis.stop());
    control::migrate::migrate_tables(&namespace.database_admin_url(), &namespace.database_url()).await?;
    let mut admin = PgConnection::connect(&namespace.database_admin_url()).await?;
    let epoch = "INSERT INTO nexus.epoch (epoch, history, system, first_lsn) SELECT 1, 1, '', '0/0'
                 WHERE NOT EXISTS (SELECT FROM nexus.epoch)";
    admin.execute(epoch).await?;

    let metrics = CommandMetrics::register(&prometheus::Registry::new())?;
    let store = Store::new(StoreSettings::new(namespace.database_url(), 4), metrics.clone())?;
    let settings = BatcherSettings { workers: usize::try_from(workers)?, ..BatcherSettings::default() };
    let batcher = Batcher::start(store, settings, metrics.clone());
    let until = Instant::now() + Duration::from_secs(seconds);
    let tasks: Vec<_> = (0..submitters).map(|_| tokio::spawn(submit(batcher.clone(), until))).collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    latencies.sort_unstable();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM nexus.signals").fetch_one(&mut admin).await?;
    anyhow::ensure!(rows == i64::try_from(latencies.len())?, "{rows} rows for {} answers", latencies.len());
    let batches = metrics.batch_commands.get_sample_count();
    println!(
        "{:.0} creates/s ({submitters} submitters, {workers} workers, {:.1} commands a batch), p50 {:.2?}, p99 {:.2?}, max {:.2?}; commit {:.2} ms, batch {:.2} ms on average",
        latencies.len() as f64 / seconds as f64,
        metrics.batch_commands.get_sample_sum() / batches as f64,
        at(0.5),
        at(0.99),
        at(1.0),
        metrics.commit_seconds.get_sample_sum() / metrics.commit_seconds.get_sample_count() as f64 * 1e3,
        metrics.batch_seconds.get_sample_sum() / batches as f64 * 1e3,
    );
    batcher.drain(Duration::from_secs(5)).await;
    Ok(())
}

async fn submit(batcher: Batcher, until: Instant) -> anyhow::Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    let payload = Payload::from_stored(format!("{{\"text\":\"{}\"}}", "x".repeat(150)));
    while Instant::now() < until {
        let command = CreateSignal {
            title: "a signal of the usual length".to_owned(),
            priority: Priority::Normal,
            payload: payload.clone(),
            target: None,
        };
        let request = Request {
            caller: Caller { identity: Uuid::nil(), key: Uuid::nil(), role: Role::Operator },
            request_id: String::new(),
            traceparent: String::new(),
            idempotency: None,
            work: Work::Signal(SignalCommand::Create(command)),
            bytes: 300,
        };
        let began = Instant::now();
        let answer = batcher.submit(request)?.await??;
        anyhow::ensure!(answer.status == 201, "status {}", answer.status);
        latencies.push(began.elapsed());
    }
    Ok(latencies)
}
