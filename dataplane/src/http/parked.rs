//! Why a token is not met: its event, or one before it, may be parked as a dead letter.

use std::collections::BTreeMap;

use contract::partition::Partition;
use contract::problem::{NOT_YET_CONSISTENT, Problem};
use redis::RedisResult;
use uuid::Uuid;

use super::DataPlane;

/// An event that could not be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parked {
    id: Uuid,
    partition: Partition,
    /// Its number and the reason, as the view keeps them.
    mark: String,
}

impl Parked {
    /// The answer to a token that waits for it, or for a later event of the same entity: the mark holds the event's
    /// number and a token the entity's version, so which of them it is can't be told here, and isn't claimed.
    pub(super) fn problem(&self) -> Problem {
        let Self { id, partition, mark } = self;
        let (seq, reason) = mark.split_once(' ').unwrap_or((mark, "no reason is known"));
        let detail = format!(
            "event {seq} of partition {partition}, about {id}, could not be applied and is parked as a dead letter: \
             {reason}. It may be the one that the token waits for, or a later one is on its way; the view is right \
             about {id} again with the next change that is applied"
        );
        Problem::new(&NOT_YET_CONSISTENT, detail)
    }
}

impl DataPlane {
    /// The first of `late` whose event is parked; `None` too where that can't be told just now.
    pub(super) async fn parked(&self, late: &[(Partition, Uuid)]) -> Option<Parked> {
        match self.find_parked(late).await {
            Ok(parked) => parked,
            Err(error) => {
                tracing::debug!(%error, "whether an event is parked could not be read");
                None
            }
        }
    }

    async fn find_parked(&self, late: &[(Partition, Uuid)]) -> RedisResult<Option<Parked>> {
        let mut by_partition: BTreeMap<Partition, Vec<Uuid>> = BTreeMap::new();
        for (partition, id) in late {
            by_partition.entry(*partition).or_default().push(*id);
        }
        let Some(mut link) = self.links.current() else { return Ok(None) };
        for (partition, ids) in by_partition {
            let mut ask = redis::cmd("HMGET");
            ask.arg(self.view.keys.poison(partition, self.view.generation(partition)));
            for id in &ids {
                ask.arg(id.hyphenated().to_string());
            }
            let asked = ask.query_async::<Vec<Option<String>>>(&mut link.connection).await;
            let marks = asked.inspect_err(|error| {
                self.links.report(&link, error);
            })?;
            let found = ids.into_iter().zip(marks).find_map(|(id, mark)| Some(Parked { id, partition, mark: mark? }));
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}
