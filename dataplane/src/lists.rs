//! Pages of lists: ids out of every partition's indexes in one round trip, their documents in another.
//!
//! Most pages are filled by the first sets of the order alone, with about as many ids from each partition. So little is
//! asked for first; where that does not prove the page, all sets are asked for as many ids as a page can take.

use std::collections::BTreeMap;
use std::sync::Arc;

use contract::partition::{Partition, Topic};
use contract::query::{After, Filter, Order};
use contract::signal::Priority;
use redis::{RedisError, RedisResult};
use uuid::Uuid;

use crate::document::Document;
use crate::fetch::{Found, ReadError, View, unexpected};
use crate::link::{Link, Links};
use crate::pulse::partitions_of;
use crate::view::header::Header;
use crate::view::keys::{CODE_PLAIN, parse_signal_code, signal_code};
use crate::wire::{Commands, Values};

/// Documents of one round trip: a page of the largest ones must not be one answer.
const DOCUMENTS_MAX: usize = 128;
/// What a partition is asked for at first beyond its equal share of a page, in square roots of that: more than three standard
/// deviations.
const SHARE_SLACK: usize = 4;
/// How often a page is begun again because the generation changed under it.
const TRIES_MAX: usize = 4;

/// What is listed.
#[derive(Debug, Clone, Copy)]
pub struct Listing {
    /// Signals or identities.
    pub topic: Topic,
    /// Which signals.
    pub filter: Filter,
    /// In which order.
    pub order: Order,
}

/// One page.
#[derive(Debug, Default)]
pub struct Page {
    /// Its items in their order.
    pub items: Vec<(Uuid, Document)>,
    /// Whether more follow.
    pub more: bool,
    /// Every partition's header as its items were last read.
    pub headers: Headers,
}

impl Page {
    /// After which item the next page starts.
    #[must_use]
    pub fn last(&self) -> Option<After> {
        let (id, document) = self.items.last()?;
        Some(After { priority: priority_of(document.code), id: *id })
    }
}

/// Identities have none: any will do, the same for all.
fn priority_of(code: u8) -> Priority {
    parse_signal_code(code).map_or(Priority::Low, |(priority, _)| priority)
}

type Headers = BTreeMap<Partition, Arc<Header>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Candidate {
    id: Uuid,
    code: u8,
    partition: Partition,
}

impl Listing {
    /// The page of at most `limit` items behind `after`.
    ///
    /// An item that does not change during a walk over the pages is on exactly one of them: ids come in
    /// a fixed order, and items that vanish between the two round trips are made up for by the next ones.
    ///
    /// # Errors
    /// The view can't be read.
    pub async fn page(
        &self,
        view: &View,
        links: &Links,
        signals: u16,
        limit: usize,
        after: Option<After>,
    ) -> Result<Page, ReadError> {
        for _ in 0..TRIES_MAX {
            let link = links.current().ok_or(ReadError::Away)?;
            let page = self
                .attempt(view, &link, signals, limit, after)
                .await
                .map_err(|error| if links.report(&link, &error) { ReadError::Away } else { ReadError::NotReady })?;
            if let Some(page) = page? {
                return Ok(page);
            }
        }
        Err(ReadError::NotReady)
    }

    /// About how many items there are: what the indexes hold.
    ///
    /// # Errors
    /// The view can't be read.
    pub async fn count(&self, view: &View, links: &Links, signals: u16) -> Result<usize, ReadError> {
        let mut link = links.current().ok_or(ReadError::Away)?;
        let lost = |link: &Link, error: &RedisError| {
            links.report(link, error);
            ReadError::Away
        };
        let partitions = partitions_of(self.topic, signals);
        // The headers first: what is still being filled holds next to nothing.
        let nobody: Vec<_> = partitions.iter().map(|partition| (*partition, Uuid::nil())).collect();
        for header in view.fetch(&link, &nobody).await.map_err(|error| lost(&link, &error))? {
            header?;
        }
        let mut pipeline = redis::pipe();
        for partition in partitions {
            let generation = view.generation(partition);
            for (code, _) in self.codes(None) {
                pipeline.cmd("ZCARD").arg(view.keys.index(partition, generation, code));
            }
        }
        let counts: RedisResult<Vec<usize>> = pipeline.query_async(&mut link.connection).await;
        Ok(counts.map_err(|error| lost(&link, &error))?.into_iter().sum())
    }

    /// `None` when a generation changed under it.
    async fn attempt(
        &self,
        view: &View,
        link: &Link,
        signals: u16,
        limit: usize,
        mut after: Option<After>,
    ) -> RedisResult<Result<Option<Page>, ReadError>> {
        let mut page = Page::default();
        loop {
            // One more than is wanted tells whether there are more.
            let wanted = limit + 1 - page.items.len();
            let (candidates, headers) = match self.candidates(view, link, signals, wanted, after).await? {
                Ok(Some(found)) => found,
                Ok(None) => return Ok(Ok(None)),
                Err(error) => return Ok(Err(error)),
            };
            if page.headers.is_empty() {
                page.headers = headers;
            } else if headers.iter().any(|(p, header)| page.headers[p].generation != header.generation) {
                return Ok(Ok(None));
            }
            for some in candidates.chunks(DOCUMENTS_MAX) {
                let wants: Vec<_> = some.iter().map(|candidate| (candidate.partition, candidate.id)).collect();
                for (candidate, found) in some.iter().zip(view.fetch(link, &wants).await?) {
                    let Found { document, header } = match found {
                        Ok(found) => found,
                        Err(error) => return Ok(Err(error)),
                    };
                    match page.headers.get_mut(&candidate.partition) {
                        Some(seen) if seen.generation == header.generation => *seen = header,
                        _ => return Ok(Ok(None)),
                    }
                    if let Some(document) = document.filter(|document| self.still_has(candidate, document)) {
                        page.items.push((candidate.id, document));
                    }
                }
            }
            let last = candidates.last();
            if page.items.len() > limit {
                page.items.truncate(limit);
                page.more = true;
                return Ok(Ok(Some(page)));
            }
            match last {
                Some(last) if candidates.len() == wanted => {
                    after = Some(After { priority: priority_of(last.code), id: last.id });
                }
                _ => return Ok(Ok(Some(page))),
            }
        }
    }

    /// Whether a document still belongs where its index had it.
    fn still_has(&self, candidate: &Candidate, document: &Document) -> bool {
        if self.topic != Topic::Signals {
            return document.code == CODE_PLAIN;
        }
        parse_signal_code(document.code).is_some_and(|(priority, status)| {
            self.filter.matches(status, priority)
                && (self.order != Order::Priority || priority == priority_of(candidate.code))
        })
    }

    /// The index codes to look at, with their groups: groups follow one another in the order.
    fn codes(&self, after: Option<After>) -> Vec<(u8, u8)> {
        if self.topic != Topic::Signals {
            return vec![(CODE_PLAIN, 0)];
        }
        let mut codes = Vec::with_capacity(16);
        for priority in self.filter.priorities() {
            let group = match self.order {
                Order::Priority if after.is_some_and(|after| priority > after.priority) => continue,
                Order::Priority => group_of(priority),
                Order::Created | Order::CreatedDescending => 0,
            };
            codes.extend(self.filter.statuses().map(|status| (signal_code(priority, status), group)));
        }
        codes
    }

    /// Where a candidate stands in the order.
    fn rank(&self, candidate: &Candidate) -> (u8, u128) {
        let id = candidate.id.as_u128();
        match self.order {
            Order::Created => (0, id),
            Order::CreatedDescending => (0, !id),
            Order::Priority => (group_of(priority_of(candidate.code)), id),
        }
    }

    /// The next `most` ids over all partitions; `None` when a generation changed.
    async fn candidates(
        &self,
        view: &View,
        link: &Link,
        signals: u16,
        most: usize,
        after: Option<After>,
    ) -> RedisResult<Result<Option<(Vec<Candidate>, Headers)>, ReadError>> {
        let partitions = partitions_of(self.topic, signals);
        let codes = self.codes(after);
        let group = codes.first().map(|(_, group)| *group);
        let first = codes.iter().take_while(|(_, of)| Some(*of) == group).count();
        let share = most.div_ceil(partitions.len());
        let each = share + SHARE_SLACK * share.isqrt();
        if first < codes.len() || each < most {
            let each = each.min(most);
            match self.ask(view, link, &partitions, &codes[..first], each, after).await? {
                Ok(Some((sets, headers))) => {
                    if let Some(candidates) = self.proven(sets, each, most, first == codes.len()) {
                        return Ok(Ok(Some((candidates, headers))));
                    }
                }
                other => return Ok(other.map(|_| None)),
            }
        }
        // All sets at once, those of before too: what moved from one to another meanwhile would be in neither.
        let answer = self.ask(view, link, &partitions, &codes, most, after).await?;
        Ok(answer.map(|answer| answer.map(|(sets, headers)| (self.merged(sets, most), headers))))
    }

    /// The next `most` ids, if they are: no set that was cut off at `each`, and none that was left out unless these are
    /// `all`, can hold one that comes before the last of them.
    fn proven(&self, sets: Vec<Vec<Candidate>>, each: usize, most: usize, all: bool) -> Option<Vec<Candidate>> {
        let cut = sets.iter().filter(|set| set.len() >= each).filter_map(|set| set.last());
        let horizon = cut.map(|last| self.rank(last)).min();
        let merged = self.merged(sets, most);
        let last = merged.get(most - 1).map(|last| self.rank(last));
        let is_proven = match (last, horizon) {
            (Some(last), Some(horizon)) => last <= horizon,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => all,
        };
        is_proven.then_some(merged)
    }

    fn merged(&self, sets: Vec<Vec<Candidate>>, most: usize) -> Vec<Candidate> {
        let mut candidates = sets.concat();
        candidates.sort_unstable_by_key(|candidate| self.rank(candidate));
        // While its change is under way, an id may stand in two sets.
        candidates.dedup_by_key(|candidate| self.rank(candidate));
        candidates.truncate(most);
        candidates
    }

    /// Up to `each` ids of every set of every partition; `None` when a generation changed.
    ///
    /// The sets of one partition are read at one moment. Its header is read at the same one: a generation that serves then is
    /// whole, because what a flip leaves behind is only deleted afterwards.
    async fn ask(
        &self,
        view: &View,
        link: &Link,
        partitions: &[Partition],
        codes: &[(u8, u8)],
        each: usize,
        after: Option<After>,
    ) -> RedisResult<Result<Option<(Vec<Vec<Candidate>>, Headers)>, ReadError>> {
        let newest_first = self.order == Order::CreatedDescending;
        let (command, open, end) =
            if newest_first { ("ZREVRANGEBYLEX", &b"+"[..], b"-") } else { ("ZRANGEBYLEX", &b"-"[..], b"+") };
        let bound = after.map(|after| [&b"("[..], after.id.as_bytes()].concat());
        let each = each.to_string();
        let mut commands = Commands::default();
        // Read once: what the keys name is what the header has to say.
        let generations: Vec<u64> = partitions.iter().map(|partition| view.generation(*partition)).collect();
        for (partition, generation) in partitions.iter().zip(&generations) {
            // A transaction each, not one for all: their keys may lie on different servers one day.
            commands.command(1, "MULTI").command(2, "GET").arg(view.keys.header(*partition).as_bytes());
            for (code, _) in codes {
                let bounded =
                    after.is_some_and(|after| self.order != Order::Priority || priority_of(*code) == after.priority);
                let start = bound.as_deref().filter(|_| bounded).unwrap_or(open);
                let index = view.keys.index(*partition, *generation, *code);
                commands.command(7, command).arg(index.as_bytes()).arg(start).arg(end);
                commands.arg(b"LIMIT").arg(b"0").arg(each.as_bytes());
            }
            commands.command(1, "EXEC");
        }
        let answer = link.wire.ask(commands).await?;
        let mut values = Values::of(&answer);
        let (mut sets, mut headers, mut changed) = (Vec::new(), Headers::new(), false);
        for (partition, generation) in partitions.iter().zip(generations) {
            // What was queued: MULTI itself, the header, the sets.
            for _ in 0..2 + codes.len() {
                values.done()?;
            }
            if values.array()? != Some(1 + codes.len()) {
                return Err(unexpected());
            }
            let header = match view.check(link, values.string()?) {
                Ok(header) => Arc::new(header),
                Err(error) => return Ok(Err(error)),
            };
            if header.generation != generation {
                view.saw(*partition, header.generation);
                changed = true;
            }
            headers.insert(*partition, header);
            for (code, _) in codes {
                let ids = values.array()?.ok_or_else(unexpected)?;
                let mut set = Vec::with_capacity(ids);
                for _ in 0..ids {
                    let id = values.string()?.and_then(|id| Uuid::from_slice(id).ok()).ok_or_else(unexpected)?;
                    set.push(Candidate { id, code: *code, partition: *partition });
                }
                sets.push(set);
            }
        }
        Ok(Ok((!changed).then_some((sets, headers))))
    }
}

/// The place of a priority among the groups of an order by it.
fn group_of(priority: Priority) -> u8 {
    Priority::ALL.len() as u8 - priority.rank()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(order: Order, priority: Priority, ids: &[u128]) -> Vec<Candidate> {
        let code = signal_code(priority, contract::signal::Status::ALL[0]);
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        if order == Order::CreatedDescending {
            ids.reverse();
        }
        let partition = Partition { topic: Topic::Signals, index: 0 };
        ids.into_iter().map(|id| Candidate { id: Uuid::from_u128(id), code, partition }).collect()
    }

    fn listing(order: Order) -> Listing {
        Listing { topic: Topic::Signals, filter: Filter::default(), order }
    }

    fn ids(page: Option<Vec<Candidate>>) -> Option<Vec<u128>> {
        page.map(|page| page.iter().map(|candidate| candidate.id.as_u128()).collect())
    }

    #[test]
    fn a_page_is_proven_only_where_no_set_can_hold_an_earlier_one() {
        let of = |order, ids: &[u128]| candidates(order, Priority::High, ids);
        let created = listing(Order::Created);
        let sets = |a: &[u128], b: &[u128]| vec![of(Order::Created, a), of(Order::Created, b)];
        // Cut off at 3: what follows in the first set comes after 5, in the second after 9.
        assert_eq!(ids(created.proven(sets(&[1, 2, 5], &[3, 4, 9]), 3, 4, true)), Some(vec![1, 2, 3, 4]));
        assert_eq!(ids(created.proven(sets(&[1, 2, 5], &[3, 4, 9]), 3, 5, true)), Some(vec![1, 2, 3, 4, 5]));
        // The sixth may be 6, 7 or 8 of the first set.
        assert_eq!(ids(created.proven(sets(&[1, 2, 5], &[3, 4, 9]), 3, 6, true)), None);
        // Neither was cut off: that is all there is, unless sets were left out.
        assert_eq!(ids(created.proven(sets(&[1, 2], &[3]), 3, 6, true)), Some(vec![1, 2, 3]));
        assert_eq!(ids(created.proven(sets(&[1, 2], &[3]), 3, 6, false)), None);
        assert_eq!(ids(created.proven(sets(&[1, 2], &[3]), 3, 3, false)), Some(vec![1, 2, 3]));

        let newest = listing(Order::CreatedDescending);
        let sets = vec![of(Order::CreatedDescending, &[9, 8, 5]), of(Order::CreatedDescending, &[7, 6, 1])];
        assert_eq!(ids(newest.proven(sets.clone(), 3, 5, true)), Some(vec![9, 8, 7, 6, 5]));
        assert_eq!(ids(newest.proven(sets, 3, 6, true)), None);
    }

    #[test]
    fn an_id_in_two_sets_stands_on_the_page_once() {
        let twice = |order| {
            let set = |priority| candidates(order, priority, &[4]);
            ids(Some(listing(order).merged(vec![set(Priority::Low), set(Priority::High)], 9)))
        };
        assert_eq!(twice(Order::Created), Some(vec![4]));
        // By priority it has two places, and only the document tells which is right.
        assert_eq!(twice(Order::Priority), Some(vec![4, 4]));
    }
}
