//! Whether the chain of events is unbroken: slot, log ends and positions in, a verdict out. Pure.
//!
//! An epoch is one unbroken chain. Before the relay skips or confirms anything it proves that the slot
//! continues exactly where the topics end. What can't be proven is broken, however harmless it looks:
//! a schedule of crashes without the rule lost data.

use std::collections::BTreeMap;

use contract::event::RecordId;
use contract::partition::{Partition, fnv1a};
use contract::position::{LastMessage, Lsn, Position};

/// The row of `nexus.epoch`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch {
    /// The epoch of this database.
    pub epoch: u64,
    /// Its history.
    pub history: u64,
    /// The cluster in which it was opened.
    pub system: String,
    /// Where its slot stood when it was made.
    pub first_lsn: Lsn,
}

/// The row of `nexus.position`: Postgres' copy of the newest position it knows of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// The offset of the position record in the topic of watermarks.
    pub record_offset: i64,
    /// The record.
    pub position: Position,
}

/// The newest position in the topic, read committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its offset.
    pub offset: i64,
    /// The record.
    pub position: Position,
}

/// What lies in a partition at the offset that the position names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadBack {
    /// A committed record with this number; `None` where it carries none.
    Record(Option<RecordId>),
    /// No committed record, and the log goes on behind it.
    Gone,
    /// The log ends at or before it.
    BehindLogEnd,
}

/// All that the proof looks at.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The epoch in Postgres.
    pub epoch: Epoch,
    /// Postgres' copy of the position, none before the first one is stored.
    pub copy: Option<Copy>,
    /// The slot's `confirmed_flush_lsn`.
    pub confirmed: Lsn,
    /// The system identifier of the server that streams.
    pub system: String,
    /// Where that server's WAL ends.
    pub wal_end: Lsn,
    /// The partitions that the settings name.
    pub partitions: Vec<Partition>,
    /// The newest position from the copy's offset (without a copy: the topic's beginning) to the end.
    pub found: Option<Found>,
    /// What lies at each offset that [`Found`] names.
    pub records: BTreeMap<Partition, ReadBack>,
    /// The partitions of events that hold records; looked at only where no position was found.
    pub occupied: Vec<Partition>,
    /// The time, in milliseconds since 1970.
    pub now_ms: i64,
    /// The smallest `delete.retention.ms` of the topics of events.
    pub delete_retention_ms: i64,
}

/// How the stream may begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chain {
    /// Nothing was ever published: the epoch's first broker transaction comes first.
    First,
    /// It continues from this position.
    Continues(Box<Position>, Redelivery),
}

/// Why the chain is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// No such slot.
    #[error("the replication slot {0} is gone: events between its loss and now can't be read any more")]
    SlotLost(String),
    /// Postgres gave it up.
    #[error("the replication slot {slot} was invalidated ({why}): the WAL it needs is gone")]
    SlotInvalidated {
        /// Its name.
        slot: String,
        /// `wal_status`.
        why: String,
    },
    /// The slot skipped events.
    #[error(
        "the slot has confirmed {confirmed}, past {published} where the topics end: it was made again or advanced by hand"
    )]
    SlotAhead {
        /// The slot's position.
        confirmed: Lsn,
        /// The end of what is published.
        published: Lsn,
    },
    /// The slot is older than its epoch.
    #[error(
        "the slot has confirmed only {confirmed}, before {first} where its epoch begins: the database was set back"
    )]
    SlotBehindEpoch {
        /// The slot's position.
        confirmed: Lsn,
        /// The epoch's beginning.
        first: Lsn,
    },
    /// The database forgot.
    #[error("the WAL ends at {wal_end}, before {published} which is published: the database was set back")]
    WalBehind {
        /// Where the WAL ends.
        wal_end: Lsn,
        /// The end of what is published.
        published: Lsn,
    },
    /// Another cluster.
    #[error("{whose} belongs to the database system {found}, this server is {server}")]
    OtherSystem {
        /// What names the other one.
        whose: &'static str,
        /// The other one.
        found: String,
        /// This one.
        server: String,
    },
    /// The topics are of another chain.
    #[error(
        "the topics hold epoch {found} (history {found_history}), Postgres is in epoch {postgres} (history {postgres_history})"
    )]
    OtherEpoch {
        /// In the topics.
        found: u64,
        /// In the topics.
        found_history: u64,
        /// In Postgres.
        postgres: u64,
        /// In Postgres.
        postgres_history: u64,
    },
    /// The copy is of another chain.
    #[error("Postgres' copy of the position is of epoch {copy}, Postgres is in epoch {postgres}")]
    CopyOfOtherEpoch {
        /// The copy's.
        copy: u64,
        /// The epoch's.
        postgres: u64,
    },
    /// The topic of watermarks lost its end.
    #[error(
        "the position record that Postgres has a copy of (offset {offset}) is not in the topic of watermarks any more"
    )]
    PositionLost {
        /// Where it was.
        offset: i64,
    },
    /// The topic of watermarks went back or was replaced.
    #[error(
        "the newest position in the topic ({found}) is behind Postgres' copy of it ({copy}), or is another one at its offset"
    )]
    PositionBehindCopy {
        /// The end of the topic's.
        found: Lsn,
        /// The end of the copy's.
        copy: Lsn,
    },
    /// Events without a position.
    #[error(
        "the topics hold records in {0} but no position: the topic of watermarks was lost, or they are another system's"
    )]
    RecordsWithoutPosition(String),
    /// The partitions changed.
    #[error(
        "the position names {position} partitions, the settings {settings}: the number is fixed when the topics are made"
    )]
    OtherPartitions {
        /// In the position.
        position: usize,
        /// In the settings.
        settings: usize,
    },
    /// A topic lost its end or was replaced.
    #[error(
        "partition {partition} does not hold record {seq} at offset {offset} ({what}): the topic lost its end or was replaced"
    )]
    RecordLost {
        /// Where.
        partition: Partition,
        /// Its offset.
        offset: i64,
        /// Its number.
        seq: u64,
        /// What is there instead.
        what: &'static str,
    },
    /// The topics are gone.
    #[error("topic {0} is gone")]
    TopicLost(String),
    /// The stream does not continue the chain.
    #[error(
        "the stream passed {published} at {passed} without the event that was published last: the slot reads another history"
    )]
    StreamPassed {
        /// The end of what is published.
        published: Lsn,
        /// Where the stream is.
        passed: Lsn,
    },
}

/// The verdict on the facts.
///
/// # Errors
/// [`Broken`], with the first reason found.
pub fn prove(facts: &Facts) -> Result<Chain, Broken> {
    let epoch = &facts.epoch;
    same_system("the epoch in Postgres", &epoch.system, &facts.system)?;
    if let Some(copy) = &facts.copy
        && copy.position.epoch != epoch.epoch
    {
        return Err(Broken::CopyOfOtherEpoch { copy: copy.position.epoch, postgres: epoch.epoch });
    }
    let Some(found) = &facts.found else { return prove_first(facts) };
    let position = &found.position;
    if (position.epoch, position.history) != (epoch.epoch, epoch.history) {
        return Err(Broken::OtherEpoch {
            found: position.epoch,
            found_history: position.history,
            postgres: epoch.epoch,
            postgres_history: epoch.history,
        });
    }
    same_system("the position", &position.system, &facts.system)?;
    if !position.begin.keys().eq(sorted(&facts.partitions).iter()) {
        return Err(Broken::OtherPartitions { position: position.begin.len(), settings: facts.partitions.len() });
    }
    if let Some(copy) = &facts.copy {
        let same_record = found.offset == copy.record_offset;
        if found.offset < copy.record_offset
            || position.end_lsn < copy.position.end_lsn
            || (same_record && *position != copy.position)
        {
            return Err(Broken::PositionBehindCopy { found: position.end_lsn, copy: copy.position.end_lsn });
        }
    }
    prove_wal(facts, position.end_lsn)?;
    for (&partition, last) in &position.partitions {
        let lost = |what| Broken::RecordLost { partition, offset: last.offset, seq: last.seq, what };
        let expected = RecordId { epoch: position.epoch, partition: partition.index, seq: last.seq };
        match facts.records.get(&partition) {
            Some(ReadBack::Record(Some(id))) if *id == expected => {}
            Some(ReadBack::Record(_)) => return Err(lost("another record lies there")),
            // It is the last committed record of its key, so compaction keeps it, unless it is a
            // deletion that served its time.
            Some(ReadBack::Gone) => match last.deleted {
                Some(time) if facts.now_ms.saturating_sub(time) > facts.delete_retention_ms => {}
                _ => return Err(lost("no committed record lies there")),
            },
            Some(ReadBack::BehindLogEnd) => return Err(lost("the log ends before it")),
            None => return Err(lost("it was not read back")),
        }
    }
    let redelivery = match (facts.confirmed == position.end_lsn, position.last) {
        (true, _) => Redelivery::none(),
        (false, Some(last)) => Redelivery::until(position.end_lsn, last),
        // Before the first message there is nothing by which a stream could prove itself.
        (false, None) => {
            return Err(Broken::SlotBehindEpoch { confirmed: facts.confirmed, first: position.end_lsn });
        }
    };
    Ok(Chain::Continues(Box::new(position.clone()), redelivery))
}

fn prove_first(facts: &Facts) -> Result<Chain, Broken> {
    if let Some(copy) = &facts.copy {
        return Err(Broken::PositionLost { offset: copy.record_offset });
    }
    if !facts.occupied.is_empty() {
        let names: Vec<String> = facts.occupied.iter().map(Partition::to_string).collect();
        return Err(Broken::RecordsWithoutPosition(names.join(", ")));
    }
    prove_wal(facts, facts.epoch.first_lsn)?;
    Ok(Chain::First)
}

/// Slot and WAL against the end of what is published.
fn prove_wal(facts: &Facts, published: Lsn) -> Result<(), Broken> {
    if facts.wal_end < published {
        return Err(Broken::WalBehind { wal_end: facts.wal_end, published });
    }
    if facts.confirmed > published {
        return Err(Broken::SlotAhead { confirmed: facts.confirmed, published });
    }
    if facts.confirmed < facts.epoch.first_lsn {
        return Err(Broken::SlotBehindEpoch { confirmed: facts.confirmed, first: facts.epoch.first_lsn });
    }
    Ok(())
}

fn same_system(whose: &'static str, found: &str, server: &str) -> Result<(), Broken> {
    if found == server {
        return Ok(());
    }
    Err(Broken::OtherSystem { whose, found: found.to_owned(), server: server.to_owned() })
}

fn sorted(partitions: &[Partition]) -> Vec<Partition> {
    let mut sorted = partitions.to_vec();
    sorted.sort_unstable();
    sorted
}

/// What a stream delivers again because the slot's confirmation was not kept: all of it is published
/// already, and the last of it proves that the stream is of the same chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redelivery {
    until: Option<(Lsn, LastMessage)>,
    messages: u32,
    hash: u64,
}

impl Redelivery {
    /// Nothing comes again.
    #[must_use]
    pub fn none() -> Self {
        Self { until: None, messages: 0, hash: 0 }
    }

    /// All up to and including the transaction that ends at `end_lsn`, whose last message of ours is `last`.
    #[must_use]
    pub fn until(end_lsn: Lsn, last: LastMessage) -> Self {
        Self { until: Some((end_lsn, last)), messages: 0, hash: 0 }
    }

    /// Whether the next transaction is new.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.until.is_none()
    }

    /// Takes one of our messages.
    pub fn message(&mut self, content: &[u8]) {
        self.messages = self.messages.saturating_add(1);
        self.hash = fnv1a(content);
    }

    /// Takes the end of a transaction.
    ///
    /// # Errors
    /// [`Broken::StreamPassed`]: it should have been the published one and is not.
    pub fn commit(&mut self, end_lsn: Lsn) -> Result<(), Broken> {
        let (messages, hash) = (std::mem::take(&mut self.messages), self.hash);
        let Some((until, last)) = self.until else { return Ok(()) };
        // A transaction without a message of ours can't be the one that was published last.
        if end_lsn < until {
            return Ok(());
        }
        if end_lsn == until && messages == last.index.saturating_add(1) && hash == last.hash {
            self.until = None;
            return Ok(());
        }
        Err(Broken::StreamPassed { published: until, passed: end_lsn })
    }

    /// Takes the server's word that it has sent everything up to `wal_end`.
    ///
    /// # Errors
    /// As [`Redelivery::commit`].
    pub fn passed(&self, wal_end: Lsn) -> Result<(), Broken> {
        match self.until {
            Some((until, _)) if wal_end > until => Err(Broken::StreamPassed { published: until, passed: wal_end }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
