//! One of our messages as the record that goes out: an event, or the marker of one that can't be.

use std::fmt::Write as _;

use contract::event::{self, Event, RecordId, TYPE_POISON};
use contract::partition::{Partition, Topic};
use contract::time::Timestamp;
use rdkafka::message::{Header, OwnedHeaders};
use uuid::Uuid;

/// What a message of ours becomes, before it has its number.
pub struct Draft<'m> {
    /// Where it goes.
    pub partition: Partition,
    /// Its key.
    pub id: Uuid,
    /// Its value: the event's own bytes, nothing for a deletion, a marker's JSON for poison.
    pub value: Value<'m>,
    ce_type: &'static str,
    version: u64,
    time: Timestamp,
    trace: &'m str,
}

/// The value of a record.
pub enum Value<'m> {
    /// The entity's new state.
    State(&'m [u8]),
    /// It was deleted.
    Deleted,
    /// What is wrong with the message, as JSON. Not null: compaction would take it away.
    Marker(String),
}

impl Value<'_> {
    /// The bytes; `None` is null.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Value::State(bytes) => Some(bytes),
            Value::Deleted => None,
            Value::Marker(json) => Some(json.as_bytes()),
        }
    }
}

/// Headers take less than this: 9 names of 4 to 14 characters, a topic's name of at most 249, numbers, times,
/// and a trace context of at most 255.
const HEADERS_BYTES_MAX: usize = 1200;

impl<'m> Draft<'m> {
    /// Reads a message. What is no event, or larger than `record_bytes_max`, becomes a marker under its own
    /// key (without a readable one: a fixed key in partition 0). `committed` is its transaction's time.
    pub fn read(content: &'m [u8], signals: u16, record_bytes_max: usize, committed: Timestamp) -> Self {
        match Event::decode(content) {
            Ok(event) => {
                let partition = Partition::of(event.topic, event.id, signals);
                let bytes = event.value.len() + 36 + HEADERS_BYTES_MAX;
                let (value, ce_type) = if bytes > record_bytes_max {
                    let reason = format!("the event has {} bytes, the topic takes less", event.value.len());
                    (marker(&reason), TYPE_POISON)
                } else if event.value.is_empty() {
                    (Value::Deleted, event.change.ce_type(event.topic))
                } else {
                    (Value::State(event.value), event.change.ce_type(event.topic))
                };
                let Event { id, version, time, traceparent: trace, .. } = event;
                Self { partition, id, value, ce_type, version, time, trace }
            }
            Err(unreadable) => {
                let (partition, id) = event::poison_subject(unreadable.subject, signals);
                let value = marker(unreadable.what);
                Self { partition, id, value, ce_type: TYPE_POISON, version: 0, time: committed, trace: "" }
            }
        }
    }

    /// Whether it is a marker.
    pub fn is_poison(&self) -> bool {
        matches!(self.value, Value::Marker(_))
    }
}

fn marker(reason: &str) -> Value<'static> {
    Value::Marker(serde_json::json!({ "reason": reason }).to_string())
}

/// The texts of headers, kept from record to record.
#[derive(Default)]
pub struct Texts {
    id: String,
    time: String,
    version: String,
    /// The key, in characters.
    pub key: String,
}

impl Texts {
    /// Writes the texts of `draft` as record `seq` of its partition and returns its headers.
    pub fn headers(&mut self, draft: &Draft<'_>, source: &str, epoch: u64, seq: u64) -> OwnedHeaders {
        let id = RecordId { epoch, partition: draft.partition.index, seq };
        for text in [&mut self.id, &mut self.time, &mut self.version, &mut self.key] {
            text.clear();
        }
        // Writing to a String can't fail.
        let _ = write!(self.id, "{}-{}-{}", id.epoch, id.partition, id.seq);
        let _ = write!(self.time, "{}", draft.time);
        let _ = write!(self.version, "{}", draft.version);
        let mut key = Uuid::encode_buffer();
        self.key.push_str(draft.id.hyphenated().encode_lower(&mut key));
        let all = event::headers(&self.id, source, draft.ce_type, &self.key, &self.time, &self.version, draft.trace);
        all.fold(OwnedHeaders::new_with_capacity(9), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value) })
        })
    }
}

/// The full names of the topics of events.
pub struct Names([String; 3]);

impl Names {
    /// With this prefix.
    pub fn new(prefix: &str) -> Self {
        Self(Topic::ALL.map(|topic| format!("{prefix}{}", topic.name())))
    }

    /// That of `topic`.
    pub fn of(&self, topic: Topic) -> &str {
        &self.0[match topic {
            Topic::Signals => 0,
            Topic::Identities => 1,
            Topic::Keys => 2,
        }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::event::Change;

    fn event(value: &[u8]) -> Vec<u8> {
        Event {
            topic: Topic::Signals,
            id: Uuid::from_u128(7),
            change: if value.is_empty() { Change::Deleted } else { Change::Updated },
            version: 3,
            time: Timestamp(1),
            traceparent: "",
            value,
        }
        .encode()
    }

    #[test]
    fn an_events_bytes_go_out_as_they_are() {
        let content = event(b"{\"a\": 1.0}");
        let draft = Draft::read(&content, 4, 1_000_000, Timestamp(9));
        assert_eq!(draft.value.bytes(), Some(&b"{\"a\": 1.0}"[..]));
        assert!(!draft.is_poison());
        let content = event(b"");
        assert_eq!(Draft::read(&content, 4, 1_000_000, Timestamp(9)).value.bytes(), None);
    }

    #[test]
    fn what_is_no_event_or_too_large_goes_out_under_its_own_key() {
        let content = event(&vec![b' '; 10_000]);
        let whole = Draft::read(&content, 4, 1_000_000, Timestamp(9));
        let large = Draft::read(&content, 4, 9_000, Timestamp(9));
        assert!(large.is_poison() && !whole.is_poison());
        assert_eq!((large.partition, large.id, large.version), (whole.partition, whole.id, 3));
        let mut strange = content.clone();
        strange[17] = 99;
        let strange = Draft::read(&strange, 4, 1_000_000, Timestamp(9));
        assert_eq!((strange.partition, strange.id, strange.time), (whole.partition, whole.id, Timestamp(9)));
        assert_eq!(strange.value.bytes(), Some(&br#"{"reason":"the message has an unknown format"}"#[..]));
        let nothing = Draft::read(b"?", 4, 1_000_000, Timestamp(9));
        assert_eq!((nothing.partition.index, nothing.id), (0, Uuid::nil()));
    }
}
