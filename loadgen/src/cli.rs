//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use loadgen::client::Exchange;
use loadgen::journal::Shared;
use loadgen::manifest::Manifest;
use loadgen::options::{Load, RunOptions, Targets, rate};
use loadgen::run::{self, Finished};
use loadgen::slo::Slo;
use loadgen::summary::{Latency, Summary};
use loadgen::verify;

/// A command could not be done at all.
const SETUP_FAILED: u8 = 1;

/// Measures Nexus: latency to consistency, and whether it keeps its promises.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "Exit codes: 0 PASS, 1 set-up error, 2 usage, 3 INVALID (the generator itself fell behind), 4 INCORRECT (a promise was broken), 99 an objective failed"
)]
struct Cli {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Send a load, measure and check
    Run(Box<RunArguments>),
    /// Compare Postgres with the view
    Verify(Targets),
}

#[derive(Debug, clap::Args)]
struct RunArguments {
    /// Commands per second
    #[arg(long, value_parser = rate, default_value = "500", value_name = "RATE")]
    rate: f64,
    #[command(flatten)]
    load: Load,
    /// An objective, like 'l2c:p99<50ms' or 'lost==0'; with ',abort=10s' the run ends when it has
    /// not held for 10 s
    #[arg(long = "slo", value_name = "OBJECTIVE")]
    slos: Vec<Slo>,
    /// Folder for the report; made if need be
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only the beginning of the measurement and the verdict
    #[arg(long, short)]
    quiet: bool,
    /// Plain lines even on a terminal
    #[arg(long)]
    plain: bool,
    #[command(flatten)]
    targets: Targets,
}

/// Parses the arguments and does what they say.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Subcommands::Run(arguments) => run_once(*arguments),
        Subcommands::Verify(targets) => verify_planes(&targets),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("loadgen: {error:#}");
            ExitCode::from(SETUP_FAILED)
        }
    }
}

fn run_once(arguments: RunArguments) -> anyhow::Result<u8> {
    let options = RunOptions {
        targets: arguments.targets,
        load: arguments.load,
        rate: arguments.rate,
        slos: arguments.slos,
        out: arguments.out,
        quiet: arguments.quiet,
        panel: !arguments.plain && !arguments.quiet,
    };
    let shared = Arc::new(Shared::default());
    heed_signals(Arc::clone(&shared))?;
    let (finished, _) = measured_run(options, shared)?;
    print_summary(&finished.summary);
    Ok(finished.summary.verdict.exit_code())
}

/// A run with its files.
fn measured_run(options: RunOptions, shared: Arc<Shared>) -> anyhow::Result<(Finished, Option<PathBuf>)> {
    if let Some(folder) = &options.out {
        std::fs::create_dir_all(folder).with_context(|| format!("{} can't be made", folder.display()))?;
    }
    let manifest = options.out.as_ref().map(|_| Manifest::before(&options));
    let folder = options.out.clone();
    let finished = run::run(options, shared)?;
    if let (Some(folder), Some(manifest)) = (&folder, manifest) {
        let failed = || format!("{} can't be written", folder.display());
        let text = serde_json::to_vec_pretty(&finished.summary)?;
        std::fs::write(folder.join("summary.json"), text).with_context(failed)?;
        manifest.write(folder, finished.seed, &finished.priority, finished.measured_at).with_context(failed)?;
    }
    Ok((finished, folder))
}

/// The first Ctrl-C (or SIGTERM) ends the run early, with a valid report; the second ends it.
fn heed_signals(shared: Arc<Shared>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let Ok(mut terminate) = signal(SignalKind::terminate()) else {
                return;
            };
            loop {
                tokio::select! {
                    _ = tokio::signal::ctrl_c() => {}
                    _ = terminate.recv() => {}
                }
                if shared.interrupted.swap(true, Ordering::Relaxed) {
                    std::process::exit(130);
                }
                eprintln!("ending early; once more to stop at once");
            }
        });
    })?;
    Ok(())
}

fn verify_planes(targets: &Targets) -> anyhow::Result<u8> {
    let mut control = Exchange::new(targets.control()?, &targets.api_key);
    let view = targets.views()?.into_iter().next().context("no data plane URL")?;
    let mut view = Exchange::new(view, &targets.api_key);
    let comparison = verify::compare(&mut control, &mut view, &mut |_, _| {})?;
    for example in &comparison.examples {
        println!("{example}");
    }
    println!("{} entities in Postgres, {} differ in the view", comparison.entities, comparison.different);
    Ok(if comparison.different == 0 { 0 } else { 4 })
}

fn print_summary(summary: &Summary) {
    println!("{}", summary.verdict.name());
    for reason in &summary.reasons {
        println!("  {reason}");
    }
    for example in summary.examples.iter().take(5) {
        println!("  {example}");
    }
    println!(
        "offered {:.0}/s, achieved {:.1}/s over {:.1} s ({}{})",
        summary.offered_per_s,
        summary.achieved_per_s,
        summary.measured_s,
        summary.mode,
        if summary.interrupted { ", interrupted" } else { "" }
    );
    println!(
        "sent {}, accepted {}, refused {}, rejected {}, failed {}, timed out {}, unknown {}; outstanding {}, drained in {:.2} s",
        summary.sent,
        summary.accepted,
        summary.refused,
        summary.rejected,
        summary.failed,
        summary.timed_out,
        summary.unknown,
        summary.outstanding,
        summary.drain_s
    );
    let measures = [
        ("l2c", summary.l2c),
        ("command", summary.command),
        ("service", summary.service),
        ("read", summary.read),
        ("send delay", summary.send_delay),
    ];
    println!("{:<11} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}", "ms", "count", "p50", "p90", "p99", "p99.9", "max");
    for (name, latency) in measures {
        if let Some(Latency { count, p50_ms, p90_ms, p99_ms, p999_ms, max_ms, .. }) = latency {
            println!("{name:<11} {count:>9} {p50_ms:>9.3} {p90_ms:>9.3} {p99_ms:>9.3} {p999_ms:>9.3} {max_ms:>9.3}");
        }
    }
    println!("Postgres and view compared: {}", summary.view_compared);
}
