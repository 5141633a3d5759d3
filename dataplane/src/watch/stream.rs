//! One watch, from its first event to its last.
//!
//! *Input*: the chunks of its scope. *Output*: pieces of an event stream. *Bound*: [`PIECES`] of about
//! [`PIECE_BYTES`] wait for the client; a watch that falls behind the hub's chunks catches up by the feed,
//! where changes are coalesced; first parts share [`ROOM`], and wait where there is none. *On shutdown*:
//! ends at once, and the client resumes elsewhere.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use contract::identity::Role;
use contract::partition::{Partition, Topic};
use contract::query::{Filter, Order};
use contract::time::Timestamp;
use runtime::shutdown::Shutdown;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use uuid::Uuid;

use super::hub::{Chunk, Hub, Joined, Merged, OPEN, Place, render};
use super::lookup::look_up;
use super::position::{Mark, Position};
use super::replay::{Missed, ReplayError};
use super::scope::{Codes, Latest, Scope, Told};
use crate::auth::Presented;
use crate::feed::Waiters;
use crate::fetch::{ReadError, View};
use crate::link::Links;
use crate::lists::Listing;
use crate::pulse::partitions_of;
use crate::reader::{KeyState, Reader};
use crate::view::header::Header;
use crate::view::keys::CODE_NONE;

/// Pieces that may wait for the client.
pub const PIECES: usize = 16;
/// Bytes after which a piece ends with its event: the largest take about twice as many.
const PIECE_BYTES: usize = 64 * 1024;
/// Signals of one piece of the first part, and changes of one of what was missed.
const PAGE: usize = 100;
/// A comment comes this often, whatever else does.
const COMMENT: Duration = Duration::from_secs(10);
/// A quiet watch learns its position this often.
const QUIET: Duration = Duration::from_secs(5);
/// Permission is looked at this often, and whenever the key changes.
const PERMISSION: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);
/// What all watches may hold of what their first parts told, in shares of [`SHARE_IDS`] ids: some 200 MB. Counted in ids
/// and not in watches: slow clients with short parts must not keep the others waiting.
const SHARES_MAX: u32 = 4096;
const SHARE_IDS: usize = 1024;

static ROOM: Semaphore = Semaphore::const_new(SHARES_MAX as usize);

/// What the caller must be, all the time.
#[derive(Debug, Clone, Copy)]
pub enum Needs {
    /// Anyone with a good key.
    Anyone,
    /// An admin.
    Admin,
    /// An admin or this identity.
    Identity(Uuid),
}

/// A watch to be run.
#[derive(Debug)]
pub struct Watch {
    /// The hub of its topic.
    pub hub: Hub,
    /// Where the first part and what was missed are read.
    pub view: Arc<View>,
    /// By these links.
    pub links: Links,
    /// Where changes of its key are heard of.
    pub waiters: Waiters,
    /// Where permission is looked up.
    pub reader: Reader,
    /// Whose watch it is.
    pub presented: Presented,
    /// What the caller must be.
    pub needs: Needs,
    /// What it is about.
    pub scope: Scope,
    /// The number of partitions of signals.
    pub signals: u16,
    /// Whether the first part is left out at the beginning; after a reset it never is.
    pub from_now: bool,
    /// Where the client is.
    pub pieces: mpsc::Sender<Bytes>,
}

/// The client has gone.
struct Gone;

/// How a stretch of a watch begins.
enum Begin {
    /// With the first part.
    Fresh,
    /// With what was missed since a position.
    Behind(Position),
    /// With a reset.
    Reset,
}

/// What the client was told beside the chunks, so that versions only rise.
#[derive(Default)]
struct Sent {
    versions: HashMap<Uuid, u64>,
    /// Chunks past this hold nothing that was told before.
    until: Option<Position>,
    /// Whether `versions` holds everything that the client knows of.
    whole: bool,
    /// What had been applied when a watch from now began: not to be told.
    skip: Option<Position>,
    /// The hub's round before the watch joined.
    round: u64,
    /// The room that `versions` of a first part takes.
    _room: Option<SemaphorePermit<'static>>,
}

impl Sent {
    fn saw(&mut self, base: u64, count: usize, marks: impl Iterator<Item = (usize, Mark)>) {
        let until =
            self.until.get_or_insert_with(|| Position { base, marks: vec![Mark::default(); count], partial: false });
        for (index, mark) in marks {
            if let Some(place) = until.marks.get_mut(index) {
                *place = (*place).max(mark);
            }
        }
    }

    fn forget_before(&mut self, position: &Position) {
        if self.until.as_ref().is_some_and(|until| position.covers(until)) {
            *self = Self { skip: self.skip.take(), round: self.round, ..Self::default() };
        }
        if self.skip.as_ref().is_some_and(|skip| position.covers(skip)) {
            self.skip = None;
        }
    }

    /// Whether a chunk can go out as it is.
    fn takes_all(&self, chunk: &Chunk) -> bool {
        self.until.is_none() && self.skip.is_none() && !chunk.repeats
    }

    /// Whether the client is to be told, and notes that it was.
    fn tells(&mut self, place: &Place) -> bool {
        if place.told_in.is_some_and(|round| round > self.round) {
            return false;
        }
        if self.skip.as_ref().and_then(|skip| skip.marks.get(place.index)).is_some_and(|mark| place.mark <= *mark) {
            return false;
        }
        if self.until.is_none() {
            return true;
        }
        match self.versions.get(&place.id) {
            Some(known) if place.version <= *known => return false,
            None if self.whole && place.told == Told::Left => return false,
            _ => {}
        }
        self.versions.insert(place.id, place.version);
        true
    }
}

impl Watch {
    /// Streams until the client goes, its permission ends, or the process stops.
    pub async fn run(self, resume: Option<Position>, shutdown: Shutdown) {
        OPEN.inc();
        tokio::select! {
            () = shutdown.begun() => {}
            () = self.pieces.closed() => {}
            () = self.permission() => {}
            () = self.comments() => {}
            Gone = self.stream(resume) => {}
        }
        OPEN.dec();
    }

    /// Returns when the caller may no longer watch.
    async fn permission(&self) {
        let changes = self.waiters.register(vec![self.presented.key]);
        loop {
            let _ = tokio::time::timeout(PERMISSION, changes.woken()).await;
            let Ok(answer) = self.reader.read(Some(self.presented.key), Vec::new()).await else { continue };
            let key = answer.key.unwrap_or(KeyState::Absent);
            let Ok(caller) = self.presented.check(&key, Timestamp::now()) else { return };
            let may = match self.needs {
                Needs::Anyone => true,
                Needs::Admin => caller.role == Role::Admin,
                Needs::Identity(id) => caller.may_see_identity(id).is_ok(),
            };
            if !may {
                return;
            }
        }
    }

    async fn comments(&self) {
        loop {
            tokio::time::sleep(COMMENT).await;
            if self.send(Bytes::from_static(b": still here\n\n")).await.is_err() {
                return;
            }
        }
    }

    async fn send(&self, piece: Bytes) -> Result<(), Gone> {
        self.pieces.send(piece).await.map_err(|_| Gone)
    }

    async fn stream(&self, resume: Option<Position>) -> Gone {
        let mut begin = resume.map_or(Begin::Fresh, Begin::Behind);
        let mut sent = Sent::default();
        loop {
            begin = match self.stretch(begin, &mut sent).await {
                Ok(next) => next,
                Err(gone) => return gone,
            };
        }
    }

    /// Streams until something makes it begin anew.
    async fn stretch(&self, begin: Begin, sent: &mut Sent) -> Result<Begin, Gone> {
        let tells_all = match &begin {
            Begin::Behind(_) => false,
            Begin::Fresh => !self.from_now,
            // Nobody knows what the client missed, so it gets what there is, whatever it asked for.
            Begin::Reset => true,
        };
        let room = if tells_all {
            // What a first part before this one holds goes first: it must not wait for itself.
            *sent = Sent::default();
            self.room().await
        } else {
            None
        };
        let Joined { mut chunks, position: joined, round } = loop {
            match self.hub.join(self.scope, &self.view, &self.links).await {
                Some(joined) => break joined,
                None => tokio::time::sleep(PAUSE).await,
            }
        };
        // Who rejoins to catch up has been told up to `from`; what it catches up with is noted in `sent`.
        sent.round = round;
        match begin {
            Begin::Behind(from) => {
                if !self.replay(from, &joined, sent).await? {
                    return Ok(Begin::Reset);
                }
            }
            Begin::Reset | Begin::Fresh => {
                *sent = Sent { round, _room: room, ..Sent::default() };
                let partial = Position { partial: true, ..joined.clone() }.encode();
                if matches!(begin, Begin::Reset) {
                    self.send(format!("event: reset\nid: {partial}\ndata: {{}}\n\n").into()).await?;
                }
                if tells_all {
                    self.first_part(&partial, &joined, sent).await?;
                } else {
                    sent.skip = Some(self.now(&joined).await);
                }
                let id = joined.encode();
                self.send(format!("event: ready\nid: {id}\ndata: {{}}\n\n").into()).await?;
            }
        }
        self.live(&mut chunks, joined, sent).await
    }

    /// Room for what a first part will hold, once there is some; one entity needs none. Asked for before the watch joins
    /// the hub, which keeps chunks for whoever has.
    ///
    /// # Cancel safety
    /// Cancel safe.
    async fn room(&self) -> Option<SemaphorePermit<'static>> {
        let Scope::Filter(filter) = self.scope else { return None };
        let listing = Listing { topic: self.hub.topic, filter, order: Order::Created };
        let ids = loop {
            match listing.count(&self.view, &self.links, self.signals).await {
                Ok(ids) => break ids,
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        };
        // It is never closed.
        ROOM.acquire_many(shares(ids)).await.ok()
    }

    /// Passes chunks on.
    async fn live(
        &self,
        chunks: &mut broadcast::Receiver<Arc<Chunk>>,
        mut position: Position,
        sent: &mut Sent,
    ) -> Result<Begin, Gone> {
        loop {
            match tokio::time::timeout(QUIET, chunks.recv()).await {
                Ok(Ok(chunk)) if chunk.reset => return Ok(Begin::Reset),
                Ok(Ok(chunk)) => {
                    self.forward(&chunk, sent).await?;
                    position = chunk.position.clone();
                    sent.forget_before(&position);
                }
                Ok(Err(RecvError::Lagged(_))) => return Ok(Begin::Behind(position)),
                // The hub forgot a scope without watches, or has ended.
                Ok(Err(RecvError::Closed)) => {
                    tokio::time::sleep(PAUSE).await;
                    return Ok(Begin::Behind(position));
                }
                Err(_) => {
                    if sent.until.is_some() {
                        // Where nothing changes, nobody else moves the hub's position over what was told.
                        self.hub.look(&self.view, &self.links).await;
                    }
                    if let Some(now) = self.hub.position(chunks) {
                        if now != position {
                            self.send(format!("id: {}\n\n", now.encode()).into()).await?;
                        }
                        sent.forget_before(&now);
                        position = now;
                    }
                }
            }
        }
    }

    /// Sends a chunk, less what the client knows.
    async fn forward(&self, chunk: &Chunk, sent: &mut Sent) -> Result<(), Gone> {
        if sent.takes_all(chunk) {
            for piece in pieces(chunk) {
                self.send(piece).await?;
            }
            return Ok(());
        }
        let mut kept = Vec::new();
        let mut begin = 0;
        for place in &chunk.places {
            if sent.tells(place) {
                kept.extend_from_slice(&chunk.bytes[begin..place.end]);
            }
            begin = place.end;
            if kept.len() >= PIECE_BYTES {
                self.send(std::mem::take(&mut kept).into()).await?;
            }
        }
        if kept.is_empty() { Ok(()) } else { self.send(kept.into()).await }
    }

    /// Sends what was missed between `at` and `joined`, page by page; false where the watch has to start
    /// over. What a page tells may be newer than its entries; `sent` then keeps the pages and chunks after
    /// it from telling it again.
    async fn replay(&self, mut at: Position, joined: &Position, sent: &mut Sent) -> Result<bool, Gone> {
        let (view, links) = (&self.view, &self.links);
        let mut missed = loop {
            match Missed::between(view, links, self.hub.topic, &at, joined).await {
                Ok(missed) => break missed,
                Err(error) if can_wait(error).await => {}
                Err(_) => return Ok(false),
            }
        };
        let mut before = at.encode();
        loop {
            let mut page = match missed.next_page(view, links, &mut at).await {
                Ok(Some(page)) => page,
                Ok(None) => return Ok(true),
                Err(error) if can_wait(error).await => continue,
                Err(_) => return Ok(false),
            };
            if let Scope::One(id) = self.scope {
                page.changes.retain(|change| change.id == id);
            }
            let after = at.encode();
            // The position comes with the last of a page.
            let mut rest = page.changes.as_slice();
            while !rest.is_empty() {
                let (some, others) = rest.split_at(rest.len().min(PAGE));
                rest = others;
                self.tell(some, &before, if rest.is_empty() { &after } else { &before }, joined, sent).await?;
            }
            before = after;
        }
    }

    /// Sends the latest state of each of `changes`, the last with the position `after`.
    async fn tell(
        &self,
        changes: &[Merged],
        before: &str,
        after: &str,
        joined: &Position,
        sent: &mut Sent,
    ) -> Result<(), Gone> {
        let looked = loop {
            match look_up(&self.view, &self.links, self.hub.topic, changes).await {
                Ok(looked) => break looked,
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        };
        sent.saw(joined.base, joined.marks.len(), looked.marks.into_iter());
        match render(self.scope, looked.latest.iter(), before, after, joined) {
            Some(chunk) => self.forward(&chunk, sent).await,
            None => Ok(()),
        }
    }

    /// How far the view is, at or past `joined`.
    async fn now(&self, joined: &Position) -> Position {
        let nobody = partitions_of(self.hub.topic, self.signals).into_iter().map(|partition| (partition, Uuid::nil()));
        let nobody: Vec<_> = nobody.collect();
        loop {
            if let Some(link) = self.links.current() {
                match self.view.fetch(&link, &nobody).await {
                    Ok(found) => {
                        if let Ok(found) = found.into_iter().collect::<Result<Vec<_>, _>>() {
                            let marks = found.iter().map(|found| mark(&found.header)).collect();
                            return Position { base: joined.base, marks, partial: false };
                        }
                    }
                    Err(error) => {
                        self.links.report(&link, &error);
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Sends what there is in the scope.
    async fn first_part(&self, id: &str, joined: &Position, sent: &mut Sent) -> Result<(), Gone> {
        sent.whole = true;
        let mut pages = match self.scope {
            Scope::One(one) => VecDeque::from([self.one(one, joined, sent).await]),
            Scope::Filter(_) => VecDeque::new(),
        };
        let mut after = None;
        loop {
            let (items, more) = match (self.scope, pages.pop_front()) {
                (_, Some(items)) => (items, false),
                (Scope::One(_), None) => return Ok(()),
                (Scope::Filter(filter), None) => {
                    let listing = Listing { topic: self.hub.topic, filter, order: Order::Created };
                    match listing.page(&self.view, &self.links, self.signals, PAGE, after).await {
                        Ok(page) => {
                            let marks = page.headers.iter().map(|(p, header)| (usize::from(p.index), mark(header)));
                            sent.saw(joined.base, joined.marks.len(), marks);
                            after = page.last();
                            (page.items, page.more)
                        }
                        Err(_) => {
                            tokio::time::sleep(PAUSE).await;
                            continue;
                        }
                    }
                }
            };
            let mut piece = Vec::new();
            for (entity, document) in items {
                sent.versions.insert(entity, document.version);
                let latest = Latest {
                    id: entity,
                    version: document.version,
                    named: document.version,
                    before: CODE_NONE,
                    after: document.code,
                    had: Codes::default(),
                    json: document.json,
                    index: 0,
                    mark: Mark::default(),
                    told_in: None,
                };
                Told::Created.write(&mut piece, &latest, id);
                if piece.len() >= PIECE_BYTES {
                    self.send(std::mem::take(&mut piece).into()).await?;
                }
            }
            if !piece.is_empty() {
                self.send(piece.into()).await?;
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// The one entity of the scope, where it is.
    async fn one(&self, id: Uuid, joined: &Position, sent: &mut Sent) -> Vec<(Uuid, crate::document::Document)> {
        let partition = Partition::of(self.hub.topic, id, self.signals);
        loop {
            let found = match self.links.current() {
                Some(link) => match self.view.fetch(&link, &[(partition, id)]).await {
                    Ok(mut found) => found.pop().unwrap_or(Err(ReadError::NotReady)),
                    Err(error) => {
                        self.links.report(&link, &error);
                        Err(ReadError::Away)
                    }
                },
                None => Err(ReadError::Away),
            };
            match found {
                Ok(found) => {
                    let marks = [(usize::from(partition.index), mark(&found.header))];
                    sent.saw(joined.base, joined.marks.len(), marks.into_iter());
                    let document = found.document.filter(|document| !document.is_tombstone());
                    return document.map(|document| (id, document)).into_iter().collect();
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}

/// The shares of [`ROOM`] that a first part of so many ids takes; a part beyond all of them takes all.
fn shares(ids: usize) -> u32 {
    u32::try_from(ids.div_ceil(SHARE_IDS)).unwrap_or(SHARES_MAX).clamp(1, SHARES_MAX)
}

/// A chunk's bytes, cut behind the event that fills [`PIECE_BYTES`]: a comment may come between two pieces.
fn pieces(chunk: &Chunk) -> Vec<Bytes> {
    let mut begin = 0;
    let mut pieces = Vec::new();
    if chunk.bytes.len() > PIECE_BYTES {
        for place in &chunk.places {
            if place.end - begin >= PIECE_BYTES {
                pieces.push(chunk.bytes.slice(begin..place.end));
                begin = place.end;
            }
        }
    }
    if begin < chunk.bytes.len() {
        pieces.push(chunk.bytes.slice(begin..));
    }
    pieces
}

/// Waits a moment where that may help.
async fn can_wait(error: ReplayError) -> bool {
    match error {
        ReplayError::Gone | ReplayError::TooMuch => {
            tracing::debug!(%error, "a watch starts over");
            false
        }
        ReplayError::Read(_) => {
            tokio::time::sleep(PAUSE).await;
            true
        }
    }
}

fn mark(header: &Header) -> Mark {
    Mark { epoch: header.epoch, seq: header.seq }
}

/// The scope of a list's watch.
#[must_use]
pub fn list_scope(topic: Topic, filter: Filter) -> Scope {
    Scope::Filter(if topic == Topic::Signals { filter } else { Filter::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seq: u64) -> Position {
        Position { base: 1, marks: vec![Mark { epoch: 1, seq }], partial: false }
    }

    #[test]
    fn a_first_part_gives_its_room_back_once_the_hub_is_past_it() {
        static ROOM: Semaphore = Semaphore::const_new(3);
        let mut sent = Sent { _room: ROOM.try_acquire_many(2).ok(), ..Sent::default() };
        sent.saw(1, 1, std::iter::once((0, Mark { epoch: 1, seq: 5 })));
        sent.forget_before(&at(4));
        assert_eq!(ROOM.available_permits(), 1);
        sent.forget_before(&at(5));
        assert_eq!(ROOM.available_permits(), 3);
    }

    #[test]
    fn every_first_part_finds_room_some_time() {
        let all = SHARES_MAX as usize * SHARE_IDS;
        for (ids, wanted) in [(0, 1), (SHARE_IDS, 1), (SHARE_IDS + 1, 2), (all, SHARES_MAX), (usize::MAX, SHARES_MAX)] {
            assert_eq!(shares(ids), wanted, "{ids}");
        }
    }

    #[test]
    fn a_large_chunk_goes_out_in_pieces_of_whole_events() {
        let place = |end| Place {
            id: Uuid::nil(),
            version: 1,
            told: Told::Created,
            end,
            index: 0,
            mark: Mark::default(),
            told_in: None,
        };
        let chunk = |ends: &[usize]| {
            let bytes: Vec<u8> = (0..ends.last().copied().unwrap_or(0)).map(|at| (at % 251) as u8).collect();
            let places = ends.iter().copied().map(place).collect();
            Chunk { position: at(1), reset: false, places, bytes: bytes.into(), repeats: false }
        };
        let lengths = |chunk: &Chunk| {
            let pieces = pieces(chunk);
            let whole: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
            assert_eq!(whole, chunk.bytes);
            pieces.iter().map(Bytes::len).collect::<Vec<_>>()
        };
        assert_eq!(lengths(&chunk(&[100, 300])), [300]);
        let most = PIECE_BYTES - 1;
        assert_eq!(lengths(&chunk(&[most, most + 10, most + 20, 3 * most])), [most + 10, 2 * most - 10]);
        assert_eq!(lengths(&chunk(&[10, 10 + PIECE_BYTES])), [10 + PIECE_BYTES]);
    }
}
