//! Stage 7: a record becomes an event that the view can take, or a dead letter with its reason.
//!
//! Only what the index needs is read from the JSON; the document is stored as it came.

use contract::event::{HEADER_REPAIR, HEADER_VERSION, RecordId, TYPE_END, TYPE_POISON};
use contract::partition::Topic;
use contract::signal::{Priority, Status};
use rdkafka::Message;
use rdkafka::message::{BorrowedMessage, Headers};
use serde::Deserialize;
use uuid::Uuid;

use crate::projector::Effect;
use crate::view::keys::{CODE_NONE, CODE_PLAIN, signal_code};

/// What stands in a record's headers.
#[derive(Debug, Default, Clone, Copy)]
pub struct RecordHeaders<'m> {
    /// `ce_id`.
    pub id: Option<RecordId>,
    /// `ce_type`.
    pub ce_type: &'m [u8],
    /// `nexus_version`.
    pub version: Option<u64>,
    /// Whether it is a repair.
    pub repair: bool,
}

impl<'m> RecordHeaders<'m> {
    /// Reads the headers of `message`.
    pub fn of(message: &'m BorrowedMessage<'_>) -> Self {
        let mut read = Self::default();
        let Some(headers) = message.headers() else { return read };
        for header in headers.iter() {
            read.take(header.key, header.value.unwrap_or_default());
        }
        read
    }

    fn take(&mut self, name: &str, value: &'m [u8]) {
        match name {
            "ce_id" => self.id = RecordId::parse(value),
            "ce_type" => {
                self.ce_type = value;
                self.repair |= value.ends_with(b".repaired");
            }
            HEADER_VERSION => self.version = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()),
            HEADER_REPAIR => self.repair = true,
            _ => {}
        }
    }
}

#[derive(Deserialize)]
struct SignalPart<'a> {
    #[serde(borrow)]
    id: &'a str,
    version: u64,
    status: Status,
    priority: Priority,
}

#[derive(Deserialize)]
struct PlainPart<'a> {
    #[serde(borrow)]
    id: &'a str,
    version: u64,
}

/// Decodes records; keeps the parser's buffers from one to the next.
#[derive(Default)]
pub struct Decoder {
    text: Vec<u8>,
    buffers: simd_json::Buffers,
}

impl Decoder {
    /// What a record of `topic` does to the view. What can't be read is [`Effect::Poison`] with the
    /// reason, under the record's key where that is an id.
    pub fn decode(
        &mut self,
        topic: Topic,
        headers: RecordHeaders<'_>,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> Effect {
        if headers.ce_type == TYPE_END.as_bytes() {
            return Effect::End;
        }
        let id = key.and_then(|key| contract::id::parse(std::str::from_utf8(key).ok()?));
        let poison = |reason: &str| Effect::Poison { id, reason: reason.to_owned() };
        if headers.ce_type == TYPE_POISON.as_bytes() {
            return poison("the relay could not publish the event");
        }
        let Some(id) = id else { return poison("the key is no id") };
        let Some(version) = headers.version.filter(|version| *version > 0) else {
            return poison("the version is missing");
        };
        let repair = headers.repair;
        let Some(value) = value else {
            return Effect::Change { id, version, code: CODE_NONE, repair };
        };
        match self.code(topic, id, version, value) {
            Ok(code) => Effect::Change { id, version, code, repair },
            Err(reason) => poison(&reason),
        }
    }

    fn code(&mut self, topic: Topic, id: Uuid, version: u64, value: &[u8]) -> Result<u8, String> {
        let (text_id, text_version, code) = if topic == Topic::Signals {
            let part: SignalPart<'_> =
                self.read(value).map_err(|error| format!("the document is no signal: {error}"))?;
            (part.id, part.version, signal_code(part.priority, part.status))
        } else {
            let part: PlainPart<'_> =
                self.read(value).map_err(|error| format!("the document is not what the topic carries: {error}"))?;
            (part.id, part.version, CODE_PLAIN)
        };
        if contract::id::parse(text_id) != Some(id) {
            return Err("the document has another id than the record".to_owned());
        }
        if text_version != version {
            return Err("the document has another version than the record".to_owned());
        }
        Ok(code)
    }

    /// The members of a document that `T` names.
    fn read<'v, T: Deserialize<'v>>(&'v mut self, value: &'v [u8]) -> Result<T, serde_json::Error> {
        // simd-json works in place; the document itself must stay as it is.
        self.text.clear();
        self.text.extend_from_slice(value);
        match simd_json::serde::from_slice_with_buffers(&mut self.text, &mut self.buffers) {
            Ok(part) => Ok(part),
            // It makes every number a double, also those of a payload that nobody asked for, and refuses what is none:
            // 1e309, or an integer of 65 bits. The slower parser reads past them.
            Err(_) => serde_json::from_slice(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(ce_type: &'static str, version: u64) -> RecordHeaders<'static> {
        let mut read = RecordHeaders::default();
        read.take("ce_id", b"7-0-1");
        read.take("ce_type", ce_type.as_bytes());
        read.version = Some(version);
        read
    }

    const ID: &str = "00000000-0000-0001-0000-000000000002";
    const SIGNAL: &str = r#"{"id":"00000000-0000-0001-0000-000000000002","title":"a\"b","priority":"high","status":"active","payload":{"status":"x","deep":[{"id":1}]},"target":null,"version":3}"#;

    #[test]
    fn a_signal_is_indexed_by_its_own_members_only() {
        let mut decoder = Decoder::default();
        let id = contract::id::parse(ID).expect("an id");
        let effect = decoder.decode(
            Topic::Signals,
            headers("nexus.signal.updated", 3),
            Some(ID.as_bytes()),
            Some(SIGNAL.as_bytes()),
        );
        let code = signal_code(Priority::High, Status::Active);
        assert_eq!(effect, Effect::Change { id, version: 3, code, repair: false });
        let effect = decoder.decode(Topic::Signals, headers("nexus.signal.deleted", 4), Some(ID.as_bytes()), None);
        assert_eq!(effect, Effect::Change { id, version: 4, code: CODE_NONE, repair: false });
        let effect =
            decoder.decode(Topic::Keys, headers("nexus.key.repaired", 3), Some(ID.as_bytes()), Some(SIGNAL.as_bytes()));
        assert_eq!(effect, Effect::Change { id, version: 3, code: CODE_PLAIN, repair: true });
    }

    #[test]
    fn a_payload_may_hold_numbers_of_any_size() {
        let mut decoder = Decoder::default();
        for number in ["1e309", "18446744073709551616", "-9223372036854775809", "0.00001e314", "1e-400"] {
            let value = SIGNAL.replace("\"status\":\"x\"", &format!("\"n\":{number}"));
            assert!(value.contains(number));
            let at = headers("nexus.signal.updated", 3);
            let effect = decoder.decode(Topic::Signals, at, Some(ID.as_bytes()), Some(value.as_bytes()));
            assert!(matches!(effect, Effect::Change { version: 3, .. }), "{number}: {effect:?}");
        }
    }

    #[test]
    fn what_can_not_be_applied_is_poison_under_its_key() {
        let mut decoder = Decoder::default();
        let mut poisoned = |ce_type, version, key: &str, value: Option<&str>| match decoder.decode(
            Topic::Signals,
            headers(ce_type, version),
            Some(key.as_bytes()),
            value.map(str::as_bytes),
        ) {
            Effect::Poison { id, .. } => id.is_some(),
            other => panic!("{other:?}"),
        };
        assert!(poisoned("nexus.poison", 1, ID, Some("anything")));
        assert!(poisoned("nexus.signal.updated", 3, ID, Some("{broken")));
        assert!(poisoned("nexus.signal.updated", 3, ID, Some("{}")));
        assert!(poisoned("nexus.signal.updated", 4, ID, Some(SIGNAL)), "another version");
        assert!(poisoned("nexus.signal.updated", 0, ID, Some(SIGNAL)), "no version");
        assert!(poisoned("nexus.signal.updated", 3, &ID.replace('2', "3"), Some(SIGNAL)), "another id");
        assert!(!poisoned("nexus.signal.updated", 3, "key", Some(SIGNAL)));
    }

    #[test]
    fn the_end_of_an_epoch_changes_nothing() {
        let mut decoder = Decoder::default();
        assert_eq!(decoder.decode(Topic::Signals, headers(TYPE_END, 0), None, None), Effect::End);
    }

    proptest! {
        #[test]
        fn decoding_never_panics(value in proptest::collection::vec(any::<u8>(), 0..200), cut in 0..170_usize) {
            let mut decoder = Decoder::default();
            let at = headers("nexus.signal.updated", 3);
            decoder.decode(Topic::Signals, at, Some(ID.as_bytes()), Some(&value));
            decoder.decode(Topic::Signals, at, Some(ID.as_bytes()), SIGNAL.as_bytes().get(..cut));
        }
    }
}
