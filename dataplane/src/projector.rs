//! Stage 8: records in their order become batches for the view. Pure.

use std::collections::HashMap;

use contract::event::RecordId;
use uuid::Uuid;

/// How far a partition is: epoch first, then the number in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Point {
    /// The epoch.
    pub epoch: u64,
    /// The last number in it; 0 for none.
    pub seq: u64,
}

/// What a record is to a partition that stands at some [`Point`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Applied before.
    Repeat,
    /// The one that follows.
    Next,
    /// Numbers between are missing.
    Hole,
}

impl Point {
    /// What the record `number` is to a partition that stands here.
    ///
    /// The first of a later epoch follows whatever the epoch before ended in; a record of an earlier
    /// epoch is always a repeat, because an epoch is never used again.
    #[must_use]
    pub fn judge(self, number: RecordId) -> Judgement {
        let last = if number.epoch == self.epoch { self.seq } else { 0 };
        if number.epoch < self.epoch || number.seq <= last {
            Judgement::Repeat
        } else if number.seq == last + 1 {
            Judgement::Next
        } else {
            Judgement::Hole
        }
    }
}

/// What a record does to the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The entity has this state now, or is deleted.
    Change {
        /// The entity.
        id: Uuid,
        /// Its version.
        version: u64,
        /// Its index code; [`crate::view::keys::CODE_NONE`] for a deletion.
        code: u8,
        /// Whether it is applied at an equal version as well.
        repair: bool,
    },
    /// Nothing: it ends the opening of an epoch.
    End,
    /// It can't be applied; its key is marked.
    Poison {
        /// The entity, where the key is an id.
        id: Option<Uuid>,
        /// Why.
        reason: String,
    },
}

/// One change of a batch, with the record that carries its document.
#[derive(Debug)]
pub struct Change<M> {
    /// The entity.
    pub id: Uuid,
    /// Its version.
    pub version: u64,
    /// Its index code.
    pub code: u8,
    /// Whether it is applied at an equal version as well.
    pub repair: bool,
    /// The record.
    pub record: M,
}

/// A key whose last event in a batch could not be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The entity.
    pub id: Uuid,
    /// The record's number.
    pub seq: u64,
    /// Why.
    pub reason: String,
}

/// The bounds of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Most records.
    pub records: usize,
    /// Most bytes of documents; one record may exceed it alone.
    pub bytes: usize,
}

/// Records of one epoch without a gap, coalesced to the last change of each key.
///
/// A deletion is never coalesced away: a record for a key that the batch deletes belongs into the next
/// batch. So each key is in a batch once at most.
#[derive(Debug)]
pub struct Batch<M> {
    /// Where the view must stand.
    pub from: Point,
    /// Where it will stand.
    pub to: Point,
    /// Offset of the last record.
    pub offset: i64,
    /// Records in it, coalesced ones too.
    pub records: usize,
    /// Whether it holds the record that ends the epoch's opening.
    pub ends_opening: bool,
    changes: Vec<Option<Change<M>>>,
    by_id: HashMap<Uuid, usize>,
    marks: Vec<Mark>,
    bytes: usize,
}

impl<M> Batch<M> {
    /// An empty batch that follows `from`.
    #[must_use]
    pub fn after(from: Point) -> Self {
        Self {
            from,
            to: from,
            offset: -1,
            records: 0,
            ends_opening: false,
            changes: Vec::new(),
            by_id: HashMap::new(),
            marks: Vec::new(),
            bytes: 0,
        }
    }

    /// Whether it holds no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Whether this record, which follows the last one, may go into it.
    #[must_use]
    pub fn accepts(&self, number: RecordId, effect: &Effect, bytes: usize, bounds: Bounds) -> bool {
        if self.is_empty() {
            return true;
        }
        let touches_a_deleted_key = match effect {
            Effect::Change { id, .. } | Effect::Poison { id: Some(id), .. } => {
                self.change(*id).is_some_and(|change| change.code == crate::view::keys::CODE_NONE)
            }
            Effect::End | Effect::Poison { id: None, .. } => false,
        };
        number.epoch == self.to.epoch
            && self.records < bounds.records
            && self.bytes + bytes <= bounds.bytes
            && !touches_a_deleted_key
    }

    fn change(&self, id: Uuid) -> Option<&Change<M>> {
        self.changes[*self.by_id.get(&id)?].as_ref()
    }

    /// Takes the record that follows the last one. The caller has judged it and asked
    /// [`Batch::accepts`].
    pub fn push(&mut self, number: RecordId, offset: i64, effect: Effect, bytes: usize, record: M) {
        self.to = Point { epoch: number.epoch, seq: number.seq };
        self.offset = offset;
        self.records += 1;
        match effect {
            Effect::End => self.ends_opening = true,
            Effect::Poison { id: None, .. } => {}
            Effect::Poison { id: Some(id), reason } => {
                self.marks.retain(|mark| mark.id != id);
                self.marks.push(Mark { id, seq: number.seq, reason });
            }
            Effect::Change { id, version, code, mut repair } => {
                if let Some(earlier) = self.change(id) {
                    if earlier.version > version {
                        return;
                    }
                    repair |= earlier.repair && earlier.version == version;
                }
                self.marks.retain(|mark| mark.id != id);
                self.bytes += bytes;
                let place = self.changes.len();
                self.changes.push(Some(Change { id, version, code, repair, record }));
                if let Some(earlier) = self.by_id.insert(id, place) {
                    self.changes[earlier] = None;
                }
            }
        }
    }

    /// The changes, each key once.
    pub fn changes(&self) -> impl Iterator<Item = &Change<M>> {
        self.changes.iter().flatten()
    }

    /// How many changes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Bytes of the documents, those of coalesced records too.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The keys to be marked.
    #[must_use]
    pub fn marks(&self) -> &[Mark] {
        &self.marks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::keys::CODE_NONE;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn number(epoch: u64, seq: u64) -> RecordId {
        RecordId { epoch, partition: 0, seq }
    }

    #[test]
    fn a_record_is_a_repeat_the_next_or_a_hole() {
        let at = Point { epoch: 5, seq: 7 };
        for (record, expected) in [
            (number(5, 7), Judgement::Repeat),
            (number(5, 1), Judgement::Repeat),
            (number(5, 8), Judgement::Next),
            (number(5, 9), Judgement::Hole),
            (number(4, 8), Judgement::Repeat),
            (number(4, 900), Judgement::Repeat),
            (number(6, 1), Judgement::Next),
            (number(6, 2), Judgement::Hole),
            (number(6, 0), Judgement::Repeat),
        ] {
            assert_eq!(at.judge(record), expected, "{record:?}");
        }
    }

    const BOUNDS: Bounds = Bounds { records: 8, bytes: 1000 };

    /// Applies changes as the view does: only a newer version, or an equal one as a repair.
    fn apply(view: &mut BTreeMap<Uuid, (u64, u8)>, id: Uuid, version: u64, code: u8, repair: bool) {
        let known = view.get(&id).map_or(0, |(version, _)| *version);
        if version > known || (repair && version == known) {
            view.insert(id, (version, code));
        }
    }

    /// Versions as the command side gives them: rising per key, or the present one again as a repair.
    fn histories() -> impl Strategy<Value = Vec<Effect>> {
        proptest::collection::vec((0..5_u128, 0..10_u8, any::<bool>()), 1..60).prop_map(|steps| {
            let mut versions: HashMap<Uuid, (u64, u8)> = HashMap::new();
            let steps = steps.into_iter().map(|(id, action, again)| {
                let id = Uuid::from_u128(id);
                let (version, code) = versions.get(&id).copied().unwrap_or_default();
                match action {
                    0 => Effect::Poison { id: Some(id), reason: "bad".into() },
                    1 if again => Effect::End,
                    2 if version > 0 => Effect::Change { id, version, code, repair: true },
                    action => {
                        let code = if action == 3 { CODE_NONE } else { b'a' + action };
                        versions.insert(id, (version + 1, code));
                        Effect::Change { id, version: version + 1, code, repair: false }
                    }
                }
            });
            steps.collect()
        })
    }

    proptest! {
        #[test]
        fn batches_end_in_the_state_that_single_events_do(history in histories()) {
            let (mut single, mut batched) = (BTreeMap::new(), BTreeMap::new());
            let (mut single_marks, mut batched_marks) = (BTreeMap::new(), BTreeMap::new());
            let mut deleted = Vec::new();
            let mut batches = vec![Batch::after(Point { epoch: 1, seq: 0 })];
            for (i, effect) in history.iter().enumerate() {
                let number = number(1, i as u64 + 1);
                match effect {
                    Effect::Change { id, version, code, repair } => {
                        apply(&mut single, *id, *version, *code, *repair);
                        single_marks.remove(id);
                        if *code == CODE_NONE && !repair {
                            deleted.push((*id, *version));
                        }
                    }
                    Effect::Poison { id: Some(id), .. } => { single_marks.insert(*id, number.seq); }
                    _ => {}
                }
                let last = batches.last().expect("one");
                if !last.accepts(number, effect, 100, BOUNDS) {
                    let to = last.to;
                    batches.push(Batch::after(to));
                }
                batches.last_mut().expect("one").push(number, i as i64, effect.clone(), 100, ());
            }
            let mut at = Point { epoch: 1, seq: 0 };
            let mut deletes_seen = Vec::new();
            for batch in &batches {
                prop_assert_eq!(batch.from, at);
                at = batch.to;
                prop_assert!(batch.records <= BOUNDS.records && batch.bytes() <= BOUNDS.bytes);
                let mut ids: Vec<Uuid> = batch.changes().map(|change| change.id).collect();
                prop_assert_eq!(ids.len(), batch.len());
                for change in batch.changes() {
                    apply(&mut batched, change.id, change.version, change.code, change.repair);
                    batched_marks.remove(&change.id);
                    if change.code == CODE_NONE {
                        deletes_seen.push((change.id, change.version));
                    }
                }
                for mark in batch.marks() {
                    batched_marks.insert(mark.id, mark.seq);
                }
                ids.sort();
                ids.dedup();
                prop_assert_eq!(ids.len(), batch.len(), "each key once");
            }
            prop_assert_eq!(at.seq, history.len() as u64);
            prop_assert_eq!(single, batched);
            prop_assert_eq!(single_marks, batched_marks);
            for delete in deleted {
                prop_assert!(deletes_seen.contains(&delete), "{:?} was coalesced away", delete);
            }
        }
    }
}
