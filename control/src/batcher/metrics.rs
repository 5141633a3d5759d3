//! What the command side counts.

use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry};

/// Metrics of batcher and store. Clones share them.
#[derive(Debug, Clone)]
pub struct CommandMetrics {
    /// Requests that wait.
    pub queue_requests: IntGauge,
    /// Bytes of the requests that wait.
    pub queue_bytes: IntGauge,
    /// Commands in a batch.
    pub batch_commands: Histogram,
    /// From taking a batch to knowing its outcome, in seconds.
    pub batch_seconds: Histogram,
    /// The COMMIT alone, in seconds.
    pub commit_seconds: Histogram,
    /// Commands by outcome: `accepted`, `rejected`, `replayed`, `overloaded`, `unavailable`, `unknown`, `internal`.
    pub outcomes: IntCounterVec,
    /// Transactions that failed, by reason: `conflict`, `stale`, `connection`, `data`, `commit-lost`, `unmigrated`,
    /// `fault`, `unknown`. Most are run again.
    pub reruns: IntCounterVec,
    /// Sessions opened for batches, by what Postgres said in them of `synchronous_commit`, `fsync` and `server_version`:
    /// whoever reports figures can say under which durability they were measured.
    pub sessions: IntCounterVec,
}

impl CommandMetrics {
    /// The metrics, registered.
    ///
    /// # Errors
    /// They are registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            queue_requests: IntGauge::new("nexus_batcher_queue_requests", "Requests waiting for a batch")?,
            queue_bytes: IntGauge::new("nexus_batcher_queue_bytes", "Bytes of the requests waiting for a batch")?,
            batch_commands: Histogram::with_opts(
                HistogramOpts::new("nexus_batcher_batch_commands", "Commands in a batch")
                    .buckets((0..=11).map(|n| f64::from(1 << n)).collect()),
            )?,
            batch_seconds: Histogram::with_opts(
                HistogramOpts::new("nexus_store_batch_seconds", "From taking a batch to knowing its outcome")
                    .buckets(prometheus::exponential_buckets(0.000_25, 2.0, 16)?),
            )?,
            commit_seconds: Histogram::with_opts(
                HistogramOpts::new(
                    "nexus_store_commit_seconds",
                    "What commits a batch: the one statement that writes it, or COMMIT behind several",
                )
                .buckets(prometheus::exponential_buckets(0.000_125, 2.0, 16)?),
            )?,
            outcomes: IntCounterVec::new(
                Opts::new("nexus_batcher_commands_total", "Commands by outcome"),
                &["outcome"],
            )?,
            reruns: IntCounterVec::new(Opts::new("nexus_store_reruns_total", "Transactions run again"), &["reason"])?,
            sessions: IntCounterVec::new(
                Opts::new("nexus_store_sessions_total", "Sessions opened for batches, by their settings in Postgres"),
                &["synchronous_commit", "fsync", "server_version"],
            )?,
        };
        registry.register(Box::new(metrics.queue_requests.clone()))?;
        registry.register(Box::new(metrics.queue_bytes.clone()))?;
        registry.register(Box::new(metrics.batch_commands.clone()))?;
        registry.register(Box::new(metrics.batch_seconds.clone()))?;
        registry.register(Box::new(metrics.commit_seconds.clone()))?;
        registry.register(Box::new(metrics.outcomes.clone()))?;
        registry.register(Box::new(metrics.reruns.clone()))?;
        registry.register(Box::new(metrics.sessions.clone()))?;
        Ok(metrics)
    }
}
