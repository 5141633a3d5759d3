//! Which partitions are ours: the consumer group of the projectors.
//!
//! This member reads nothing. It learns what the group gives us, and commits how far the view is, so
//! that Console and lag exporters show it. Until the group has spoken we take every partition: two
//! projectors on one are harmless, and nobody waits for a dead member's session to end.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use contract::partition::{Partition, Topic};
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::KafkaResult;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::consumer::base_config;
use crate::settings::ProjectSettings;
use crate::status::ProjectorStatus;

const POLL: Duration = Duration::from_millis(200);
const COMMIT_INTERVAL: Duration = Duration::from_secs(5);

/// The partitions that the group gave us; none: it has not spoken yet.
pub type Owned = Option<BTreeSet<Partition>>;

struct Member {
    prefix: String,
    given: Mutex<BTreeSet<Partition>>,
    owned: watch::Sender<Owned>,
}

impl Member {
    fn partition(&self, topic: &str, index: i32) -> Option<Partition> {
        let name = topic.strip_prefix(&self.prefix)?;
        let topic = Topic::ALL.into_iter().find(|topic| topic.name() == name)?;
        Some(Partition { topic, index: u16::try_from(index).ok()? })
    }
}

impl ClientContext for Member {}

impl ConsumerContext for Member {
    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let mut given = self.given.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let each = |list: &TopicPartitionList| -> Vec<Partition> {
            list.elements().iter().filter_map(|element| self.partition(element.topic(), element.partition())).collect()
        };
        let owned = match rebalance {
            Rebalance::Assign(list) => {
                // This member only holds the place: it fetches nothing.
                if let Err(error) = consumer.pause(list) {
                    tracing::debug!(%error, "the group's member could not be paused");
                }
                given.extend(each(list));
                Some(given.clone())
            }
            Rebalance::Revoke(list) => {
                for partition in each(list) {
                    given.remove(&partition);
                }
                // Thrown out of the group: nobody knows better than we who reads what.
                if consumer.assignment_lost() { None } else { Some(given.clone()) }
            }
            Rebalance::Error(error) => {
                tracing::warn!(%error, "rebalance failed");
                return;
            }
        };
        tracing::info!(partitions = ?owned.as_ref().map(|owned| owned.iter().map(ToString::to_string).collect::<Vec<_>>()), "the group gives us");
        self.owned.send_replace(owned);
    }
}

/// Joins the group and keeps its place until it is stopped. Blocks: run it on a thread of its own.
///
/// # Errors
/// The settings are refused.
pub fn run(
    settings: &ProjectSettings,
    owned: watch::Sender<Owned>,
    status: &watch::Receiver<ProjectorStatus>,
    stop: &CancellationToken,
) -> KafkaResult<()> {
    let member = Member { prefix: settings.topic_prefix.clone(), given: Mutex::default(), owned };
    let consumer: BaseConsumer<Member> = base_config(settings)
        .set("group.id", settings.group())
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "latest")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", "6000")
        .set("heartbeat.interval.ms", "1500")
        .set("queued.min.messages", "1")
        .create_with_context(member)?;
    let topics: Vec<String> = Topic::ALL.iter().map(|topic| settings.topic(topic.name())).collect();
    consumer.subscribe(&topics.iter().map(String::as_str).collect::<Vec<_>>())?;
    let mut committed = Instant::now();
    while !stop.is_cancelled() {
        // A record may slip through before the pause; it is nobody's.
        if let Some(Err(error)) = consumer.poll(POLL) {
            tracing::debug!(%error, "the group's member reports");
        }
        if committed.elapsed() >= COMMIT_INTERVAL {
            committed = Instant::now();
            commit(&consumer, settings, &status.borrow());
        }
    }
    commit(&consumer, settings, &status.borrow());
    Ok(())
}

fn commit(consumer: &BaseConsumer<Member>, settings: &ProjectSettings, status: &ProjectorStatus) {
    let given = consumer.context().given.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    let mut list = TopicPartitionList::new();
    for (partition, at) in status.partitions.iter().filter(|(partition, _)| given.contains(partition)) {
        if at.offset >= 0 {
            let topic = settings.topic(partition.topic.name());
            let _ = list.add_partition_offset(&topic, i32::from(partition.index), Offset::Offset(at.offset + 1));
        }
    }
    if list.count() > 0
        && let Err(error) = consumer.commit(&list, CommitMode::Async)
    {
        tracing::debug!(%error, "offsets could not be committed; only exporters miss them");
    }
}
