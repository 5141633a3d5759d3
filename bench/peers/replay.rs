//! Part `replay`: the projector fills an empty view from the broker, against a loop that only makes the same script calls.
//!
//! The calls are the projector's own: one fill goes through a proxy that keeps them, and the loop sends the same bytes to
//! the same Redis, emptied. Both end with the same number of keys, or the part fails.

use std::time::{Duration, Instant};

use infrastructure::{Namespace, Plane, probe};
use serde_json::json;

use crate::manifest::Manifest;
use crate::options::Options;
use crate::table::{Sample, Table, Target};
use crate::tape::{self, Tape};
use crate::{nexus, tools, usage};

const PART: &str = "replay";
const PROJECTOR: &str = "projector, from the broker into an empty view";
const LOOP: &str = "loop of the same script calls";
const RATE: &str = "rate";
const DOCUMENT_BYTES: usize = 400;
const PATIENCE: Duration = Duration::from_secs(600);
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
    let planes = nexus::planes(&namespace, options).await?;
    planes.dataplane.stop().await;
    tools::say(&format!("  making {} events", options.events));
    nexus::fill(&planes, options.events, DOCUMENT_BYTES).await?;
    nexus::relayed(&namespace).await?;
    // Nothing but the projector, and no watermarks that would come between.
    planes.control.stop().await;

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
    table.bound(PART, PROJECTOR, RATE, Target::Least(120_000.0));
    table.ratio(PART, "projector / loop", (PROJECTOR, RATE), (LOOP, RATE), Target::Least(0.7));
    Ok(())
}

struct Filled {
    rate: f64,
    seconds: f64,
    keys: u64,
}

async fn connection(namespace: &Namespace) -> anyhow::Result<redis::aio::MultiplexedConnection> {
    Ok(redis::Client::open(namespace.redis_url())?.get_multiplexed_async_connection().await?)
}

async fn empty(namespace: &Namespace) -> anyhow::Result<()> {
    redis::cmd("FLUSHALL").exec_async(&mut connection(namespace).await?).await?;
    Ok(())
}

async fn keys(namespace: &Namespace) -> anyhow::Result<u64> {
    Ok(redis::cmd("DBSIZE").query_async(&mut connection(namespace).await?).await?)
}

/// Starts a data plane on an empty Redis; its view server, which tells the projector's count, has nothing to do. Returns how fast it applied the events, from when the first were to when all
/// were: its start is not counted.
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
    let (seconds, rate) = loop {
        anyhow::ensure!(begin.elapsed() < PATIENCE, "waited for the projector; its log: {}", projector.log_text());
        let applied = applied(&projector).await;
        let now = Instant::now();
        match first {
            None if applied > 0 => first = Some((now, applied)),
            Some((since, before)) if applied >= wanted => {
                let seconds = (now - since).as_secs_f64();
                break (seconds, (wanted - before) as f64 / seconds);
            }
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    projector.wait_ready().await?;
    let keys = keys(namespace).await?;
    projector.stop().await;
    Ok(Filled { rate, seconds, keys })
}

/// Events of signals that were applied, by the projector's own count.
async fn applied(projector: &Plane) -> u64 {
    let Some(answer) = probe::http_get(projector.address(), "/metrics", None).await else { return 0 };
    let lines = answer.body.lines().filter(|line| line.starts_with("nexus_projector_events_total"));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>() as u64
}
