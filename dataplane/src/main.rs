//! `nexus-dataplane`: projects events into the view and serves reads from it.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use dataplane::settings::ProjectSettings;
use dataplane::status::ProjectorStatus;
use dataplane::{ReadSettings, Readings, serve_reads};
use runtime::shutdown::Shutdown;
use tokio::runtime::Runtime;
use tokio::sync::watch;

include!(concat!(env!("OUT_DIR"), "/commit.rs"));

/// The read side of Nexus: keeps a view of all signals in Redis, and serves it.
#[derive(Parser)]
#[command(name = "nexus-dataplane", version)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Apply events to the view, and serve it
    Serve(Box<ServeSettings>),
    /// Serve the view that others project
    Read(ReaderSettings),
    /// Apply events to the view; serve nothing
    Project(ProjectSettings),
    /// Fill the view anew from the topics beside the one that serves, then flip to it
    Rebuild(ProjectSettings),
}

#[derive(Args)]
struct ServeSettings {
    #[command(flatten)]
    project: ProjectSettings,

    #[command(flatten)]
    read: ReadSettings,
}

#[derive(Args)]
struct ReaderSettings {
    /// Redis that holds the view
    #[arg(long, env = "NEXUS_REDIS_URL", default_value = "redis://127.0.0.1:6379", hide_env_values = true)]
    redis_url: String,

    /// What the names of the keys in Redis begin with
    #[arg(long, env = "NEXUS_REDIS_PREFIX", default_value = "nexus:")]
    redis_prefix: String,

    #[command(flatten)]
    read: ReadSettings,
}

fn main() -> ExitCode {
    let arguments: Arguments = runtime::config::parse();
    runtime::commit::built_from(commit());
    // Before there are threads, which inherit it.
    runtime::scheduling::never_preempt();
    let ended = Runtime::new().context("no runtime").and_then(|runtime| runtime.block_on(run(arguments.role)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(role: Role) -> anyhow::Result<()> {
    runtime::telemetry::init()?;
    runtime::sabotage::announce();
    let shutdown = Shutdown::on_signals()?;
    match role {
        Role::Serve(settings) => {
            let ServeSettings { project, read } = *settings;
            let (redis_url, redis_prefix) = (project.redis_url.clone(), project.redis_prefix.clone());
            let (status, projector) = watch::channel(ProjectorStatus::default());
            let readings = Readings { redis_url, redis_prefix, projector: Some(projector) };
            // Whichever fails ends the other: half a role is none.
            let reads = async {
                let outcome = serve_reads(read, readings, shutdown.clone()).await;
                shutdown.begin();
                outcome
            };
            let projects = async {
                let outcome = dataplane::project(project, status, shutdown.clone()).await;
                shutdown.begin();
                outcome.context("the projector could not begin")
            };
            let (reads, projects) = tokio::join!(reads, projects);
            reads.and(projects)?;
        }
        Role::Read(ReaderSettings { redis_url, redis_prefix, read }) => {
            serve_reads(read, Readings { redis_url, redis_prefix, projector: None }, shutdown).await?;
        }
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
