//! What the relay tells the rest of the process about itself: readiness, status, metrics' neighbours.

use std::collections::BTreeMap;
use std::fmt;

use contract::partition::Partition;
use contract::time::Timestamp;

/// What the relay is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayState {
    /// It has not looked at the slot yet.
    Starting,
    /// Another process relays; this one waits for the slot.
    Standby,
    /// It holds the slot and proves that the chain of events is unbroken.
    Proving,
    /// It carries events to the broker.
    Streaming,
    /// Something it needs is away or failed; it starts again from the slot.
    Retrying,
    /// The chain of events is broken: nothing is published nor confirmed until an operator mends it.
    Broken,
    /// It was told to stop.
    Stopped,
}

impl RelayState {
    /// The state as one lower-case word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Standby => "standby",
            Self::Proving => "proving",
            Self::Streaming => "streaming",
            Self::Retrying => "retrying",
            Self::Broken => "broken",
            Self::Stopped => "stopped",
        }
    }

    /// Whether commands' events reach the broker, by this process or by another.
    #[must_use]
    pub fn is_fine(self) -> bool {
        matches!(self, Self::Standby | Self::Streaming)
    }
}

impl fmt::Display for RelayState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The relay at a moment. It is renewed at every change of state and every broker transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayStatus {
    /// What it is doing.
    pub state: RelayState,
    /// Why, where the state alone does not say it (retrying, broken); else empty.
    pub detail: String,
    /// The epoch it relays, once known.
    pub epoch: Option<u64>,
    /// The last published number of each partition.
    pub seqs: BTreeMap<Partition, u64>,
    /// The time of the last watermark that it published: all committed before is in the topics.
    pub watermark: Option<Timestamp>,
    /// How far the published position lies behind the WAL that the server has sent, in bytes.
    pub lag_bytes: u64,
}

impl RelayStatus {
    /// Before the relay has looked at anything.
    #[must_use]
    pub fn starting() -> Self {
        Self {
            state: RelayState::Starting,
            detail: String::new(),
            epoch: None,
            seqs: BTreeMap::new(),
            watermark: None,
            lag_bytes: 0,
        }
    }

    /// How old the newest published watermark is, in milliseconds; `None` before the first.
    #[must_use]
    pub fn watermark_age_ms(&self) -> Option<i64> {
        self.watermark.map(|time| (Timestamp::now().0 - time.0).max(0) / 1000)
    }
}
