//! Part `idle`: what both planes take while nothing happens, and their memory under load.
//!
//! Measured by pid: processor time from the kernel's count, resident memory as the kernel has it. The relay's watermark,
//! once a second, goes through all hops meanwhile.

use std::time::Duration;

use serde_json::json;

use crate::manifest::Manifest;
use crate::options::Options;
use crate::systems::{NEXUS, System};
use crate::table::{Sample, Table, Target};
use crate::{nexus, tools, usage};

const PART: &str = "idle";
const FRESH: &str = "both planes, started and idle";
const AFTER: &str = "both planes, idle after the load";
const MEMORY: &str = "resident";
const CPU: &str = "processor";
/// The load under which memory is bounded.
const RATE: f64 = 10_000.0;
/// From the start, or the end of a load, until it counts as idle.
const SETTLE: Duration = Duration::from_secs(5);
/// Between two looks at the memory under load.
const LOOK: Duration = Duration::from_millis(200);

fn under_load() -> String {
    format!("both planes at {RATE:.0} commands/s")
}

/// Measures, and adds to the table.
///
/// # Errors
/// A server does not start, or a run could not begin.
pub async fn measure(options: &Options, table: &mut Table, manifest: &mut Manifest) -> anyhow::Result<()> {
    let under_load = under_load();
    let stack = nexus::stack().await?;
    manifest.servers(&stack.namespace("settings").await).await?;
    for round in 1..=options.repeats {
        let namespace = stack.namespace(&format!("idle{round}")).await;
        let system = System::nexus(&namespace, options).await?;
        idle(&system, FRESH, round, options, table).await?;

        if options.pipeline_warmup > 0 && round == 1 {
            // The broker's compilers: cold, it is what bounds the rate.
            let out = options.out.join("runs/warm-up-idle");
            system.run(options.compare_rate, options.pipeline_warmup, &["--no-verify"], &out).await?;
        }
        let out = options.out.join(format!("runs/idle-{round}"));
        let run = system.run(RATE, options.seconds, &["--no-verify"], &out);
        let (run, most) = watched(&system, run).await;
        let run = run?;
        let achieved = run.summary["achieved_per_s"].as_f64().unwrap_or(0.0);
        let verdict = run.summary["verdict"].as_str().unwrap_or("?").to_owned();
        let kept_up = achieved >= 0.99 * RATE;
        if !kept_up {
            // Memory at a lower rate says nothing of that at this one.
            table.remark(PART, &under_load, format!("round {round}: {achieved:.0}/s achieved, {verdict}: not valid"));
        }
        let valid = if kept_up { most } else { f64::NAN };
        let figures = [
            (MEMORY, "MiB", valid),
            ("most that was resident, at whatever rate", "MiB", most),
            ("achieved", "commands/s", achieved),
        ];
        let detail = json!({ "loadgen": run.summary });
        table.add(Sample { part: PART, subject: under_load.clone(), round, detail, usage: run.usage }, &figures);
        idle(&system, AFTER, round, options, table).await?;
    }
    Ok(())
}

/// Sets what was measured against its targets.
pub fn judge(table: &mut Table) {
    let under_load = under_load();
    table.bound(PART, FRESH, MEMORY, Target::Most(60.0));
    table.bound(PART, FRESH, CPU, Target::Most(1.0));
    table.bound(PART, &under_load, MEMORY, Target::Most(250.0));
}

/// Three times as long as a measurement, 30 seconds unless asked otherwise.
async fn idle(
    system: &System,
    subject: &str,
    round: usize,
    options: &Options,
    table: &mut Table,
) -> anyhow::Result<()> {
    tokio::time::sleep(SETTLE).await;
    let time = Duration::from_secs(options.seconds * 3);
    tools::say(&format!("  idle for {} s", time.as_secs()));
    let before = system.cpu_seconds();
    // Looking at every process of the machine costs more than what is measured: only before and after.
    let (load_before, begin) = (usage::load_average(), std::time::Instant::now());
    tokio::time::sleep(time).await;
    let seconds = begin.elapsed().as_secs_f64();
    let cpu = (system.cpu_seconds() - before) / seconds * 100.0;
    let usage = usage::Usage { seconds, load_before, load_after: usage::load_average(), ..usage::Usage::default() };
    let figures = [(MEMORY, "MiB", system.resident_mib()), (CPU, "% of a core", cpu)];
    let detail = json!({ "system": NEXUS, "seconds": seconds });
    table.add(Sample { part: PART, subject: subject.to_owned(), round, detail, usage }, &figures);
    Ok(())
}

/// Does `work`, and notes the most memory that the system had resident meanwhile, in MiB.
async fn watched<T>(system: &System, work: impl Future<Output = T>) -> (T, f64) {
    let mut work = std::pin::pin!(work);
    let mut most = 0.0_f64;
    loop {
        tokio::select! {
            output = &mut work => return (output, most.max(system.resident_mib())),
            () = tokio::time::sleep(LOOK) => most = most.max(system.resident_mib()),
        }
    }
}
