//! Stage 5b: records to a real broker with the relay's own producer: transactional, acks=all, a commit a second.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use contract::partition::{Partition, Topic};
use contract::time::Timestamp;
use control::publisher::{Outgoing, Publisher};
use control::relay::record::{Draft, Texts};
use control::topics::{self, BATCH_BYTES_MAX, TopicSettings};
use criterion::{BenchmarkId, Criterion, Throughput};
use prometheus::{Histogram, HistogramOpts};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::OwnedHeaders;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use tokio::runtime::Runtime;

use crate::event::created;
use crate::place::{self, PARTITIONS};
use crate::signals::signal;

/// As the relay's: longest that a broker transaction stays open.
const TRANSACTION_MAX: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(20);
/// Different records.
const RECORDS: u64 = 512;

/// One that can be sent.
struct Record {
    key: String,
    partition: Partition,
    value: Vec<u8>,
    headers: OwnedHeaders,
}

struct Line {
    runtime: Runtime,
    publisher: Publisher,
    brokers: String,
    topic: String,
    records: Vec<Record>,
    /// Since when a transaction is open.
    open: Option<Instant>,
    /// The last key that was sent to each partition.
    last: BTreeMap<Partition, String>,
}

fn start() -> RefCell<Line> {
    let namespace = place::namespace("publish");
    let settings = TopicSettings {
        brokers: namespace.brokers().to_owned(),
        prefix: namespace.topic_prefix(),
        partitions: PARTITIONS,
        replication: None,
    };
    let runtime = place::single();
    let publisher = runtime.block_on(async {
        let limits = topics::ensure(&settings).await.expect("topics");
        let seconds = Histogram::with_opts(HistogramOpts::new("acknowledged", "unread")).expect("a histogram");
        let slots = Partition::all(PARTITIONS).len() + 2;
        let (brokers, prefix) = (&settings.brokers, &settings.prefix);
        let publisher =
            Publisher::connect(brokers, prefix, slots, limits.batch_bytes_max, seconds).expect("a producer");
        publisher.fence().await.expect("the transactional id");
        publisher
    });
    let topic = settings.name(Topic::Signals);
    let mut texts = Texts::default();
    let records = (0..RECORDS).map(|i| {
        let signal = signal(i);
        let value = signal.render();
        let content = created(&signal, &value).encode();
        let draft = Draft::read(&content, PARTITIONS, BATCH_BYTES_MAX, Timestamp(0));
        let (partition, headers) = (draft.partition, texts.headers(&draft, &topic, 1, i + 1));
        Record { key: signal.id.to_string(), partition, value, headers }
    });
    let records = records.collect();
    let (brokers, open, last) = (settings.brokers, None, BTreeMap::new());
    RefCell::new(Line { runtime, publisher, brokers, topic, records, open, last })
}

impl Line {
    /// Opens a transaction where none is.
    fn open(&mut self) {
        if self.open.is_none() {
            self.publisher.begin().expect("a transaction");
            self.open = Some(Instant::now());
        }
    }

    /// How long it took until `count` records were acknowledged.
    fn send(&mut self, count: usize) -> Duration {
        self.open();
        let Self { runtime, publisher, topic, records, last, .. } = self;
        let begun = Instant::now();
        runtime.block_on(async {
            for record in &records[..count] {
                let outgoing = Outgoing {
                    topic,
                    partition: record.partition.index,
                    slot: record.partition.ordinal(PARTITIONS),
                    key: &record.key,
                    value: Some(&record.value),
                };
                publisher.send(outgoing, Some(record.headers.clone())).await.expect("taken");
            }
            publisher.drained().await.expect("acknowledged");
        });
        let took = begun.elapsed();
        assert_eq!(publisher.in_flight(), 0);
        for record in &records[..count] {
            last.insert(record.partition, record.key.clone());
        }
        took
    }

    /// How long the commit of the open transaction took.
    fn commit(&mut self) -> Duration {
        let begun = Instant::now();
        self.runtime.block_on(self.publisher.commit()).expect("committed");
        self.open = None;
        begun.elapsed()
    }

    /// Reads back the last record of each partition: it lies at the offset that its acknowledgement named, committed.
    fn check(&mut self) {
        if self.open.is_some() {
            self.commit();
        }
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("group.id", "bench")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .create()
            .expect("a consumer");
        for (partition, key) in &self.last {
            let offset = self.publisher.last_offset(partition.ordinal(PARTITIONS)).expect("acknowledged");
            let mut list = TopicPartitionList::new();
            let at = i32::from(partition.index);
            list.add_partition_offset(&self.topic, at, Offset::Offset(offset)).expect("an offset");
            consumer.assign(&list).expect("assigned");
            let begun = Instant::now();
            let found = loop {
                assert!(begun.elapsed() < PATIENCE, "waited for the record at {offset} of {partition}");
                if let Some(record) = consumer.poll(Duration::from_millis(200)) {
                    let record = record.expect("a record");
                    break (record.offset(), record.key().map(<[u8]>::to_vec));
                }
            };
            assert_eq!(found, (offset, Some(key.as_bytes().to_vec())), "{partition}");
        }
    }
}

pub fn bench(c: &mut Criterion) {
    let line = OnceCell::new();
    let mut group = c.benchmark_group("publish");
    // A broker that has just started compiles what is hot.
    group.warm_up_time(Duration::from_secs(2));
    for records in [1, 16, 128, RECORDS] {
        group.throughput(Throughput::Elements(records));
        group.bench_function(BenchmarkId::new("acknowledged", records), |b| {
            let mut line = line.get_or_init(start).borrow_mut();
            let count = usize::try_from(records).expect("a small number");
            b.iter_custom(|rounds| {
                let mut took = Duration::ZERO;
                for _ in 0..rounds {
                    if line.open.is_some_and(|since| since.elapsed() > TRANSACTION_MAX) {
                        line.commit();
                        // What comes after a commit is the relay's to bear as well, but it is the next one's cost.
                        line.send(1);
                    }
                    took += line.send(count);
                }
                took
            });
        });
    }
    // Each takes a transaction, whose beginning is not what is measured and takes longer.
    group
        .throughput(Throughput::Elements(1))
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(300))
        .sample_size(10);
    group.bench_function("commit", |b| {
        let mut line = line.get_or_init(start).borrow_mut();
        b.iter_custom(|rounds| {
            let mut took = Duration::ZERO;
            for _ in 0..rounds {
                line.send(1);
                took += line.commit();
            }
            took
        });
    });
    group.finish();
    if let Some(line) = line.get() {
        line.borrow_mut().check();
    }
}
