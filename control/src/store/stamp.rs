//! Which chain of events a transaction writes to, and the tokens that say so.

use contract::event::Event;
use contract::partition::{Partition, Topic};
use contract::time::Timestamp;
use contract::token::{Entry, ServerRun, Token};
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

/// The events of one request, in command order: what its token must name.
#[derive(Debug, Default)]
pub(super) struct Touched(Vec<Entry>);

impl Touched {
    /// The last version of `id` takes the place of what the partition had before: a partition is
    /// applied in order, and the request is one transaction.
    pub(super) fn add(&mut self, topic: Topic, id: Uuid, version: u64, partitions: u16) {
        let entry = Entry { partition: Partition::of(topic, id, partitions), id, version };
        match self.0.iter_mut().find(|known| known.partition == entry.partition) {
            Some(known) => *known = entry,
            None => self.0.push(entry),
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
            entries: self.0,
        };
        Some(token.encode())
    }
}

/// Events of a transaction, encoded, in command order.
#[derive(Debug, Default)]
pub(super) struct Events(pub(super) Vec<Vec<u8>>);

impl Events {
    pub(super) fn push(&mut self, event: &Event<'_>) {
        self.0.push(event.encode());
    }
}
