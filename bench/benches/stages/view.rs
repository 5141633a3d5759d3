//! Stage 10: reads of a view of 100,000 signals in a real Redis, from a handler's question to the documents in its hands:
//! one by id, many by id in one round, pages of 50 by priority; and then, in the same view, waits for tokens.

use std::cell::OnceCell;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::id::Uuid;
use contract::identity::{KeyRecord, Role};
use contract::partition::{Partition, Topic};
use contract::query::{After, Filter, Order};
use contract::signal::Priority;
use criterion::{BenchmarkId, Criterion, Throughput};
use dataplane::feed::{Feed, Waiters};
use dataplane::fetch::View;
use dataplane::link::Links;
use dataplane::lists::Listing;
use dataplane::pulse::{self, Pulse};
use dataplane::reader::{Answer, KeyState, Reader};
use dataplane::token_wait::TokenWait;
use dataplane::view::keys::{CODE_PLAIN, Keys, parse_signal_code};
use futures_util::future::join_all;
use runtime::shutdown::Shutdown;
use tokio::sync::{Mutex, watch};

use crate::place::{self, PARTITIONS};
use crate::signals::signal;
use crate::token;
use crate::writer::{Writer, Written};

const SIGNALS: u64 = 100_000;
const PAGE: usize = 50;
const KEY: Uuid = Uuid::from_u128(7);
const PATIENCE: Duration = Duration::from_secs(30);
/// An answer of Redis that takes longer counts as its loss; as the view server's.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The parts of a view server, as it joins them, and what its view holds.
pub struct Place {
    view: Arc<View>,
    links: Links,
    reader: Reader,
    pub tokens: TokenWait,
    pub writer: Mutex<Writer>,
    /// In the order of the list.
    signals: Vec<Written>,
}

fn start() -> Arc<Place> {
    let namespace = place::namespace("view");
    let mut signals: Vec<Written> = (0..SIGNALS).map(|i| Written::of(&signal(i))).collect();
    signals.sort_by_key(|signal| (Reverse(priority(signal)), signal.id));
    place::run(async move {
        let (url, prefix) = (namespace.redis_url(), namespace.redis_prefix());
        let mut writer = Writer::open(url, &prefix).await;
        let mut by_partition: BTreeMap<Partition, Vec<Written>> = BTreeMap::new();
        for signal in &signals {
            by_partition.entry(home(signal.id)).or_default().push(signal.clone());
        }
        for (partition, signals) in by_partition {
            for batch in signals.chunks(1024) {
                writer.apply(partition, batch).await;
            }
        }
        writer.apply(Partition::of(Topic::Keys, KEY, PARTITIONS), &[key()]).await;

        let client = redis::Client::open(url).expect("a URL");
        let view = Arc::new(View::new(Keys::new(&prefix)));
        let links = Links::keep(client.clone(), RESPONSE_TIMEOUT, Shutdown::new());
        let pulse = pulse::start(Arc::clone(&view), links.clone());
        let waiters = Waiters::default();
        let reader = Reader::start(Arc::clone(&view), links.clone());
        ready(pulse.clone()).await;
        let (hubs, of_feed) = (Vec::new(), waiters.clone());
        let feed = Feed { view: Arc::clone(&view), client, pulse: pulse.clone(), waiters: of_feed, hubs };
        tokio::spawn(feed.run());
        let tokens = TokenWait { reader: reader.clone(), waiters, pulse };
        Arc::new(Place { view, links, reader, tokens, writer: Mutex::new(writer), signals })
    })
}

/// Where a signal lives.
pub fn home(id: Uuid) -> Partition {
    Partition::of(Topic::Signals, id, PARTITIONS)
}

fn priority(signal: &Written) -> Priority {
    parse_signal_code(signal.code).expect("a signal's code").0
}

/// The record of the API key that every read is judged by.
fn key() -> Written {
    let record = KeyRecord {
        id: KEY,
        identity: Uuid::from_u128(8),
        role: Role::Reader,
        active: true,
        sha256: "0".repeat(64),
        expires_at: None,
        version: 1,
    };
    Written { id: KEY, version: 1, code: CODE_PLAIN, document: record.render() }
}

async fn ready(mut pulse: watch::Receiver<Arc<Pulse>>) {
    let readable = pulse.wait_for(|pulse| pulse.unreadable().is_none());
    let waited = tokio::time::timeout(PATIENCE, readable).await;
    waited.expect("the view is readable in time").expect("the pulse goes on");
}

/// Numbers below `most`, spread evenly and always the same.
struct Spread(u64);

impl Spread {
    fn next(&mut self, most: usize) -> usize {
        // A Weyl sequence, mixed: https://doi.org/10.1145/2660193.2660195 (SplitMix).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        usize::try_from((u128::from(mixed ^ (mixed >> 31)) * most as u128) >> 64).expect("below the length")
    }
}

impl Place {
    /// What the view holds of a signal.
    pub async fn document(&self, id: Uuid) -> Option<(u64, Vec<u8>)> {
        let answer = self.reader.read(None, vec![(home(id), id)]).await.expect("an answer");
        let found = answer.entities.into_iter().next().expect("an answer").expect("readable");
        found.document.map(|document| (document.version, document.json.to_vec()))
    }

    /// How long so many reads took that were asked for at once.
    async fn get(&self, spread: &mut Spread, at_once: usize) -> Duration {
        let wanted: Vec<&Written> = (0..at_once).map(|_| &self.signals[spread.next(self.signals.len())]).collect();
        let begun = Instant::now();
        let reads = wanted.iter().map(|signal| self.reader.read(Some(KEY), vec![(home(signal.id), signal.id)]));
        let answers = join_all(reads).await;
        let took = begun.elapsed();
        for (signal, answer) in wanted.into_iter().zip(answers) {
            let Answer { key, entities } = answer.expect("an answer");
            assert!(matches!(key, Some(KeyState::Known { record, .. }) if record.id == KEY), "the key is known");
            let found = entities.into_iter().next().expect("an answer").expect("readable");
            let document = found.document.expect("a document");
            assert_eq!((document.version, &document.json[..]), (signal.version, &signal.document[..]));
        }
        took
    }

    /// How long a page took, from somewhere in the list.
    async fn list(&self, spread: &mut Spread) -> Duration {
        let listing = Listing { topic: Topic::Signals, filter: Filter::default(), order: Order::Priority };
        let at = spread.next(self.signals.len() - PAGE - 1);
        let after = After { priority: priority(&self.signals[at]), id: self.signals[at].id };
        let begun = Instant::now();
        let page = listing.page(&self.view, &self.links, PARTITIONS, PAGE, Some(after)).await;
        let took = begun.elapsed();
        let page = page.expect("a page");
        assert!(page.more);
        let expected = self.signals[at + 1..=at + PAGE].iter().map(|signal| (signal.id, &signal.document[..]));
        assert!(page.items.iter().map(|(id, document)| (*id, &document.json[..])).eq(expected), "the page behind {at}");
        took
    }
}

pub fn bench(c: &mut Criterion) {
    let place = OnceCell::new();
    let mut group = c.benchmark_group("view");
    for at_once in [1, 64, 256] {
        group.throughput(Throughput::Elements(at_once as u64));
        let name = if at_once == 1 { "single_get" } else { "batched_get" };
        group.bench_function(BenchmarkId::new(name, at_once), |b| {
            let place = place.get_or_init(start);
            b.iter_custom(|rounds| {
                let place = Arc::clone(place);
                place::run(async move {
                    let (mut spread, mut took) = (Spread(rounds), Duration::ZERO);
                    for _ in 0..rounds {
                        took += place.get(&mut spread, at_once).await;
                    }
                    took
                })
            });
        });
    }
    group.throughput(Throughput::Elements(1));
    group.bench_function(BenchmarkId::new("list_by_priority", PAGE), |b| {
        let place = place.get_or_init(start);
        b.iter_custom(|rounds| {
            let place = Arc::clone(place);
            place::run(async move {
                let (mut spread, mut took) = (Spread(rounds), Duration::ZERO);
                for _ in 0..rounds {
                    took += place.list(&mut spread).await;
                }
                took
            })
        });
    });
    group.finish();
    token::bench(c, || Arc::clone(place.get_or_init(start)));
}
