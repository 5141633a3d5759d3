//! Parts `latency`, `pipelines` and `sustained`: the same loadgen, the same checker and the same rates for all.

use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

use crate::floor::Floor;
use crate::manifest::Manifest;
use crate::nexus;
use crate::options::Options;
use crate::systems::{CONNECTIONS, DEBEZIUM, NAIVE, NEXUS, Run, System};
use crate::table::{Sample, Table, Target, median};
use crate::tools;

/// Verdicts of loadgen.
const INCORRECT: &str = "INCORRECT";
const INVALID: &str = "INVALID";
const LATENCY: &str = "latency";
const PIPELINES: &str = "pipelines";
const SUSTAINED: &str = "sustained";
const FLOOR: &str = "floor";
const KNEE: &str = "highest rate that holds";
const P50: &str = "l2c p50";
const P99: &str = "l2c p99";
/// What the peers can't do: their services know no idempotency keys.
const ALIKE: [&str; 1] = ["--no-idempotency"];

const FIGURES: [(&str, &str); 5] =
    [(P50, "ms"), (P99, "ms"), ("achieved", "commands/s"), ("violations", ""), ("memory of its processes", "MiB")];

fn ms(summary: &Value, measure: &str, percentile: &str) -> f64 {
    summary[measure][percentile].as_f64().unwrap_or(f64::NAN)
}

/// Promises that Nexus broke in some runs of a part. A peer may break its own: that stands in its row.
struct Broken {
    part: &'static str,
    runs: Vec<String>,
    /// What did not start or could not run.
    failed: Vec<String>,
}

impl Broken {
    fn none_in(part: &'static str) -> Self {
        Self { part, runs: Vec::new(), failed: Vec::new() }
    }

    /// Notes what a run came to. Returns whether it is one of Nexus that broke a promise.
    fn note(&mut self, table: &mut Table, system: &System, run: &str, verdict: &str) -> bool {
        let broke = system.name == NEXUS && verdict == INCORRECT;
        if broke {
            table.withhold(self.part);
            self.runs.push(run.to_owned());
        }
        broke
    }

    /// Notes that there are no figures of a round.
    fn missed(
        &mut self,
        table: &mut Table,
        subject: &str,
        round: usize,
        figures: &[(&str, &'static str)],
        why: &anyhow::Error,
    ) {
        let why = format!("{why:#}");
        table.miss(self.part, subject, round, &why, figures);
        self.failed.push(format!("{subject}, round {round}: {why}"));
    }

    /// # Errors
    /// A promise was broken, or something did not run.
    fn check(mut self) -> anyhow::Result<()> {
        if !self.runs.is_empty() {
            self.failed.insert(0, format!("Nexus broke its promises: {}", self.runs.join(", ")));
        }
        anyhow::ensure!(self.failed.is_empty(), "{}", self.failed.join("; "));
        Ok(())
    }
}

/// Puts one run of loadgen into the table. A run that is not valid has no figures but its violations, nor has one in
/// which Nexus broke a promise.
fn add(table: &mut Table, broken: &mut Broken, subject: String, round: usize, run: Run, system: &System) {
    let part = broken.part;
    let summary = &run.summary;
    let kinds = summary["violations"].as_object();
    let violations: u64 = kinds.into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum();
    let verdict = summary["verdict"].as_str().unwrap_or("?").to_owned();
    let broke = broken.note(table, system, &format!("{subject}, round {round}"), &verdict);
    match verdict.as_str() {
        "PASS" => {}
        INVALID | INCORRECT => table.remark(part, &subject, format!("round {round} {verdict}: {}", summary["reasons"])),
        _ => table.note(format!("{part}, round {round}, {subject}: {verdict}: {}", summary["reasons"])),
    }
    let counts = !broke && verdict != INVALID;
    let valid = |value: f64| if counts { value } else { f64::NAN };
    let values = [
        valid(ms(summary, "l2c", "p50_ms")),
        valid(ms(summary, "l2c", "p99_ms")),
        valid(summary["achieved_per_s"].as_f64().unwrap_or(f64::NAN)),
        violations as f64,
        valid(system.resident_mib()),
    ];
    let figures: Vec<_> = FIGURES.iter().zip(values).map(|((what, unit), value)| (*what, *unit, value)).collect();
    let detail = json!({ "loadgen": summary, "generator_threads_cores": summary["cpu"] });
    table.add(Sample { part, subject, round, detail, usage: run.usage }, &figures);
}

/// One run of loadgen, or why there is none: the other systems and rounds go on.
async fn one(
    system: &System,
    subject: String,
    round: usize,
    (rate, seconds, more): (f64, u64, &[&str]),
    out: &Path,
    table: &mut Table,
    broken: &mut Broken,
) {
    match system.run(rate, seconds, more, out).await {
        Ok(run) => add(table, broken, subject, round, run, system),
        Err(error) => broken.missed(table, &subject, round, &FIGURES, &error),
    }
}

/// Nexus alone at each rate, and at the lowest the floor that no implementation gets below.
///
/// # Errors
/// A server does not start, or a run could not begin.
pub async fn latency(options: &Options, table: &mut Table, manifest: &mut Manifest) -> anyhow::Result<()> {
    const STEPS: [(&str, &str); 5] = [
        ("one durable commit", "ms"),
        ("one acknowledged produce", "ms"),
        ("one fetch", "ms"),
        ("one script call", "ms"),
        ("sum", "ms"),
    ];
    let stack = nexus::stack().await?;
    let namespace = stack.namespace("latency").await;
    manifest.servers(&namespace).await?;
    let system = System::nexus(&namespace, options).await?;
    let floors = stack.namespace("floor").await;
    let mut floor = Floor::prepare(&floors).await?;
    let mut broken = Broken::none_in(LATENCY);
    warm(&system, &[], options, table, &mut broken).await?;
    for round in 1..=options.repeats {
        let (parts, usage) = crate::usage::during(floor.measure(options.seconds.min(10))).await;
        match parts {
            Ok(parts) => {
                let values = [parts.commit, parts.produce, parts.fetch, parts.script, parts.sum()];
                let figures: Vec<_> = STEPS.iter().zip(values).map(|((what, unit), ms)| (*what, *unit, ms)).collect();
                let sample = Sample { part: LATENCY, subject: FLOOR.to_owned(), round, detail: json!(parts), usage };
                table.add(sample, &figures);
            }
            Err(error) => broken.missed(table, FLOOR, round, &STEPS, &error),
        }
        for rate in &options.rates {
            let out = options.out.join(format!("runs/latency-{rate:.0}-{round}"));
            one(&system, name(*rate), round, (*rate, options.seconds, &[]), &out, table, &mut broken).await;
        }
    }
    broken.check()
}

/// A run whose figures are thrown away: compilers compile, pools fill. A promise that is broken in it counts.
async fn warm(
    system: &System,
    more: &[&str],
    options: &Options,
    table: &mut Table,
    broken: &mut Broken,
) -> anyhow::Result<()> {
    if options.pipeline_warmup > 0 {
        let out = options.out.join(format!("runs/warm-up-{}", system.short()));
        let run = system.run(options.compare_rate, options.pipeline_warmup, more, &out).await?;
        if broken.note(table, system, "the warm-up", run.summary["verdict"].as_str().unwrap_or("?")) {
            table.note(format!("{}: the warm-up of Nexus: {INCORRECT}: {}", broken.part, run.summary["reasons"]));
        }
    }
    Ok(())
}

/// The three systems on one Postgres, broker and Redis. All run all the time; one at a time has load. One that does not
/// start, or bear its warm-up, is missing, and said to be.
async fn all(
    options: &Options,
    table: &mut Table,
    manifest: &mut Manifest,
    broken: &mut Broken,
) -> anyhow::Result<(infrastructure::TestStack, Vec<System>)> {
    let stack = nexus::stack().await?;
    let ours = stack.namespace("nexus").await;
    manifest.servers(&ours).await?;
    tools::say("  starting Nexus, the naive design, Debezium and Benthos");
    let started = [
        (NEXUS, System::nexus(&ours, options).await),
        (NAIVE, System::naive(&stack.namespace("naive").await).await),
        (DEBEZIUM, System::debezium(&stack.namespace("debezium").await, options).await),
    ];
    let mut systems = Vec::new();
    for (name, started) in started {
        let warmed = match started {
            Ok(system) => warm(&system, &ALIKE, options, table, broken).await.map(|()| system),
            Err(error) => Err(error),
        };
        match warmed {
            Ok(system) => systems.push(system),
            Err(error) => {
                table.remark(broken.part, name, format!("not measured: {error:#}"));
                broken.failed.push(format!("{name}: {error:#}"));
            }
        }
    }
    anyhow::ensure!(!systems.is_empty(), "nothing started: {}", broken.failed.join("; "));
    Ok((stack, systems))
}

/// All at one rate, in turns.
///
/// # Errors
/// A server does not start, or a run could not begin.
pub async fn pipelines(options: &Options, table: &mut Table, manifest: &mut Manifest) -> anyhow::Result<()> {
    let mut broken = Broken::none_in(PIPELINES);
    let (_stack, systems) = all(options, table, manifest, &mut broken).await?;
    for round in 1..=options.repeats {
        for system in &systems {
            let out = options.out.join(format!("runs/pipelines-{}-{round}", system.short()));
            let load = (options.compare_rate, options.seconds, &ALIKE[..]);
            one(system, system.name.to_owned(), round, load, &out, table, &mut broken).await;
        }
    }
    broken.check()
}

/// The highest rate of each that holds `l2c:p99<100ms` with a flat lag: loadgen's sweep, with its own repeats at the knee.
///
/// # Errors
/// A server does not start, or a run could not begin.
pub async fn sustained(options: &Options, table: &mut Table, manifest: &mut Manifest) -> anyhow::Result<()> {
    let mut broken = Broken::none_in(SUSTAINED);
    let (_stack, systems) = all(options, table, manifest, &mut broken).await?;
    for round in 1..=options.sweeps {
        for system in &systems {
            // A sweep ends at the first broken promise. A peer, which promises less, gets another one.
            let attempts = if system.name == NEXUS { 1 } else { 2 };
            for attempt in 1..=attempts {
                let out = options.out.join(format!("runs/sustained-{}-{round}-{attempt}", system.short()));
                let last = attempt == attempts;
                if sweep(system, round, last, options, &out, table, &mut broken).await {
                    break;
                }
            }
        }
    }
    broken.check()
}

/// One sweep of one system. Returns whether there is no need of another; `last` says that there will be none.
async fn sweep(
    system: &System,
    round: usize,
    last: bool,
    options: &Options,
    out: &Path,
    table: &mut Table,
    broken: &mut Broken,
) -> bool {
    let (seconds, repeats) = (format!("--duration={}s", options.seconds), options.repeats.min(3));
    let repeats = format!("--repeats={repeats}");
    let args =
        ["sweep", "--from=1000", "--factor=2", &seconds, CONNECTIONS, "--slo=l2c:p99<=100ms", &repeats, ALIKE[0]];
    let (done, usage) = crate::usage::during(system.loadgen(&args, out)).await;
    let read = || -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&std::fs::read(out.join("sweep.json")).context("loadgen left no sweep")?)?)
    };
    let sweep = match done.and_then(|()| read()) {
        Ok(sweep) => sweep,
        Err(error) => {
            broken.missed(table, system.name, round, &[(KNEE, "commands/s")], &error);
            return true;
        }
    };
    let found = sweep["knee_per_s"].as_f64();
    let runs = ["points", "repeats"].iter().filter_map(|list| sweep[list].as_array()).flatten();
    let incorrect = runs.filter(|run| run["verdict"] == INCORRECT).count();
    let broke = broken.note(table, system, &format!("sweep {round}"), if incorrect > 0 { INCORRECT } else { "" });
    if incorrect > 0 {
        table.remark(SUSTAINED, system.name, format!("sweep {round}: {incorrect} runs {INCORRECT}"));
    }
    if found.is_none() {
        table.remark(SUSTAINED, system.name, format!("sweep {round}: no rate held"));
        if system.name == NEXUS {
            // The other sweeps alone would flatter.
            table.withhold(SUSTAINED);
        }
        if incorrect > 0 && !last {
            return false;
        }
    }
    let knee = found.filter(|_| !broke).unwrap_or(f64::NAN);
    let sample = Sample { part: SUSTAINED, subject: system.name.to_owned(), round, detail: sweep, usage };
    table.add(sample, &[(KNEE, "commands/s", knee)]);
    true
}

/// How Nexus alone at a rate stands in the table.
fn name(rate: f64) -> String {
    format!("Nexus at {rate:.0}/s")
}

/// Sets what `latency` measured against its targets.
pub fn judge_latency(table: &mut Table) {
    let bounds = [(500.0, P50, 3.0), (500.0, P99, 10.0), (10_000.0, P50, 8.0), (10_000.0, P99, 30.0)];
    for (rate, what, most) in bounds {
        table.bound(LATENCY, &name(rate), what, Target::Most(most));
    }
    table.ratio(LATENCY, "l2c p50 at 500/s / floor", (&name(500.0), P50), (FLOOR, "sum"), Target::Most(1.5));
}

/// Sets what `pipelines` measured against its targets.
pub fn judge_pipelines(options: &Options, table: &mut Table) {
    let rate = options.compare_rate;
    for (peer, p50, p99) in
        [(DEBEZIUM, Target::Most(1.0 / 3.0), Target::Most(0.5)), (NAIVE, Target::None, Target::None)]
    {
        for (what, target) in [(P50, p50), (P99, p99)] {
            table.ratio(
                PIPELINES,
                &format!("{what} at {rate:.0}/s: Nexus / {peer}"),
                (NEXUS, what),
                (peer, what),
                target,
            );
        }
    }
}

/// Sets what `sustained` measured against its targets.
pub fn judge_sustained(table: &mut Table) {
    table.ratio(SUSTAINED, "Nexus / Debezium pipeline", (NEXUS, KNEE), (DEBEZIUM, KNEE), Target::Least(4.0));
    table.ratio(SUSTAINED, "Nexus / naive design", (NEXUS, KNEE), (NAIVE, KNEE), Target::None);
    let pgbench = median(&table.values("ingest", crate::ingest::TRANSACTION, crate::ingest::RATE));
    let pgbench = pgbench.filter(|rate| *rate > 0.0).unwrap_or(f64::NAN);
    let values = table.values(SUSTAINED, NEXUS, KNEE).iter().map(|knee| knee / pgbench).collect();
    table.judge(SUSTAINED, "Nexus sustained / pgbench's rate of the same run", values, Target::Least(1.0));
}
