//! `nexus-dataplane`: projects events into the view and serves reads from it.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use dataplane::settings::ProjectSettings;
use dataplane::status::ProjectorStatus;
use runtime::shutdown::Shutdown;
use tokio::sync::watch;

/// The read side of Nexus: keeps a view of all signals in Redis, and serves it.
#[derive(Parser)]
#[command(name = "nexus-dataplane", version)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Apply events to the view; serve nothing
    Project(ProjectSettings),
    /// Fill the view anew from the topics beside the one that serves, then flip to it
    Rebuild(ProjectSettings),
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Arguments = runtime::config::parse();
    match run(arguments.role).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(role: Role) -> anyhow::Result<()> {
    runtime::telemetry::init()?;
    let shutdown = Shutdown::on_signals()?;
    match role {
        Role::Project(settings) => {
            let (status, _) = watch::channel(ProjectorStatus::default());
            dataplane::project(settings, status, shutdown).await?;
        }
        Role::Rebuild(settings) => {
            let flipped = dataplane::rebuild::rebuild(settings, shutdown, |_, _| {}).await?;
            for (partition, generation) in flipped {
                println!("{partition}: generation {generation} serves");
            }
        }
    }
    Ok(())
}
