//! Runs against the stub.

#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, missing_docs, reason = "helpers of tests")]

pub mod stub;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clap::Parser as _;
use loadgen::journal::{CHANNEL_BATCHES, Shared};
use loadgen::options::{Load, RunOptions, Targets};
use loadgen::run::{Finished, run};

use stub::{API_KEY, Faults, Settings, Stub};

/// Tests that take times run one after the other.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(clap::Parser)]
#[command(args_override_self = true)]
struct Arguments {
    #[arg(long)]
    rate: f64,
    #[command(flatten)]
    load: Load,
    #[arg(long = "slo")]
    slos: Vec<loadgen::slo::Slo>,
    #[arg(long)]
    out: Option<std::path::PathBuf>,
}

/// The options that a command line would give.
pub fn options(stub: &Stub, line: &str) -> RunOptions {
    let line = format!("test --warmup 0.5s --preload 200 {line}");
    let arguments = Arguments::parse_from(line.split_whitespace());
    RunOptions {
        targets: Targets {
            control_url: stub.control.clone(),
            dataplane_url: vec![stub.view.clone()],
            api_key: API_KEY.to_owned(),
        },
        load: arguments.load,
        rate: arguments.rate,
        slos: arguments.slos,
        out: arguments.out,
        quiet: true,
        panel: false,
        queue_batches: CHANNEL_BATCHES,
    }
}

pub fn stub(faults: Faults) -> Stub {
    Stub::start(Settings { delay: Duration::from_millis(2), faults })
}

/// A whole run against a stub of its own. Up to five times, until the machine lets the generator send on time:
/// another run says nothing about what is tested.
pub fn undisturbed(faults: &Faults, line: &str) -> (Stub, Finished) {
    undisturbed_with(&Settings { delay: Duration::from_millis(2), faults: faults.clone() }, line, false)
}

/// The same; `both`: it watches both view servers of the stub.
pub fn undisturbed_with(settings: &Settings, line: &str, both: bool) -> (Stub, Finished) {
    let mut tries = Vec::new();
    loop {
        let stub = Stub::start(settings.clone());
        let finished = if both { go_on_both(&stub, line) } else { go(&stub, line) };
        let own = finished.summary.own_delay.map_or(0.0, |delay| delay.p99_ms);
        if own < 1.0 {
            return (stub, finished);
        }
        tries.push(own);
        assert!(tries.len() < 5, "the generator was held up each time: p99 of its own delay {tries:?} ms");
    }
}

/// A whole run that watches both view servers of the stub.
pub fn go_on_both(stub: &Stub, line: &str) -> Finished {
    let mut options = options(stub, line);
    options.targets.dataplane_url.push(stub.second_view.clone());
    told(options)
}

/// A whole run.
pub fn go(stub: &Stub, line: &str) -> Finished {
    told(options(stub, line))
}

fn told(options: RunOptions) -> Finished {
    let finished = run(options, Arc::new(Shared::default())).unwrap();
    println!("{}", serde_json::to_string_pretty(&finished.summary).unwrap());
    finished
}
