//! A log written as the relay writes it, a projector over it, and what the view then holds.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::time::Duration;

use contract::event::{Change, RecordId, TYPE_END, TYPE_POISON, headers};
use contract::partition::{Partition, Topic};
use contract::position::{LastRecord, Lsn, POSITION_KEY, Position, WATERMARK_KEY, Watermark};
use contract::signal::{Payload, Priority, Signal, Status};
use contract::time::Timestamp;
use contract::token::ServerRun;
use dataplane::settings::ProjectSettings;
use dataplane::status::ProjectorStatus;
use dataplane::view::header::Header;
use dataplane::view::keys::{Keys, parse_document};
use infrastructure::Namespace;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::{Header as KafkaHeader, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use redis::AsyncCommands;
use runtime::shutdown::Shutdown;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

pub const DEADLINE: Duration = Duration::from_secs(30);

/// Asks `condition` again and again until it gives a value; an error that names `what` at the deadline.
pub async fn until<T>(
    what: &str,
    deadline: Duration,
    mut condition: impl AsyncFnMut() -> Option<T>,
) -> Result<T, String> {
    let begun = std::time::Instant::now();
    loop {
        if let Some(value) = condition().await {
            return Ok(value);
        }
        if begun.elapsed() > deadline {
            return Err(format!("waited {deadline:?} for {what}"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Settings that point a projector at `place`.
pub fn settings(place: &Namespace) -> ProjectSettings {
    ProjectSettings {
        brokers: place.brokers().to_owned(),
        redis_url: place.redis_url().to_owned(),
        topic_prefix: place.topic_prefix(),
        redis_prefix: place.redis_prefix(),
        batch_records: 1024,
        batch_bytes: 4 << 20,
        retire_after_s: 600,
        fill_patience_s: 60,
        compaction_lag_ms: 0,
    }
}

/// The relay, as far as a consumer can tell.
pub struct Log {
    producer: ThreadedProducer<rdkafka::producer::DefaultProducerContext>,
    prefix: String,
    pub partitions: u16,
    pub epoch: u64,
    pub history: u64,
    pub begin: BTreeMap<Partition, i64>,
    pub seqs: BTreeMap<Partition, u64>,
    /// Everything that was written, so that it can be written again.
    pub written: Vec<Written>,
}

#[derive(Clone)]
pub struct Written {
    pub number: RecordId,
    pub topic: Topic,
    pub key: String,
    pub value: Option<Vec<u8>>,
    pub version: u64,
    pub ce_type: &'static str,
}

impl Log {
    /// Makes the topics and writes the first position.
    pub async fn create(place: &Namespace) -> Self {
        let partitions = place.partitions();
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", place.brokers()).create().unwrap();
        let prefix = place.topic_prefix();
        let names: Vec<(String, u16)> =
            [("signals", partitions), ("identities", 1), ("keys", 1), ("watermarks", 1), ("dead-letters", 1)]
                .map(|(name, count)| (format!("{prefix}{name}"), count))
                .into();
        let topics: Vec<NewTopic<'_>> = names
            .iter()
            .map(|(name, count)| {
                let topic = NewTopic::new(name, i32::from(*count), TopicReplication::Fixed(1));
                topic.set("cleanup.policy", "compact").set("min.compaction.lag.ms", "86400000")
            })
            .collect();
        for made in admin.create_topics(&topics, &AdminOptions::new()).await.unwrap() {
            made.unwrap();
        }
        let log = Self::attach(place);
        log.position();
        log.flush();
        log
    }

    /// Writes to topics that are there or will be.
    pub fn attach(place: &Namespace) -> Self {
        let partitions = place.partitions();
        let producer = ClientConfig::new()
            .set("bootstrap.servers", place.brokers())
            .set("enable.idempotence", "true")
            .set("linger.ms", "1")
            .set("queue.buffering.max.messages", "1000000")
            .set("topic.metadata.refresh.fast.interval.ms", "50")
            .create()
            .unwrap();
        Self {
            producer,
            prefix: place.topic_prefix(),
            partitions,
            epoch: 1_790_000_000_000,
            history: 0,
            begin: Partition::all(partitions).into_iter().map(|partition| (partition, 0)).collect(),
            seqs: BTreeMap::new(),
            written: Vec::new(),
        }
    }

    pub fn position(&self) {
        let position = Position {
            epoch: self.epoch,
            history: self.history,
            system: "1".into(),
            run: ServerRun { timeline: 1, started: 1 },
            begin: self.begin.clone(),
            end_lsn: Lsn(1),
            last: None,
            partitions: self
                .seqs
                .iter()
                .map(|(partition, seq)| {
                    let last = serde_json::from_value(serde_json::json!({"offset": 0, "seq": seq})).unwrap();
                    (*partition, last)
                })
                .collect::<BTreeMap<Partition, LastRecord>>(),
        };
        self.relay_record(POSITION_KEY, &serde_json::to_vec(&position).unwrap());
    }

    pub fn watermark(&self, time: i64) {
        let watermark = Watermark {
            epoch: self.epoch,
            history: self.history,
            time,
            run: ServerRun { timeline: 1, started: 1 },
            seqs: self.seqs.clone(),
        };
        self.relay_record(WATERMARK_KEY, &serde_json::to_vec(&watermark).unwrap());
    }

    fn relay_record(&self, key: &str, value: &[u8]) {
        let topic = format!("{}watermarks", self.prefix);
        self.producer.send(BaseRecord::to(&topic).key(key).payload(value).partition(0)).map_err(|(e, _)| e).unwrap();
    }

    pub fn next(&mut self, partition: Partition) -> RecordId {
        let seq = self.seqs.entry(partition).or_default();
        *seq += 1;
        RecordId { epoch: self.epoch, partition: partition.index, seq: *seq }
    }

    /// Writes a signal in some state.
    pub fn signal(&mut self, id: Uuid, version: u64, priority: Priority, status: Status) {
        let signal = signal(id, version, priority, status);
        let change = if version == 1 { Change::Created } else { Change::Updated };
        self.event(Topic::Signals, id, version, Some(signal.render()), change.ce_type(Topic::Signals));
    }

    pub fn delete(&mut self, id: Uuid, version: u64) {
        self.event(Topic::Signals, id, version, None, Change::Deleted.ce_type(Topic::Signals));
    }

    pub fn poison(&mut self, id: Uuid) {
        self.event(Topic::Signals, id, 1, Some(b"what the relay could not read".to_vec()), TYPE_POISON);
    }

    pub fn end(&mut self) {
        for partition in Partition::all(self.partitions) {
            let number = self.next(partition);
            self.write(&Written {
                number,
                topic: partition.topic,
                key: "end".into(),
                value: None,
                version: 0,
                ce_type: TYPE_END,
            });
        }
    }

    pub fn event(&mut self, topic: Topic, id: Uuid, version: u64, value: Option<Vec<u8>>, ce_type: &'static str) {
        let partition = Partition::of(topic, id, self.partitions);
        let number = self.next(partition);
        let written = Written { number, topic, key: id.to_string(), value, version, ce_type };
        self.write(&written);
        self.written.push(written);
    }

    /// Puts a record onto its topic.
    pub fn write(&self, record: &Written) {
        let topic = format!("{}{}", self.prefix, record.topic.name());
        let (id, version) = (record.number.format(), record.version.to_string());
        let time = Timestamp(1_790_000_000_000_000).to_string();
        let mut all = OwnedHeaders::new();
        for (key, value) in headers(&id, &topic, record.ce_type, &record.key, &time, &version, "") {
            all = all.insert(KafkaHeader { key, value: Some(value) });
        }
        let mut message: BaseRecord<'_, str, [u8]> =
            BaseRecord::to(&topic).key(record.key.as_str()).partition(i32::from(record.number.partition)).headers(all);
        if let Some(value) = &record.value {
            message = message.payload(value);
        }
        self.producer.send(message).map_err(|(error, _)| error).unwrap();
    }

    pub fn flush(&self) {
        self.producer.flush(DEADLINE).unwrap();
    }
}

pub fn signal(id: Uuid, version: u64, priority: Priority, status: Status) -> Signal {
    Signal {
        id,
        title: format!("signal \"{version}\""),
        priority,
        status,
        payload: Payload::from_stored(format!("{{\"n\":{version},\"status\":\"odd\"}}")),
        target: None,
        created_by: Uuid::from_u128(7),
        created_at: contract::id::created_at(id),
        updated_at: Timestamp(1_790_000_000_000_000 + version as i64),
        version,
    }
}

/// The id of the n-th signal.
pub fn id(n: u64) -> Uuid {
    contract::id::v7(Timestamp(1_790_000_000_000_000 + n as i64), n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// A projector in a task.
pub struct Projector {
    pub status: watch::Receiver<ProjectorStatus>,
    shutdown: Shutdown,
    task: JoinHandle<Result<(), dataplane::project::ProjectError>>,
}

impl Projector {
    pub fn start(settings: ProjectSettings) -> Self {
        let _ = runtime::telemetry::init();
        let (sender, status) = watch::channel(ProjectorStatus::default());
        let shutdown = Shutdown::new();
        let task = tokio::spawn(dataplane::project(settings, sender, shutdown.clone()));
        Self { status, shutdown, task }
    }

    pub async fn stop(self) {
        self.shutdown.begin();
        tokio::time::timeout(Duration::from_secs(8), self.task).await.expect("the projector stops").unwrap().unwrap();
    }
}

/// What the view holds, read past every projector.
pub struct Reads {
    pub redis: redis::aio::MultiplexedConnection,
    pub keys: Keys,
    prefix: String,
    partitions: u16,
}

/// One partition's documents (id → version, code, JSON) and indexes (code → ids).
#[derive(Debug, PartialEq, Eq, Default, Clone)]
pub struct Content {
    pub documents: BTreeMap<String, (u64, char, Vec<u8>)>,
    pub indexes: BTreeMap<char, Vec<Uuid>>,
    pub poison: BTreeMap<String, String>,
}

impl Reads {
    pub async fn of(place: &Namespace) -> Self {
        let redis = connect(place.redis_url()).await;
        Self {
            redis,
            keys: Keys::new(&place.redis_prefix()),
            prefix: place.redis_prefix(),
            partitions: place.partitions(),
        }
    }

    pub async fn header(&mut self, partition: Partition) -> Option<Header> {
        let stored: Option<Vec<u8>> = self.redis.get(self.keys.header(partition)).await.ok()?;
        Header::parse(&stored?).ok()
    }

    /// Waits until the header of every partition is ready and at the log's last number.
    pub async fn caught_up(&mut self, log: &Log) {
        let what = format!("the view to be at {:?}", log.seqs);
        let partitions = Partition::all(self.partitions);
        let found = until(&what, DEADLINE, async || {
            for partition in &partitions {
                let header = self.header(*partition).await?;
                let seq = log.seqs.get(partition).copied().unwrap_or(0);
                if !header.ready || header.epoch != log.epoch || header.seq != seq {
                    return None;
                }
            }
            Some(())
        });
        if let Err(error) = found.await {
            let mut headers = Vec::new();
            for partition in Partition::all(self.partitions) {
                headers.push((partition.to_string(), self.header(partition).await));
            }
            panic!("{error}; {headers:#?}");
        }
    }

    /// Everything that the serving generations hold.
    pub async fn content(&mut self) -> BTreeMap<Partition, Content> {
        let mut all = BTreeMap::new();
        for partition in Partition::all(self.partitions) {
            let Some(header) = self.header(partition).await else { continue };
            all.insert(partition, self.content_of(partition, header.generation).await);
        }
        all
    }

    pub async fn content_of(&mut self, partition: Partition, generation: u64) -> Content {
        let mut content = Content::default();
        let prefix = self.keys.generation(partition, generation);
        for key in self.names(&format!("{prefix}*")).await {
            let name = &key[prefix.len()..];
            if let Some(id) = name.strip_prefix("d:") {
                let stored: Vec<u8> = self.redis.get(&key).await.unwrap();
                let (version, code, json) = parse_document(&stored).unwrap();
                content.documents.insert(id.to_owned(), (version, char::from(code), json.to_vec()));
            } else if let Some(code) = name.strip_prefix("x:") {
                let ids: Vec<Vec<u8>> = self.redis.zrange(&key, 0, -1).await.unwrap();
                let ids = ids.iter().map(|id| Uuid::from_slice(id).unwrap()).collect();
                content.indexes.insert(code.chars().next().unwrap(), ids);
            } else if name == "poison" {
                content.poison = self.redis.hgetall(&key).await.unwrap();
            }
        }
        content
    }

    pub async fn names(&mut self, pattern: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(1000);
            let (next, mut names): (u64, Vec<String>) = scan.query_async(&mut self.redis).await.unwrap();
            found.append(&mut names);
            if next == 0 {
                found.sort();
                found.dedup();
                return found;
            }
            cursor = next;
        }
    }

    /// Deletes everything below the prefix, as a lost Redis has.
    pub async fn forget_everything(&mut self) {
        let names = self.names(&format!("{}*", self.prefix)).await;
        for slice in names.chunks(500) {
            let _: u64 = self.redis.del(slice).await.unwrap();
        }
    }

    /// The feed's entries: epoch, from, to, keys.
    pub async fn feed(&mut self, partition: Partition) -> Vec<(u64, u64, u64, String)> {
        let key = self.keys.feed(partition);
        let entries: Vec<(String, Vec<String>)> =
            redis::cmd("XRANGE").arg(key).arg("-").arg("+").query_async(&mut self.redis).await.unwrap();
        let number = |fields: &[String], i: usize| fields[i].parse().unwrap();
        entries
            .iter()
            .map(|(_, fields)| (number(fields, 1), number(fields, 3), number(fields, 5), fields[7].clone()))
            .collect()
    }
}

pub async fn connect(url: &str) -> redis::aio::MultiplexedConnection {
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(DEADLINE));
    redis::Client::open(url).unwrap().get_multiplexed_async_connection_with_config(&config).await.unwrap()
}

/// What single, ordered application of everything written gives.
pub fn expected(log: &Log) -> BTreeMap<Partition, Content> {
    use dataplane::view::keys::{CODE_NONE, CODE_PLAIN, signal_code};
    let mut all: BTreeMap<Partition, Content> =
        Partition::all(log.partitions).into_iter().map(|partition| (partition, Content::default())).collect();
    for record in &log.written {
        let partition = Partition { topic: record.topic, index: record.number.partition };
        let content = all.get_mut(&partition).unwrap();
        if record.ce_type == TYPE_POISON {
            let reason = format!("{} the relay could not publish the event", record.number.seq);
            content.poison.insert(record.key.clone(), reason);
            continue;
        }
        let code = match (&record.value, record.topic) {
            (None, _) => CODE_NONE,
            (Some(value), Topic::Signals) => {
                let value: serde_json::Value = serde_json::from_slice(value).unwrap();
                let word = |name: &str| value[name].as_str().unwrap().to_owned();
                signal_code(Priority::parse(&word("priority")).unwrap(), Status::parse(&word("status")).unwrap())
            }
            _ => CODE_PLAIN,
        };
        let json = record.value.clone().unwrap_or_default();
        content.documents.insert(record.key.clone(), (record.version, char::from(code), json));
        content.poison.remove(&record.key);
    }
    for (partition, content) in &mut all {
        if partition.topic == Topic::Keys {
            continue;
        }
        for (id, (_, code, _)) in &content.documents {
            if *code != char::from(CODE_NONE) {
                content.indexes.entry(*code).or_default().push(id.parse().unwrap());
            }
        }
        for ids in content.indexes.values_mut() {
            ids.sort();
        }
    }
    all
}

/// Compares, and names the first difference.
pub fn assert_same(found: &BTreeMap<Partition, Content>, wanted: &BTreeMap<Partition, Content>) {
    for (partition, wanted) in wanted {
        let found = found.get(partition).unwrap_or_else(|| panic!("{partition} is missing"));
        assert_eq!(found.documents.len(), wanted.documents.len(), "{partition}: number of documents");
        for (id, document) in &wanted.documents {
            assert_eq!(found.documents.get(id), Some(document), "{partition} {id}");
        }
        assert_eq!(found.indexes, wanted.indexes, "{partition}: indexes");
        assert_eq!(found.poison, wanted.poison, "{partition}: poison");
    }
}
