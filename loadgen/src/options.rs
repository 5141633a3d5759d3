//! What a run is asked to do, checked.

use std::path::PathBuf;
use std::time::Duration;

use crate::client::{Endpoint, EndpointError};
use crate::priority::Priority;
use crate::schedule::Arrivals;
use crate::slo::Slo;
use crate::workload::{Mix, Skew};

/// Where the planes are and who asks.
#[derive(Debug, Clone, clap::Args)]
pub struct Targets {
    /// The control plane's URL
    #[arg(long, env = "NEXUS_CONTROL_URL", default_value = "http://127.0.0.1:8000", value_name = "URL")]
    pub control_url: String,
    /// The view server's URL, or several with commas between. All are watched: a write is visible when the last of them
    /// shows it. Reads and token reads go round all, and may show no less than any watch did; sampled reads cross-check the
    /// first; at the end each is compared with Postgres
    #[arg(
        long,
        env = "NEXUS_DATAPLANE_URL",
        default_value = "http://127.0.0.1:8001",
        value_delimiter = ',',
        value_name = "URL"
    )]
    pub dataplane_url: Vec<String>,
    /// An API key of an operator or admin
    #[arg(long, env = "NEXUS_API_KEY", hide_env_values = true, default_value = "", value_name = "KEY")]
    pub api_key: String,
}

impl Targets {
    /// The control plane.
    ///
    /// # Errors
    /// The URL is none.
    pub fn control(&self) -> Result<Endpoint, EndpointError> {
        Endpoint::parse(&self.control_url)
    }

    /// The view servers.
    ///
    /// # Errors
    /// A URL is none.
    pub fn views(&self) -> Result<Vec<Endpoint>, EndpointError> {
        self.dataplane_url.iter().map(|url| Endpoint::parse(url)).collect()
    }
}

/// The load: everything but where it goes and what is done with the figures.
#[derive(Debug, Clone, clap::Args)]
pub struct Load {
    /// Length of the measured phase
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "TIME")]
    pub duration: Duration,
    /// At the offered rate before it, discarded
    #[arg(long, default_value = "3s", value_parser = duration, value_name = "TIME")]
    pub warmup: Duration,
    /// Signals made before the clock runs
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub preload: u64,
    /// Shares of the commands: create, update, delete, batch
    #[arg(long, default_value = "create=60,update=30,delete=10", value_name = "MIX")]
    pub mix: Mix,
    /// Commands in a batch (when the mix has batches)
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000), value_name = "N")]
    pub batch_size: u16,
    /// Reads by id per second
    #[arg(long, default_value = "0", value_parser = rate_or_zero, value_name = "RATE")]
    pub reads: f64,
    /// Connections to the control plane, one request in flight on each
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..), value_name = "N")]
    pub connections: u16,
    /// Connections for reads, to each view server
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..), value_name = "N")]
    pub read_connections: u16,
    /// How to space the arrivals
    #[arg(long, value_enum, default_value = "constant")]
    pub arrivals: Arrivals,
    /// Closed model instead: the next command goes when a connection is free. It hides stalls, and
    /// says so in its report; --rate is ignored
    #[arg(long)]
    pub closed: bool,
    /// Which signals are updated and deleted: uniform, zipf, zipf=1.1
    #[arg(long, default_value = "uniform", value_name = "SKEW")]
    pub keys: Skew,
    /// Random text in each payload, in bytes: N or LEAST-MOST
    #[arg(long, default_value = "64-256", value_parser = payload_bytes, value_name = "BYTES")]
    pub payload: (usize, usize),
    /// After this an answer is no longer waited for; it counts at this
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "TIME")]
    pub timeout: Duration,
    /// How long accepted writes may take to become visible at the end
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "TIME")]
    pub drain_timeout: Duration,
    /// Same seed, same schedule and same choices (default: from the clock; it is in the manifest)
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Send no Idempotency-Key: commands without an answer then stay unknown
    #[arg(long)]
    pub no_idempotency: bool,
    /// Do not cross-check the watch with reads of sampled writes
    #[arg(long)]
    pub no_probes: bool,
    /// Do not compare Postgres with the view at the end
    #[arg(long)]
    pub no_verify: bool,
    /// Priority of the threads that take times
    #[arg(long, value_enum, default_value = "auto")]
    pub priority: Priority,
}

/// One run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Where to.
    pub targets: Targets,
    /// What.
    pub load: Load,
    /// Commands per second.
    pub rate: f64,
    /// Objectives.
    pub slos: Vec<Slo>,
    /// Where the report goes.
    pub out: Option<PathBuf>,
    /// Say nothing while it runs.
    pub quiet: bool,
    /// Draw the live panel where standard error is a terminal.
    pub panel: bool,
    /// Batches that may wait for the judge ([`crate::journal::CHANNEL_BATCHES`], but in tests of what happens then).
    pub queue_batches: usize,
}

/// `10s`, `500ms`, `2m`, `1h`; a bare number is seconds.
///
/// # Errors
/// Anything else.
pub fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3_600.0), ("", 1.0)];
    let (number, factor) = units
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))
        .filter(|(number, _)| !number.is_empty())
        .ok_or_else(|| format!("{text:?} is no time; write 500ms, 10s or 2m"))?;
    number
        .parse::<f64>()
        .ok()
        .filter(|seconds| seconds.is_finite() && *seconds >= 0.0 && *seconds < 1e7)
        .map(|seconds| Duration::from_secs_f64(seconds * factor))
        .ok_or_else(|| format!("{text:?} is no time; write 500ms, 10s or 2m"))
}

/// A rate above 0.
///
/// # Errors
/// Anything else.
pub fn rate(text: &str) -> Result<f64, String> {
    rate_or_zero(text)
        .ok()
        .filter(|rate| *rate > 0.0)
        .ok_or_else(|| format!("{text:?} is no rate; write a number of commands per second, up to 1000000"))
}

fn rate_or_zero(text: &str) -> Result<f64, String> {
    text.trim_end_matches("/s")
        .parse::<f64>()
        .ok()
        .filter(|rate| (0.0..=1_000_000.0).contains(rate))
        .ok_or_else(|| format!("{text:?} is no rate; write a number per second, up to 1000000"))
}

fn payload_bytes(text: &str) -> Result<(usize, usize), String> {
    let wrong = || format!("{text:?} is no size; write 200 or 64-256, up to 60000");
    let (least, most) = text.split_once('-').unwrap_or((text, text));
    let (least, most) = (least.parse().map_err(|_| wrong())?, most.parse().map_err(|_| wrong())?);
    if least <= most && most <= 60_000 { Ok((least, most)) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_rates_and_sizes_are_read() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("3"), Ok(Duration::from_secs(3)));
        assert_eq!(rate("500"), Ok(500.0));
        assert_eq!(payload_bytes("64-256"), Ok((64, 256)));
        for text in ["", "s", "-1s", "ten"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
        for text in ["0", "-5", "fast", "1e9", "nan", "inf"] {
            assert!(rate(text).is_err(), "{text:?}");
        }
        assert!(payload_bytes("9-1").is_err());
    }
}
