//! Where the time goes inside the planes, by their own metrics: histograms before and after the
//! measured phase, and what is between.

use std::collections::BTreeMap;

use std::time::Duration;

use crate::client::{Endpoint, Exchange};

/// A plane that is slower than this says nothing: the run goes on.
const PATIENCE: Duration = Duration::from_secs(2);

/// One histogram of a plane, over the measured phase.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Stage {
    /// `control` or `dataplane`.
    pub plane: String,
    /// The metric.
    pub metric: String,
    /// How many values.
    pub count: u64,
    /// Mean, in the metric's unit (milliseconds where that is seconds).
    pub mean: f64,
    /// Median, interpolated within its bucket.
    pub p50: f64,
    /// 99th percentile, interpolated within its bucket.
    pub p99: f64,
}

/// What a plane used over the measured phase.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Usage {
    /// `control` or `dataplane`.
    pub plane: String,
    /// Share of a core.
    pub cpu: f64,
    /// Resident memory at the end, bytes.
    pub resident_bytes: u64,
}

#[derive(Debug, Clone, Default)]
struct Series {
    buckets: BTreeMap<u64, f64>,
    sum: f64,
    count: f64,
}

/// The metrics of a plane at one time.
#[derive(Debug, Clone, Default)]
pub struct Scrape {
    series: BTreeMap<String, Series>,
    values: BTreeMap<String, f64>,
}

impl Scrape {
    /// Asks a plane for its metrics; empty where it has none.
    #[must_use]
    pub fn of(endpoint: &Endpoint) -> Self {
        let reply = Exchange::new(endpoint.clone(), "").with_patience(PATIENCE).get("/metrics");
        let text = reply.ok().filter(|reply| reply.status == 200).map(|reply| reply.body).unwrap_or_default();
        Self::parse(&String::from_utf8_lossy(&text))
    }

    /// Reads the Prometheus text format; labels other than `le` are summed over.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut scrape = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let (name, labels) = name.split_once('{').unwrap_or((name, ""));
            if let Some(base) = name.strip_suffix("_bucket") {
                let bound = labels
                    .split("le=\"")
                    .nth(1)
                    .and_then(|rest| rest.split('"').next())
                    .and_then(|bound| bound.parse::<f64>().ok());
                if let Some(bound) = bound {
                    *scrape.series.entry(base.to_owned()).or_default().buckets.entry(bound.to_bits()).or_default() +=
                        value;
                }
            } else if let Some(base) = name.strip_suffix("_sum") {
                scrape.series.entry(base.to_owned()).or_default().sum += value;
            } else if let Some(base) = name.strip_suffix("_count") {
                scrape.series.entry(base.to_owned()).or_default().count += value;
            } else {
                *scrape.values.entry(name.to_owned()).or_default() += value;
            }
        }
        scrape
    }

    /// What happened between `before` and this scrape of the same plane.
    #[must_use]
    pub fn stages_since(&self, before: &Self, plane: &str) -> Vec<Stage> {
        let nothing = Series::default();
        self.series
            .iter()
            .filter_map(|(metric, after)| {
                let before = before.series.get(metric).unwrap_or(&nothing);
                let count = after.count - before.count;
                let unit = if metric.ends_with("_seconds") { 1_000.0 } else { 1.0 };
                let rounded = |value: f64| (value * unit * 1_000.0).round() / 1_000.0;
                let buckets: Vec<(f64, f64)> = after
                    .buckets
                    .iter()
                    .map(|(bound, total)| {
                        (f64::from_bits(*bound), total - before.buckets.get(bound).copied().unwrap_or(0.0))
                    })
                    .collect();
                (count >= 1.0).then(|| Stage {
                    plane: plane.to_owned(),
                    metric: metric.clone(),
                    count: count as u64,
                    mean: rounded((after.sum - before.sum) / count),
                    p50: rounded(quantile(&buckets, count, 0.5)),
                    p99: rounded(quantile(&buckets, count, 0.99)),
                })
            })
            .collect()
    }

    /// Processor and memory since `before`, `seconds` ago; `None` where the plane does not say.
    #[must_use]
    pub fn usage_since(&self, before: &Self, plane: &str, seconds: f64) -> Option<Usage> {
        let cpu = |scrape: &Self| scrape.values.get("process_cpu_seconds_total").copied();
        Some(Usage {
            plane: plane.to_owned(),
            cpu: ((cpu(self)? - cpu(before)?) / seconds * 1_000.0).round() / 1_000.0,
            resident_bytes: self.values.get("process_resident_memory_bytes").copied().unwrap_or(0.0) as u64,
        })
    }
}

/// The quantile of cumulative buckets, interpolated as Prometheus' `histogram_quantile` does; in
/// the last bucket, its lower bound.
fn quantile(buckets: &[(f64, f64)], count: f64, quantile: f64) -> f64 {
    let rank = quantile * count;
    let (mut low, mut below) = (0.0, 0.0);
    for &(bound, cumulative) in buckets {
        if cumulative >= rank {
            if bound.is_infinite() || cumulative <= below {
                return low;
            }
            return low + (bound - low) * (rank - below) / (cumulative - below);
        }
        (low, below) = (bound, cumulative);
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(scale: u32) -> String {
        format!(
            "# TYPE nexus_x_seconds histogram\nnexus_x_seconds_bucket{{a=\"1\",le=\"0.001\"}} {}\nnexus_x_seconds_bucket{{a=\"1\",le=\"0.01\"}} {}\nnexus_x_seconds_bucket{{a=\"1\",le=\"+Inf\"}} {}\nnexus_x_seconds_sum{{a=\"1\"}} {}\nnexus_x_seconds_count{{a=\"1\"}} {}\nprocess_cpu_seconds_total {}\n",
            50 * scale,
            100 * scale,
            100 * scale,
            0.3 * f64::from(scale),
            100 * scale,
            scale
        )
    }

    #[test]
    fn the_measured_phase_is_the_difference() {
        let (before, after) = (Scrape::parse(&text(1)), Scrape::parse(&text(3)));
        let stages = after.stages_since(&before, "control");
        assert_eq!(stages.len(), 1);
        let stage = &stages[0];
        assert_eq!((stage.count, stage.mean, stage.p50), (200, 3.0, 1.0));
        assert!((stage.p99 - 9.82).abs() < 1e-9, "{}", stage.p99);
        assert_eq!(after.usage_since(&before, "control", 4.0).unwrap().cpu, 0.5);
    }
}
