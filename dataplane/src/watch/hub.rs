//! From the change feed to the watches of a topic.
//!
//! *Input*: entries of the feed. *Output*: one [`Chunk`] for each scope that is watched, shared by its
//! watches. *Bound*: [`QUEUE`] entries wait, and up to [`PUBLISH_MAX`] changes are published at once; a watch
//! that is [`BEHIND_MAX`] chunks behind is told so and catches up by the feed. *On shutdown*: ends with the feed.
//!
//! With many watches it publishes less often and coalesces more: delivering costs, and a client is
//! better served by the latest state than by a queue of old ones.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use contract::partition::{Partition, Topic};
use prometheus::{IntCounter, IntGauge};
use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;
use uuid::Uuid;

use super::entry::{Change, Entry};
use super::lookup::{LookedUp, look_up};
use super::position::{Mark, Position};
use super::scope::{Codes, Latest, Scope, Told};
use crate::feed::Fed;
use crate::fetch::{Found, View};
use crate::link::Links;

/// Entries that may wait to be published.
pub const QUEUE: usize = 1024;
/// Chunks that a watch may be behind.
pub const BEHIND_MAX: usize = 128;
/// Changes that are published at once, about: the last entry of them is whole. With their documents they
/// take some MiB.
const PUBLISH_MAX: usize = 8192;
/// What delivering to one watch costs, about; publishing keeps this distance per watch.
const COST_PER_WATCH: Duration = Duration::from_micros(10);
const PAUSE: Duration = Duration::from_millis(50);
/// How often a watch that joins looks at how far the view is.
const LOOKS_MAX: u32 = 3;

static EVENTS: LazyLock<IntCounter> = LazyLock::new(|| {
    prometheus::register_int_counter_with_registry!(
        "nexus_view_watch_events_total",
        "Events rendered for watches, once per scope",
        runtime::telemetry::registry()
    )
    .expect("registered once")
});
pub(super) static OPEN: LazyLock<IntGauge> = LazyLock::new(|| {
    prometheus::register_int_gauge_with_registry!("nexus_view_watches", "Open watches", runtime::telemetry::registry())
        .expect("registered once")
});

/// One event within a chunk.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Whose.
    pub id: Uuid,
    /// The version that it shows.
    pub version: u64,
    /// What it tells.
    pub told: Told,
    /// Where its bytes end; they begin where those of the one before end.
    pub end: usize,
    /// Its partition's place in the topic.
    pub index: usize,
    /// The last entry that named it.
    pub mark: Mark,
    /// Set where watches that had joined by this round were told before.
    pub told_in: Option<u64>,
}

/// What the watches of one scope are sent at once.
#[derive(Debug)]
pub struct Chunk {
    /// Where a watch is after it.
    pub position: Position,
    /// Set instead of events: start over from the position.
    pub reset: bool,
    /// The events' places.
    pub places: Vec<Place>,
    /// Their bytes.
    pub bytes: Bytes,
    /// Whether some of it is only for some watches: see [`Place::told_in`].
    pub repeats: bool,
}

#[derive(Debug, Default)]
struct State {
    /// None until the feed was found.
    position: Option<Position>,
    /// Counts what was published.
    round: u64,
    scopes: HashMap<Scope, broadcast::Sender<Arc<Chunk>>>,
    /// By partition, what was named while nobody watched and nobody looked whether it is applied; ahead of the position.
    unseen: HashMap<usize, Mark>,
}

/// What a watch gets when it joins.
#[derive(Debug)]
pub struct Joined {
    /// The chunks of its scope from now on.
    pub chunks: broadcast::Receiver<Arc<Chunk>>,
    /// The position that they go on from.
    pub position: Position,
    /// The last round before them.
    pub round: u64,
}

/// What the watches of one topic share.
#[derive(Debug, Clone)]
pub struct Hub {
    /// The topic.
    pub topic: Topic,
    state: Arc<Mutex<State>>,
}

impl Hub {
    /// A hub, and where it is fed. [`Hub::run`] it.
    #[must_use]
    pub fn new(topic: Topic) -> (Self, mpsc::Sender<Fed>, mpsc::Receiver<Fed>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self { topic, state: Arc::default() }, sender, receiver)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The chunks of `scope` from now on; `None` while the view has no feed.
    pub async fn join(&self, scope: Scope, view: &View, links: &Links) -> Option<Joined> {
        for tries in 1.. {
            {
                let mut state = self.lock();
                let (position, round) = (state.position.clone()?, state.round);
                // Where it can't be seen just now, or more comes all the time, the position is a little behind: sound,
                // and the next entries bring it on.
                if state.unseen.is_empty() || tries > LOOKS_MAX {
                    let sender = state.scopes.entry(scope).or_insert_with(|| broadcast::channel(BEHIND_MAX).0);
                    return Some(Joined { chunks: sender.subscribe(), position, round });
                }
            }
            self.look(view, links).await;
        }
        None
    }

    /// Moves the position over what was named while nobody watched, as far as it is applied.
    pub(super) async fn look(&self, view: &View, links: &Links) {
        let (base, wants) = {
            let state = self.lock();
            let Some(position) = &state.position else { return };
            let partition = |index: &usize| Partition { topic: self.topic, index: u16::try_from(*index).unwrap_or(0) };
            (position.base, state.unseen.keys().map(|index| (partition(index), Uuid::nil())).collect::<Vec<_>>())
        };
        let Some(link) = links.current() else { return };
        let found = match view.fetch(&link, &wants).await {
            Ok(found) => found,
            Err(error) => {
                links.report(&link, &error);
                return;
            }
        };
        let mut state = self.lock();
        let State { position: Some(position), unseen, .. } = &mut *state else { return };
        if position.base != base {
            return;
        }
        for ((partition, _), found) in wants.iter().zip(found) {
            let index = usize::from(partition.index);
            if let (Some(named), Ok(Found { header, .. })) = (unseen.get(&index), found) {
                advance(position, index, (*named).min(Mark { epoch: header.epoch, seq: header.seq }));
            }
        }
        forget_seen(unseen, position);
    }

    /// Whether the feed was found, so that watches can join.
    #[must_use]
    pub fn is_fed(&self) -> bool {
        self.lock().position.is_some()
    }

    /// Where a watch is that has taken all chunks of `receiver`; `None` when some are left.
    #[must_use]
    pub fn position(&self, receiver: &broadcast::Receiver<Arc<Chunk>>) -> Option<Position> {
        let state = self.lock();
        if receiver.is_empty() { state.position.clone() } else { None }
    }

    /// Publishes what it is fed, until the feed ends.
    pub async fn run(self, view: Arc<View>, links: Links, mut feed: mpsc::Receiver<Fed>) {
        let mut next = Instant::now();
        let mut ahead = Ahead::new();
        loop {
            tokio::time::sleep_until(next).await;
            let Some(first) = feed.recv().await else { return };
            let mut gathered = Gathered::default();
            let mut reset = None;
            let mut fed = Some(first);
            let mut room = QUEUE;
            while let Some(one) = fed {
                room -= 1;
                match one {
                    Fed::Entry { index, entry } => gathered.add(index, entry),
                    Fed::Reset(position) => {
                        gathered = Gathered::default();
                        reset = Some(position);
                    }
                }
                fed = if room > 0 && gathered.changes.len() < PUBLISH_MAX { feed.try_recv().ok() } else { None };
            }
            if let Some(position) = reset {
                ahead.clear();
                self.reset(position);
            }
            let watches = self.publish(&view, &links, gathered, &mut ahead).await;
            next = Instant::now() + COST_PER_WATCH * u32::try_from(watches).unwrap_or(u32::MAX);
        }
    }

    fn reset(&self, position: Position) {
        let mut state = self.lock();
        state.position = Some(position.clone());
        state.unseen.clear();
        let chunk = Arc::new(Chunk { position, reset: true, places: Vec::new(), bytes: Bytes::new(), repeats: false });
        state.scopes.retain(|_, sender| sender.send(Arc::clone(&chunk)).is_ok());
    }

    /// Returns how many watches there are.
    async fn publish(&self, view: &View, links: &Links, gathered: Gathered, ahead: &mut Ahead) -> usize {
        let mut looked: Option<LookedUp> = None;
        loop {
            {
                let mut state = self.lock();
                state.scopes.retain(|_, sender| sender.receiver_count() > 0);
                if state.scopes.is_empty() || gathered.changes.is_empty() || looked.is_some() {
                    return deliver(&mut state, &gathered, looked.as_ref());
                }
            }
            // The entries are in the feed, so the documents are in the view: where they can't be read
            // just now, they can later, and nothing may be left out.
            match look_up(view, links, self.topic, &gathered.changes).await {
                Ok(mut found) => {
                    let round = self.lock().round + 1;
                    for latest in &mut found.latest {
                        note(ahead, latest, round);
                    }
                    looked = Some(found);
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}

/// Versions that were told before their entries came, because the document was newer, and in which round.
type Ahead = HashMap<Uuid, (u64, u64)>;

/// Notes that a state is told ahead of its entry, or that it was.
fn note(ahead: &mut Ahead, latest: &mut Latest, round: u64) {
    let told = ahead.get(&latest.id).filter(|(version, _)| latest.version <= *version);
    latest.told_in = told.map(|(_, round)| *round);
    if latest.version > latest.named {
        if latest.told_in.is_none() {
            ahead.insert(latest.id, (latest.version, round));
        }
    } else {
        ahead.remove(&latest.id);
    }
}

fn advance(position: &mut Position, index: usize, mark: Mark) {
    if let Some(place) = position.marks.get_mut(index) {
        *place = (*place).max(mark);
    }
}

fn forget_seen(unseen: &mut HashMap<usize, Mark>, position: &Position) {
    unseen.retain(|index, named| position.marks.get(*index).is_some_and(|place| place < named));
}

/// Sends each scope its events. The lock is held, so that who joins is before or after all of them.
///
/// The position moves no further than the view was: a call that failed midway left an entry with changes that are not
/// there yet, and who resumed behind it would never be told of them. The entries that repeat it move the position on.
fn deliver(state: &mut State, gathered: &Gathered, looked: Option<&LookedUp>) -> usize {
    let Some(position) = &mut state.position else { return 0 };
    let before = position.encode();
    for Named { index, mark, applied } in &gathered.marks {
        let seen = looked.and_then(|looked| looked.marks.get(index)).map(|seen| (*seen).min(*mark));
        advance(position, *index, seen.unwrap_or(*applied).max(*applied));
        if seen.is_none() && applied < mark {
            let named = state.unseen.entry(*index).or_default();
            *named = (*named).max(*mark);
        }
    }
    forget_seen(&mut state.unseen, position);
    let latest = looked.map_or(&[][..], |looked| &looked.latest);
    let (after, position) = (position.encode(), position.clone());
    state.round += 1;
    let mut watches = 0;
    for (scope, sender) in &state.scopes {
        watches += sender.receiver_count();
        let chunk = match scope {
            Scope::Filter(_) => render(*scope, latest.iter(), &before, &after, &position),
            Scope::One(id) => {
                render(*scope, latest.iter().filter(|latest| latest.id == *id), &before, &after, &position)
            }
        };
        if let Some(chunk) = chunk {
            EVENTS.inc_by(chunk.places.len() as u64);
            // Its last watch may have gone just now.
            let _ = sender.send(Arc::new(chunk));
        }
    }
    watches
}

/// The events of a scope; `None` when there are none.
///
/// All but the last carry the position before, and the last the one after: who breaks off in between
/// gets them again, and none is lost.
pub fn render<'a>(
    scope: Scope,
    latest: impl Iterator<Item = &'a Latest>,
    before: &str,
    after: &str,
    position: &Position,
) -> Option<Chunk> {
    let mut told = latest.filter_map(|latest| Some((scope.told(latest)?, latest))).peekable();
    told.peek()?;
    let (mut bytes, mut places) = (Vec::new(), Vec::new());
    while let Some((what, latest)) = told.next() {
        what.write(&mut bytes, latest, if told.peek().is_some() { before } else { after });
        let Latest { id, version, index, mark, told_in, .. } = *latest;
        places.push(Place { id, version, told: what, end: bytes.len(), index, mark, told_in });
    }
    let repeats = places.iter().any(|place| place.told_in.is_some());
    Some(Chunk { position: position.clone(), reset: false, places, bytes: bytes.into(), repeats })
}

/// Changes merged by entity, in the order of their first one.
#[derive(Debug, Default)]
pub struct Gathered {
    /// One per entity: the last version, the code before the first one.
    pub changes: Vec<Merged>,
    places: HashMap<Uuid, usize>,
    marks: Vec<Named>,
}

/// How far one entry goes.
#[derive(Debug, Clone, Copy)]
struct Named {
    index: usize,
    mark: Mark,
    /// Up to where all is applied, whatever became of the call that wrote it. One that changed nothing left nothing out.
    applied: Mark,
}

/// Some changes of one entity.
#[derive(Debug, Clone, Copy)]
pub struct Merged {
    /// The entity.
    pub id: Uuid,
    /// The last one's version.
    pub version: u64,
    /// The code before the first.
    pub before: u8,
    /// The code after the last.
    pub after: u8,
    /// All codes on the way.
    pub had: Codes,
    /// The last entry that named it.
    pub mark: Mark,
    /// Its partition's place in the topic.
    pub(super) index: usize,
}

impl Gathered {
    /// Adds a batch of the partition at `index`.
    pub fn add(&mut self, index: usize, entry: Entry) {
        let mark = entry.mark();
        let applied = if entry.changes.is_empty() { mark } else { entry.before() };
        self.marks.push(Named { index, mark, applied });
        for Change { id, version, before, after } in entry.changes {
            let had = Codes::default().with(before).with(after);
            match self.places.get(&id) {
                Some(place) => {
                    let merged = &mut self.changes[*place];
                    if version > merged.version {
                        (merged.version, merged.after) = (version, after);
                    }
                    merged.had = merged.had.with(before).with(after);
                    merged.mark = merged.mark.max(mark);
                }
                None => {
                    self.places.insert(id, self.changes.len());
                    self.changes.push(Merged { id, version, before, after, had, mark, index });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::keys::CODE_NONE;

    fn entry(from: u64, to: u64, changed: bool) -> Entry {
        let change = Change { id: Uuid::from_u128(to.into()), version: 1, before: CODE_NONE, after: b'a' };
        let changes = if changed { vec![change] } else { Vec::new() };
        Entry { stream_id: String::new(), epoch: 1, from, to, changes }
    }

    /// The position and what is unseen after `entries`, with the header at `seen`; None where nobody looked.
    fn delivered(state: &mut State, entries: Vec<Entry>, seen: Option<u64>) -> (u64, Option<u64>) {
        let mut gathered = Gathered::default();
        for entry in entries {
            gathered.add(0, entry);
        }
        let marks = |seq| HashMap::from([(0, Mark { epoch: 1, seq })]);
        let looked = seen.map(|seq| LookedUp { latest: Vec::new(), marks: marks(seq) });
        deliver(state, &gathered, looked.as_ref());
        let position = state.position.as_ref().expect("set before");
        (position.marks[0].seq, state.unseen.get(&0).map(|mark| mark.seq))
    }

    fn at(seq: u64) -> State {
        let position = Position { base: 1, marks: vec![Mark { epoch: 1, seq }], partial: false };
        State { position: Some(position), ..State::default() }
    }

    #[test]
    fn the_position_stays_before_a_call_that_failed_midway_until_it_is_repeated() {
        let state = &mut at(4);
        assert_eq!(delivered(state, vec![entry(5, 8, true)], Some(4)), (4, None));
        // Repeated in smaller ones; the second is not published yet, though the header is past it.
        assert_eq!(delivered(state, vec![entry(5, 7, true)], Some(9)), (7, None));
        assert_eq!(delivered(state, vec![entry(8, 9, true)], Some(9)), (9, None));
    }

    #[test]
    fn what_nobody_looked_at_is_behind_the_position_only_when_a_later_entry_proves_it() {
        let state = &mut at(4);
        assert_eq!(delivered(state, vec![entry(5, 8, true)], None), (4, Some(8)));
        assert_eq!(delivered(state, vec![entry(5, 7, true), entry(8, 9, true)], None), (7, Some(9)));
        assert_eq!(delivered(state, vec![entry(10, 11, false)], None), (11, None), "it changed nothing");
    }
}
