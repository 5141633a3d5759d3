//! `nexus-control`: arguments → run → exit code.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use control::batcher::CommandMetrics;
use control::migrate::migrate_tables;
use control::settings::{Arguments, Command, CreateAdminSettings, MigrateSettings, ServeSettings};
use control::slot;
use control::store::{Store, StoreSettings};
use runtime::shutdown::Shutdown;
use runtime::telemetry;
use sqlx::{Connection, PgConnection};
use tokio::runtime::Runtime;

include!(concat!(env!("OUT_DIR"), "/commit.rs"));

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
            runtime::scheduling::never_preempt();
            runtime::commit::built_from(commit());
            within(threads, serve(*settings))
        }
        Command::Migrate(settings) => within(Some(1), migrate(settings)),
        Command::CreateAdmin(settings) => within(Some(1), create_admin(settings)),
    }
}

async fn serve(settings: ServeSettings) -> anyhow::Result<()> {
    let shutdown = Shutdown::on_signals().context("signals can't be handled")?;
    control::serve(settings, shutdown).await.context("could not start")
}

/// The SQL first, then the slot: Postgres makes no slot in a transaction that has written.
async fn migrate(settings: MigrateSettings) -> anyhow::Result<()> {
    let slot = settings.database.slot()?;
    migrate_tables(settings.migrate_url(), &settings.database.database_url).await?;
    let mut tables = PgConnection::connect(settings.migrate_url()).await.context("can't connect to Postgres")?;
    let mut replicating = connect_to_replicate(&settings, &mut tables).await?;
    let made = slot::establish(&mut tables, replicating.as_mut(), &slot).await?;
    if let Some(replicating) = replicating {
        let _ = replicating.close().await;
    }
    let _ = tables.close().await;
    eprintln!("{}", if made { "migrated; made the replication slot" } else { "migrated; the slot was made before" });
    Ok(())
}

/// A connection that may make the slot, where the migrating role's may not: one role is enough for a small set-up.
async fn connect_to_replicate(
    settings: &MigrateSettings,
    migrating: &mut PgConnection,
) -> anyhow::Result<Option<PgConnection>> {
    const MAY: &str = "SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user";
    let may: bool = sqlx::query_scalar(MAY).fetch_one(migrating).await.context("the rights can't be read")?;
    if may {
        return Ok(None);
    }
    let connecting = PgConnection::connect(settings.replication_url()).await;
    connecting.map(Some).context("can't connect by NEXUS_REPLICATION_URL")
}

/// Prints the new key and nothing else on standard output, so that a script can take it.
async fn create_admin(settings: CreateAdminSettings) -> anyhow::Result<()> {
    let store = Store::new(
        StoreSettings::new(&settings.database.database_url, settings.database.partitions),
        CommandMetrics::register(telemetry::registry())?,
    )?;
    let admin = control::create_admin::create_admin(&store, &settings.name, settings.new_key).await?;
    let state = if admin.created { "made" } else { "is there" };
    eprintln!("the admin {} {state}: {}", settings.name, admin.identity);
    match admin.secret {
        Some(secret) => {
            eprintln!("its API key, shown this once:");
            println!("{secret}");
        }
        None => eprintln!("it has a key already; --new-key makes another one"),
    }
    Ok(())
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
