//! A test's own database, slot and topics, and the eyes it needs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use contract::bundle::{BUNDLE_PREFIX, Bundles};
use contract::event::{Change, Event, RecordId};
use contract::partition::{Partition, Topic};
use contract::position::Position;
use contract::time::Timestamp;
use control::relay::{Relay, RelaySettings};
use control::relay_status::{RelayState, RelayStatus};
use control::slot;
use control::topics::TopicSettings;
use infrastructure::{Namespace, TestStack};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Headers;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use sqlx::{Connection, Executor, PgConnection};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Longest that a test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Where a test runs.
pub struct Place {
    pub namespace: Namespace,
    pub settings: RelaySettings,
}

/// A relay in this process.
pub struct Running {
    pub status: watch::Receiver<RelayStatus>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// A record as a consumer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub offset: i64,
    pub id: RecordId,
    pub key: String,
    pub ce_type: String,
    pub version: u64,
    pub value: Option<Vec<u8>>,
}

impl Place {
    /// A migrated database with its slot, and no topics yet.
    pub async fn new(name: &str) -> Self {
        Self::within(TestStack::shared().await.namespace(name).await).await
    }

    pub async fn within(namespace: Namespace) -> Self {
        let settings = settings(&namespace.env());
        control::migrate::migrate_tables(&namespace.database_admin_url(), &namespace.database_url())
            .await
            .expect("migrated");
        assert!(slot::establish_at(&namespace.database_admin_url(), &settings.slot).await.expect("a slot"));
        Self { namespace, settings }
    }

    pub async fn sql(&self) -> PgConnection {
        PgConnection::connect(&self.settings.database_url).await.expect("Postgres is there")
    }

    pub async fn admin(&self) -> PgConnection {
        PgConnection::connect(&self.namespace.database_admin_url()).await.expect("Postgres is there")
    }

    /// Starts a relay in this process.
    pub fn relay(&self) -> Running {
        let relay = Relay::new(self.settings.clone());
        let (status, stop) = (relay.status(), CancellationToken::new());
        let token = stop.clone();
        let task = tokio::spawn(async move { relay.run(token).await.expect("the settings work") });
        Running { status, stop, task }
    }

    /// The slot's confirmed position.
    pub async fn confirmed(&self) -> String {
        let mut sql = self.sql().await;
        sqlx::query_scalar("SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1")
            .bind(&self.settings.slot)
            .fetch_one(&mut sql)
            .await
            .expect("the slot is there")
    }

    /// Whoever reads from the slot loses it; waits until it is free.
    pub async fn free_slot(&self) {
        let mut admin = self.admin().await;
        let slot = &self.settings.slot;
        wait_for("the slot to be free", async || {
            let active: bool = sqlx::query_scalar("SELECT active FROM pg_replication_slots WHERE slot_name = $1")
                .bind(slot)
                .fetch_one(&mut admin)
                .await
                .expect("the slot is there");
            !active
        })
        .await;
    }

    /// All events on the topics, partition by partition; with or without those of aborted transactions.
    pub async fn records(&self, committed: bool) -> BTreeMap<Partition, Vec<Seen>> {
        let topics = self.settings.topics.clone();
        let read = move || {
            let mut all = BTreeMap::new();
            for partition in Partition::all(topics.partitions) {
                let topic = topics.name(partition.topic);
                let seen = read_partition(&topics.brokers, &topic, partition.index, committed, |record| {
                    let header = |name: &str| {
                        let value = record.headers()?.iter().find(|header| header.key == name)?.value?;
                        Some(String::from_utf8_lossy(value).into_owned())
                    };
                    Some(Seen {
                        offset: record.offset(),
                        id: RecordId::parse(header("ce_id")?.as_bytes())?,
                        key: String::from_utf8_lossy(record.key()?).into_owned(),
                        ce_type: header("ce_type")?,
                        version: header("nexus_version")?.parse().ok()?,
                        value: record.payload().map(<[u8]>::to_vec),
                    })
                });
                all.insert(partition, seen);
            }
            all
        };
        tokio::task::spawn_blocking(read).await.expect("reads")
    }

    /// The same, once `count` of them are committed.
    pub async fn committed(&self, count: usize) -> BTreeMap<Partition, Vec<Seen>> {
        let mut records = BTreeMap::new();
        wait_for(&format!("{count} committed events"), async || {
            records = self.records(true).await;
            records.values().map(Vec::len).sum::<usize>() >= count
        })
        .await;
        records
    }

    /// How many offsets the partitions of signals have used: committed, aborted or still open.
    pub async fn log_ends(&self) -> i64 {
        let topics = self.settings.topics.clone();
        let ask = move || {
            let consumer: BaseConsumer = ClientConfig::new()
                .set("bootstrap.servers", &topics.brokers)
                .set("isolation.level", "read_uncommitted")
                .create()
                .expect("a consumer");
            let end = |index| {
                let asked = consumer.fetch_watermarks(&topics.name(Topic::Signals), index, PATIENCE);
                asked.expect("the broker is there").1
            };
            (0..i32::from(topics.partitions)).map(end).sum()
        };
        tokio::task::spawn_blocking(ask).await.expect("asked")
    }

    /// Every committed position.
    pub async fn positions(&self) -> Vec<Position> {
        let topics = self.settings.topics.clone();
        let read = move || {
            read_partition(&topics.brokers, &topics.watermarks(), 0, true, |record| {
                (record.key() == Some(b"position")).then(|| serde_json::from_slice(record.payload()?).ok()).flatten()
            })
        };
        tokio::task::spawn_blocking(read).await.expect("reads")
    }
}

/// The relay's settings from the environment that a stack gives a plane.
pub fn settings(env: &[(String, String)]) -> RelaySettings {
    let get = |name: &str| env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()).expect("set");
    RelaySettings {
        database_url: get("NEXUS_DATABASE_URL"),
        replication_url: get("NEXUS_REPLICATION_URL"),
        slot: get("NEXUS_SLOT"),
        topics: TopicSettings {
            brokers: get("NEXUS_BROKERS"),
            prefix: get("NEXUS_TOPIC_PREFIX"),
            partitions: get("NEXUS_PARTITIONS").parse().expect("a number"),
            replication: None,
        },
    }
}

impl Running {
    /// Waits for a state.
    pub async fn is(&mut self, state: RelayState) -> RelayStatus {
        let waiting = self.status.wait_for(|status| status.state == state);
        let waited =
            tokio::time::timeout(PATIENCE, waiting).await.map(|status| status.expect("the relay runs").clone());
        waited.unwrap_or_else(|_| panic!("the relay did not become {state} but is {:?}", self.status.borrow()))
    }

    /// Tells it to stop and waits until it has.
    pub async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.expect("the relay stops").expect("without a panic");
    }
}

/// A new signal's id.
pub fn new_id() -> Uuid {
    Uuid::from_u128(u128::from_be_bytes(*Uuid::from_u64_pair(random(), random()).as_bytes()))
}

fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// An event of a signal.
pub fn event(id: Uuid, version: u64) -> Vec<u8> {
    let value = format!("{{\"id\":\"{id}\",\"version\":{version}}}");
    let change = if version == 1 { Change::Created } else { Change::Updated };
    let event = Event {
        topic: Topic::Signals,
        id,
        change,
        version,
        time: Timestamp::now(),
        traceparent: "",
        value: value.as_bytes(),
    };
    event.encode()
}

/// Emits a message in the transaction or, outside of one, in its own.
pub async fn emit<'c>(sql: impl Executor<'c, Database = sqlx::Postgres>, prefix: &str, content: &[u8]) {
    try_emit(sql, prefix, content).await.expect("emitted");
}

pub async fn try_emit<'c>(
    sql: impl Executor<'c, Database = sqlx::Postgres>,
    prefix: &str,
    content: &[u8],
) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_logical_emit_message(true, $1, $2::bytea)").bind(prefix).bind(content).execute(sql).await?;
    Ok(())
}

/// Emits `count` new signals in one transaction, in bundles as the store does.
pub async fn emit_many(sql: &mut PgConnection, count: usize) {
    let mut bundles = Bundles::default();
    for event in (0..count).map(|_| event(new_id(), 1)) {
        bundles.push(&Event::decode(&event).expect("an event"));
    }
    sqlx::query("SELECT count(pg_logical_emit_message(true, $1, e)) FROM unnest($2::bytea[]) WITH ORDINALITY u(e, n)")
        .bind(BUNDLE_PREFIX)
        .bind(bundles.contents())
        .execute(sql)
        .await
        .expect("emitted");
}

/// Waits until `condition` holds, and names what it waited for when it does not.
pub async fn wait_for(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

/// Every partition's numbers are 1, 2, 3, … and no offset comes twice.
pub fn assert_unbroken(records: &BTreeMap<Partition, Vec<Seen>>) {
    for (partition, seen) in records {
        for (i, record) in seen.iter().enumerate() {
            assert_eq!(record.id.seq, i as u64 + 1, "{partition}: {record:?}");
        }
        assert!(seen.windows(2).all(|pair| pair[0].offset < pair[1].offset), "{partition}");
    }
}

fn read_partition<T>(
    brokers: &str,
    topic: &str,
    partition: u16,
    committed: bool,
    mut take: impl FnMut(&rdkafka::message::BorrowedMessage<'_>) -> Option<T>,
) -> Vec<T> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "test")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", if committed { "read_committed" } else { "read_uncommitted" })
        .set("fetch.wait.max.ms", "20")
        .create()
        .expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, i32::from(partition), Offset::Beginning).expect("an offset");
    consumer.assign(&list).expect("assigned");
    let (mut all, deadline) = (Vec::new(), Instant::now() + PATIENCE);
    loop {
        assert!(Instant::now() < deadline, "read {topic} for {PATIENCE:?} without coming to its end");
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(record)) => all.extend(take(&record)),
            Some(Err(KafkaError::PartitionEOF(_))) => return all,
            // A topic that is not there yet has nothing.
            Some(Err(KafkaError::MessageConsumption(rdkafka::error::RDKafkaErrorCode::UnknownTopicOrPartition))) => {
                return all;
            }
            Some(Err(error)) => panic!("{topic}: {error}"),
            None => {}
        }
    }
}
