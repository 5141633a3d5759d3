//! A log as the relay leaves it: its topics, its records with their numbers and headers, in its transactions with their
//! positions, from its own code and its own producer. Only the way to it is left out: no command was sent, no row written,
//! no WAL read. A million events through the whole stack take minutes, of which nothing is measured.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use contract::event::{Change, Event};
use contract::partition::{Partition, Topic};
use contract::position::{LastRecord, Lsn, POSITION_KEY, Position};
use contract::signal::{Payload, Priority, Signal, Status};
use contract::time::Timestamp;
use contract::token::ServerRun;
use control::publisher::{Outgoing, Publisher, slots};
use control::relay::record::{Draft, Texts};
use control::topics::{self, TopicSettings};
use infrastructure::Namespace;
use prometheus::{Histogram, HistogramOpts};
use uuid::Uuid;

use crate::nexus;

/// As the relay's: longest that a broker transaction stays open.
const TRANSACTION_MAX: Duration = Duration::from_secs(1);
/// When the first signal was created, in microseconds since 1970; each a microsecond after the one before.
const BEGIN: i64 = 1_790_000_000_000_000;
const EPOCH: u64 = 1_790_000_000_000;
const RUN: ServerRun = ServerRun { timeline: 1, started: 1 };

/// Creation number `i`, whose document has close to `bytes` bytes.
fn signal(i: u32, bytes: usize) -> Signal {
    let time = Timestamp(BEGIN + i64::from(i));
    Signal {
        // A multiplication by an odd number never gives the same twice.
        id: contract::id::v7(time, u64::from(i).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        title: format!("peers {i:08}"),
        priority: Priority::ALL[i as usize % Priority::ALL.len()],
        status: Status::Pending,
        payload: Payload::from_stored(format!(r#"{{"note":"{}"}}"#, "x".repeat(nexus::note(bytes)))),
        target: None,
        created_by: Uuid::from_u128(7),
        created_at: time,
        updated_at: time,
        version: 1,
    }
}

struct Relay {
    publisher: Publisher,
    topics: TopicSettings,
    partitions: Vec<Partition>,
    seqs: BTreeMap<Partition, u64>,
}

/// Makes the topics, and writes so many creations of signals to them.
///
/// # Errors
/// The broker is away, or refuses.
pub async fn write(namespace: &Namespace, events: u32, bytes: usize) -> anyhow::Result<()> {
    let topics = TopicSettings {
        brokers: namespace.brokers().to_owned(),
        prefix: namespace.topic_prefix(),
        partitions: namespace.partitions(),
        replication: None,
    };
    let limits = topics::ensure(&topics).await?;
    let partitions = Partition::all(topics.partitions);
    let seconds = Histogram::with_opts(HistogramOpts::new("acknowledged", "unread"))?;
    let publisher =
        Publisher::connect(&topics.brokers, &topics.prefix, slots(&partitions), limits.batch_bytes_max, seconds)?;
    publisher.fence().await?;
    let name = topics.name(Topic::Signals);
    let mut relay = Relay { publisher, topics, partitions, seqs: BTreeMap::new() };
    // An epoch begins with its position.
    relay.publisher.begin()?;
    relay.commit().await?;

    let mut texts = Texts::default();
    let mut open: Option<Instant> = None;
    for i in 0..events {
        if open.is_some_and(|since| since.elapsed() > TRANSACTION_MAX) {
            relay.commit().await?;
            open = None;
        }
        if open.is_none() {
            relay.publisher.begin()?;
            open = Some(Instant::now());
        }
        let signal = signal(i, bytes);
        let value = signal.render();
        let (topic, change, traceparent) = (Topic::Signals, Change::Created, "");
        let event =
            Event { topic, id: signal.id, change, version: 1, time: signal.updated_at, traceparent, value: &value };
        let content = event.encode();
        let draft = Draft::read(&content, relay.topics.partitions, relay.publisher.record_bytes_max(), Timestamp(0));
        anyhow::ensure!(!draft.is_poison(), "event {i} can't be read");
        let seq = relay.seqs.entry(draft.partition).or_default();
        *seq += 1;
        let headers = texts.headers(&draft, &name, EPOCH, *seq);
        let outgoing = Outgoing {
            topic: &name,
            partition: draft.partition.index,
            slot: draft.partition.ordinal(relay.topics.partitions),
            key: &draft.id.to_string(),
            value: draft.value.bytes(),
        };
        relay.publisher.send(outgoing, Some(headers)).await?;
    }
    if open.is_some() {
        relay.commit().await?;
    }
    Ok(())
}

impl Relay {
    /// Ends a transaction with the position that covers it.
    async fn commit(&mut self) -> anyhow::Result<()> {
        self.publisher.drained().await?;
        let last = |(&partition, &seq): (&Partition, &u64)| {
            let offset = self.publisher.last_offset(partition.ordinal(self.topics.partitions))?;
            Some((partition, LastRecord { offset, seq, deleted: None }))
        };
        let position = Position {
            epoch: EPOCH,
            history: 0,
            system: "1".to_owned(),
            run: RUN,
            begin: self.partitions.iter().map(|partition| (*partition, 0)).collect(),
            end_lsn: Lsn(1),
            last: None,
            partitions: self.seqs.iter().filter_map(last).collect(),
        };
        let value = serde_json::to_vec(&position)?;
        let topic = self.topics.watermarks();
        // Its slot is the one behind those of the partitions.
        let slot = self.partitions.len();
        let outgoing = Outgoing { topic: &topic, partition: 0, slot, key: POSITION_KEY, value: Some(&value) };
        self.publisher.send(outgoing, None).await?;
        self.publisher.drained().await?;
        Ok(self.publisher.commit().await?)
    }
}
