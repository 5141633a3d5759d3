//! The relay's records on `nexus.watermarks`: how far it is, and how fresh the topics are.
//!
//! The topic is compacted, has one partition and two keys, [`POSITION_KEY`] and [`WATERMARK_KEY`];
//! values are JSON. A position goes into the same broker transaction as the events it covers.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::partition::Partition;
use crate::token::ServerRun;

/// Key of position records.
pub const POSITION_KEY: &str = "position";
/// Key of watermark records.
pub const WATERMARK_KEY: &str = "watermark";

/// A place in Postgres' WAL, spelled `16/B374D848`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// A text that is no LSN.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no LSN")]
pub struct NotAnLsn(String);

impl FromStr for Lsn {
    type Err = NotAnLsn;

    fn from_str(text: &str) -> Result<Self, NotAnLsn> {
        let read = |(high, low): (&str, &str)| {
            Some(Lsn(
                u64::from(u32::from_str_radix(high, 16).ok()?) << 32 | u64::from(u32::from_str_radix(low, 16).ok()?)
            ))
        };
        text.split_once('/').and_then(read).ok_or_else(|| NotAnLsn(text.to_owned()))
    }
}

impl Serialize for Lsn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The last record that the relay wrote to a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRecord {
    /// Its offset.
    pub offset: i64,
    /// Its number in the epoch.
    pub seq: u64,
    /// Where it is a deletion: when it was published, in milliseconds since 1970. Compaction may take
    /// a deletion away once it is older than the topic's `delete.retention.ms`, and nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<i64>,
}

/// The last of our messages in the last published transaction, by which a stream proves that it is
/// the same chain: it must deliver exactly this one again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastMessage {
    /// Its index among our messages in its transaction, from 0.
    pub index: u32,
    /// FNV-1a of its content ([`crate::partition::fnv1a`]), as a number.
    pub hash: u64,
}

/// How far the relay is: what is published and may be confirmed to the slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The unbroken chain of events it belongs to.
    pub epoch: u64,
    /// The last epoch that was opened because the database had been set back; 0 for none.
    pub history: u64,
    /// `system_identifier` of the Postgres cluster.
    pub system: String,
    /// The server run in which the chain was last proven.
    pub run: ServerRun,
    /// Where the epoch begins in each partition: the offset of its first record, or the log end where
    /// it has none yet.
    pub begin: BTreeMap<Partition, i64>,
    /// End of the last transaction that is published whole (pgoutput's `end_lsn`); before the first
    /// one, the slot's own LSN when it was made.
    pub end_lsn: Lsn,
    /// The last of our messages in that transaction; none before the first.
    pub last: Option<LastMessage>,
    /// The last record in each partition; a partition without any is absent.
    pub partitions: BTreeMap<Partition, LastRecord>,
}

/// Everything committed before its time is in the topics, up to these numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    /// The epoch of the numbers.
    pub epoch: u64,
    /// The history of the epoch.
    pub history: u64,
    /// `clock_timestamp()` of the transaction that carried it through the WAL, µs since 1970.
    pub time: i64,
    /// The server run that it went through.
    pub run: ServerRun,
    /// The last number in each partition; 0 where there is none yet.
    pub seqs: BTreeMap<Partition, u64>,
}

/// The content of a message with the prefix [`crate::event::WATERMARK_PREFIX`], as SQL's
/// `json_build_object` writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatermarkMessage {
    /// `clock_timestamp()`, in microseconds since 1970.
    pub time: i64,
    /// WAL timeline of the server.
    pub timeline: u32,
    /// `pg_postmaster_start_time()`, in microseconds since 1970.
    pub started: i64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn records_stay_readable_for_ever() {
        let golden = include_str!("../golden/position-v1.json").trim();
        let s1 = "s1".parse().expect("a partition");
        let position = Position {
            epoch: 1_790_000_000_000,
            history: 0,
            system: "7423456789012345678".into(),
            run: ServerRun { timeline: 1, started: 1_790_000_000_000_000 },
            begin: BTreeMap::from([(s1, 5)]),
            end_lsn: Lsn(0x16_b374_d848),
            last: Some(LastMessage { index: 3, hash: u64::MAX }),
            partitions: BTreeMap::from([(s1, LastRecord { offset: 9, seq: 4, deleted: None })]),
        };
        assert_eq!(serde_json::to_string(&position).expect("serialises"), golden);
        assert_eq!(serde_json::from_str::<Position>(golden).expect("reads"), position);

        let deleted = LastRecord { offset: 9, seq: 4, deleted: Some(1_790_000_000_000) };
        let text = r#"{"offset":9,"seq":4,"deleted":1790000000000}"#;
        assert_eq!(serde_json::to_string(&deleted).expect("serialises"), text);
        assert_eq!(serde_json::from_str::<LastRecord>(text).expect("reads"), deleted);

        let golden = include_str!("../golden/watermark-v1.json").trim();
        let watermark = Watermark {
            epoch: 1_790_000_000_000,
            history: 0,
            time: 1_790_000_000_000_001,
            run: ServerRun { timeline: 1, started: 1_790_000_000_000_000 },
            seqs: BTreeMap::from([(s1, 4)]),
        };
        assert_eq!(serde_json::to_string(&watermark).expect("serialises"), golden);
        assert_eq!(serde_json::from_str::<Watermark>(golden).expect("reads"), watermark);
    }

    proptest! {
        #[test]
        fn lsns_come_back(lsn: u64) {
            prop_assert_eq!(Lsn(lsn).to_string().parse(), Ok(Lsn(lsn)));
        }
    }
}
