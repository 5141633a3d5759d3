//! Parts `latency`, `pipelines` and `sustained`: the same loadgen, the same checker and the same rates for all.

use serde_json::{Value, json};

use crate::floor::Floor;
use crate::manifest::Manifest;
use crate::nexus;
use crate::options::Options;
use crate::systems::{DEBEZIUM, NAIVE, NEXUS, Run, System};
use crate::table::{Sample, Table, Target, median};
use crate::tools;

const P50: &str = "l2c p50";
const P99: &str = "l2c p99";
/// What the peers can't do: their services know no idempotency keys.
const ALIKE: [&str; 1] = ["--no-idempotency"];

fn ms(summary: &Value, measure: &str, percentile: &str) -> f64 {
    summary[measure][percentile].as_f64().unwrap_or(f64::NAN)
}

/// Puts one run of loadgen into the table.
fn add(table: &mut Table, part: &'static str, subject: String, round: usize, run: Run, system: &System) {
    let summary = &run.summary;
    let count = |name: &str| summary["violations"][name].as_u64().unwrap_or(0);
    let kinds = ["lost", "regressed", "resurrected", "phantom", "stale_with_token", "view_mismatch"];
    let violations: u64 = kinds.iter().map(|name| count(name)).sum();
    let verdict = summary["verdict"].as_str().unwrap_or("?").to_owned();
    if verdict != "PASS" {
        table.note(format!("{part}, round {round}, {subject}: {verdict}: {}", summary["reasons"]));
    }
    let figures = [
        (P50, "ms", ms(summary, "l2c", "p50_ms")),
        (P99, "ms", ms(summary, "l2c", "p99_ms")),
        ("achieved", "commands/s", summary["achieved_per_s"].as_f64().unwrap_or(0.0)),
        ("violations", "", violations as f64),
        ("memory of its processes", "MiB", system.resident_mib()),
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
    manifest.servers(&namespace).await;
    let system = System::nexus(&namespace, options).await?;
    let floors = stack.namespace("floor").await;
    let mut floor = Floor::prepare(&floors).await?;
    let name = |rate: f64| format!("Nexus at {rate:.0}/s");
    warm(&system, &[], options).await?;
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
            add(table, PART, name(*rate), round, run, &system);
        }
    }
    let bounds = [(500.0, P50, 3.0), (500.0, P99, 10.0), (10_000.0, P50, 8.0), (10_000.0, P99, 30.0)];
    for (rate, what, most) in bounds {
        table.bound(PART, &name(rate), what, Target::Most(most));
    }
    table.ratio(PART, "l2c p50 at 500/s / floor", (&name(500.0), P50), ("floor", "sum"), Target::Most(1.5));
    Ok(())
}

/// A run that is thrown away: compilers compile, pools fill.
async fn warm(system: &System, more: &[&str], options: &Options) -> anyhow::Result<()> {
    if options.pipeline_warmup > 0 {
        let out = options.out.join(format!("runs/warm-up-{}", system.name.split([' ', ':', ',']).next().unwrap_or("")));
        system.run(options.compare_rate, options.pipeline_warmup, more, &out).await?;
    }
    Ok(())
}

/// The three systems on one Postgres, broker and Redis. All run all the time; one at a time has load.
async fn all(options: &Options, manifest: &mut Manifest) -> anyhow::Result<(infrastructure::TestStack, [System; 3])> {
    let stack = nexus::stack().await?;
    let ours = stack.namespace("nexus").await;
    manifest.servers(&ours).await;
    tools::say("  starting Nexus, the naive design, Debezium and Benthos");
    let systems = [
        System::nexus(&ours, options).await?,
        System::naive(&stack.namespace("naive").await).await?,
        System::debezium(&stack.namespace("debezium").await, options).await?,
    ];
    for system in &systems {
        warm(system, &ALIKE, options).await?;
    }
    Ok((stack, systems))
}

/// All at one rate, in turns.
///
/// # Errors
/// A server does not start, or a run could not begin.
pub async fn pipelines(options: &Options, table: &mut Table, manifest: &mut Manifest) -> anyhow::Result<()> {
    const PART: &str = "pipelines";
    let (_stack, systems) = all(options, manifest).await?;
    for round in 1..=options.repeats {
        for (i, system) in systems.iter().enumerate() {
            let out = options.out.join(format!("runs/pipelines-{i}-{round}"));
            let run = system.run(options.compare_rate, options.seconds, &ALIKE, &out).await?;
            add(table, PART, system.name.to_owned(), round, run, system);
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
    Ok(())
}

/// The highest rate of each that holds `l2c:p99<100ms` with a flat lag: loadgen's sweep, with its own repeats at the knee.
///
/// # Errors
/// A server does not start, or a run could not begin.
pub async fn sustained(options: &Options, table: &mut Table, manifest: &mut Manifest) -> anyhow::Result<()> {
    const PART: &str = "sustained";
    const KNEE: &str = "highest rate that holds";
    let (_stack, systems) = all(options, manifest).await?;
    let seconds = format!("--duration={}s", options.seconds);
    for round in 1..=options.sweeps {
        for (i, system) in systems.iter().enumerate() {
            let out = options.out.join(format!("runs/sustained-{i}-{round}"));
            let repeats = format!("--repeats={}", options.repeats.min(3));
            let args = ["sweep", "--from=1000", "--factor=2", &seconds, "--slo=l2c:p99<=100ms", &repeats, ALIKE[0]];
            let (done, usage) = crate::usage::during(system.loadgen(&args, &out)).await;
            done?;
            let sweep: Value = serde_json::from_slice(&std::fs::read(out.join("sweep.json"))?)?;
            let knee = sweep["knee_per_s"].as_f64().unwrap_or(0.0);
            let sample = Sample { part: PART, subject: system.name.to_owned(), round, detail: sweep, usage };
            table.add(sample, &[(KNEE, "commands/s", knee)]);
        }
    }
    table.ratio(PART, "Nexus / Debezium pipeline", (NEXUS, KNEE), (DEBEZIUM, KNEE), Target::Least(4.0));
    table.ratio(PART, "Nexus / naive design", (NEXUS, KNEE), (NAIVE, KNEE), Target::None);
    let pgbench = median(&table.values("ingest", crate::ingest::TRANSACTION, crate::ingest::RATE));
    if let Some(pgbench) = pgbench.filter(|rate| *rate > 0.0) {
        let values = table.values(PART, NEXUS, KNEE).iter().map(|knee| knee / pgbench).collect();
        table.judge(PART, "Nexus sustained / pgbench's rate of the same run", values, Target::Least(1.0));
    }
    Ok(())
}
