//! How the store uses Postgres.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// When Postgres answers a COMMIT (its `synchronous_commit`). Anything but `on` is faster and looser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SynchronousCommit {
    /// Before the WAL is on disk: a crash of Postgres may lose the last acknowledged commands.
    Off,
    /// When the WAL is on this server's disk.
    Local,
    /// When it is on the disks of this server and of its synchronous standbys; the default.
    #[default]
    On,
    /// When the standbys have applied it as well.
    RemoteApply,
}

impl SynchronousCommit {
    /// Postgres' word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            SynchronousCommit::Off => "off",
            SynchronousCommit::Local => "local",
            SynchronousCommit::On => "on",
            SynchronousCommit::RemoteApply => "remote_apply",
        }
    }
}

impl fmt::Display for SynchronousCommit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for SynchronousCommit {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let all = [Self::Off, Self::Local, Self::On, Self::RemoteApply];
        let found = all.into_iter().find(|setting| setting.as_str() == word);
        found.ok_or_else(|| "must be on, remote_apply, local or off".to_owned())
    }
}

/// How the store uses Postgres.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// A URI that psql takes.
    pub url: String,
    /// Partitions of `nexus.signals`, 1 to [`contract::partition::PARTITIONS_MAX`].
    pub partitions: u16,
    /// When a command counts as durable.
    pub synchronous_commit: SynchronousCommit,
    /// How long a request may wait for a Postgres that is away before it is refused.
    pub away_after: Duration,
    /// How long the outcome of a lost COMMIT is looked for.
    pub outcome_deadline: Duration,
    /// Longest a statement may run, or wait for a lock.
    pub statement_timeout: Duration,
    /// Connections for reads, besides those of the batches.
    pub read_connections: u32,
}

impl StoreSettings {
    /// The defaults for this database and number of partitions.
    #[must_use]
    pub fn new(url: impl Into<String>, partitions: u16) -> Self {
        Self {
            url: url.into(),
            partitions,
            synchronous_commit: SynchronousCommit::On,
            away_after: Duration::from_secs(2),
            outcome_deadline: Duration::from_secs(10),
            statement_timeout: Duration::from_secs(5),
            read_connections: 8,
        }
    }
}
