//! The topics: made with the settings that the promises rest on, and checked before each take-over.

use std::time::Duration;

use contract::partition::{PARTITIONS_MAX, Topic};
use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, NewTopic, OwnedResourceSpecifier, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::apart::apart;

/// How long a deletion stays readable, in milliseconds (7 days). Tokens live no longer than half of it,
/// and a checkpoint older than half of it means a fill.
pub const DELETE_RETENTION_MS: i64 = 7 * 24 * 60 * 60 * 1000;
/// How long no record is compacted away, in milliseconds (24 hours): below it, a hole is a loss.
pub const COMPACTION_LAG_MS: i64 = 24 * 60 * 60 * 1000;
/// Largest batch of records that a topic takes, in bytes. The largest event of ours, a payload of 64 KiB
/// in which every character is escaped, fits many times.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// How long dead letters are kept, in milliseconds (90 days).
const DEAD_LETTERS_MS: i64 = 90 * 24 * 60 * 60 * 1000;
/// Brokers in a cluster before replicas are kept by default.
const REPLICAS_MAX: usize = 3;
const ASK: Duration = Duration::from_secs(10);
/// How long a topic must stay away to be missing: a broker that is starting lists its topics a moment later.
const MISSING: Duration = Duration::from_secs(3);

/// What the topics are to be like.
#[derive(Debug, Clone)]
pub struct TopicSettings {
    /// `NEXUS_BROKERS`.
    pub brokers: String,
    /// `NEXUS_TOPIC_PREFIX`, its dot included.
    pub prefix: String,
    /// `NEXUS_PARTITIONS`: of `signals`; fixed when it is made.
    pub partitions: u16,
    /// Replicas of each partition; by default three, or as many as there are brokers.
    pub replication: Option<u16>,
}

/// What the broker's settings of the topics allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicLimits {
    /// The smallest `max.message.bytes`.
    pub batch_bytes_max: usize,
    /// The smallest `delete.retention.ms` of the topics of events.
    pub delete_retention_ms: i64,
}

/// Why the topics are not as they must be.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// The broker is away or refuses.
    #[error("{what}")]
    Broker {
        /// What was asked.
        what: String,
        /// Its answer.
        #[source]
        source: KafkaError,
    },
    /// The broker refused one topic.
    #[error("topic {topic} can't be made: {code}")]
    Refused {
        /// Which.
        topic: String,
        /// Its answer.
        code: RDKafkaErrorCode,
    },
    /// The number of partitions is fixed when a topic is made.
    #[error(
        "topic {topic} has {found} partitions, NEXUS_PARTITIONS and its rules ask for {wanted}: the number is fixed when the topic is made"
    )]
    Partitions {
        /// Which.
        topic: String,
        /// How many it has.
        found: usize,
        /// How many it should have.
        wanted: usize,
    },
    /// The setting is out of range.
    #[error("NEXUS_PARTITIONS is {0}, it must be from 1 to {PARTITIONS_MAX}")]
    Setting(u16),
    /// A topic is not there.
    #[error("topic {0} does not exist")]
    Missing(String),
}

impl TopicSettings {
    /// The topic's full name.
    #[must_use]
    pub fn name(&self, topic: Topic) -> String {
        format!("{}{}", self.prefix, topic.name())
    }

    /// The full name of the topic of watermarks and positions.
    #[must_use]
    pub fn watermarks(&self) -> String {
        format!("{}watermarks", self.prefix)
    }

    /// The full name of the topic of dead letters.
    #[must_use]
    pub fn dead_letters(&self) -> String {
        format!("{}dead-letters", self.prefix)
    }

    /// Every topic with its number of partitions.
    fn all(&self) -> Vec<(String, u16)> {
        let mut all: Vec<_> =
            Topic::ALL.into_iter().map(|topic| (self.name(topic), topic.partitions(self.partitions))).collect();
        all.extend([(self.watermarks(), 1), (self.dead_letters(), 1)]);
        all
    }

    fn client(&self) -> Result<AdminClient<DefaultClientContext>, TopicError> {
        let config = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "nexus-topics")
            .set("socket.nagle.disable", "true")
            .create();
        config.map_err(|source| TopicError::Broker { what: "the admin client can't be made".into(), source })
    }
}

/// Makes the topics that are missing, and checks the others. Again: nothing.
///
/// # Errors
/// [`TopicError`]; a `signals` with another number of partitions is one.
pub async fn ensure(settings: &TopicSettings) -> Result<TopicLimits, TopicError> {
    if settings.partitions == 0 || settings.partitions > PARTITIONS_MAX {
        return Err(TopicError::Setting(settings.partitions));
    }
    let client = std::sync::Arc::new(settings.client()?);
    let (present, brokers) = existing(&client, settings).await?;
    let missing: Vec<_> =
        settings.all().into_iter().filter(|(name, _)| !present.iter().any(|(found, _)| found == name)).collect();
    if !missing.is_empty() {
        create(&client, settings, &missing, brokers).await?;
    }
    check_with(&client, settings, if missing.is_empty() { MISSING } else { ASK }).await
}

/// Checks that every topic is there with its number of partitions; makes none.
///
/// # Errors
/// [`TopicError`]; [`TopicError::Missing`] names the first that is not there.
pub async fn check(settings: &TopicSettings) -> Result<TopicLimits, TopicError> {
    check_with(&std::sync::Arc::new(settings.client()?), settings, MISSING).await
}

type Admin = std::sync::Arc<AdminClient<DefaultClientContext>>;

/// The names and partitions of all our topics that exist, and the number of brokers.
async fn existing(client: &Admin, settings: &TopicSettings) -> Result<(Vec<(String, usize)>, usize), TopicError> {
    let (client, wanted) = (client.clone(), settings.all());
    // All topics are asked for: a question about one by name makes it on brokers that make topics by themselves.
    let ask = move || {
        let metadata = client.inner().fetch_metadata(None, ASK)?;
        if metadata.brokers().is_empty() {
            // What a broker says that is starting; of topics it knows as little.
            return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::AllBrokersDown));
        }
        let present = metadata
            .topics()
            .iter()
            .filter(|topic| topic.error().is_none() && wanted.iter().any(|(name, _)| name == topic.name()))
            .map(|topic| (topic.name().to_owned(), topic.partitions().len()))
            .collect();
        Ok((present, metadata.brokers().len()))
    };
    apart("topics", ask)
        .await
        .map_err(|source| TopicError::Broker { what: "the broker does not list its topics".into(), source })
}

async fn create(
    client: &Admin,
    settings: &TopicSettings,
    missing: &[(String, u16)],
    brokers: usize,
) -> Result<(), TopicError> {
    let replicas = settings.replication.map_or(brokers.clamp(1, REPLICAS_MAX), usize::from);
    let replicas = i32::try_from(replicas).unwrap_or(1);
    let texts = [DELETE_RETENTION_MS, COMPACTION_LAG_MS, DEAD_LETTERS_MS].map(|number| number.to_string());
    let [delete_retention, lag, dead_letters] = &texts;
    let bytes = BATCH_BYTES_MAX.to_string();
    let topics: Vec<NewTopic<'_>> = missing
        .iter()
        .map(|(name, partitions)| {
            let replication = TopicReplication::Fixed(replicas);
            let topic = NewTopic::new(name, i32::from(*partitions), replication).set("max.message.bytes", &bytes);
            if *name == settings.dead_letters() {
                topic.set("cleanup.policy", "delete").set("retention.ms", dead_letters)
            } else if *name == settings.watermarks() {
                topic.set("cleanup.policy", "compact").set("segment.ms", "600000")
            } else {
                topic
                    .set("cleanup.policy", "compact")
                    .set("delete.retention.ms", delete_retention)
                    .set("min.compaction.lag.ms", lag)
            }
        })
        .collect();
    let options = AdminOptions::new().request_timeout(Some(ASK)).operation_timeout(Some(ASK));
    let results = client.create_topics(&topics, &options).await;
    let results = results.map_err(|source| TopicError::Broker { what: "the topics can't be made".into(), source })?;
    for result in results {
        match result {
            Ok(topic) => tracing::info!(topic, "made the topic"),
            // Another process was faster.
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(TopicError::Refused { topic, code }),
        }
    }
    Ok(())
}

async fn check_with(client: &Admin, settings: &TopicSettings, patience: Duration) -> Result<TopicLimits, TopicError> {
    let deadline = tokio::time::Instant::now() + patience;
    let present = loop {
        let (present, _) = existing(client, settings).await?;
        if present.len() == settings.all().len() || tokio::time::Instant::now() > deadline {
            break present;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    for (topic, wanted) in settings.all() {
        let found = present.iter().find(|(name, _)| *name == topic).map(|(_, partitions)| *partitions);
        match found {
            None => return Err(TopicError::Missing(topic)),
            Some(found) if found != usize::from(wanted) => {
                return Err(TopicError::Partitions { topic, found, wanted: usize::from(wanted) });
            }
            Some(_) => {}
        }
    }
    limits(client, settings).await
}

async fn limits(client: &Admin, settings: &TopicSettings) -> Result<TopicLimits, TopicError> {
    let all = settings.all();
    let asked: Vec<_> = all.iter().map(|(name, _)| ResourceSpecifier::Topic(name)).collect();
    let answers = client.describe_configs(&asked, &AdminOptions::new().request_timeout(Some(ASK))).await;
    let broker = |source| TopicError::Broker { what: "the broker does not tell the topics' settings".into(), source };
    let mut limits = TopicLimits { batch_bytes_max: BATCH_BYTES_MAX, delete_retention_ms: DELETE_RETENTION_MS };
    for answer in answers.map_err(broker)? {
        let resource = answer.map_err(|code| broker(KafkaError::AdminOp(code)))?;
        let number = |name: &str| resource.get(name)?.value.as_ref()?.parse::<i64>().ok();
        if let Some(bytes) = number("max.message.bytes").and_then(|bytes| usize::try_from(bytes).ok()) {
            limits.batch_bytes_max = limits.batch_bytes_max.min(bytes);
        }
        let of_events = Topic::ALL.into_iter().any(
            |topic| matches!(&resource.specifier, OwnedResourceSpecifier::Topic(name) if *name == settings.name(topic)),
        );
        if let Some(retention) = number("delete.retention.ms")
            && of_events
        {
            limits.delete_retention_ms = limits.delete_retention_ms.min(retention);
        }
    }
    Ok(limits)
}
