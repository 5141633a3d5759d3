//! The comparison with other systems: one command, one stack, everything measured in turns.
//!
//! `make peers`, or `cargo run --release -p bench --features peers --bin peers -- --only ingest,reads --repeats 3`.
//! It starts servers of its own on free ports (the broker in its profile for measuring), runs the parts that are asked
//! for, each in the order A B A B …, and writes `table.md`, `figures.json` and `manifest.json` into a folder.

mod constant;
mod debezium;
mod floor;
mod idle;
mod ingest;
mod latency;
mod lists;
mod machine;
mod manifest;
mod memory;
mod naive;
mod nexus;
mod open_reads;
mod open_watches;
mod options;
mod reads;
mod relayed;
mod replay;
mod systems;
mod table;
mod tape;
mod tools;
mod usage;
mod watches;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;

use options::{Cli, Part, Role};

fn main() -> ExitCode {
    match act(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(cli: Cli) -> anyhow::Result<()> {
    // One thread: what is pinned here is inherited by the programs that this thread starts, and by no other.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match cli.role {
        Some(Role::Constant(options)) => runtime.block_on(constant::serve(options)),
        Some(Role::OpenReads(options)) => open_reads::run(&options),
        Some(Role::OpenWatches(options)) => open_watches::run(&options),
        Some(Role::Commands(options)) => services()?.block_on(naive::commands::serve(options)),
        Some(Role::Apply(options)) => runtime.block_on(naive::apply::run(options)),
        Some(Role::View(options)) => services()?.block_on(naive::view::serve(options)),
        None => runtime.block_on(compare(cli.options)),
    }
}

/// The peers' servers may use every core, as Nexus' do.
fn services() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

async fn measure(
    part: Part,
    options: &options::Options,
    table: &mut table::Table,
    manifest: &mut manifest::Manifest,
) -> anyhow::Result<()> {
    match part {
        Part::Ingest => ingest::measure(options, table, manifest).await,
        Part::Reads => reads::measure(options, table, manifest).await,
        Part::Lists => lists::measure(options, table, manifest).await,
        Part::Replay => replay::measure(options, table, manifest).await,
        Part::Latency => latency::latency(options, table, manifest).await,
        Part::Watches => watches::measure(options, table, manifest).await,
        Part::Idle => idle::measure(options, table, manifest).await,
        Part::Memory => memory::measure(options, table, manifest).await,
        Part::Pipelines => latency::pipelines(options, table, manifest).await,
        Part::Sustained => latency::sustained(options, table, manifest).await,
    }
}

fn judge(part: Part, options: &options::Options, table: &mut table::Table) {
    match part {
        Part::Ingest => ingest::judge(table),
        Part::Reads => reads::judge(table),
        Part::Lists => lists::judge(table),
        Part::Replay => replay::judge(table),
        Part::Latency => latency::judge_latency(table),
        Part::Watches => watches::judge(options, table),
        Part::Idle => idle::judge(table),
        Part::Memory => memory::judge(table),
        Part::Pipelines => latency::judge_pipelines(options, table),
        Part::Sustained => latency::judge_sustained(table),
    }
}

/// Runs the parts; one that fails, or takes too long, does not take the others with it. What is known is written after
/// every measurement, so that a failure late in the run loses nothing.
async fn compare(options: options::Options) -> anyhow::Result<()> {
    options.check()?;
    std::fs::create_dir_all(&options.out)?;
    let mut manifest = manifest::Manifest::begin(&options);
    let mut table = table::Table::in_folder(&options.out);
    let mut failures = Vec::new();
    // What was prepared is there at the end of a run that is cut off, too.
    manifest.write(&options.out)?;
    for part in &options.only {
        tools::say(&format!("{} ({}):", part.name(), jiff::Timestamp::now().strftime("%H:%M:%S")));
        let begin = Instant::now();
        let limit = Duration::from_secs(options.part_minutes * 60);
        let done = tokio::time::timeout(limit, measure(*part, &options, &mut table, &mut manifest)).await;
        let done = done.unwrap_or_else(|_| Err(anyhow::anyhow!("cut off after {} minutes", options.part_minutes)));
        if let Err(error) = done {
            tools::say(&format!("  failed: {error:#}"));
            table.fail(part.name(), format!("{error:#}"));
            failures.push(format!("{}: {error:#}", part.name()));
        }
        // Of a part that failed, what there is.
        judge(*part, &options, &mut table);
        tools::say(&format!("  {} took {} s", part.name(), begin.elapsed().as_secs()));
        manifest.took(part.name(), begin.elapsed());
        manifest.end(&failures);
        manifest.write(&options.out)?;
        table.write(&options.out)?;
    }
    println!("{}", table.markdown());
    println!("written to {}", options.out.display());
    anyhow::ensure!(failures.is_empty(), "not all parts were measured: {}", failures.join("; "));
    Ok(())
}
