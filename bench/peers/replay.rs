//! Part `replay`: the projector fills an empty view from the broker, against a loop that only makes the same script calls.
//!
//! The log is written by the relay's own producer, without the commands that would have led to it ([`relayed`]).
//! The calls are the projector's own: one fill goes through a proxy that keeps them, and the loop sends the same bytes to
//! the same Redis, emptied. Both end with the same number of keys, or the part fails.

use std::time::{Duration, Instant};

use contract::partition::Partition;
use infrastructure::{Namespace, Plane, probe};
use serde_json::json;

use crate::manifest::Manifest;
use crate::options::Options;
use crate::table::{Sample, Table, Target};
use crate::tape::{self, Tape};
use crate::{nexus, relayed, tools, usage};

const PART: &str = "replay";
const PROJECTOR: &str = "projector, from the broker into an empty view";
const LOOP: &str = "loop of the same script calls";
const RATE: &str = "rate";
const DOCUMENT_BYTES: usize = 400;
const PATIENCE: Duration = Duration::from_secs(600);
/// Between two looks at its progress.
const LOOK: Duration = Duration::from_millis(20);
/// Calls that the projector has in flight: one for each partition of signals.
const WINDOW: usize = 4;

/// Measures, and adds to the table.
///
/// # Errors
/// A server does not start, or the two ways end differently.
pub async fn measure(options: &Options, table: &mut Table, manifest: &mut Manifest) -> anyhow::Result<()> {
    let stack = nexus::stack().await?;
    let namespace = stack.namespace("replay").await;
    manifest.servers(&namespace).await?;
    // No control plane runs: nothing but the projector, and no watermarks that would come between.
    tools::say(&format!("  making {} events", options.events));
    let begin = Instant::now();
    relayed::write(&namespace, options.events, DOCUMENT_BYTES).await?;
    tools::say(&format!("  made in {:.1} s; recording the projector's calls", begin.elapsed().as_secs_f64()));

    let port = namespace.servers().redis.port();
    let tape = Tape::start(port).await?;
    let through = format!("redis://{}/0", tape.address);
    let recorded = fill(&namespace, options, Some(&through)).await?;
    let calls = std::sync::Arc::new(std::mem::take(&mut *tape.calls.lock().expect("no holder of this lock panics")));
    drop(tape);
    manifest.set(
        "replay",
        json!({ "events": options.events, "calls": calls.len(), "keys": recorded.keys, "window": WINDOW }),
    );

    for round in 1..=options.repeats {
        let (filled, usage) = usage::during(fill(&namespace, options, None)).await;
        let filled = filled?;
        let detail = json!({ "keys": filled.keys, "seconds": filled.seconds });
        let sample = Sample { part: PART, subject: PROJECTOR.to_owned(), round, detail, usage };
        table.add(sample, &[(RATE, "events/s", filled.rate)]);

        empty(&namespace).await?;
        let calls = calls.clone();
        let work = tokio::task::spawn_blocking(move || tape::again(&calls, port, WINDOW));
        let (looped, usage) = usage::during(work).await;
        let looped = looped??;
        let keys = keys(&namespace).await?;
        anyhow::ensure!(keys == recorded.keys, "the loop left {keys} keys, the projector {}", recorded.keys);
        let detail = json!({ "keys": keys, "applied": looped.applied, "seconds": looped.seconds });
        let sample = Sample { part: PART, subject: LOOP.to_owned(), round, detail, usage };
        table.add(sample, &[(RATE, "events/s", f64::from(options.events) / looped.seconds)]);
    }
    Ok(())
}

/// Sets what was measured against its targets.
pub fn judge(table: &mut Table) {
    table.bound(PART, PROJECTOR, RATE, Target::Least(120_000.0));
    table.ratio(PART, "projector / loop", (PROJECTOR, RATE), (LOOP, RATE), Target::Least(0.7));
}

struct Filled {
    rate: f64,
    seconds: f64,
    keys: u64,
}

async fn empty(namespace: &Namespace) -> anyhow::Result<()> {
    redis::cmd("FLUSHALL").exec_async(&mut nexus::redis(namespace).await?).await?;
    Ok(())
}

async fn keys(namespace: &Namespace) -> anyhow::Result<u64> {
    Ok(redis::cmd("DBSIZE").query_async(&mut nexus::redis(namespace).await?).await?)
}

/// Starts a data plane on an empty Redis; its view server, which tells the projector's count, has nothing to do. Returns
/// how fast it applied the events, from when the first were to when all were: its start is not counted.
async fn fill(namespace: &Namespace, options: &Options, redis: Option<&str>) -> anyhow::Result<Filled> {
    empty(namespace).await?;
    let mut builder = Plane::dataplane(namespace).name("projector").envs(&options.plane_settings());
    if let Some(url) = redis {
        builder = builder.env("NEXUS_REDIS_URL", url);
    }
    let projector = builder.start_unready()?;
    let begin = Instant::now();
    let wanted = u64::from(options.events);
    let mut first = None;
    let patience = |what: &str| {
        anyhow::ensure!(begin.elapsed() < PATIENCE, "waited for {what}; the projector's log: {}", projector.log_text());
        anyhow::Ok(())
    };
    let (seconds, rate) = loop {
        patience("all events to be applied")?;
        let applied = progress(&projector).await.applied;
        let now = Instant::now();
        match first {
            None if applied > 0 => first = Some((now, applied)),
            Some((since, before)) if applied >= wanted => {
                let seconds = (now - since).as_secs_f64();
                break (seconds, (wanted - before) as f64 / seconds);
            }
            _ => {}
        }
        tokio::time::sleep(LOOK).await;
    };
    // The view server is not ready without a relay's watermarks; what was filled is.
    let partitions = Partition::all(namespace.partitions()).len() as u64;
    while progress(&projector).await.ready < partitions {
        patience("all partitions to be ready")?;
        tokio::time::sleep(LOOK).await;
    }
    let keys = keys(namespace).await?;
    projector.stop().await;
    Ok(Filled { rate, seconds, keys })
}

/// What the projector says of itself.
#[derive(Debug, Default)]
struct Progress {
    /// Events that it has applied; those of signals are all there are.
    applied: u64,
    /// Partitions that are filled.
    ready: u64,
}

async fn progress(projector: &Plane) -> Progress {
    let Some(answer) = probe::http_get(projector.address(), "/metrics", None).await else {
        return Progress::default();
    };
    let sum = |name: &str| {
        let lines = answer.body.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>() as u64
    };
    Progress { applied: sum("nexus_projector_events_total"), ready: sum("nexus_projector_ready{") }
}
