//! `nexus-control`: arguments → run → exit code.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use control::settings::{Arguments, Command, ServeSettings};
use runtime::shutdown::Shutdown;
use runtime::telemetry;
use tokio::runtime::Runtime;

/// How long threads that block in a library may hold up the exit.
const BLOCKED_THREADS: Duration = Duration::from_millis(200);

/// Exit codes: 0 done, 1 failed, 2 wrong usage.
fn main() -> ExitCode {
    let arguments: Arguments = runtime::config::parse();
    if let Err(error) = telemetry::init_with(&arguments.log.filter, &arguments.log.format) {
        eprintln!("error: {error}");
        return ExitCode::from(2);
    }
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(settings) => {
            let threads = settings.worker_threads;
            within(threads, serve(*settings))
        }
        Command::Migrate(_settings) => Ok(()),
        Command::CreateAdmin(_settings) => Ok(()),
    }
}

async fn serve(settings: ServeSettings) -> anyhow::Result<()> {
    let shutdown = Shutdown::on_signals().context("signals can't be handled")?;
    control::serve(settings, shutdown).await.context("could not start")
}

/// Runs `part` in a runtime of its own.
fn within(threads: Option<usize>, part: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads);
    }
    let runtime: Runtime = builder.enable_all().build().context("no runtime")?;
    let result = runtime.block_on(part);
    runtime.shutdown_timeout(BLOCKED_THREADS);
    result
}
