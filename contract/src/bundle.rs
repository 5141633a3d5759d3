//! Bundles: the events of one transaction as few logical messages.
//!
//! Postgres sends every logical message by itself, with a header, a write to the socket and a wake-up of its reader, so
//! a batch's events travel together. A bundle is the content of a transactional logical message with the prefix
//! [`BUNDLE_PREFIX`]: event after event, each behind its length in bytes (4 bytes, big-endian). An event that came alone
//! ([`EVENT_PREFIX`](crate::event::EVENT_PREFIX)) and one in a bundle are the same to everybody behind the relay.

use bytes::Bytes;

use crate::event::Event;

/// Prefix of the logical messages that carry bundles. Each event in one takes a number.
pub const BUNDLE_PREFIX: &str = "nexus.events";
/// Bytes from which on a bundle takes no more events: a batch of the usual size fits, and a relay that reads ahead by a
/// number of messages does so by a bounded number of bytes.
pub const FULL: usize = 128 << 10;
/// Bytes of an event's length.
const LENGTH: usize = 4;

/// The bundles of one transaction, as they are written.
#[derive(Debug, Default)]
pub struct Bundles(Vec<Vec<u8>>);

impl Bundles {
    /// Adds an event behind those that are there.
    ///
    /// # Panics
    /// Never: an event has less than 4 GiB, because a request has.
    pub fn push(&mut self, event: &Event<'_>) {
        let bundle = match self.0.last_mut().filter(|bundle| bundle.len() < FULL) {
            Some(bundle) => bundle,
            None => self.0.push_mut(Vec::new()),
        };
        let start = bundle.len();
        bundle.extend_from_slice(&[0; LENGTH]);
        event.encode_to(bundle);
        let length = u32::try_from(bundle.len() - start - LENGTH).expect("an event of 4 GiB");
        bundle[start..start + LENGTH].copy_from_slice(&length.to_be_bytes());
    }

    /// The messages' contents, in their order; none where there is no event.
    #[must_use]
    pub fn contents(&self) -> &[Vec<u8>] {
        &self.0
    }

    /// Whether there is no event.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The events in a bundle's content, as bytes that [`Event::decode`] reads; they share the content's memory.
///
/// Yields at least one. What is no bundle ends in an empty one, which no event is: it takes a number like any other
/// message of ours that can't be read.
#[derive(Debug)]
pub struct Split {
    rest: Bytes,
    begun: bool,
}

/// Takes a bundle apart.
#[must_use]
pub fn split(content: Bytes) -> Split {
    Split { rest: content, begun: false }
}

impl Iterator for Split {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.rest.is_empty() && self.begun {
            return None;
        }
        self.begun = true;
        let length = self.rest.first_chunk().map(|length| u32::from_be_bytes(*length) as usize);
        match length.filter(|length| self.rest.len() - LENGTH >= *length) {
            Some(length) => {
                let event = self.rest.slice(LENGTH..LENGTH + length);
                self.rest = self.rest.slice(LENGTH + length..);
                Some(event)
            }
            None => {
                self.rest = Bytes::new();
                Some(Bytes::new())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Change;
    use crate::partition::Topic;
    use crate::time::Timestamp;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn event(id: u64, value: &[u8]) -> Event<'_> {
        let change = if value.is_empty() { Change::Deleted } else { Change::Updated };
        let id = Uuid::from_u64_pair(1, id);
        Event { topic: Topic::Signals, id, change, version: 3, time: Timestamp(5), traceparent: "", value }
    }

    fn all(contents: &[Vec<u8>]) -> Vec<Bytes> {
        contents.iter().flat_map(|content| split(Bytes::copy_from_slice(content))).collect()
    }

    #[test]
    fn the_format_stays_readable_for_ever() {
        let mut bundles = Bundles::default();
        bundles.push(&event(1, b"{}"));
        bundles.push(&event(2, b""));
        let golden = include_bytes!("../golden/bundle-v1.bin");
        assert_eq!(bundles.contents(), [golden.to_vec()]);
        assert_eq!(all(&[golden.to_vec()]), [event(1, b"{}").encode(), event(2, b"").encode()]);
    }

    #[test]
    fn a_full_bundle_is_followed_by_another() {
        let value = vec![b'x'; FULL / 2];
        let mut bundles = Bundles::default();
        for id in 0..5 {
            bundles.push(&event(id, &value));
        }
        assert_eq!(bundles.contents().len(), 3);
        let ids: Vec<_> = all(bundles.contents()).iter().map(|e| Event::decode(e).expect("one").id).collect();
        assert_eq!(ids, (0..5).map(|id| Uuid::from_u64_pair(1, id)).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_no_bundle_ends_in_one_that_is_no_event() {
        let mut bundles = Bundles::default();
        bundles.push(&event(1, b"{}"));
        let whole = &bundles.contents()[0];
        for cut in 0..whole.len() {
            let found = all(&[whole[..cut].to_vec()]);
            assert_eq!(found, [Bytes::new()], "{cut}");
            assert!(Event::decode(&found[0]).is_err());
        }
        let more = [whole.as_slice(), b"abc"].concat();
        assert_eq!(all(&[more]), [Bytes::from(event(1, b"{}").encode()), Bytes::new()]);
    }

    proptest! {
        #[test]
        fn anything_comes_apart(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let parts = split(Bytes::from(bytes.clone())).count();
            prop_assert!(parts >= 1 && parts <= bytes.len() / LENGTH + 1);
        }
    }
}
