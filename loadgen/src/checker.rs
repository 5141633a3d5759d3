//! What must hold of every write and every look, checked while the load runs.
//!
//! Per key it knows the versions that were accepted and those that were seen, in whatever order it
//! hears of them (an event often overtakes the answer to its own command). A write is *open* until
//! the watch shows its version or a later one. Memory is under 40 bytes a key ([`crate::keys`]), and more only for keys
//! with something open. A deleted key is kept like any other: were it forgotten, it could come back unnoticed.

use std::collections::HashMap;

use crate::document::{IdHasher, uuid_text};
use crate::journal::{Breach, Phase, Sight, Sighting};
use crate::keys::{Keyed, Record as _};

mod canaries;
mod key;

use canaries::Canaries;
use key::{Open, Settled};

/// Breaches of which the text is kept; all are counted.
const EXAMPLES_MAX: usize = 20;

/// Deletions of unknown keys that are remembered: more than can happen before an answer is heard.
const STRANGERS_MAX: usize = 100_000;

/// An accepted write.
#[derive(Debug, Clone, Copy)]
pub struct Write {
    /// The entity.
    pub id: u128,
    /// The version that the command made; 0 for a deletion whose version is not known.
    pub version: u32,
    /// The operation.
    pub op: u64,
    /// Hash of the document that the answer carried; 0 when it carried none.
    pub hash: u64,
    /// It deletes.
    pub delete: bool,
    /// When it was meant to be sent.
    pub intended: u64,
    /// Part of the run.
    pub phase: Phase,
    /// Reads cross-check it.
    pub sampled: bool,
}

/// A write that has become visible.
#[derive(Debug, Clone, Copy)]
pub struct Visible {
    /// The write.
    pub write: Write,
    /// When a look at the view first showed its version or a later one.
    pub at: u64,
}

/// How often each promise was broken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Violations {
    /// Accepted, and never in the view; or without effect by its own answer.
    pub lost: u64,
    /// A key's version went back.
    pub regressed: u64,
    /// A deleted key came back.
    pub resurrected: u64,
    /// A value that nobody wrote.
    pub phantom: u64,
    /// A read with a token that showed less than the token's command.
    pub stale_with_token: u64,
    /// Entities that differ between Postgres and the view at the end.
    pub view_mismatch: u64,
    /// Accepted as a version of a key that another accepted write had made.
    #[serde(default)]
    pub same_version: u64,
}

impl Violations {
    /// All together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.named().iter().map(|(_, count)| count).sum()
    }

    /// Each by its name in `summary.json`.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u64); 7] {
        [
            ("lost", self.lost),
            ("regressed", self.regressed),
            ("resurrected", self.resurrected),
            ("phantom", self.phantom),
            ("stale_with_token", self.stale_with_token),
            ("view_mismatch", self.view_mismatch),
            ("same_version", self.same_version),
        ]
    }
}

/// What a key should be at the end, for whoever walks the planes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Highest version accepted.
    pub version: u32,
    /// The last write was a deletion.
    pub deleted: bool,
}

/// The state of all keys of a run.
#[derive(Debug, Default)]
pub struct Checker {
    /// Keys without anything open; one that is in `open` as well is as it is there.
    keys: Keyed<Settled>,
    open: HashMap<u128, Open, IdHasher>,
    open_writes: u64,
    /// Those that are visible.
    canaries: Canaries,
    foreign: u64,
    repeated: u64,
    /// The last time at which anything was seen.
    last_seen: u64,
    violations: Violations,
    examples: Vec<String>,
    visible: Vec<Visible>,
    /// Deletions of keys that no answer has named yet, the latest last: an answer may be heard
    /// after the whole life of its signal.
    strangers: HashMap<u128, Sighting, IdHasher>,
    stranger_order: std::collections::VecDeque<u128>,
    /// Ids in the snapshot that follows a reset, while it lasts.
    snapshot: Option<std::collections::HashSet<u128, IdHasher>>,
    /// A snapshot was complete: a deletion may be visible by its key's absence alone.
    had_snapshot: bool,
    /// When the latest canary became visible, until it was looked at what it overtook.
    canary_at: Option<u64>,
}

impl Checker {
    /// A checker that knows no key.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Accepted writes that are not visible yet.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        self.open_writes
    }

    /// Of these, what is lost, not late: of its partition a canary is visible, which was sent when it had been
    /// answered. Of canaries nobody knows which came first: alone they prove nothing, but where they overtook other
    /// writes, what they overtook among themselves is lost as well.
    #[must_use]
    pub fn overtaken(&self) -> Vec<Write> {
        if self.snapshot.is_some() {
            // A watch that starts over shows what there is in any order.
            return Vec::new();
        }
        let open = self.open.values().flat_map(|open| &open.writes);
        let mut overtaken: Vec<Write> = open.filter(|write| self.canaries.overtook(write.id)).copied().collect();
        if overtaken.iter().all(|write| write.phase == Phase::Canary) {
            return Vec::new();
        }
        overtaken.sort_by_key(|write| write.intended);
        overtaken
    }

    /// Sightings of what other writers wrote.
    #[must_use]
    pub fn foreign(&self) -> u64 {
        self.foreign
    }

    /// Sightings of a version that had been seen before.
    #[must_use]
    pub fn repeated(&self) -> u64 {
        self.repeated
    }

    /// Keys of this run.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.keys.len() + self.open.keys().filter(|&&id| self.keys.get(id).is_none()).count()
    }

    /// What is kept of keys on the heap, in bytes: all of it, but for what open writes and sightings add.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.keys.heap_bytes() + self.open.capacity() * (size_of::<(u128, Open)>() + 1)
    }

    /// What was broken so far.
    #[must_use]
    pub fn violations(&self) -> Violations {
        self.violations
    }

    /// The first breaches in words.
    #[must_use]
    pub fn examples(&self) -> &[String] {
        &self.examples
    }

    /// The writes that have become visible since the last call.
    pub fn take_visible(&mut self) -> Vec<Visible> {
        std::mem::take(&mut self.visible)
    }

    /// Counts a breach that somebody else proved.
    pub fn breach(&mut self, breach: Breach) {
        let (count, name, text) = match breach {
            Breach::Lost(text) => (&mut self.violations.lost, "lost", text),
            Breach::Regressed(text) => (&mut self.violations.regressed, "regressed", text),
            Breach::Resurrected(text) => (&mut self.violations.resurrected, "resurrected", text),
            Breach::Phantom(text) => (&mut self.violations.phantom, "phantom", text),
            Breach::StaleWithToken(text) => (&mut self.violations.stale_with_token, "stale_with_token", text),
        };
        *count += 1;
        self.example(name, &text);
    }

    fn example(&mut self, name: &str, text: &str) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(format!("{name}: {text}"));
        }
    }

    /// Counts entities that differ between the planes.
    pub fn mismatch(&mut self, count: u64, examples: &[String]) {
        self.violations.view_mismatch += count;
        for text in examples {
            self.example("view_mismatch", text);
        }
    }

    /// What is known of a key, in full; `None` of a key that is not of this run.
    fn recall(&mut self, id: u128) -> Option<Open> {
        let open = self.open.remove(&id);
        open.or_else(|| Some(Open { key: self.keys.get(id)?.into(), ..Open::default() }))
    }

    fn keep(&mut self, id: u128, open: Open) {
        match open.settled(id) {
            Some(settled) => self.keys.put(settled),
            None => {
                self.open.insert(id, open);
            }
        }
    }

    /// Takes note of an accepted write.
    pub fn accepted(&mut self, write: Write) {
        let mut open = self.recall(write.id).unwrap_or_else(|| {
            let mut open = Open::default();
            if let Some(deletion) = self.strangers.remove(&write.id) {
                self.foreign -= 1;
                self.show(&mut open, deletion);
            }
            open
        });
        let same_version = !open.accept(write.version);
        open.key.accepted_deleted |= write.delete;
        if same_version {
            self.violations.same_version += 1;
            let text = format!(
                "{}: version {} was accepted of operation {}, and of another one before",
                uuid_text(write.id),
                write.version,
                write.op
            );
            self.example("same_version", &text);
        }
        let key = open.key;
        let meets = |sighting: &Sighting| {
            sighting.sight == Sight::Deleted || (write.version != 0 && sighting.version >= write.version)
        };
        let first = open.early.iter().filter(|sighting| meets(sighting)).map(|sighting| sighting.at).min();
        let same = open.early.iter().find(|sighting| write.version != 0 && sighting.version == write.version);
        if let Some(sighting) = same.copied() {
            self.compare(&write, &sighting);
        }
        if key.seen_deleted || (write.version != 0 && key.seen >= write.version) {
            // Of a settled key it is not kept when its version was seen: not after the last that was seen of any key.
            let at = first.unwrap_or(if key.seen_at == 0 { self.last_seen } else { key.seen_at });
            self.covered(write, at);
        } else {
            self.open_writes += 1;
            open.writes.push(write);
        }
        // Early sightings are kept until every write below them is known.
        if open.missing.is_empty() && !key.unplaced {
            open.early.retain(|sighting| sighting.version > key.accepted_max);
        }
        self.keep(write.id, open);
        self.settle_deletions();
    }

    /// Takes note of what the watch showed. Sightings come in the order of the stream.
    pub fn seen(&mut self, sighting: Sighting) {
        self.last_seen = self.last_seen.max(sighting.at);
        if let Some(snapshot) = &mut self.snapshot {
            snapshot.insert(sighting.id);
        }
        let known = self.recall(sighting.id);
        if known.is_none() && sighting.op.is_none() {
            self.foreign += 1;
            if sighting.sight == Sight::Deleted && self.strangers.insert(sighting.id, sighting).is_none() {
                self.stranger_order.push_back(sighting.id);
                if self.stranger_order.len() > STRANGERS_MAX
                    && let Some(oldest) = self.stranger_order.pop_front()
                {
                    self.strangers.remove(&oldest);
                }
            }
            return;
        }
        let mut open = known.unwrap_or_default();
        self.show(&mut open, sighting);
        self.keep(sighting.id, open);
        self.settle_deletions();
    }

    /// Checks a sighting of a key of this run.
    fn show(&mut self, open: &mut Open, sighting: Sighting) {
        let deleted = sighting.sight == Sight::Deleted;
        open.absent_at = open.absent_at.filter(|_| deleted);
        let key = &mut open.key;
        if key.seen_deleted && !deleted {
            let text = format!("{}: version {} after the deletion", uuid_text(sighting.id), sighting.version);
            self.breach(Breach::Resurrected(text));
            return;
        }
        if sighting.version < key.seen {
            let text = format!(
                "{}: the watch showed version {} after version {}",
                uuid_text(sighting.id),
                sighting.version,
                key.seen
            );
            self.breach(Breach::Regressed(text));
            return;
        }
        if sighting.version == key.seen && deleted == key.seen_deleted {
            self.repeated += 1;
            // A deletion has no document; one that a reset showed by the key's absence comes once more as an event.
            if !deleted && key.seen_hash != sighting.hash {
                let text = format!(
                    "{}: version {} has been seen with two different documents",
                    uuid_text(sighting.id),
                    sighting.version
                );
                self.breach(Breach::Phantom(text));
            }
            return;
        }
        key.seen = sighting.version;
        key.seen_at = sighting.at;
        key.seen_hash = sighting.hash;
        key.seen_deleted = deleted;
        let explained = open.missing.is_empty() && !open.key.unplaced && open.key.accepted_max >= sighting.version;
        self.resolve(open, &sighting);
        if !explained {
            open.early.push(sighting);
        }
    }

    /// Closes the open writes that a sighting covers.
    fn resolve(&mut self, open: &mut Open, sighting: &Sighting) {
        let deleted = sighting.sight == Sight::Deleted;
        let covered =
            open.writes.extract_if(.., |write| deleted || (write.version != 0 && write.version <= sighting.version));
        for write in covered {
            self.open_writes -= 1;
            if write.version == sighting.version {
                self.compare(&write, sighting);
            }
            self.covered(write, sighting.at);
        }
    }

    /// A write has become visible.
    fn covered(&mut self, write: Write, at: u64) {
        if write.phase == Phase::Canary {
            self.canaries.seen(write.id);
            self.canary_at = Some(at);
        }
        self.visible.push(Visible { write, at });
    }

    /// A write and a look at the same version must be about the same document.
    fn compare(&mut self, write: &Write, sighting: &Sighting) {
        let deleted = sighting.sight == Sight::Deleted;
        let same = write.delete == deleted
            && (deleted || sighting.op == Some(write.op))
            && (deleted || write.hash == 0 || write.hash == sighting.hash);
        if !same {
            let text = format!(
                "{}: version {} was written by operation {} and is shown as something else",
                uuid_text(write.id),
                write.version,
                write.op
            );
            self.breach(Breach::Phantom(text));
        }
    }

    /// The watch starts over: what follows, up to `ready`, is everything there is.
    pub fn reset(&mut self) {
        self.snapshot = Some(std::collections::HashSet::default());
    }

    /// The snapshot after a reset is complete. What is not in it was deleted, if that is the only change of it that was not
    /// seen: what does not change while the snapshot is read is in it. Else its other changes may be on their way, and it
    /// takes an event, or a canary ([`Checker::settle_deletions`]).
    pub fn ready(&mut self, at: u64) {
        let Some(snapshot) = self.snapshot.take() else {
            return;
        };
        self.had_snapshot = true;
        for (id, open) in &mut self.open {
            if !snapshot.contains(id) {
                open.absent_at.get_or_insert(at);
            }
        }
        let is_next = |open: &Open, write: &Write| open.key.seen > 0 && write.version == open.key.seen + 1;
        self.delete(|_, open, write| open.absent_at.filter(|_| is_next(open, write)));
    }

    /// After a snapshot: what canaries overtook and nothing showed was not in that snapshot because it was deleted, where a
    /// deletion was accepted. Whether it is in the view all the same is seen when the planes are compared.
    fn settle_deletions(&mut self) {
        if let Some(at) = self.canary_at.take_if(|_| self.had_snapshot && self.snapshot.is_none()) {
            // Without a time of its own it was accepted after the snapshot: since the canary, for certain.
            self.delete(|canaries, open, write| canaries.overtook(write.id).then(|| open.absent_at.unwrap_or(at)));
        }
    }

    /// The open deletions that have become visible at the time that `seen` gives.
    fn delete(&mut self, seen: impl Fn(&Canaries, &Open, &Write) -> Option<u64>) {
        let mut gone = Vec::new();
        for open in self.open.values() {
            let deletions = open.writes.iter().filter(|write| write.delete);
            gone.extend(deletions.filter_map(|write| Some((*write, seen(&self.canaries, open, write)?))));
        }
        for (Write { id, version, .. }, at) in gone {
            self.seen(Sighting { sight: Sight::Deleted, view: 0, id, version, op: None, hash: 0, at });
        }
    }

    /// The last word: what was never seen is lost where the view has moved past it ([`Checker::overtaken`]), if it had
    /// the time to show it all the same (`lost`); what was seen and never written, and can't have been written by a
    /// command whose outcome is unknown (`unsure`, by operation and entity), is a phantom. Returns the open writes.
    pub fn finish(&mut self, lost: bool, unsure: &dyn Fn(Option<u64>, u128) -> bool) -> Vec<Write> {
        let mut left: Vec<Write> = self.open.values().flat_map(|open| open.writes.iter().copied()).collect();
        left.sort_by_key(|write| write.intended);
        if lost {
            let overtaken = self.overtaken();
            self.violations.lost += overtaken.len() as u64;
            for write in overtaken.iter().take(EXAMPLES_MAX) {
                let text = format!(
                    "{}: version {} was accepted (operation {}) and never seen",
                    uuid_text(write.id),
                    write.version,
                    write.op
                );
                self.example("lost", &text);
            }
        }
        let unexplained =
            self.open.iter().flat_map(|(&id, open)| open.early.iter().map(move |sighting| (id, open.key, sighting)));
        let phantoms: Vec<String> = unexplained
            .filter(|(id, key, sighting)| {
                let written = match sighting.sight {
                    Sight::Present => sighting.version <= key.accepted_max,
                    Sight::Deleted => key.accepted_deleted,
                };
                !written && !unsure(sighting.op, *id)
            })
            .map(|(id, _, sighting)| {
                let what = if sighting.sight == Sight::Deleted { "a deletion at version" } else { "version" };
                format!("{}: {what} {} was seen, and nobody wrote it", uuid_text(id), sighting.version)
            })
            .collect();
        for text in phantoms {
            self.breach(Breach::Phantom(text));
        }
        left
    }

    /// All keys of this run and what the planes should show of them at the end, but for those where an outcome is
    /// unknown.
    pub fn expectations(&self) -> impl Iterator<Item = (u128, Expected)> + '_ {
        let settled = self.keys.iter().filter(|settled| !self.open.contains_key(&settled.id()));
        let open = self.open.iter().filter_map(|(&id, open)| Some((id, open.expected()?)));
        settled.map(|settled| (settled.id(), settled.expected())).chain(open)
    }
}

#[cfg(test)]
mod tests;
