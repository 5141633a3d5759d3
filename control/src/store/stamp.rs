//! Which chain of events a transaction writes to, and the tokens that say so.

use contract::partition::{Partition, Topic};
use contract::time::Timestamp;
use contract::token::{ENTRIES_MAX, Entry, ServerRun, Token};
use uuid::Uuid;

/// What a transaction read of the epoch row, and of the server it runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) epoch: u64,
    pub(super) history: u64,
    /// The server run on which the relay last proved the chain.
    pub(super) proven: Option<ServerRun>,
    /// The server run of this transaction.
    pub(super) run: ServerRun,
}

/// What the token of one request must name: in each partition its last event, else what it found unchanged.
#[derive(Debug, Default)]
pub(super) struct Touched(Vec<Named>);

#[derive(Debug)]
struct Named {
    entry: Entry,
    is_event: bool,
}

impl Touched {
    /// An event takes the place of all that its partition had before: a partition is applied in order, and the
    /// request is one transaction. Where a token can hold no more, what was found unchanged makes room.
    pub(super) fn event(&mut self, topic: Topic, id: Uuid, version: u64, partitions: u16) {
        let entry = Entry { partition: Partition::of(topic, id, partitions), id, version };
        self.0.retain(|named| named.entry.partition != entry.partition);
        if self.0.len() >= ENTRIES_MAX
            && let Some(last) = self.0.iter().rposition(|named| !named.is_event)
        {
            self.0.remove(last);
        }
        self.0.push(Named { entry, is_event: true });
    }

    /// An entity that a command found as it should be. Behind an event of the same partition it need not be named: its
    /// last writer committed earlier, so it lies before that event. Past what a token can hold it stays unnamed.
    pub(super) fn unchanged(&mut self, topic: Topic, id: Uuid, version: u64, partitions: u16) {
        let entry = Entry { partition: Partition::of(topic, id, partitions), id, version };
        let covered =
            |named: &Named| named.entry.partition == entry.partition && (named.is_event || named.entry.id == id);
        if self.0.len() < ENTRIES_MAX && !self.0.iter().any(covered) {
            self.0.push(Named { entry, is_event: false });
        }
    }

    /// The token; none where nothing was touched.
    pub(super) fn token(self, stamp: &Stamp, now: Timestamp) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        let token = Token {
            history: stamp.history,
            epoch: stamp.epoch,
            issued_ms: u64::try_from(now.millis()).unwrap_or(0),
            unproven: (stamp.proven != Some(stamp.run)).then_some(stamp.run),
            entries: self.0.into_iter().map(|named| named.entry).collect(),
        };
        Some(token.encode())
    }
}

#[cfg(test)]
mod tests {
    use contract::partition::PARTITIONS_MAX;

    use super::*;

    fn named(touched: &Touched) -> Vec<(u128, u64)> {
        touched.0.iter().map(|named| (named.entry.id.as_u128(), named.entry.version)).collect()
    }

    #[test]
    fn a_token_names_the_last_event_and_what_is_unchanged_never_hides_it() {
        let id = Uuid::from_u128;
        let mut touched = Touched::default();
        touched.unchanged(Topic::Signals, id(1), 5, 1);
        touched.unchanged(Topic::Signals, id(2), 7, 1);
        touched.unchanged(Topic::Signals, id(1), 5, 1);
        assert_eq!(named(&touched), [(1, 5), (2, 7)]);
        touched.event(Topic::Signals, id(3), 1, 1);
        touched.unchanged(Topic::Signals, id(2), 7, 1);
        assert_eq!(named(&touched), [(3, 1)]);
        touched.event(Topic::Signals, id(4), 2, 1);
        touched.unchanged(Topic::Identities, id(2), 1, 1);
        assert_eq!(named(&touched), [(4, 2), (2, 1)]);
        for i in 10..100 {
            touched.unchanged(Topic::Keys, id(i), 1, 1);
        }
        assert_eq!(touched.0.len(), ENTRIES_MAX);
    }

    #[test]
    fn a_token_that_is_full_still_takes_an_event_of_every_partition() {
        let mut touched = Touched::default();
        let stamp = Stamp { epoch: 1, history: 1, proven: None, run: ServerRun { timeline: 1, started: 1 } };
        for i in 0..100 {
            touched.unchanged(Topic::Signals, Uuid::from_u128(i), u64::MAX >> 1, PARTITIONS_MAX);
        }
        for i in 100..1000 {
            touched.event(Topic::Signals, Uuid::from_u128(i), u64::MAX >> 1, PARTITIONS_MAX);
        }
        let events = touched.0.iter().filter(|named| named.is_event).count();
        assert_eq!(events, usize::from(PARTITIONS_MAX));
        let token = touched.token(&stamp, Timestamp(1)).unwrap();
        assert!(Token::decode(&token).is_ok_and(|token| token.entries.len() <= ENTRIES_MAX), "{token}");
    }
}
