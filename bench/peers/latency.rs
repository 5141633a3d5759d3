//! Parts `latency`, `pipelines` and `sustained`: the same loadgen, the same checker and the same rates for all.

use serde_json::{Value, json};

use crate::floor::Floor;
use crate::manifest::Manifest;
use crate::nexus;
use crate::options::Options;
use crate::systems::{DEBEZIUM, NAIVE, NEXUS, Run, System};
use crate::table::{Sample, Table, Target, median};
use crate::tools;

/// Verdicts of loadgen.
const INCORRECT: &str = "INCORRECT";
const INVALID: &str = "INVALID";
const P50: &str = "l2c p50";
const P99: &str = "l2c p99";
/// What the peers can't do: their services know no idempotency keys.
const ALIKE: [&str; 1] = ["--no-idempotency"];

fn ms(summary: &Value, measure: &str, percentile: &str) -> f64 {
    summary[measure][percentile].as_f64().unwrap_or(f64::NAN)
}

/// Promises that Nexus broke in some runs of a part. A peer may break its own: that stands in its row.
struct Broken {
    part: &'static str,
    runs: Vec<String>,
}

impl Broken {
    fn none_in(part: &'static str) -> Self {
        Self { part, runs: Vec::new() }
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

    /// # Errors
    /// A promise was broken.
    fn check(self) -> anyhow::Result<()> {
        anyhow::ensure!(self.runs.is_empty(), "Nexus broke its promises: {}", self.runs.join(", "));
        Ok(())
    }
}

/// Puts one run of loadgen into the table. A run that is not valid has no figures but its violations, nor has one in
/// which Nexus broke a promise.
fn add(table: &mut Table, broken: &mut Broken, subject: String, round: usize, run: Run, system: &System) {
    let part = broken.part;
    let summary = &run.summary;
    let count = |name: &str| summary["violations"][name].as_u64().unwrap_or(0);
    let kinds = ["lost", "regressed", "resurrected", "phantom", "stale_with_token", "view_mismatch"];
    let violations: u64 = kinds.iter().map(|name| count(name)).sum();
    let verdict = summary["verdict"].as_str().unwrap_or("?").to_owned();
    let broke = broken.note(table, system, &format!("{subject}, round {round}"), &verdict);
    match verdict.as_str() {
        "PASS" => {}
        INVALID | INCORRECT => table.remark(part, &subject, format!("round {round} {verdict}: {}", summary["reasons"])),
        _ => table.note(format!("{part}, round {round}, {subject}: {verdict}: {}", summary["reasons"])),
    }
    let counts = !broke && verdict != INVALID;
    let valid = |value: f64| if counts { value } else { f64::NAN };
    let figures = [
        (P50, "ms", valid(ms(summary, "l2c", "p50_ms"))),
        (P99, "ms", valid(ms(summary, "l2c", "p99_ms"))),
        ("achieved", "commands/s", valid(summary["achieved_per_s"].as_f64().unwrap_or(f64::NAN))),
        ("violations", "", violations as f64),
        ("memory of its processes", "MiB", valid(system.resident_mib())),
    ];
    let detail = json!({ "loadgen": summary, "generator_threads_cores": summary["cpu"] });
    table.add(Sample { part, subject, round, detail, usage: run.usage }, &figures);
}

/// Nexus alone at each rate, and at the lowest the floor that no implementation gets below.
///
/// # Errors
/// A server does not start, or a run could not begin.
pub async fn latency(options: &Options, table: &mut Table, manifest: &mut Manifest) -> anyhow::Result<()> {
    const PART: &str = "latency";
    let stack = nexus::stack().await?;
    let namespace = stack.namespace("latency").await;
    manifest.servers(&namespace).await?;
    let system = System::nexus(&namespace, options).await?;
    let floors = stack.namespace("floor").await;
    let mut floor = Floor::prepare(&floors).await?;
    let name = |rate: f64| format!("Nexus at {rate:.0}/s");
    let mut broken = Broken::none_in(PART);
    warm(&system, &[], options, table, &mut broken).await?;
    for round in 1..=options.repeats {
        let (parts, usage) = crate::usage::during(floor.measure(options.seconds.min(10))).await;
        let parts = parts?;
        let figures = [
            ("one durable commit", "ms", parts.commit),
            ("one acknowledged produce", "ms", parts.produce),
            ("one fetch", "ms", parts.fetch),
            ("one script call", "ms", parts.script),
            ("sum", "ms", parts.sum()),
        ];
        let sample = Sample { part: PART, subject: "floor".to_owned(), round, detail: json!(parts), usage };
        table.add(sample, &figures);
        for rate in &options.rates {
            let out = options.out.join(format!("runs/latency-{rate:.0}-{round}"));
            let run = system.run(*rate, options.seconds, &[], &out).await?;
            add(table, &mut broken, name(*rate), round, run, &system);
        }
    }
    let bounds = [(500.0, P50, 3.0), (500.0, P99, 10.0), (10_000.0, P50, 8.0), (10_000.0, P99, 30.0)];
    for (rate, what, most) in bounds {
        table.bound(PART, &name(rate), what, Target::Most(most));
    }
    table.ratio(PART, "l2c p50 at 500/s / floor", (&name(500.0), P50), ("floor", "sum"), Target::Most(1.5));
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
        let out = options.out.join(format!("runs/warm-up-{}", system.name.split([' ', ':', ',']).next().unwrap_or("")));
        let run = system.run(options.compare_rate, options.pipeline_warmup, more, &out).await?;
        if broken.note(table, system, "the warm-up", run.summary["verdict"].as_str().unwrap_or("?")) {
            table.note(format!("{}: the warm-up of Nexus: {INCORRECT}: {}", broken.part, run.summary["reasons"]));
        }
    }
    Ok(())
}

/// The three systems on one Postgres, broker and Redis. All run all the time; one at a time has load.
async fn all(
    options: &Options,
    table: &mut Table,
    manifest: &mut Manifest,
    broken: &mut Broken,
) -> anyhow::Result<(infrastructure::TestStack, [System; 3])> {
    let stack = nexus::stack().await?;
    let ours = stack.namespace("nexus").await;
    manifest.servers(&ours).await?;
    tools::say("  starting Nexus, the naive design, Debezium and Benthos");
    let systems = [
        System::nexus(&ours, options).await?,
        System::naive(&stack.namespace("naive").await).await?,
        System::debezium(&stack.namespace("debezium").await, options).await?,
    ];
    for system in &systems {
        warm(system, &ALIKE, options, table, broken).await?;
    }
    Ok((stack, systems))
}

/// All at one rate, in turns.
///
/// # Errors
/// A server does not start, or a run could not begin.
pub async fn pipelines(options: &Options, table: &mut Table, manifest: &mut Manifest) -> anyhow::Result<()> {
    const PART: &str = "pipelines";
    let mut broken = Broken::none_in(PART);
    let (_stack, systems) = all(options, table, manifest, &mut broken).await?;
    for round in 1..=options.repeats {
        for (i, system) in systems.iter().enumerate() {
            let out = options.out.join(format!("runs/pipelines-{i}-{round}"));
            let run = system.run(options.compare_rate, options.seconds, &ALIKE, &out).await?;
            add(table, &mut broken, system.name.to_owned(), round, run, system);
        }
    }
    let rate = options.compare_rate;
    for (peer, p50, p99) in
        [(DEBEZIUM, Target::Most(1.0 / 3.0), Target::Most(0.5)), (NAIVE, Target::None, Target::None)]
    {
        for (what, target) in [(P50, p50), (P99, p99)] {
            table.ratio(PART, &format!("{what} at {rate:.0}/s: Nexus / {peer}"), (NEXUS, what), (peer, what), target);
        }
    }
    broken.check()
}

/// The highest rate of each that holds `l2c:p99<100ms` with a flat lag: loadgen's sweep, with its own repeats at the knee.
///
/// # Errors
/// A server does not start, or a run could not begin.
pub async fn sustained(options: &Options, table: &mut Table, manifest: &mut Manifest) -> anyhow::Result<()> {
    const PART: &str = "sustained";
    const KNEE: &str = "highest rate that holds";
    let mut broken = Broken::none_in(PART);
    let (_stack, systems) = all(options, table, manifest, &mut broken).await?;
    let seconds = format!("--duration={}s", options.seconds);
    for round in 1..=options.sweeps {
        for (i, system) in systems.iter().enumerate() {
            let out = options.out.join(format!("runs/sustained-{i}-{round}"));
            let repeats = format!("--repeats={}", options.repeats.min(3));
            let args = ["sweep", "--from=1000", "--factor=2", &seconds, "--slo=l2c:p99<=100ms", &repeats, ALIKE[0]];
            let (done, usage) = crate::usage::during(system.loadgen(&args, &out)).await;
            done?;
            let sweep: Value = serde_json::from_slice(&std::fs::read(out.join("sweep.json"))?)?;
            let found = sweep["knee_per_s"].as_f64();
            let runs = ["points", "repeats"].iter().filter_map(|list| sweep[list].as_array()).flatten();
            let incorrect = runs.filter(|run| run["verdict"] == INCORRECT).count();
            let verdict = if incorrect > 0 { INCORRECT } else { "" };
            let broke = broken.note(table, system, &format!("sweep {round}"), verdict);
            if incorrect > 0 {
                table.remark(PART, system.name, format!("sweep {round}: {incorrect} runs {INCORRECT}"));
            }
            if found.is_none() {
                table.remark(PART, system.name, format!("sweep {round}: no rate held"));
                if system.name == NEXUS {
                    // The other sweeps alone would flatter.
                    table.withhold(PART);
                }
            }
            let knee = found.filter(|_| !broke).unwrap_or(f64::NAN);
            let sample = Sample { part: PART, subject: system.name.to_owned(), round, detail: sweep, usage };
            table.add(sample, &[(KNEE, "commands/s", knee)]);
        }
    }
    table.ratio(PART, "Nexus / Debezium pipeline", (NEXUS, KNEE), (DEBEZIUM, KNEE), Target::Least(4.0));
    table.ratio(PART, "Nexus / naive design", (NEXUS, KNEE), (NAIVE, KNEE), Target::None);
    let pgbench = median(&table.values("ingest", crate::ingest::TRANSACTION, crate::ingest::RATE));
    let pgbench = pgbench.filter(|rate| *rate > 0.0).unwrap_or(f64::NAN);
    let values = table.values(PART, NEXUS, KNEE).iter().map(|knee| knee / pgbench).collect();
    table.judge(PART, "Nexus sustained / pgbench's rate of the same run", values, Target::Least(1.0));
    broken.check()
}
