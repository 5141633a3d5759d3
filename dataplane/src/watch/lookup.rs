//! From changes to the states that they led to.

use std::collections::HashMap;

use bytes::Bytes;
use contract::partition::{Partition, Topic};
use uuid::Uuid;

use super::hub::Merged;
use super::position::Mark;
use super::scope::Latest;
use crate::fetch::{Found, ReadError, View};
use crate::link::Links;
use crate::view::keys::CODE_NONE;

/// Changes that are looked up in one round trip.
const LOOKUP_MAX: usize = 256;

/// What [`look_up`] found.
#[derive(Debug, Default)]
pub struct LookedUp {
    /// The entities' latest states, in the order of their changes.
    pub latest: Vec<Latest>,
    /// By partition, how far the view was when they were read.
    pub marks: HashMap<usize, Mark>,
}

/// The latest state of each of `changes`. One that is named but not applied yet is left out: its batch
/// failed midway, and names it again when it is repeated.
///
/// # Errors
/// The view can't be read just now.
pub async fn look_up(view: &View, links: &Links, topic: Topic, changes: &[Merged]) -> Result<LookedUp, ReadError> {
    let mut looked = LookedUp { latest: Vec::with_capacity(changes.len()), marks: HashMap::new() };
    for some in changes.chunks(LOOKUP_MAX) {
        let link = links.current().ok_or(ReadError::Away)?;
        let wants: Vec<(Partition, Uuid)> = some
            .iter()
            .map(|change| (Partition { topic, index: u16::try_from(change.index).unwrap_or(0) }, change.id))
            .collect();
        let found = view.fetch(&link, &wants).await.map_err(|error| {
            links.report(&link, &error);
            ReadError::Away
        })?;
        for (change, found) in some.iter().zip(found) {
            let Found { document, header } = found?;
            let seen = looked.marks.entry(change.index).or_default();
            *seen = (*seen).max(Mark { epoch: header.epoch, seq: header.seq });
            let Merged { id, version: named, before, after, had, mark, index } = *change;
            let mut one = Latest {
                id,
                version: named,
                named,
                before,
                after,
                had,
                json: Bytes::new(),
                index,
                mark,
                told_in: None,
            };
            match document {
                Some(document) if document.version < named => continue,
                Some(document) => {
                    one.version = document.version;
                    one.after = document.code;
                    one.had = had.with(document.code);
                    one.json = document.json;
                }
                // The call that wrote the entry failed before its documents: its repetition writes another entry.
                None if Mark { epoch: header.epoch, seq: header.seq } < mark => continue,
                // Deleted, and its tombstone is gone too, or it is another generation's.
                None => one.after = CODE_NONE,
            }
            looked.latest.push(one);
        }
    }
    Ok(looked)
}
