//! Which partitions are ours: the consumer group of the projectors.
//!
//! This member reads nothing. It learns what the group gives us, and commits how far the view is, so
//! that Console and lag exporters show it. Until the group has spoken we take every partition: two
//! projectors on one are harmless, and nobody waits for a dead member's session to end.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
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
/// How long a rebalance may take. After the loss of a broker the client was seen to give its partitions back and
/// never to join again, nor to end when it is dropped.
const REBALANCE: Duration = Duration::from_secs(15);
/// How long a shutdown waits for the client to leave the group.
const LEAVE: Duration = Duration::from_secs(2);

/// The partitions that the group gave us; none: it has not spoken yet.
pub type Owned = Option<BTreeSet<Partition>>;

/// What the group has given, and since when it owes an answer.
#[derive(Default)]
struct Place {
    given: BTreeSet<Partition>,
    revoked: Option<Instant>,
}

impl Place {
    /// An assignment, an empty one too, ends the rebalance that a revocation began.
    fn assign(&mut self, partitions: Vec<Partition>) -> Owned {
        self.revoked = None;
        self.given.extend(partitions);
        Some(self.given.clone())
    }

    /// `lost`: thrown out of the group. Then nobody knows better than we who reads what.
    fn revoke(&mut self, partitions: &[Partition], lost: bool, now: Instant) -> Owned {
        self.revoked = Some(now);
        for partition in partitions {
            self.given.remove(partition);
        }
        (!lost).then(|| self.given.clone())
    }

    fn is_stuck(&self, now: Instant) -> bool {
        self.revoked.is_some_and(|revoked| now.duration_since(revoked) >= REBALANCE)
    }
}

struct Member {
    prefix: String,
    place: Mutex<Place>,
    owned: watch::Sender<Owned>,
    /// Another one has taken over: what this one is still told counts no more.
    is_retired: AtomicBool,
}

impl Member {
    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn partition(&self, topic: &str, index: i32) -> Option<Partition> {
        let name = topic.strip_prefix(&self.prefix)?;
        let topic = Topic::ALL.into_iter().find(|topic| topic.name() == name)?;
        Some(Partition { topic, index: u16::try_from(index).ok()? })
    }
}

impl ClientContext for Member {}

impl ConsumerContext for Member {
    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if self.is_retired.load(Ordering::SeqCst) {
            return;
        }
        let each = |list: &TopicPartitionList| -> Vec<Partition> {
            list.elements().iter().filter_map(|element| self.partition(element.topic(), element.partition())).collect()
        };
        let owned = match rebalance {
            Rebalance::Assign(list) => {
                // This member only holds the place: it fetches nothing.
                if let Err(error) = consumer.pause(list) {
                    tracing::debug!(%error, "the group's member could not be paused");
                }
                self.place().assign(each(list))
            }
            Rebalance::Revoke(list) => self.place().revoke(&each(list), consumer.assignment_lost(), Instant::now()),
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
    while !stop.is_cancelled() {
        let consumer = join(settings, owned.clone())?;
        keep(&consumer, settings, status, stop);
        consumer.context().is_retired.store(true, Ordering::SeqCst);
        if !stop.is_cancelled() {
            tracing::warn!(
                "the consumer group gave nothing back for {} s, joining anew: every partition is ours",
                REBALANCE.as_secs()
            );
            owned.send_replace(None);
        }
        leave(consumer, stop);
    }
    Ok(())
}

fn join(settings: &ProjectSettings, owned: watch::Sender<Owned>) -> KafkaResult<BaseConsumer<Member>> {
    let prefix = settings.topic_prefix.clone();
    let member = Member { prefix, place: Mutex::default(), owned, is_retired: AtomicBool::new(false) };
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
    Ok(consumer)
}

/// Returns when it is stopped, or the group owes an answer for too long.
fn keep(
    consumer: &BaseConsumer<Member>,
    settings: &ProjectSettings,
    status: &watch::Receiver<ProjectorStatus>,
    stop: &CancellationToken,
) {
    let mut committed = Instant::now();
    while !stop.is_cancelled() {
        // A record may slip through before the pause; it is nobody's.
        if let Some(Err(error)) = consumer.poll(POLL) {
            tracing::debug!(%error, "the group's member reports");
        }
        if consumer.context().place().is_stuck(Instant::now()) {
            return;
        }
        if committed.elapsed() >= COMMIT_INTERVAL {
            committed = Instant::now();
            commit(consumer, settings, &status.borrow());
        }
    }
    commit(consumer, settings, &status.borrow());
}

/// Leaves the group on a thread of its own: the client may never come to an end, and nobody shall wait for that.
fn leave(consumer: BaseConsumer<Member>, stop: &CancellationToken) {
    let (left, is_left) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        drop(consumer);
        let _ = left.send(());
    });
    if stop.is_cancelled() && is_left.recv_timeout(LEAVE).is_err() {
        tracing::warn!("the consumer group was not left in time: its session ends by itself");
    }
}

fn commit(consumer: &BaseConsumer<Member>, settings: &ProjectSettings, status: &ProjectorStatus) {
    let given = consumer.context().place().given.clone();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(names: &[&str]) -> Vec<Partition> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn a_rebalance_that_never_ends_is_noticed_and_one_that_ends_is_not() {
        let mut place = Place::default();
        let start = Instant::now();
        assert!(
            !place.is_stuck(start + 2 * REBALANCE),
            "a first assignment may take its time: everything is ours till then"
        );
        assert_eq!(place.assign(parts(&["s0", "s1"])).unwrap().len(), 2);
        assert_eq!(place.revoke(&parts(&["s1"]), false, start), Some(parts(&["s0"]).into_iter().collect()));
        assert!(!place.is_stuck(start + REBALANCE / 2) && place.is_stuck(start + REBALANCE));
        assert_eq!(place.assign(Vec::new()), Some(parts(&["s0"]).into_iter().collect()), "what was not revoked stays");
        assert!(!place.is_stuck(start + 2 * REBALANCE));
        assert_eq!(place.revoke(&parts(&["s0"]), true, start), None, "thrown out: everything is ours");
    }
}
