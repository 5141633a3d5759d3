//! Settings and subcommands: each setting is a flag and an environment variable of the same name.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand};
use contract::partition::PARTITIONS_MAX;
use runtime::config::HttpSettings;
use sqlx::postgres::PgConnectOptions;

use crate::batcher::BatcherSettings;
use crate::store::{StoreSettings, SynchronousCommit};

/// Where browsers may call from unless a setting says otherwise: the data plane's own origins.
const DATAPLANE_ORIGINS: [&str; 2] = ["http://127.0.0.1:8001", "http://localhost:8001"];

/// Longest name of a replication slot, in bytes (Postgres: NAMEDATALEN - 1).
const SLOT_BYTES_MAX: usize = 63;

/// The command side of Nexus: REST over Postgres, and the relay into the broker.
///
/// Every setting is a flag and an environment variable of the same name; a file `.env` in the working
/// directory counts below both.
#[derive(Debug, Parser)]
#[command(name = "nexus-control", version)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// How to log.
    #[command(flatten)]
    pub log: LogSettings,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the API and relay events to the broker, until SIGTERM
    Serve(Box<ServeSettings>),
    /// Bring the database up to date, then make the replication slot; again: nothing
    Migrate(MigrateSettings),
    /// Make an admin and print its new API key; where there is one of that name: nothing
    CreateAdmin(CreateAdminSettings),
}

/// How to log, on standard error.
#[derive(Debug, Clone, Args)]
pub struct LogSettings {
    /// A level (error, warn, info, debug, trace), or target=level, … with commas between
    #[arg(long = "log", env = "NEXUS_LOG", default_value = "info", global = true)]
    pub filter: String,

    /// human or json
    #[arg(long = "log-format", env = "NEXUS_LOG_FORMAT", default_value = "human", global = true)]
    pub format: String,
}

/// Which database.
#[derive(Debug, Clone, Args)]
pub struct DatabaseSettings {
    /// Postgres, as a URI that psql takes
    #[arg(
        long,
        env = "NEXUS_DATABASE_URL",
        default_value = "postgres://nexus:nexus@127.0.0.1:5432/nexus",
        hide_env_values = true
    )]
    pub database_url: String,

    /// Name of the replication slot; slot names are cluster-wide. Default: `nexus_` and the database's name
    #[arg(long, env = "NEXUS_SLOT", value_parser = slot_name)]
    pub slot: Option<String>,

    /// Partitions of the topic of signals; fixed when the topics are made
    #[arg(long, env = "NEXUS_PARTITIONS", default_value_t = 4,
          value_parser = RangedU64ValueParser::<u16>::new().range(1..=u64::from(PARTITIONS_MAX)))]
    pub partitions: u16,
}

impl DatabaseSettings {
    /// The slot's name: the setting, else `nexus_<database>`.
    ///
    /// # Errors
    /// The URL can't be read.
    pub fn slot(&self) -> Result<String, SettingsError> {
        if let Some(slot) = &self.slot
            && !slot.is_empty()
        {
            return Ok(slot.clone());
        }
        let options = PgConnectOptions::from_str(&self.database_url).map_err(SettingsError::DatabaseUrl)?;
        // As libpq does: without a database's name, the user's.
        let database = options.get_database().unwrap_or_else(|| options.get_username());
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
        let mut slot: String = "nexus_".chars().chain(database.chars().map(plain)).collect();
        slot.truncate(SLOT_BYTES_MAX);
        Ok(slot)
    }
}

/// Settings that contradict themselves.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// `NEXUS_DATABASE_URL` is no URI of a database.
    #[error("NEXUS_DATABASE_URL is not a URI that psql takes")]
    DatabaseUrl(#[source] sqlx::Error),
}

/// Settings of `serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeSettings {
    /// Address to listen on
    #[arg(long, env = "NEXUS_CONTROL_ADDR", default_value = "127.0.0.1:8000")]
    pub control_addr: SocketAddr,

    /// Which database.
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// The same database for who may replicate [default: NEXUS_DATABASE_URL]
    #[arg(long, env = "NEXUS_REPLICATION_URL", hide_env_values = true)]
    pub replication_url: Option<String>,

    /// Brokers that speak the Kafka protocol: host:port with commas between
    #[arg(long, env = "NEXUS_BROKERS", default_value = "127.0.0.1:9092")]
    pub brokers: String,

    /// What the topics' names begin with; topics are made when they are missing
    #[arg(long, env = "NEXUS_TOPIC_PREFIX", default_value = "nexus.")]
    pub topic_prefix: String,

    /// Replicas of each topic's partitions, where topics are made [default: three, or as many as there are brokers]
    #[arg(long, env = "NEXUS_REPLICATION", value_parser = RangedU64ValueParser::<u16>::new().range(1..=9))]
    pub replication: Option<u16>,

    /// Connections and origins.
    #[command(flatten)]
    pub http: HttpSettings,

    /// How commands are batched.
    #[command(flatten)]
    pub commands: CommandSettings,

    /// Threads that serve [default: one per core]
    #[arg(long, env = "NEXUS_WORKER_THREADS", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    pub worker_threads: Option<usize>,
}

impl ServeSettings {
    /// The URL to replicate from.
    #[must_use]
    pub fn replication_url(&self) -> &str {
        given(self.replication_url.as_deref()).unwrap_or(&self.database.database_url)
    }

    /// Origins that browsers may call from.
    #[must_use]
    pub fn origins(&self) -> Vec<String> {
        match &self.http.cors_origins {
            Some(origins) => origins.iter().filter(|origin| !origin.is_empty()).cloned().collect(),
            None => DATAPLANE_ORIGINS.map(str::to_owned).into(),
        }
    }
}

/// How commands are batched, and how long they may take.
#[derive(Debug, Clone, Args)]
pub struct CommandSettings {
    /// Batches that are committed at the same time
    #[arg(long, env = "NEXUS_BATCH_WORKERS", default_value_t = BatcherSettings::default().workers,
          value_parser = RangedU64ValueParser::<usize>::new().range(1..=64))]
    pub batch_workers: usize,

    /// Commands from which on a batch begins at once, beside the one under way
    #[arg(long, env = "NEXUS_BATCH_EAGER_COMMANDS", default_value_t = BatcherSettings::default().eager_commands,
          value_parser = RangedU64ValueParser::<usize>::new().range(1..=100_000))]
    pub batch_eager_commands: usize,

    /// Commands after which a batch is closed
    #[arg(long, env = "NEXUS_BATCH_COMMANDS", default_value_t = BatcherSettings::default().batch_commands,
          value_parser = RangedU64ValueParser::<usize>::new().range(1..=100_000))]
    pub batch_commands: usize,

    /// Bytes after which a batch is closed
    #[arg(long, env = "NEXUS_BATCH_BYTES", default_value_t = BatcherSettings::default().batch_bytes,
          value_parser = RangedU64ValueParser::<usize>::new().range(1024..))]
    pub batch_bytes: usize,

    /// Requests that may wait for a batch; beyond it: 503
    #[arg(long, env = "NEXUS_QUEUE_REQUESTS", default_value_t = BatcherSettings::default().queue_requests,
          value_parser = RangedU64ValueParser::<usize>::new().range(1..=10_000_000))]
    pub queue_requests: usize,

    /// Bytes that may wait for a batch; beyond it: 503. At least one batch request, 9 MiB
    #[arg(long, env = "NEXUS_QUEUE_BYTES", default_value_t = BatcherSettings::default().queue_bytes,
          value_parser = RangedU64ValueParser::<usize>::new().range(9 << 20..))]
    pub queue_bytes: usize,

    /// When a command counts as durable: on, remote_apply, local or off
    #[arg(long, env = "NEXUS_SYNCHRONOUS_COMMIT", default_value_t = SynchronousCommit::On)]
    pub synchronous_commit: SynchronousCommit,

    /// How long a command may wait for its outcome before it is answered with outcome-unknown
    #[arg(long, env = "NEXUS_COMMAND_TIMEOUT_MS", default_value_t = 15_000,
          value_parser = RangedU64ValueParser::<u64>::new().range(100..=600_000))]
    pub command_timeout_ms: u64,

    /// How long a read may take
    #[arg(long, env = "NEXUS_READ_TIMEOUT_MS", default_value_t = 5_000,
          value_parser = RangedU64ValueParser::<u64>::new().range(100..=600_000))]
    pub read_timeout_ms: u64,

    /// How long a command waits for a Postgres that is away before it is refused
    #[arg(long, env = "NEXUS_AWAY_AFTER_MS", default_value_t = 2_000,
          value_parser = RangedU64ValueParser::<u64>::new().range(250..=600_000))]
    pub away_after_ms: u64,

    /// How long an answer to COMMIT is waited for (half of it), and the outcome of a lost one looked for (the rest)
    #[arg(long, env = "NEXUS_OUTCOME_TIMEOUT_MS", default_value_t = 10_000,
          value_parser = RangedU64ValueParser::<u64>::new().range(1_000..=600_000))]
    pub outcome_timeout_ms: u64,

    /// Longest that a statement may run, or wait for a lock
    #[arg(long, env = "NEXUS_STATEMENT_TIMEOUT_MS", default_value_t = 5_000,
          value_parser = RangedU64ValueParser::<u64>::new().range(100..=600_000))]
    pub statement_timeout_ms: u64,

    /// Connections to Postgres for reads, besides those of the batches
    #[arg(long, env = "NEXUS_READ_CONNECTIONS", default_value_t = 8,
          value_parser = RangedU64ValueParser::<u32>::new().range(1..=1000))]
    pub read_connections: u32,
}

impl CommandSettings {
    /// The batcher's part.
    #[must_use]
    pub fn batcher(&self) -> BatcherSettings {
        BatcherSettings {
            workers: self.batch_workers,
            eager_commands: self.batch_eager_commands,
            batch_commands: self.batch_commands,
            batch_bytes: self.batch_bytes,
            queue_requests: self.queue_requests,
            queue_bytes: self.queue_bytes,
        }
    }

    /// The store's part, over a database.
    #[must_use]
    pub fn store(&self, database: &DatabaseSettings) -> StoreSettings {
        StoreSettings {
            synchronous_commit: self.synchronous_commit,
            away_after: Duration::from_millis(self.away_after_ms),
            outcome_deadline: Duration::from_millis(self.outcome_timeout_ms),
            statement_timeout: Duration::from_millis(self.statement_timeout_ms),
            read_connections: self.read_connections,
            ..StoreSettings::new(&database.database_url, database.partitions)
        }
    }
}

/// Settings of `migrate`.
#[derive(Debug, Clone, Args)]
pub struct MigrateSettings {
    /// Which database.
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// The same database for who may migrate [default: NEXUS_DATABASE_URL]
    #[arg(long, env = "NEXUS_MIGRATE_URL", hide_env_values = true)]
    pub migrate_url: Option<String>,

    /// The same database for who may replicate [default: NEXUS_DATABASE_URL]
    #[arg(long, env = "NEXUS_REPLICATION_URL", hide_env_values = true)]
    pub replication_url: Option<String>,
}

impl MigrateSettings {
    /// The URL to migrate with.
    #[must_use]
    pub fn migrate_url(&self) -> &str {
        given(self.migrate_url.as_deref()).unwrap_or(&self.database.database_url)
    }

    /// The URL to make the slot with.
    #[must_use]
    pub fn replication_url(&self) -> &str {
        given(self.replication_url.as_deref()).unwrap_or(&self.database.database_url)
    }
}

/// Settings of `create-admin`.
#[derive(Debug, Clone, Args)]
pub struct CreateAdminSettings {
    /// Which database.
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// The admin's name
    #[arg(long, default_value = "admin", value_parser = identity_name)]
    pub name: String,

    /// Make a new key also where the admin is there already
    #[arg(long)]
    pub new_key: bool,
}

/// A setting that is there but empty, as in a line `NEXUS_X=`, is not given.
fn given(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

/// Postgres' rule: lower-case letters, digits and `_`.
fn slot_name(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if text.len() <= SLOT_BYTES_MAX && text.bytes().all(plain) {
        return Ok(text.to_owned());
    }
    Err(format!("a slot's name has up to {SLOT_BYTES_MAX} of a-z, 0-9 and _"))
}

fn identity_name(text: &str) -> Result<String, String> {
    if contract::identity::is_name(text) {
        return Ok(text.to_owned());
    }
    Err("must match [a-z0-9][a-z0-9._-]{0,63}".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_slot_is_named_after_the_database() {
        let slot = |url: &str| {
            let settings = DatabaseSettings { database_url: url.to_owned(), slot: Some(String::new()), partitions: 4 };
            settings.slot().ok()
        };
        assert_eq!(slot("postgres://u:p@h:1/My-db").as_deref(), Some("nexus_my_db"));
        assert_eq!(slot("postgres://u@h").as_deref(), Some("nexus_u"));
        assert_eq!(slot(&format!("postgres://u@h/{}", "x".repeat(100))).map(|s| s.len()), Some(63));
        assert_eq!(slot("nonsense"), None);
    }

    #[test]
    fn every_setting_is_a_flag_and_a_variable_of_the_same_name() {
        let command = Arguments::command();
        for part in std::iter::once(&command).chain(command.get_subcommands()) {
            for argument in part.get_arguments() {
                let (Some(flag), Some(variable)) = (argument.get_long(), argument.get_env()) else { continue };
                let expected = format!("NEXUS_{}", flag.replace('-', "_").to_uppercase());
                assert_eq!(variable.to_str(), Some(expected.as_str()));
            }
        }
    }
}
