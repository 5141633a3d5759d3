//! `summary.json`: what a run found, and the verdict.

use hdrhistogram::Histogram;

use crate::checker::Violations;
use crate::recorder::to_ms;
use crate::slo::SloResult;

/// The verdict of a run. The later ones come before the earlier ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Verdict {
    /// Everything held.
    #[default]
    Pass,
    /// An objective did not hold, or the rate could not be sustained.
    SloFailed,
    /// The generator itself was the bottleneck, or could not check what it has to: the run says nothing.
    Invalid,
    /// A promise was broken.
    Incorrect,
}

impl Verdict {
    /// The exit code that says so.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::SloFailed => 99,
            Self::Invalid => 3,
            Self::Incorrect => 4,
        }
    }

    /// As in `summary.json`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::SloFailed => "SLO_FAILED",
            Self::Invalid => "INVALID",
            Self::Incorrect => "INCORRECT",
        }
    }
}

/// Percentiles of one measure.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Latency {
    /// How many values.
    pub count: u64,
    /// Mean, milliseconds.
    pub mean_ms: f64,
    /// Median, milliseconds.
    pub p50_ms: f64,
    /// 90th percentile.
    pub p90_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// 99.9th percentile.
    pub p999_ms: f64,
    /// Largest.
    pub max_ms: f64,
}

impl Latency {
    /// The percentiles of `histogram` (nanoseconds); `None` of nothing.
    #[must_use]
    pub fn of(histogram: &Histogram<u64>) -> Option<Self> {
        if histogram.is_empty() {
            return None;
        }
        let at = |quantile| to_ms(histogram.value_at_quantile(quantile));
        Some(Self {
            count: histogram.len(),
            mean_ms: (histogram.mean() / 1_000.0).round() / 1_000.0,
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: at(1.0),
        })
    }
}

/// Latency to consistency on one of several view servers.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ViewLatency {
    /// Its host and port.
    pub view: String,
    /// By its own watch.
    pub l2c: Option<Latency>,
    /// Accepted writes that it never showed.
    pub outstanding: u64,
}

/// How the watch and the sampled reads agree on when writes became visible.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct CrossCheck {
    /// Samples that both saw.
    pub samples: u64,
    /// Median width of the interval between the last read without the version and the first with it; 0 where no
    /// sample has one.
    pub resolution_p50_ms: f64,
    /// Median latency to consistency by the end of that interval.
    pub reads_p50_ms: f64,
    /// Median latency to consistency of the same writes by the watch.
    pub watch_p50_ms: f64,
    /// 99th percentile by the reads.
    #[serde(default)]
    pub reads_p99_ms: f64,
    /// 99th percentile of the same writes by the watch.
    #[serde(default)]
    pub watch_p99_ms: f64,
    /// Median, sample by sample, of how much later the watch showed a write than the reads did.
    #[serde(default)]
    pub difference_p50_ms: f64,
    /// Samples that the watch showed before a read that began later missed them.
    pub contradictions: u64,
    /// Share of the samples that the watch showed more than 1 ms after the first read with them.
    #[serde(default)]
    pub late_share: f64,
    /// Share of the samples whose very first read showed the version: they have no interval, and are not in the
    /// resolution.
    #[serde(default)]
    pub at_once_share: f64,
    /// By how much, at least, the watch shows a sampled write later than it was visible to reads: the median over the
    /// samples. Latency to consistency is reported too high by it.
    #[serde(default)]
    pub over_p50_ms: f64,
    /// Its 99th percentile.
    #[serde(default)]
    pub over_p99_ms: f64,
    /// Its maximum.
    #[serde(default)]
    pub over_max_ms: f64,
    /// All of it as a share of the latency that the watch measured on the same writes.
    #[serde(default)]
    pub over_share: f64,
    /// They agree: see [`crate::cross_check`].
    pub agree: bool,
}

/// `summary.json`.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[expect(missing_docs, reason = "the members are described in INTERFACE.md")]
pub struct Summary {
    pub verdict: Verdict,
    pub reasons: Vec<String>,
    pub interrupted: bool,
    pub mode: String,
    pub offered_per_s: f64,
    pub achieved_per_s: f64,
    pub sent: u64,
    pub accepted: u64,
    pub refused: u64,
    pub rejected: u64,
    pub failed: u64,
    pub timed_out: u64,
    pub unknown: u64,
    /// Commands whose outcome was open at first and settled by repeating them.
    pub settled: u64,
    /// Accepted commands that changed nothing; they are not in `l2c`.
    pub unchanged: u64,
    /// Due in the measured phase and not sent by the end of the drain.
    pub unsent: u64,
    pub preloaded: u64,
    pub warmup_s: f64,
    pub measured_s: f64,
    pub drain_s: f64,
    pub command: Option<Latency>,
    /// From sent to answered: what the servers took, without the wait for a connection.
    pub service: Option<Latency>,
    pub read: Option<Latency>,
    /// Answered with another status than 200, 304 and 404, or not at all.
    pub reads_failed: u64,
    /// Due in the measured phase and never sent; in `read` they count at their wait.
    #[serde(default)]
    pub reads_unsent: u64,
    /// Until the last of the view servers showed it.
    pub l2c: Option<Latency>,
    /// On each view server, where several were named.
    #[serde(default)]
    pub l2c_by_view: Vec<ViewLatency>,
    pub send_delay: Option<Latency>,
    /// Of the send delay, what was the generator's own doing.
    pub own_delay: Option<Latency>,
    pub outstanding: u64,
    pub lag_slope_per_s: f64,
    pub flat_lag: bool,
    pub violations: Violations,
    /// The first violations in words.
    pub examples: Vec<String>,
    pub cross_check: Option<CrossCheck>,
    /// How the comparison of the planes at the end went.
    pub view_compared: String,
    pub slo: Vec<SloResult>,
    /// Shares of a core used by the pacing, observing and judging threads in the measured phase.
    pub cpu: [f64; 3],
    /// What the planes' own metrics say of the measured phase.
    #[serde(default)]
    pub stages: Vec<crate::stages::Stage>,
    /// What the planes used in it.
    #[serde(default)]
    pub usage: Vec<crate::stages::Usage>,
    /// What the generator itself held in memory during the measured phase.
    #[serde(default)]
    pub rss_mib: crate::memory::Memory,
    pub watch_interruptions: u64,
    pub watch_resets: u64,
    pub foreign_events: u64,
}

impl Summary {
    /// A figure by its name, for objectives and comparisons.
    #[must_use]
    pub fn figure(&self, name: &str) -> Option<f64> {
        Some(match name {
            "offered_per_s" => self.offered_per_s,
            "achieved_per_s" => self.achieved_per_s,
            "sent" => self.sent as f64,
            "accepted" => self.accepted as f64,
            "refused" => self.refused as f64,
            "rejected" => self.rejected as f64,
            "failed" => self.failed as f64,
            "timed_out" => self.timed_out as f64,
            "unknown" => self.unknown as f64,
            "outstanding" => self.outstanding as f64,
            "lag_slope_per_s" => self.lag_slope_per_s,
            "drain_s" => self.drain_s,
            "violations" => self.violations.total() as f64,
            _ => return self.violations.named().iter().find(|(known, _)| *known == name).map(|(_, n)| *n as f64),
        })
    }

    /// Raises the verdict to at least `verdict`, for `reason`.
    pub fn object(&mut self, verdict: Verdict, reason: String) {
        self.verdict = self.verdict.max(verdict);
        self.reasons.push(reason);
    }
}
