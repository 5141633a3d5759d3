//! Open watch streams, and commands at a fixed rate beside them: when each stream showed what concerns it, and whether it
//! skipped a final state or a delete.
//!
//! Half of the streams watch one signal each, the other half a list by its filter (`priority=critical`). One command in a
//! hundred changes what the lists show; of the others every second changes a signal that one stream watches, and the rest
//! create signals that nobody does. A command's clock starts when it was *meant* to be sent, and stops on each stream
//! that it concerns when that one shows its version, a later one, or the deletion.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use loadgen::clock::{Clock, MILLISECOND, SECOND, seconds};

use self::commands::Commands;
use self::streams::Streams;

mod commands;
mod judgement;
mod streams;

/// Where, how many and how fast.
#[derive(Debug, Clone, clap::Args)]
pub struct OpenWatchesOptions {
    /// The control plane, `http://…`
    #[arg(long)]
    pub control: String,
    /// The view server, `http://…`
    #[arg(long)]
    pub view: String,
    /// An operator's API key
    #[arg(long, env = "PEERS_API_KEY", hide_env_values = true)]
    pub api_key: String,
    /// A file with an id on each line: the signals that are watched one by one
    #[arg(long)]
    pub ids: PathBuf,
    /// Streams on the list of the critical ones
    #[arg(long)]
    pub lists: usize,
    /// Commands per second
    #[arg(long)]
    pub rate: f64,
    /// Seconds, of which the first tenth is not in the latencies
    #[arg(long)]
    pub seconds: f64,
    /// Connections for commands
    #[arg(long, default_value_t = 32)]
    pub connections: usize,
}

/// How long the streams may take to open.
const OPEN_MAX: u64 = 60 * SECOND;
/// Nothing more comes after so long without an event.
const QUIET: u64 = 2 * SECOND;
/// How long it may take until then.
const DRAIN_MAX: u64 = 30 * SECOND;

/// What the two threads tell each other.
#[derive(Debug, Default)]
struct Shared {
    /// Streams that are open and have shown their first part.
    ready: AtomicU64,
    /// When the last event was read.
    last_event: AtomicU64,
    stop: AtomicBool,
}

/// Opens the streams, sends the commands, and prints what came of it as one JSON object.
///
/// # Errors
/// A server is away, or the streams do not open.
pub fn run(options: &OpenWatchesOptions) -> anyhow::Result<()> {
    // Without it, a busy neighbour delays these threads by milliseconds. It may not be allowed; the answer says so.
    let raised = rustix::process::setpriority_process(None, -15).is_ok();
    let ids: Vec<String> = std::fs::read_to_string(&options.ids)?.lines().map(str::to_owned).collect();
    let clock = Clock::start();
    let shared = Arc::new(Shared::default());
    let streams = Streams::new(options, &ids, clock, Arc::clone(&shared))?;
    let all = (ids.len() + options.lists) as u64;
    let reading = std::thread::Builder::new().name("streams".into()).spawn(move || streams.read())?;
    let wait = |what: &str, limit: u64, done: &dyn Fn() -> bool| {
        let until = clock.now() + limit;
        while !done() {
            anyhow::ensure!(!reading.is_finished(), "the streams ended while {what}");
            anyhow::ensure!(clock.now() < until, "waited {} s for {what}", limit / SECOND);
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    };
    let told =
        wait("all streams to be ready", OPEN_MAX, &|| shared.ready.load(Ordering::Relaxed) >= all).and_then(|()| {
            let start = clock.now() + 100 * MILLISECOND;
            let sent = Commands::new(options, &ids, clock, start)?.send()?;
            let quiet = || clock.now() > shared.last_event.load(Ordering::Relaxed) + QUIET;
            // Streams that never fall silent are judged by what they had shown by then.
            let _ = wait("the streams to fall silent", DRAIN_MAX, &quiet);
            Ok((start, sent))
        });
    shared.stop.store(true, Ordering::Relaxed);
    let read = reading.join().map_err(|_| anyhow::anyhow!("the thread of the streams died"))??;
    let (start, sent) = told.with_context(|| format!("{} of {all} streams", shared.ready.load(Ordering::Relaxed)))?;
    let measure_from = start + (options.seconds * 0.1 * SECOND as f64) as u64;
    let mut report = judgement::judge(&ids, options.lists, &sent.accepted, &read.sightings, measure_from, clock.now());
    report["rate_per_s"] = options.rate.into();
    report["achieved_per_s"] = (sent.accepted.len() as f64 / seconds(sent.took)).into();
    report["refused"] = sent.refused.into();
    report["rejected"] = sent.rejected.into();
    report["send_delay_p99_ms"] = (sent.delay.value_at_quantile(0.99) as f64 / 1e6).into();
    report["streams"] = all.into();
    report["streams_lost"] = read.lost.into();
    report["events"] = read.sightings.len().into();
    report["cores_reading"] = (read.cpu as f64 / (clock.now() - start) as f64).into();
    report["cores_sending"] = (sent.cpu as f64 / (clock.now() - start) as f64).into();
    report["raised_priority"] = raised.into();
    println!("{report}");
    Ok(())
}
