//! Stage 5: committed events from the WAL to the broker, in commit order.
//!
//! *Input*: the logical messages that a replication slot delivers. *Output*: records on the topics, each with
//! its partition's next number, in broker transactions that carry the position; then the confirmed slot.
//! *Bound*: 128 messages read ahead, 32 MiB unacknowledged at the broker, beyond which the WAL waits.
//! *On shutdown*: what is published at a transaction's boundary is committed within 2 s; whoever comes next confirms it.
//!
//! One process relays, the others wait for the slot ([`RelayState::Standby`]). Taking over is in
//! [`takeover`], the running line in [`stream`], the proof in [`crate::history`]. On any error the line drops
//! producer and stream and starts again from the slot; on a broken proof it stays
//! [`RelayState::Broken`], publishes and confirms nothing, and looks again from time to time.

mod database;
mod metrics;
mod readback;
pub mod record;
mod replication_url;
mod stream;
mod takeover;

use std::time::Duration;

use pgwire_replication::PgWireError;
use rdkafka::error::KafkaError;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use replication_url::UrlError;

use crate::history::Broken;
use crate::publisher::PublishError;
use crate::relay_status::{RelayState, RelayStatus};
use crate::topics::{TopicError, TopicSettings};
use metrics::metrics;

/// How long the line waits before it starts again, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How often a broken chain is looked at again: an operator may have mended it.
const BROKEN_AGAIN: Duration = Duration::from_secs(5);
/// How long a line may take to stop.
const STOP: Duration = Duration::from_secs(3);
/// How long a line must have streamed for the next failure to count as the first.
const HEALTHY: Duration = Duration::from_secs(10);

/// Where the relay reads and writes.
#[derive(Debug, Clone)]
pub struct RelaySettings {
    /// `NEXUS_DATABASE_URL`, or whatever role may write `nexus.epoch` and emit messages.
    pub database_url: String,
    /// `NEXUS_REPLICATION_URL`: the same database, with the right to replicate.
    pub replication_url: String,
    /// `NEXUS_SLOT`.
    pub slot: String,
    /// Brokers, prefix and partitions.
    pub topics: TopicSettings,
}

/// Why the line stopped.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The settings can't work.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// Postgres is away or refuses.
    #[error("Postgres is away or refuses")]
    Sql(#[from] sqlx::Error),
    /// The replication session failed.
    #[error("the replication session failed")]
    Stream(#[source] PgWireError),
    /// The replication session ended.
    #[error("Postgres ended the replication session")]
    StreamEnded,
    /// The stream is not what pgoutput promises.
    #[error("Postgres sent a transaction's message outside of any transaction")]
    OutsideTransaction,
    /// The broker is away or refuses.
    #[error("{what}")]
    Broker {
        /// What was asked.
        what: &'static str,
        /// Its answer.
        #[source]
        source: KafkaError,
    },
    /// The topics can't be made or checked.
    #[error(transparent)]
    Topics(#[from] TopicError),
    /// A record was not delivered, or the transaction was refused.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// Somebody took longer than a deadline of ours.
    #[error("{0} did not answer in time")]
    Slow(&'static str),
    /// `migrate` has not run.
    #[error("this database has no epoch yet: run `nexus-control migrate`")]
    NotMigrated,
    /// The epoch or the copy of the position changed under this process: somebody else took over.
    #[error("another process has taken over: epoch {0} is not this one's any more")]
    Superseded(u64),
    /// SQL and replication reach different servers.
    #[error("NEXUS_DATABASE_URL and NEXUS_REPLICATION_URL reach different servers")]
    DifferentServers,
    /// The chain of events is broken.
    #[error("the chain of events is broken: {0}")]
    Broken(#[from] Broken),
}

/// The relay, not running yet.
pub struct Relay {
    settings: RelaySettings,
    reporter: Reporter,
}

impl Relay {
    /// A relay with these settings.
    #[must_use]
    pub fn new(settings: RelaySettings) -> Self {
        Self { settings, reporter: Reporter { status: watch::Sender::new(RelayStatus::starting()) } }
    }

    /// What it is doing, now and at every change.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<RelayStatus> {
        self.reporter.status.subscribe()
    }

    /// Relays until `shutdown`, whatever fails in between.
    ///
    /// # Errors
    /// [`RelayError::Url`]: with these settings it could never work.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), RelayError> {
        // Fails early for what no retry mends.
        takeover::replication(&self.settings)?;
        let (mut backoff, longest) = BACKOFF;
        let mut reason = String::new();
        while !shutdown.is_cancelled() {
            let begun = tokio::time::Instant::now();
            let ended = tokio::select! {
                ended = self.line(&shutdown) => ended,
                () = overdue(&shutdown) => Ok(()),
            };
            metrics().streaming.set(0);
            let Err(error) = ended else { break };
            let detail = chain(&error);
            let wait = if matches!(error, RelayError::Broken(_)) {
                if reason != detail {
                    tracing::error!(reason = %detail, "the relay stops: nothing is published nor confirmed");
                }
                self.reporter.set(RelayState::Broken, &detail);
                BROKEN_AGAIN
            } else {
                if begun.elapsed() > HEALTHY {
                    backoff = BACKOFF.0;
                    reason.clear();
                }
                if reason != detail {
                    tracing::warn!(reason = %detail, "the relay starts again from the slot");
                }
                metrics().restarts.inc();
                self.reporter.set(RelayState::Retrying, &detail);
                let wait = backoff;
                backoff = (backoff * 2).min(longest);
                wait
            };
            reason = detail;
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.reporter.set(RelayState::Stopped, "");
        Ok(())
    }

    /// One line, from the slot to its end.
    async fn line(&self, shutdown: &CancellationToken) -> Result<(), RelayError> {
        match takeover::take_over(&self.settings, &self.reporter, shutdown).await? {
            Some(line) => line.run(&self.reporter, shutdown).await,
            None => Ok(()),
        }
    }
}

/// Returns when a line has had its time to stop: whatever it waits for then is away.
async fn overdue(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(STOP).await;
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Tells the rest of the process.
struct Reporter {
    status: watch::Sender<RelayStatus>,
}

impl Reporter {
    /// A change of state. A broken chain stays broken while it is looked at again.
    fn set(&self, state: RelayState, detail: &str) {
        self.status.send_if_modified(|status| {
            if status.state == RelayState::Broken && state == RelayState::Proving {
                return false;
            }
            let changed = status.state != state || status.detail != detail;
            if status.state != state {
                tracing::info!(%state, "relay");
            }
            status.state = state;
            detail.clone_into(&mut status.detail);
            changed
        });
        metrics().broken.set(i64::from(self.status.borrow().state == RelayState::Broken));
    }

    /// A change of numbers.
    fn update(&self, change: impl FnOnce(&mut RelayStatus)) {
        self.status.send_modify(change);
    }
}
