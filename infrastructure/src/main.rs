//! `nexus`: starts, shows and stops a native stack.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use infrastructure::BrokerProfile;
use infrastructure::launcher::{self, Up};

/// Runs Postgres, a broker, Redis and both planes on this machine, without a Docker engine.
#[derive(Parser)]
#[command(name = "nexus", version, max_term_width = 120)]
struct Arguments {
    /// The directory that keeps the stack's ports, keys, data and logs.
    #[arg(long, env = "NEXUS_HOME", default_value = ".nexus", global = true)]
    home: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Starts what isn't running, restarts a plane whose executable changed, and prints how to use it.
    Up {
        /// Start Postgres, the broker and Redis only.
        #[arg(long)]
        servers_only: bool,
        /// The directory with the executables of the planes [default: where `nexus` itself is].
        #[arg(long, env = "NEXUS_RELEASE_DIR")]
        release_dir: Option<PathBuf>,
        /// `auto`: pick free ports, once, instead of the usual ones.
        #[arg(long, env = "NEXUS_PORTS")]
        ports: Option<String>,
        /// What the broker's JVM may take: `development` (384 MiB) or `benchmark` (1 GiB, G1).
        #[arg(long, env = "NEXUS_BROKER_PROFILE", default_value = "development")]
        broker_profile: BrokerProfile,
        /// `native`, or `compose` to use a Docker engine.
        #[arg(long, env = "NEXUS_STACK", default_value = "native")]
        stack: String,
    },
    /// Stops both planes, then the servers; keeps the data.
    Down,
    /// Shows what runs; exit 0 when everything is up.
    Status,
    /// Shows the end of a log, or of all: postgres, broker, redis, nexus-control, nexus-dataplane.
    Logs {
        /// Whose log.
        name: Option<String>,
        /// Go on with what is added.
        #[arg(short, long)]
        follow: bool,
    },
    /// Stops everything and removes data, ports, keys and logs.
    CleanData,
    /// Fetches the broker's jars, so that a later start needs no network.
    Prepare,
    /// Turns Debian's package index (`apt-cache dumpavail`, on standard input) into signals, one JSON object a line.
    DebianIndex,
}

fn main() -> ExitCode {
    // Below the environment and the flags; a missing file is none.
    let _ = dotenvy::from_path(".env");
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("nexus: can't start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(arguments)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("nexus: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let home = arguments.home;
    match arguments.command {
        Command::Up { servers_only, release_dir, ports, broker_profile, stack } => {
            let auto_ports = match ports.as_deref() {
                None | Some("") => false,
                Some("auto") => true,
                Some(other) => anyhow::bail!("NEXUS_PORTS: `{other}` is not `auto`"),
            };
            let compose = match stack.as_str() {
                "native" | "" => false,
                "compose" => true,
                other => anyhow::bail!("NEXUS_STACK: `{other}` is neither `native` nor `compose`"),
            };
            let bin = match release_dir {
                Some(dir) => dir,
                None => std::env::current_exe()?.parent().map(PathBuf::from).unwrap_or_default(),
            };
            let env: BTreeMap<String, String> =
                std::env::vars().filter(|(name, _)| name.starts_with("NEXUS_")).collect();
            let request = Up { home, bin, servers_only, auto_ports, broker_profile, compose, env };
            print(&launcher::up(&request).await?);
        }
        Command::Down => launcher::down(&home).await?,
        Command::Status => {
            let (table, all_up) = launcher::status(&home).await?;
            print(&table);
            return Ok(if all_up { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Logs { name, follow } => launcher::logs(&home, name.as_deref(), follow).await?,
        Command::CleanData => launcher::clean_data(&home).await?,
        Command::Prepare => infrastructure::prepare().await?,
        Command::DebianIndex => {
            let count = infrastructure::debian::write_signals(std::io::stdin().lock(), std::io::stdout().lock())?;
            eprintln!("{count} packages");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// To standard output, whether or not anybody reads it.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
