//! Stage 6: a partition of the log as a stream of records, from any offset.
//!
//! The serving loops share one client; a fill has one of its own. Offsets come from the view, never from
//! the broker: the group is only where exporters read how far we are (`membership.rs`).

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use contract::partition::{Partition, Topic};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, OwnedResourceSpecifier, ResourceSpecifier};
use rdkafka::client::{Client, ClientContext, DefaultClientContext};
use rdkafka::consumer::stream_consumer::StreamPartitionQueue;
use rdkafka::consumer::{Consumer, DefaultConsumerContext, MessageStream, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer as _};
use rdkafka::{Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use crate::settings::ProjectSettings;

const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is asked whether a client still knows a broker, how long it may take to answer, and how many
/// times in a row it may not.
const LOOK: Duration = Duration::from_secs(2);
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);
const LOOKS: u32 = 2;
const COMPACTION_LAG: &str = "min.compaction.lag.ms";
/// Kafka's default of `delete.retention.ms`.
const DELETE_MS: i64 = 24 * 60 * 60 * 1000;

/// What every client of ours is told.
#[must_use]
pub fn base_config(settings: &ProjectSettings) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &settings.brokers)
        .set("client.id", "nexus-dataplane")
        .set("socket.nagle.disable", "true")
        .set("socket.keepalive.enable", "true")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000")
        .set("topic.metadata.refresh.interval.ms", "60000");
    config
}

/// A connection to the brokers, until it is replaced.
struct Connection {
    /// Taken only when dropped.
    consumer: Option<Arc<StreamConsumer>>,
    replaced: CancellationToken,
}

impl Connection {
    fn consumer(&self) -> &Arc<StreamConsumer> {
        self.consumer.as_ref().expect("taken only when dropped")
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A client without a broker may never come to an end; nobody shall wait for it.
        if let Some(consumer) = self.consumer.take() {
            std::thread::spawn(move || drop(consumer));
        }
    }
}

/// One client that reads any number of partitions, each into a queue of its own.
///
/// A broker that is starting can answer that the cluster has no broker at all; librdkafka 2.10 to 2.15 then
/// forgets every broker for ever (its issue 5301). So a client that finds none for some time, where a new one does, is replaced, and
/// its readers are told ([`PartitionReader::replaced`]).
#[derive(Clone)]
pub struct LogClient {
    connection: Arc<RwLock<Arc<Connection>>>,
    prefix: String,
}

impl LogClient {
    /// A client; nothing is connected yet. Must be called within a runtime.
    ///
    /// # Errors
    /// The settings are refused.
    pub fn new(settings: &ProjectSettings) -> KafkaResult<Self> {
        let connection = Arc::new(RwLock::new(connect(settings)?));
        tokio::spawn(keep_connected(Arc::downgrade(&connection), settings.clone()));
        Ok(Self { connection, prefix: settings.topic_prefix.clone() })
    }

    fn current(&self) -> Arc<Connection> {
        Arc::clone(&self.connection.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads a partition from `offset` on. One reader per client and partition.
    ///
    /// # Errors
    /// The client refuses.
    pub fn open(&self, partition: Partition, offset: Offset) -> KafkaResult<PartitionReader> {
        let name = format!("{}{}", self.prefix, partition.topic.name());
        self.open_named(&name, i32::from(partition.index), offset)
    }

    /// Reads partition `index` of any topic.
    ///
    /// # Errors
    /// The client refuses.
    pub fn open_named(&self, topic: &str, index: i32, offset: Offset) -> KafkaResult<PartitionReader> {
        // The queue is split off first, so that no record of it comes out of the client's own queue.
        let connection = self.current();
        let queue = connection.consumer().split_partition_queue(topic, index);
        let queue = queue.ok_or_else(|| KafkaError::Subscription(format!("{topic} has no partition {index}")))?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, index, offset)?;
        connection.consumer().incremental_assign(&list)?;
        Ok(PartitionReader { queue, connection, topic: topic.to_owned(), index })
    }

    /// First offset and log end of a partition, aborted and open transactions included.
    ///
    /// # Errors
    /// The broker is away or does not know the partition.
    pub async fn bounds(&self, partition: Partition) -> KafkaResult<(i64, i64)> {
        let name = format!("{}{}", self.prefix, partition.topic.name());
        let connection = self.current();
        let ask = move || {
            let consumer = connection.consumer();
            let bounds = || consumer.fetch_watermarks(&name, i32::from(partition.index), ASK_TIMEOUT);
            match bounds() {
                Err(error) if has_stale_metadata(&error) => {
                    // The client would find the new leader by itself, seconds later.
                    consumer.fetch_metadata(Some(&name), ASK_TIMEOUT)?;
                    bounds()
                }
                answered => answered,
            }
        };
        tokio::task::spawn_blocking(ask).await.unwrap_or(Err(KafkaError::Canceled))
    }

    /// Log ends of all `partitions` at once: one request to each broker. A partition that the broker does not tell is
    /// not in it.
    ///
    /// # Errors
    /// The broker is away or does not know a partition.
    pub async fn ends(&self, partitions: &[Partition]) -> KafkaResult<BTreeMap<Partition, i64>> {
        let name = |partition: Partition| format!("{}{}", self.prefix, partition.topic.name());
        let places: BTreeMap<(String, i32), Partition> =
            partitions.iter().map(|at| ((name(*at), i32::from(at.index)), *at)).collect();
        let mut asked = TopicPartitionList::new();
        for (topic, index) in places.keys() {
            // In place of a time, the broker takes this for its log's end.
            asked.add_partition_offset(topic, *index, Offset::End)?;
        }
        let connection = self.current();
        let ask = move || connection.consumer().offsets_for_times(asked, ASK_TIMEOUT);
        let told = tokio::task::spawn_blocking(ask).await.unwrap_or(Err(KafkaError::Canceled))?;
        let mut ends = BTreeMap::new();
        for element in told.elements() {
            element.error()?;
            let at = places.get(&(element.topic().to_owned(), element.partition()));
            if let (Some(partition), Offset::Offset(end)) = (at, element.offset()) {
                ends.insert(*partition, end);
            }
        }
        Ok(ends)
    }

    /// How many partitions a topic has; 0 where it is not there.
    ///
    /// # Errors
    /// The broker is away.
    pub async fn partitions(&self, topic: &str) -> KafkaResult<usize> {
        let connection = self.current();
        let topic = topic.to_owned();
        let ask = move || {
            let metadata = connection.consumer().fetch_metadata(Some(&topic), ASK_TIMEOUT)?;
            let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
            Ok(found.map_or(0, |found| found.partitions().len()))
        };
        tokio::task::spawn_blocking(ask).await.unwrap_or(Err(KafkaError::Canceled))
    }
}

fn connect(settings: &ProjectSettings) -> KafkaResult<Arc<Connection>> {
    let consumer: StreamConsumer = base_config(settings)
        .set("group.id", settings.group())
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // Every record is a committed fact; what an aborted transaction leaves is repeated with the same number.
        .set("isolation.level", "read_uncommitted")
        // Out of range means that the view and the log are not of one piece: fill, never skip.
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        .set("fetch.min.bytes", "1")
        .set("fetch.wait.max.ms", "250")
        .set("fetch.error.backoff.ms", "50")
        // The default is a hidden stall of 1 s when the local queue was full.
        .set("fetch.queue.backoff.ms", "5")
        .set("queued.min.messages", "20000")
        .set("queued.max.messages.kbytes", "16384")
        .set("fetch.message.max.bytes", "8388608")
        .set("check.crcs", "false")
        .create()?;
    let connection = Arc::new(Connection { consumer: Some(Arc::new(consumer)), replaced: CancellationToken::new() });
    tokio::spawn(drain(Arc::downgrade(&connection)));
    Ok(connection)
}

/// The client's own queue has to be drained: it carries errors, never records.
async fn drain(connection: Weak<Connection>) {
    while let Some(connection) = connection.upgrade() {
        match tokio::time::timeout(Duration::from_secs(1), connection.consumer().recv()).await {
            Err(_) => {}
            Ok(Ok(_)) => tracing::error!("a record came outside of its partition's queue"),
            Ok(Err(error)) => tracing::debug!(%error, "the broker's client reports"),
        }
    }
}

/// Replaces a client that finds no broker although there is one, until nobody uses it.
async fn keep_connected(place: Weak<RwLock<Arc<Connection>>>, settings: ProjectSettings) {
    let mut missed = 0;
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(place) = place.upgrade() else { return };
        let connection = Arc::clone(&place.read().unwrap_or_else(PoisonError::into_inner));
        let topic = settings.topic(Topic::Signals.name());
        let look = move || finds_brokers(connection.consumer().client(), &topic);
        if tokio::task::spawn_blocking(look).await.unwrap_or(true) {
            missed = 0;
            continue;
        }
        missed += 1;
        // While the brokers themselves are away, a new client would find as little: one that lost them may never come to
        // an end, and they shall not pile up.
        if missed >= LOOKS && others_find_brokers(settings.clone()).await {
            missed = 0;
            match connect(&settings) {
                Ok(new) => {
                    let old = std::mem::replace(&mut *place.write().unwrap_or_else(PoisonError::into_inner), new);
                    old.replaced.cancel();
                }
                Err(error) => tracing::warn!(%error, "no client can be made that looks for the brokers anew"),
            }
        }
    }
}

/// Whether a client that was just made finds a broker. A producer, because its end waits for nobody.
async fn others_find_brokers(settings: ProjectSettings) -> bool {
    let look = move || {
        let topic = settings.topic(Topic::Signals.name());
        let fresh: KafkaResult<BaseProducer> = base_config(&settings).create();
        fresh.is_ok_and(|fresh| finds_brokers(fresh.client(), &topic))
    };
    tokio::task::spawn_blocking(look).await.unwrap_or(false)
}

fn finds_brokers<C: ClientContext>(client: &Client<C>, topic: &str) -> bool {
    match client.fetch_metadata(Some(topic), LOOK_TIMEOUT) {
        Ok(metadata) => !metadata.brokers().is_empty(),
        Err(error) => {
            tracing::debug!(%error, "no broker answers");
            false
        }
    }
}

fn has_stale_metadata(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(Code::UnknownPartition | Code::NotLeaderForPartition | Code::LeaderNotAvailable | Code::UnknownTopic)
    )
}

/// The records of one partition. Dropping it ends the reading.
pub struct PartitionReader {
    queue: StreamPartitionQueue<DefaultConsumerContext>,
    /// Dropped behind the queue, which holds the client too: the last one to let go does it on a thread.
    connection: Arc<Connection>,
    topic: String,
    index: i32,
}

impl PartitionReader {
    /// The records, and [`KafkaError::PartitionEOF`] each time the log's end is reached.
    pub fn stream(&self) -> MessageStream<'_, DefaultConsumerContext> {
        self.queue.stream()
    }

    /// Returns once the client behind it was replaced: nothing comes any more, and it is to be opened again.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn replaced(&self) {
        self.connection.replaced.cancelled().await;
    }
}

impl Drop for PartitionReader {
    fn drop(&mut self) {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, self.index);
        if let Err(error) = self.connection.consumer().incremental_unassign(&list) {
            tracing::debug!(%error, topic = self.topic, partition = self.index, "could not let go of a partition");
        }
    }
}

/// How long the log keeps what it may take away.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// `min.compaction.lag.ms`: younger records are never compacted away.
    pub compaction_lag_ms: i64,
    /// `delete.retention.ms`: a delete may be gone when it is older.
    pub delete_ms: i64,
}

impl Retention {
    /// What the broker says of each topic of events; where it answers without a value, the setting and Kafka's default.
    ///
    /// # Errors
    /// The broker does not answer: ask again, because a guess would hold as long as the process.
    pub async fn of_topics(settings: &ProjectSettings) -> KafkaResult<BTreeMap<Topic, Self>> {
        use RDKafkaErrorCode as Code;
        let admin: AdminClient<DefaultClientContext> = base_config(settings).create()?;
        let names = Topic::ALL.map(|topic| settings.topic(topic.name()));
        let asked: Vec<_> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
        let options = AdminOptions::new().request_timeout(Some(ASK_TIMEOUT));
        let resources = match admin.describe_configs(&asked, &options).await {
            Ok(resources) => resources,
            // It answers, and will never tell.
            Err(KafkaError::AdminOp(
                code @ (Code::UnsupportedFeature
                | Code::UnsupportedVersion
                | Code::TopicAuthorizationFailed
                | Code::ClusterAuthorizationFailed),
            )) => {
                tracing::warn!(%code, "the broker refuses to tell the topics' settings");
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        // librdkafka's error for one topic arrives as a topic without any settings.
        let resources: Vec<ConfigResource> = resources.into_iter().flatten().collect();
        let mut topics = BTreeMap::new();
        for (topic, name) in Topic::ALL.into_iter().zip(&names) {
            let is_it = |found: &&ConfigResource| found.specifier == OwnedResourceSpecifier::Topic(name.clone());
            let told = resources.iter().find(is_it);
            if told.is_none_or(|told| told.get(COMPACTION_LAG).is_none()) {
                let lag_ms = settings.compaction_lag_ms;
                tracing::warn!(topic = %name, lag_ms, "the broker does not tell {COMPACTION_LAG}, the setting is used");
            }
            topics.insert(topic, Self::told(told, settings.compaction_lag_ms));
        }
        Ok(topics)
    }

    fn told(topic: Option<&ConfigResource>, compaction_lag_ms: i64) -> Self {
        let number = |name: &str| topic?.get(name)?.value.as_ref()?.parse::<i64>().ok();
        Self {
            compaction_lag_ms: number(COMPACTION_LAG).unwrap_or(compaction_lag_ms),
            delete_ms: number("delete.retention.ms").unwrap_or(DELETE_MS),
        }
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::admin::{ConfigEntry, ConfigSource};

    use super::*;

    fn topic(settings: &[(&str, Option<&str>)]) -> ConfigResource {
        let entry = |(name, value): &(&str, Option<&str>)| ConfigEntry {
            name: (*name).to_owned(),
            value: value.map(str::to_owned),
            source: ConfigSource::DynamicTopic,
            is_read_only: false,
            is_default: false,
            is_sensitive: false,
        };
        ConfigResource {
            specifier: OwnedResourceSpecifier::Topic("t".to_owned()),
            entries: settings.iter().map(entry).collect(),
        }
    }

    #[test]
    fn what_the_broker_does_not_tell_is_the_setting() {
        let told = |topic: Option<&ConfigResource>| {
            let Retention { compaction_lag_ms, delete_ms } = Retention::told(topic, 7);
            (compaction_lag_ms, delete_ms)
        };
        assert_eq!(told(None), (7, DELETE_MS));
        assert_eq!(told(Some(&topic(&[]))), (7, DELETE_MS));
        assert_eq!(told(Some(&topic(&[(COMPACTION_LAG, None), ("delete.retention.ms", Some("9"))]))), (7, 9));
        assert_eq!(told(Some(&topic(&[(COMPACTION_LAG, Some("0"))]))), (0, DELETE_MS), "what it tells counts");
    }
}
