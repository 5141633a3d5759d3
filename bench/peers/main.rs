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
mod replay;
mod systems;
mod table;
mod tape;
mod tools;
mod usage;
mod watches;

use std::process::ExitCode;

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

/// Runs the parts, and writes what is known after each, so that a failure late in the run loses nothing.
async fn compare(options: options::Options) -> anyhow::Result<()> {
    options.check()?;
    std::fs::create_dir_all(&options.out)?;
    let mut manifest = manifest::Manifest::begin(&options);
    let mut table = table::Table::default();
    let mut failures = Vec::new();
    for part in &options.only {
        tools::say(&format!("{}:", part.name()));
        let done = match part {
            Part::Ingest => ingest::measure(&options, &mut table, &mut manifest).await,
            Part::Reads => reads::measure(&options, &mut table, &mut manifest).await,
            Part::Lists => lists::measure(&options, &mut table, &mut manifest).await,
            Part::Replay => replay::measure(&options, &mut table, &mut manifest).await,
            Part::Latency => latency::latency(&options, &mut table, &mut manifest).await,
            Part::Watches => watches::measure(&options, &mut table, &mut manifest).await,
            Part::Idle => idle::measure(&options, &mut table, &mut manifest).await,
            Part::Memory => memory::measure(&options, &mut table, &mut manifest).await,
            Part::Pipelines => latency::pipelines(&options, &mut table, &mut manifest).await,
            Part::Sustained => latency::sustained(&options, &mut table, &mut manifest).await,
        };
        if let Err(error) = done {
            tools::say(&format!("  failed: {error:#}"));
            failures.push(format!("{}: {error:#}", part.name()));
        }
        manifest.end(&failures);
        manifest.write(&options.out)?;
        table.write(&options.out)?;
    }
    println!("{}", table.markdown());
    println!("written to {}", options.out.display());
    anyhow::ensure!(failures.is_empty(), "not all parts were measured: {}", failures.join("; "));
    Ok(())
}
