//! Pages of lists: ids out of every partition's indexes in one round trip, their documents in another.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use contract::partition::{Partition, Topic};
use contract::query::{After, Filter, Order};
use contract::signal::Priority;
use redis::{RedisResult, Value};
use uuid::Uuid;

use crate::document::Document;
use crate::fetch::{Found, ReadError, View, unexpected};
use crate::link::{Link, Links};
use crate::pulse::partitions_of;
use crate::view::header::Header;
use crate::view::keys::{CODE_PLAIN, parse_signal_code, signal_code};

const SCRIPT: &str = include_str!("lists.lua");
/// Documents of one round trip: a page of the largest ones must not be one answer.
const DOCUMENTS_MAX: usize = 128;
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
    pub headers: BTreeMap<Partition, Arc<Header>>,
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
            let mut link = links.current().ok_or(ReadError::Away)?;
            let page = self
                .attempt(view, &mut link, signals, limit, after)
                .await
                .map_err(|error| if links.report(&link, &error) { ReadError::Away } else { ReadError::NotReady })?;
            if let Some(page) = page? {
                return Ok(page);
            }
        }
        Err(ReadError::NotReady)
    }

    /// `None` when a generation changed under it.
    async fn attempt(
        &self,
        view: &View,
        link: &mut Link,
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
                    if header.generation != page.headers[&candidate.partition].generation {
                        return Ok(Ok(None));
                    }
                    page.headers.insert(candidate.partition, header);
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
                Order::Priority => Priority::ALL.len() as u8 - priority.rank(),
                Order::Created | Order::CreatedDescending => 0,
            };
            codes.extend(self.filter.statuses().map(|status| (signal_code(priority, status), group)));
        }
        codes
    }

    /// The next `most` ids over all partitions; `None` when a generation changed.
    #[allow(clippy::type_complexity)]
    async fn candidates(
        &self,
        view: &View,
        link: &mut Link,
        signals: u16,
        most: usize,
        after: Option<After>,
    ) -> RedisResult<Result<Option<(Vec<Candidate>, BTreeMap<Partition, Arc<Header>>)>, ReadError>> {
        let partitions = partitions_of(self.topic, signals);
        let codes = self.codes(after);
        let newest_first = self.order == Order::CreatedDescending;
        let mut pipeline = redis::Pipeline::with_capacity(partitions.len());
        for partition in &partitions {
            let generation = view.generation(*partition);
            let command = pipeline.cmd("EVAL").arg(SCRIPT).arg(codes.len() + 1).arg(view.keys.header(*partition));
            for (code, _) in &codes {
                command.arg(view.keys.index(*partition, generation, *code));
            }
            command.arg(most).arg(u8::from(newest_first));
            for (code, group) in &codes {
                let bounded =
                    after.filter(|after| self.order != Order::Priority || priority_of(*code) == after.priority);
                let bound = match bounded {
                    Some(after) => [&b"("[..], after.id.as_bytes()].concat(),
                    None => {
                        if newest_first {
                            b"+".to_vec()
                        } else {
                            b"-".to_vec()
                        }
                    }
                };
                command.arg(*group).arg(bound);
            }
        }
        let generations: Vec<u64> = partitions.iter().map(|partition| view.generation(*partition)).collect();
        let answers: Vec<Value> = pipeline.query_async(&mut link.connection).await?;
        let (mut candidates, mut headers, mut changed) = (Vec::new(), BTreeMap::new(), false);
        for ((partition, generation), answer) in partitions.into_iter().zip(generations).zip(answers) {
            let Value::Array(parts) = answer else { return Err(unexpected()) };
            let mut parts = parts.into_iter();
            let header = match view.check(link, &parts.next().unwrap_or_default()) {
                Ok(header) => Arc::new(header),
                Err(error) => return Ok(Err(error)),
            };
            if header.generation != generation {
                view.saw(partition, header.generation);
                changed = true;
            }
            headers.insert(partition, header);
            for ((code, _), ids) in codes.iter().zip(parts) {
                let Value::Array(ids) = ids else { return Err(unexpected()) };
                for id in ids {
                    let Value::BulkString(id) = id else { return Err(unexpected()) };
                    let id = Uuid::from_slice(&id).map_err(|_| unexpected())?;
                    candidates.push(Candidate { id, code: *code, partition });
                }
            }
        }
        if changed {
            return Ok(Ok(None));
        }
        match self.order {
            Order::Created => candidates.sort_unstable_by_key(|candidate| candidate.id),
            Order::CreatedDescending => candidates.sort_unstable_by_key(|candidate| Reverse(candidate.id)),
            Order::Priority => {
                candidates.sort_unstable_by_key(|candidate| (Reverse(priority_of(candidate.code)), candidate.id));
            }
        }
        // While its change is under way, an id may stand in two sets.
        let mut seen = HashSet::new();
        let by_priority = self.order == Order::Priority;
        candidates.retain(|c| seen.insert((c.id, if by_priority { Some(priority_of(c.code)) } else { None })));
        candidates.truncate(most);
        Ok(Ok(Some((candidates, headers))))
    }
}
