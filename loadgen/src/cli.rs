//! The command line.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use loadgen::client::Exchange;
use loadgen::compare;
use loadgen::journal::{CHANNEL_BATCHES, Shared};
use loadgen::live;
use loadgen::manifest::Manifest;
use loadgen::options::{Load, RunOptions, Targets, rate};
use loadgen::report;
use loadgen::run::{self, Finished};
use loadgen::slo::Slo;
use loadgen::summary::{Latency, Summary, Verdict};
use loadgen::sweep::{self, Plan, Point};
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
    /// Find the highest rate that holds the objectives with a flat lag; a run that is INVALID says nothing of its rate, which is run again, three times in all
    Sweep(Box<SweepArguments>),
    /// Say whether B differs from A: folders of five runs or more each, or two stacks to measure
    Compare(Box<CompareArguments>),
    /// Render the report of a run again from its data, or the index of a folder of runs
    Report {
        /// Folder of a run, of a sweep, or of several of them
        dir: PathBuf,
    },
    /// Put the figures of committed runs into Markdown files, between
    /// `<!-- figure results/RUN l2c.p99_ms -->` and `<!-- /figure -->`
    Splice {
        /// The files
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Change nothing; exit code 1 where a figure is not what its run says
        #[arg(long)]
        check: bool,
    },
    /// Compare Postgres with each view server: exit code 0 where they agree, 4 where one does not
    Verify(Targets),
}

#[derive(Debug, clap::Args)]
struct SweepArguments {
    /// First rate
    #[arg(long, value_parser = rate, default_value = "500", value_name = "RATE")]
    from: f64,
    /// Highest rate
    #[arg(long, value_parser = rate, default_value = "100000", value_name = "RATE")]
    to: f64,
    /// From one rate to the next on the way up
    #[arg(long, default_value_t = 2.0, value_name = "FACTOR")]
    factor: f64,
    /// How close the bisection comes, in percent
    #[arg(long, default_value_t = 5.0, value_name = "PERCENT")]
    precision: f64,
    /// Runs at the knee; most of them must hold
    #[arg(long, default_value_t = 3, value_name = "N")]
    repeats: usize,
    #[command(flatten)]
    load: Load,
    /// An objective; several together
    #[arg(long = "slo", default_value = "l2c:p99<50ms", value_name = "OBJECTIVE")]
    slos: Vec<Slo>,
    /// Folder for the reports; made if need be
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    targets: Targets,
}

#[derive(Debug, clap::Args)]
struct CompareArguments {
    /// Folder of runs, or the `env` file of a running stack
    a: PathBuf,
    /// The same of the other side
    b: PathBuf,
    /// Compare different machines, different loads or too few runs all the same, and say so
    #[arg(long)]
    force: bool,
    /// Runs on each side, done in turns (ABBA), when A and B are stacks
    #[arg(long, default_value_t = 5, value_name = "N")]
    runs: usize,
    /// Commands per second, when A and B are stacks
    #[arg(long, value_parser = rate, default_value = "500", value_name = "RATE")]
    rate: f64,
    #[command(flatten)]
    load: Load,
    /// Folder for the comparison (and its runs, when A and B are stacks)
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
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
        Subcommands::Sweep(arguments) => sweep_rates(*arguments),
        Subcommands::Compare(arguments) => compare_runs(*arguments),
        Subcommands::Report { dir } => render_again(&dir),
        Subcommands::Splice { files, check } => splice_figures(&files, check),
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
        queue_batches: CHANNEL_BATCHES,
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
        finished.recorder.write_totals(folder, finished.summary.measured_s).with_context(failed)?;
        let mut samples =
            std::io::BufWriter::new(std::fs::File::create(folder.join("cross-check.csv")).with_context(failed)?);
        finished.samples.write(&mut samples).and_then(|()| samples.flush()).with_context(failed)?;
        manifest.write(folder, finished.seed, &finished.priority, finished.measured_at).with_context(failed)?;
    }
    if let Some(folder) = &folder {
        report::render(folder)?;
    }
    Ok((finished, folder))
}

fn sweep_rates(arguments: SweepArguments) -> anyhow::Result<u8> {
    let plan = Plan {
        from: arguments.from,
        to: arguments.to.max(arguments.from),
        factor: arguments.factor.max(1.1),
        precision: 1.0 + arguments.precision.max(1.0) / 100.0,
        repeats: arguments.repeats,
    };
    let stop = Arc::new(Shared::default());
    heed_signals(Arc::clone(&stop))?;
    let mut number = 0;
    let mut sweep = sweep::search(plan, |rate| -> anyhow::Result<Option<Point>> {
        number += 1;
        let name = format!("{number:02}-{rate:.0}");
        let options = RunOptions {
            targets: arguments.targets.clone(),
            load: arguments.load.clone(),
            rate,
            slos: arguments.slos.clone(),
            out: Some(arguments.out.join(&name)),
            quiet: true,
            panel: false,
            queue_batches: CHANNEL_BATCHES,
        };
        let Some(finished) = one_of_many(options, &stop)? else { return Ok(None) };
        let point = Point::of(&finished.summary, &name);
        eprintln!("{}", point.line());
        Ok(Some(point))
    })?;
    sweep.slo = arguments.slos.iter().map(|slo| slo.text().to_owned()).collect();
    sweep::render(&arguments.out, &sweep)?;
    println!("{}", sweep.headline());
    Ok(sweep.exit_code())
}

/// A run in a series; `None` where the series was interrupted before it.
fn one_of_many(options: RunOptions, stop: &Arc<Shared>) -> anyhow::Result<Option<Finished>> {
    if stop.interrupted.load(Ordering::Relaxed) {
        return Ok(None);
    }
    let shared = Arc::new(Shared::default());
    let over = Arc::new(AtomicBool::new(false));
    let passing_on = {
        let (shared, stop, over) = (Arc::clone(&shared), Arc::clone(stop), Arc::clone(&over));
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                if stop.interrupted.load(Ordering::Relaxed) {
                    shared.interrupted.store(true, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        })
    };
    let outcome = measured_run(options, shared);
    over.store(true, Ordering::Relaxed);
    let _ = passing_on.join();
    let (finished, _) = outcome?;
    Ok(Some(finished))
}

fn compare_runs(arguments: CompareArguments) -> anyhow::Result<u8> {
    let (mut a, mut b) = (arguments.a.clone(), arguments.b.clone());
    if a.is_file() && b.is_file() {
        let out = arguments.out.clone().context("--out is needed for the runs against two stacks")?;
        let stop = Arc::new(Shared::default());
        heed_signals(Arc::clone(&stop))?;
        let (targets_a, targets_b) = (targets_of(&a)?, targets_of(&b)?);
        (a, b) = (out.join("a"), out.join("b"));
        for run in 0..arguments.runs * 2 {
            let turn_of_b = compare::turn_of_b(run);
            let side = if turn_of_b { &b } else { &a };
            let options = RunOptions {
                targets: if turn_of_b { targets_b.clone() } else { targets_a.clone() },
                load: arguments.load.clone(),
                rate: arguments.rate,
                slos: Vec::new(),
                out: Some(side.join(format!("{run:02}"))),
                quiet: true,
                panel: false,
                queue_batches: CHANNEL_BATCHES,
            };
            let finished = one_of_many(options, &stop)?.filter(|finished| !finished.summary.interrupted);
            let Some(finished) = finished else {
                let (done, all) = (run, arguments.runs * 2);
                anyhow::bail!(
                    "interrupted: {done} of {all} runs were done, and nothing was compared; they are in {}",
                    out.display()
                );
            };
            let l2c = finished.summary.l2c.map_or((0.0, 0.0), |l2c| (l2c.p50_ms, l2c.p99_ms));
            eprintln!(
                "{} {}: l2c p50 {:.2} p99 {:.2} ms, {:.0}/s",
                if turn_of_b { 'B' } else { 'A' },
                finished.summary.verdict.name(),
                l2c.0,
                l2c.1,
                finished.summary.achieved_per_s
            );
        }
    }
    let comparison = compare::compare(&a, &b, arguments.force)?;
    if let Some(out) = &arguments.out {
        std::fs::create_dir_all(out).with_context(|| format!("{} can't be made", out.display()))?;
        compare::render(out, &comparison)?;
    }
    println!("{}", comparison.headline());
    Ok(if comparison.regressed() { Verdict::SloFailed.exit_code() } else { 0 })
}

/// The client variables in a stack's `env` file.
fn targets_of(env: &Path) -> anyhow::Result<Targets> {
    let text = report::read(env)?;
    let variable = |name: &str| {
        text.lines()
            .filter_map(|line| line.trim().strip_prefix("export ")?.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.trim_matches(['"', '\'']).to_owned())
            .with_context(|| format!("{} does not set {name}", env.display()))
    };
    Ok(Targets {
        control_url: variable("NEXUS_CONTROL_URL")?,
        dataplane_url: variable("NEXUS_DATAPLANE_URL")?.split(',').map(str::to_owned).collect(),
        api_key: variable("NEXUS_API_KEY")?,
    })
}

fn render_again(dir: &Path) -> anyhow::Result<u8> {
    if dir.join("summary.json").is_file() {
        println!("{}", report::render(dir)?.display());
    } else if dir.join("sweep.json").is_file() {
        sweep::render(dir, &report::read_json(&dir.join("sweep.json"))?)?;
        println!("{}", dir.join("report.html").display());
    } else if dir.join("compare.json").is_file() {
        compare::render(dir, &report::read_json(&dir.join("compare.json"))?)?;
        println!("{}", dir.join("report.html").display());
    } else {
        let count = report::index::render(dir)?;
        println!("{}: {count} runs", dir.join("README.md").display());
    }
    Ok(0)
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
                    live::leave();
                    std::process::exit(130);
                }
                if !live::is_open() {
                    eprintln!("{}", live::ENDING);
                }
            }
        });
    })?;
    Ok(())
}

fn splice_figures(files: &[PathBuf], check: bool) -> anyhow::Result<u8> {
    let mut stale = 0;
    for file in files {
        let count = report::splice::splice(file, check)?;
        if count > 0 {
            println!(
                "{}: {count} figures {}",
                file.display(),
                if check { "differ from their runs" } else { "brought up to date" }
            );
        }
        stale += count;
    }
    Ok(if check && stale > 0 { SETUP_FAILED } else { 0 })
}

fn verify_planes(targets: &Targets) -> anyhow::Result<u8> {
    let mut control = Exchange::new(targets.control()?, &targets.api_key);
    let views = targets.views()?;
    let several = views.len() > 1;
    let mut differ = false;
    for view in views {
        let name = if several { format!("the view of {}", view.authority) } else { "the view".to_owned() };
        let comparison = verify::compare(&mut control, &mut Exchange::new(view, &targets.api_key), &mut |_, _| {})?;
        for example in &comparison.examples {
            println!("{example}");
        }
        println!("{} entities in Postgres, {} differ in {name}", comparison.entities, comparison.different);
        differ |= comparison.different > 0;
    }
    Ok(if differ { Verdict::Incorrect.exit_code() } else { 0 })
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
    let broken = summary.violations.named().map(|(name, count)| format!("{count} {name}"));
    println!("violations: {}", broken.join(", "));
    if summary.reads_failed + summary.reads_unsent > 0 {
        println!("reads: {} failed, {} never sent", summary.reads_failed, summary.reads_unsent);
    }
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
    if let Some(check) = summary.cross_check {
        println!(
            "l2c is reported too high by {:.3} ms at p50 and {:.3} ms at p99, by {} sampled reads",
            check.over_p50_ms, check.over_p99_ms, check.samples
        );
    }
    println!("Postgres and view compared: {}", summary.view_compared);
}
