//! The projecting role: a line for each partition that is ours, and what they share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use contract::partition::{PARTITIONS_MAX, Partition, Topic};
use rdkafka::error::KafkaError;
use runtime::shutdown::{self, Shutdown};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::consumer::{LogClient, Retention};
use crate::dead_letters::DeadLetters;
use crate::generation;
use crate::line::Line;
use crate::membership::{self, Owned};
use crate::rebuild::{Rebuilder, bounds};
use crate::redis_link::{LinkError, Redis};
use crate::settings::ProjectSettings;
use crate::status::{ProjectorStatus, State};
use crate::view::View;
use crate::view::keys::Keys;
use crate::watermarks::{self, Newest};

/// Why the projector could not begin. Once it has begun, it only waits.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// A setting of Redis or its URL has to change.
    #[error("Redis can't hold the view")]
    Redis(#[source] LinkError),
    /// The settings of the broker's client are refused.
    #[error("the broker's client refuses its settings")]
    Kafka(#[from] KafkaError),
}

/// How often servers that are away are tried, and the log's ends are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often retired generations are looked for.
const SWEEP: Duration = Duration::from_secs(30);
/// How long a line may take to finish its last batch.
const LINE_DEADLINE: Duration = Duration::from_secs(3);

/// Projects until `shutdown`: every partition that the group gives us, from the checkpoint in the view.
/// `status` hears how it stands.
///
/// # Errors
/// At the start only, for what waiting can't mend: a Redis that evicts, an impossible URL.
pub async fn project(
    settings: ProjectSettings,
    status: watch::Sender<ProjectorStatus>,
    shutdown: Shutdown,
) -> Result<(), ProjectError> {
    let status = Arc::new(status);
    let redis = Redis::new(&settings.redis_url).map_err(ProjectError::Redis)?;
    match redis.connect().await {
        Err(error) if error.is_setup() => return Err(ProjectError::Redis(error)),
        Err(error) => {
            let text = error.to_string();
            status.send_modify(|status| status.redis_error = Some(text));
        }
        Ok(_) => {}
    }
    let log = LogClient::new(&settings)?;
    let Some(signals) = wait_for_topics(&settings, &log, &status, &shutdown).await else { return Ok(()) };
    let Some(topics) = wait_for_retention(&settings, &status, &shutdown).await else { return Ok(()) };
    let (newest_sender, newest) = watch::channel(Newest::default());
    let (owned_sender, owned) = watch::channel(Owned::None);
    let mut parts = JoinSet::new();
    // A thread does not end with the future that waits for it.
    let stop = shutdown.token().child_token();
    let _stopping = stop.clone().drop_guard();
    parts.spawn(watermarks::run(
        settings.clone(),
        log.clone(),
        redis.clone(),
        signals,
        newest_sender,
        shutdown.clone(),
    ));
    parts.spawn(look_at_ends(log.clone(), signals, Arc::clone(&status), newest.clone(), shutdown.clone()));
    parts.spawn(sweep(settings.clone(), redis.clone(), signals, owned.clone(), shutdown.clone()));
    {
        let (settings, status, stop) = (settings.clone(), status.subscribe(), stop.clone());
        parts.spawn_blocking(move || {
            if let Err(error) = membership::run(&settings, owned_sender, &status, &stop) {
                tracing::error!(%error, "no place in the consumer group: every partition is ours");
            }
        });
    }
    let dead_letters = Arc::new(DeadLetters::new(&settings));
    let rebuilder = Rebuilder::new(settings.clone(), redis.clone(), Arc::clone(&dead_letters), shutdown.clone());
    let make = |partition: Partition, stop: CancellationToken| Line {
        partition,
        log: log.clone(),
        redis: redis.clone(),
        keys: Keys::new(&settings.redis_prefix),
        partitions: signals,
        bounds: bounds(&settings),
        retention: topics[&partition.topic],
        dead_letters: Arc::clone(&dead_letters),
        newest: newest.clone(),
        status: Arc::clone(&status),
        rebuilder: rebuilder.clone(),
        stop,
    };
    run_lines(signals, owned, &shutdown, make).await;
    let drained = async { while parts.join_next().await.is_some() {} };
    shutdown::within("projector", LINE_DEADLINE, drained).await;
    Ok(())
}

/// The number of partitions of signals, once all topics are there; none when the process stops before.
async fn wait_for_topics(
    settings: &ProjectSettings,
    log: &LogClient,
    status: &watch::Sender<ProjectorStatus>,
    shutdown: &Shutdown,
) -> Option<u16> {
    let mut told = String::new();
    loop {
        let waiting_for = match topics_there(settings, log).await {
            Ok(Ok(signals)) => {
                status.send_modify(|status| {
                    status.signals = signals;
                    status.waiting_for = None;
                    status.broker_error = None;
                    for partition in Partition::all(signals) {
                        let at = status.partitions.entry(partition).or_default();
                        (at.offset, at.log_end) = (-1, -1);
                    }
                });
                return Some(signals);
            }
            Ok(Err(missing)) => format!("the topic {missing}, which nexus-control makes"),
            Err(error) => {
                status.send_modify(|status| status.broker_error = Some(error.to_string()));
                format!("the broker at {}", settings.brokers)
            }
        };
        if waiting_for != told {
            tracing::info!(waiting_for, "the projector waits");
            status.send_modify(|status| status.waiting_for = Some(waiting_for.clone()));
            told = waiting_for;
        }
        tokio::select! {
            () = shutdown.begun() => return None,
            () = tokio::time::sleep(LOOK / 4) => {}
        }
    }
}

/// How long each topic keeps what it may take away, once the broker has told; none when the process stops before.
/// Without it nobody could tell a loss from what compaction took away.
async fn wait_for_retention(
    settings: &ProjectSettings,
    status: &watch::Sender<ProjectorStatus>,
    shutdown: &Shutdown,
) -> Option<BTreeMap<Topic, Retention>> {
    let mut told = false;
    loop {
        let asked = tokio::select! {
            () = shutdown.begun() => return None,
            asked = Retention::of_topics(settings) => asked,
        };
        match asked {
            Ok(topics) => {
                if told {
                    status.send_modify(|status| (status.waiting_for, status.broker_error) = (None, None));
                }
                return Some(topics);
            }
            Err(error) => {
                let waiting_for = format!("the broker at {} to tell the topics' settings", settings.brokers);
                if !told {
                    tracing::warn!(%error, waiting_for, "the projector waits");
                }
                told = true;
                status.send_modify(|status| {
                    (status.waiting_for, status.broker_error) = (Some(waiting_for), Some(error.to_string()));
                });
            }
        }
        tokio::select! {
            () = shutdown.begun() => return None,
            () = tokio::time::sleep(LOOK / 4) => {}
        }
    }
}

async fn topics_there(settings: &ProjectSettings, log: &LogClient) -> Result<Result<u16, String>, KafkaError> {
    for name in ["identities", "keys", "watermarks"] {
        let topic = settings.topic(name);
        if log.partitions(&topic).await? == 0 {
            return Ok(Err(topic));
        }
    }
    let topic = settings.topic(Topic::Signals.name());
    let signals = u16::try_from(log.partitions(&topic).await?).unwrap_or(u16::MAX);
    if signals == 0 {
        return Ok(Err(topic));
    }
    if signals > PARTITIONS_MAX {
        return Ok(Err(format!("{topic} with at most {PARTITIONS_MAX} partitions (it has {signals})")));
    }
    Ok(Ok(signals))
}

/// Keeps a line for each partition that is ours, until shutdown.
async fn run_lines(
    signals: u16,
    mut owned: watch::Receiver<Owned>,
    shutdown: &Shutdown,
    make: impl Fn(Partition, CancellationToken) -> Line,
) {
    let mut lines: BTreeMap<Partition, (CancellationToken, JoinHandle<()>)> = BTreeMap::new();
    let mut ended: Vec<JoinHandle<()>> = Vec::new();
    loop {
        let ours = owned.borrow_and_update().clone();
        for partition in Partition::all(signals) {
            let wanted = ours.as_ref().is_none_or(|ours| ours.contains(&partition));
            if wanted && !lines.contains_key(&partition) {
                // The line before it must have let go of the client's partition.
                for line in ended.drain(..) {
                    let _ = line.await;
                }
                let stop = shutdown.token().child_token();
                lines.insert(partition, (stop.clone(), tokio::spawn(make(partition, stop).run())));
            } else if !wanted && let Some((stop, line)) = lines.remove(&partition) {
                stop.cancel();
                ended.push(line);
            }
        }
        tokio::select! {
            () = shutdown.begun() => break,
            changed = owned.changed() => if changed.is_err() {
                // No member of the group any more: what we have stays ours.
                shutdown.begun().await;
                break;
            },
        }
    }
    ended.extend(lines.into_values().map(|(_, line)| line));
    let drained = async {
        for line in ended {
            let _ = line.await;
        }
    };
    shutdown::within("lines", LINE_DEADLINE, drained).await;
}

/// Keeps the log's ends and the lag in the status.
async fn look_at_ends(
    log: LogClient,
    signals: u16,
    status: Arc<watch::Sender<ProjectorStatus>>,
    newest: watch::Receiver<Newest>,
    shutdown: Shutdown,
) {
    let partitions = Partition::all(signals);
    while !shutdown.is_begun() {
        let ends = log.ends(&partitions).await;
        let published = {
            let newest = newest.borrow();
            newest.watermark.as_ref().map(|at| (at.epoch, at.seqs.clone()))
        };
        status.send_modify(|status| {
            status.broker_error = ends.as_ref().err().map(ToString::to_string);
            for partition in &partitions {
                let at = status.partitions.entry(*partition).or_default();
                if let Some(end) = ends.as_ref().ok().and_then(|ends| ends.get(partition)) {
                    at.log_end = *end;
                }
                if let Some((epoch, seqs)) = &published
                    && at.state != State::Elsewhere
                    && *epoch == at.epoch
                {
                    at.seq_end = at.seq_end.max(seqs.get(partition).copied().unwrap_or(0));
                    at.lag = at.seq_end.saturating_sub(at.seq);
                }
            }
        });
        tokio::select! {
            () = shutdown.begun() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Deletes retired generations of our partitions.
async fn sweep(
    settings: ProjectSettings,
    redis: Redis,
    signals: u16,
    owned: watch::Receiver<Owned>,
    shutdown: Shutdown,
) {
    let after = Duration::from_secs(settings.retire_after_s);
    let every = SWEEP.min(after.max(Duration::from_millis(100)));
    let keys = Keys::new(&settings.redis_prefix);
    loop {
        tokio::select! {
            () = shutdown.begun() => return,
            () = tokio::time::sleep(every) => {}
        }
        let ours = owned.borrow().clone();
        let work = async {
            let mut view = View::open(redis.connect().await?, keys.clone()).await?;
            for partition in Partition::all(signals) {
                if ours.as_ref().is_none_or(|ours| ours.contains(&partition)) {
                    generation::sweep(&mut view, partition, after).await?;
                }
            }
            Ok::<(), crate::view::ViewError>(())
        };
        tokio::select! {
            () = shutdown.begun() => return,
            done = work => if let Err(error) = done {
                tracing::debug!(%error, "retired generations stay until the next look");
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_projected_before_the_broker_has_told_what_it_keeps() {
        // Nobody answers there.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let settings = ProjectSettings {
            brokers: silent.local_addr().expect("bound").to_string(),
            redis_url: String::new(),
            topic_prefix: "nexus.".to_owned(),
            redis_prefix: "nexus:".to_owned(),
            batch_records: 1,
            batch_bytes: 1,
            retire_after_s: 1,
            fill_patience_s: 1,
            compaction_lag_ms: 1,
        };
        let (status, mut seen) = watch::channel(ProjectorStatus::default());
        let shutdown = Shutdown::new();
        let stopping = async {
            let waits = seen.wait_for(|status| status.waiting_for.is_some() && status.broker_error.is_some());
            tokio::time::timeout(Duration::from_secs(20), waits).await.expect("it says so").expect("it waits");
            shutdown.begin();
        };
        let (topics, ()) = tokio::join!(wait_for_retention(&settings, &status, &shutdown), stopping);
        assert!(topics.is_none());
    }
}
