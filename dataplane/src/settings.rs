//! Settings of the projecting roles.

use clap::Args;

/// What `nexus-control` sets where it makes the topics (24 hours): less would make losses lawful.
const COMPACTION_LAG_MS: i64 = 24 * 60 * 60 * 1000;

/// Where the projector reads and writes, and its bounds.
#[derive(Debug, Clone, Args)]
pub struct ProjectSettings {
    /// Brokers, host:port with commas between
    #[arg(long, env = "NEXUS_BROKERS", default_value = "127.0.0.1:9092")]
    pub brokers: String,

    /// Redis that holds the view
    #[arg(long, env = "NEXUS_REDIS_URL", default_value = "redis://127.0.0.1:6379", hide_env_values = true)]
    pub redis_url: String,

    /// What the names of the topics begin with
    #[arg(long, env = "NEXUS_TOPIC_PREFIX", default_value = "nexus.")]
    pub topic_prefix: String,

    /// What the names of the keys in Redis begin with
    #[arg(long, env = "NEXUS_REDIS_PREFIX", default_value = "nexus:")]
    pub redis_prefix: String,

    /// Most records in one batch
    #[arg(long, env = "NEXUS_PROJECT_BATCH_RECORDS", default_value_t = 1024,
          value_parser = clap::value_parser!(u32).range(1..=2048))]
    pub batch_records: u32,

    /// Most bytes of documents in one batch
    #[arg(long, env = "NEXUS_PROJECT_BATCH_BYTES", default_value_t = 4 * 1024 * 1024)]
    pub batch_bytes: usize,

    /// Seconds after which a generation that no longer serves is deleted
    #[arg(long, env = "NEXUS_RETIRE_AFTER_SECONDS", default_value_t = 600)]
    pub retire_after_s: u64,

    /// Seconds without any progress after which a fill beside the serving generation is given up
    #[arg(long, env = "NEXUS_FILL_PATIENCE_SECONDS", default_value_t = 60)]
    pub fill_patience_s: u64,

    /// Used where the broker does not tell min.compaction.lag.ms: a younger record can't follow a hole
    #[arg(long, env = "NEXUS_COMPACTION_LAG_MS", default_value_t = COMPACTION_LAG_MS)]
    pub compaction_lag_ms: i64,
}

impl ProjectSettings {
    /// The full name of a topic.
    #[must_use]
    pub fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.topic_prefix)
    }

    /// The consumer group.
    #[must_use]
    pub fn group(&self) -> String {
        format!("{}projector", self.topic_prefix)
    }
}
