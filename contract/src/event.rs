//! Events: how one travels through the WAL, and how it stands on a topic.
//!
//! In the WAL an event is the content of a transactional logical message with the prefix
//! [`EVENT_PREFIX`], or a part of a [bundle](crate::bundle). On a topic it is a record: the key is the
//! entity's id (36 characters), the value the entity's full new state as JSON, byte for byte what both
//! planes answer, or null for a deletion; headers follow CloudEvents 1.0 in binary mode. Changes are
//! additive only.

use std::fmt::Write as _;

use uuid::Uuid;

use crate::partition::{Partition, Topic};
use crate::time::Timestamp;

/// Prefix of the logical messages that carry events. Each one takes a number.
pub const EVENT_PREFIX: &str = "nexus.event";
/// Prefix of the logical messages that become watermarks. They take no number.
pub const WATERMARK_PREFIX: &str = "nexus.watermark";

/// Header: the version of the entity that the record shows.
pub const HEADER_VERSION: &str = "nexus_version";
/// Header: set on a record that re-emits an entity to mend a damaged copy; applied at an equal version too.
pub const HEADER_REPAIR: &str = "nexus_repair";
/// `ce_type` of a marker that stands for a message the relay could not publish.
pub const TYPE_POISON: &str = "nexus.poison";
/// `ce_type` of the record that ends an epoch's opening.
pub const TYPE_END: &str = "nexus.epoch.end";

/// What happened to the entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// It came to be.
    Created,
    /// It changed.
    Updated,
    /// It was deleted (a key: revoked).
    Deleted,
    /// Nothing happened: it is emitted again so that a damaged copy can be mended.
    Repaired,
}

impl Change {
    const ALL: [Change; 4] = [Change::Created, Change::Updated, Change::Deleted, Change::Repaired];

    fn code(self) -> u8 {
        match self {
            Change::Created => 1,
            Change::Updated => 2,
            Change::Deleted => 3,
            Change::Repaired => 4,
        }
    }

    /// The CloudEvents type of this change of an entity of `topic`.
    #[must_use]
    pub fn ce_type(self, topic: Topic) -> &'static str {
        match (topic, self) {
            (Topic::Signals, Change::Created) => "nexus.signal.created",
            (Topic::Signals, Change::Updated) => "nexus.signal.updated",
            (Topic::Signals, Change::Deleted) => "nexus.signal.deleted",
            (Topic::Signals, Change::Repaired) => "nexus.signal.repaired",
            (Topic::Identities, Change::Created) => "nexus.identity.created",
            (Topic::Identities, Change::Updated) => "nexus.identity.updated",
            (Topic::Identities, Change::Deleted) => "nexus.identity.deleted",
            (Topic::Identities, Change::Repaired) => "nexus.identity.repaired",
            (Topic::Keys, Change::Created) => "nexus.key.created",
            (Topic::Keys, Change::Updated) => "nexus.key.updated",
            (Topic::Keys, Change::Deleted) => "nexus.key.revoked",
            (Topic::Keys, Change::Repaired) => "nexus.key.repaired",
        }
    }
}

/// An event as the command side writes it into the WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<'a> {
    /// The topic it goes to.
    pub topic: Topic,
    /// The entity.
    pub id: Uuid,
    /// What happened.
    pub change: Change,
    /// The entity's version after it.
    pub version: u64,
    /// When.
    pub time: Timestamp,
    /// W3C trace context of the command, or empty.
    pub traceparent: &'a str,
    /// The new state as JSON; empty for a deletion.
    pub value: &'a [u8],
}

/// A message that is no event, but may still tell whose it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Unreadable {
    /// Topic and entity, where the message's beginning could be read.
    pub subject: Option<(Topic, Uuid)>,
    /// What is wrong with the rest.
    pub what: &'static str,
}

const FORMAT: u8 = 1;
const HEAD: usize = 1 + 16 + 1 + 1 + 8 + 8 + 1;

impl<'a> Event<'a> {
    /// The message's content: topic letter, id (16 bytes), format (1), change, version and time in
    /// microseconds (8 bytes each, big-endian), length and bytes of the trace context, then the value.
    ///
    /// # Panics
    /// Never: a trace context longer than 255 bytes is left out.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD + self.traceparent.len() + self.value.len());
        self.encode_to(&mut out);
        out
    }

    /// [`Event::encode`], behind what `out` holds already.
    pub(crate) fn encode_to(&self, out: &mut Vec<u8>) {
        let (trace, length) = match u8::try_from(self.traceparent.len()) {
            Ok(length) => (self.traceparent, length),
            Err(_) => ("", 0),
        };
        out.reserve(HEAD + trace.len() + self.value.len());
        out.push(self.topic.letter());
        out.extend_from_slice(self.id.as_bytes());
        out.push(FORMAT);
        out.push(self.change.code());
        out.extend_from_slice(&self.version.to_be_bytes());
        out.extend_from_slice(&self.time.0.to_be_bytes());
        out.push(length);
        out.extend_from_slice(trace.as_bytes());
        out.extend_from_slice(self.value);
    }

    /// Reads what [`Event::encode`] wrote.
    ///
    /// # Errors
    /// [`Unreadable`], with topic and entity where at least those could be read.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Unreadable> {
        let subject = match bytes {
            [letter, rest @ ..] if rest.len() >= 16 => {
                Topic::from_letter(*letter).zip(Uuid::from_slice(&rest[..16]).ok())
            }
            _ => None,
        };
        let unreadable = |what| Unreadable { subject, what };
        let (topic, id) = subject.ok_or_else(|| unreadable("the message names no topic and key"))?;
        if bytes.len() < HEAD {
            return Err(unreadable("the message is too short"));
        }
        if bytes[17] != FORMAT {
            return Err(unreadable("the message has an unknown format"));
        }
        let change = Change::ALL.into_iter().find(|change| change.code() == bytes[18]);
        let change = change.ok_or_else(|| unreadable("the message has an unknown change"))?;
        let eight = |at: usize| <[u8; 8]>::try_from(&bytes[at..at + 8]).unwrap_or_default();
        let (version, time) = (u64::from_be_bytes(eight(19)), Timestamp(i64::from_be_bytes(eight(27))));
        let trace_end = HEAD + usize::from(bytes[35]);
        let trace = bytes.get(HEAD..trace_end).and_then(|trace| std::str::from_utf8(trace).ok());
        let traceparent = trace.ok_or_else(|| unreadable("the message ends in its trace context"))?;
        let value = &bytes[trace_end..];
        if version == 0 {
            return Err(unreadable("the message has no version"));
        }
        if value.is_empty() != (change == Change::Deleted) {
            return Err(unreadable("only a deletion has no value"));
        }
        Ok(Self { topic, id, change, version, time, traceparent, value })
    }
}

/// A record's number: which one of which partition in which epoch. Spelled `epoch-partition-seq`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId {
    /// The unbroken chain of events it belongs to.
    pub epoch: u64,
    /// Its partition's number in the topic.
    pub partition: u16,
    /// Its number in the partition, from 1 in each epoch.
    pub seq: u64,
}

impl RecordId {
    /// The `ce_id` header.
    #[must_use]
    pub fn format(self) -> String {
        let mut out = String::with_capacity(40);
        // Writing to a String can't fail.
        let _ = write!(out, "{}-{}-{}", self.epoch, self.partition, self.seq);
        out
    }

    /// Reads a `ce_id` header.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(text).ok()?.split('-');
        let id = Self {
            epoch: parts.next()?.parse().ok()?,
            partition: parts.next()?.parse().ok()?,
            seq: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(id)
    }
}

/// The headers of a record, in their order. `trace` may be empty and is then left out.
///
/// `source` is the topic's full name. The time is that of the command.
pub fn headers<'h>(
    id: &'h str,
    source: &'h str,
    ce_type: &'h str,
    subject: &'h str,
    time: &'h str,
    version: &'h str,
    trace: &'h str,
) -> impl Iterator<Item = (&'static str, &'h str)> {
    [
        ("ce_specversion", "1.0"),
        ("ce_id", id),
        ("ce_source", source),
        ("ce_type", ce_type),
        ("ce_subject", subject),
        ("ce_time", time),
        ("content-type", "application/json"),
        (HEADER_VERSION, version),
        ("traceparent", trace),
    ]
    .into_iter()
    .filter(|(name, value)| *name != "traceparent" || !value.is_empty())
}

/// The partition and key under which a message that is no event goes out: its own where they can be
/// read, else a fixed key in partition 0 of signals.
#[must_use]
pub fn poison_subject(subject: Option<(Topic, Uuid)>, signals: u16) -> (Partition, Uuid) {
    match subject {
        Some((topic, id)) => (Partition::of(topic, id, signals), id),
        None => (Partition { topic: Topic::Signals, index: 0 }, Uuid::nil()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn format_1_stays_readable_for_ever() {
        let golden: Vec<u8> = include_bytes!("../golden/event-v1.bin").to_vec();
        let event = Event {
            topic: Topic::Signals,
            id: Uuid::from_u64_pair(0x0192_3456_789a_7bcd, 0x8123_4567_89ab_cdef),
            change: Change::Updated,
            version: 258,
            time: Timestamp(1_790_000_000_000_001),
            traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            value: br#"{"id":"x"}"#,
        };
        assert_eq!(event.encode(), golden);
        assert_eq!(Event::decode(&golden), Ok(event));
    }

    #[test]
    fn what_is_no_event_still_tells_whose_it_was() {
        let id = Uuid::from_u64_pair(1, 2);
        let whole = Event {
            topic: Topic::Keys,
            id,
            change: Change::Deleted,
            version: 1,
            time: Timestamp(0),
            traceparent: "",
            value: b"",
        }
        .encode();
        for cut in 0..whole.len() {
            let error = Event::decode(&whole[..cut]).expect_err("too short");
            assert_eq!(error.subject, (cut >= 17).then_some((Topic::Keys, id)), "{cut}");
        }
        let mut strange = whole.clone();
        strange[17] = 9;
        assert_eq!(Event::decode(&strange).expect_err("format 9").subject, Some((Topic::Keys, id)));
        assert_eq!(poison_subject(None, 4), (Partition { topic: Topic::Signals, index: 0 }, Uuid::nil()));
    }

    proptest! {
        #[test]
        fn record_ids_come_back(epoch: u64, partition: u16, seq: u64) {
            let id = RecordId { epoch, partition, seq };
            prop_assert_eq!(RecordId::parse(id.format().as_bytes()), Some(id));
        }

        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(event) = Event::decode(&bytes) {
                prop_assert_eq!(&event.encode(), &bytes);
            }
            let _ = RecordId::parse(&bytes);
        }
    }
}
