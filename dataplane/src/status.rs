//! How the projector stands, as `/v1/status` and `/readyz` show it.

use std::collections::BTreeMap;

use contract::partition::Partition;
use serde::Serialize;

/// What a partition's loop is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Another projector has it, or nobody yet.
    #[default]
    Elsewhere,
    /// Waiting for Redis.
    WaitingForRedis,
    /// Waiting for the broker, its topics, or the relay's first position.
    WaitingForBroker,
    /// Proving that the record at the checkpoint is the one that was applied.
    Verifying,
    /// Filling a new generation while reads are 503.
    Filling,
    /// Applying what the view may have forgotten while reads are 503.
    CatchingUp,
    /// Serving and applying.
    Serving,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct PartitionStatus {
    /// What its loop is doing.
    pub state: State,
    /// Why, where it is not serving; or what went wrong last.
    pub reason: Option<String>,
    /// The generation that it applies to.
    pub generation: u64,
    /// The epoch of `seq`.
    pub epoch: u64,
    /// The last applied number.
    pub seq: u64,
    /// The offset of that record; -1 for none.
    pub offset: i64,
    /// The log's end at the last look; -1 before the first.
    pub log_end: i64,
    /// The highest number known to be in the log, from records, positions and watermarks.
    pub seq_end: u64,
    /// Events that are in the log and not applied: `seq_end - seq`.
    pub lag: u64,
    /// Whether reads of it may be served.
    pub ready: bool,
    /// A fill beside the serving generation: how far it is, or why it was dropped.
    pub beside: Option<String>,
}

/// The whole projector.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ProjectorStatus {
    /// Partitions of signals; 0 until the topics are there.
    pub signals: u16,
    /// The partitions, those of other projectors too (`elsewhere`).
    pub partitions: BTreeMap<Partition, PartitionStatus>,
    /// Why the broker can't be read; none while it can.
    pub broker_error: Option<String>,
    /// Why Redis can't be written; none while it can.
    pub redis_error: Option<String>,
    /// What the projector waits for before it can begin, if anything.
    pub waiting_for: Option<String>,
    /// Dead letters written since the process started.
    pub dead_letters: u64,
}
