//! Objectives: `l2c:p99<50ms`, `command:max<=1s`, `lost==0`, `achieved_per_s>=4900`.

use std::str::FromStr;

use crate::summary::Summary;

/// What an objective is about.
#[derive(Debug, Clone, PartialEq)]
enum Subject {
    /// A statistic of a latency.
    Latency { measure: String, stat: Stat },
    /// A figure by its name in `summary.json`.
    Figure(String),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Stat {
    Percentile(f64),
    Max,
    Mean,
    Count,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
    Equal,
    NotEqual,
}

/// One objective.
#[derive(Debug, Clone, PartialEq)]
pub struct Slo {
    text: String,
    subject: Subject,
    relation: Relation,
    bound: f64,
    abort_after_s: Option<f64>,
}

/// Why a text is no objective.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no objective ({reason}); write like l2c:p99<50ms, lost==0, achieved_per_s>=4900, or l2c:p99<50ms,abort=10s"
)]
pub struct SloError {
    text: String,
    reason: String,
}

const MEASURES: [&str; 6] = ["command", "service", "send_delay", "own_delay", "l2c", "read"];
const FIGURES: [&str; 20] = [
    "offered_per_s",
    "achieved_per_s",
    "sent",
    "accepted",
    "refused",
    "rejected",
    "failed",
    "timed_out",
    "unknown",
    "outstanding",
    "lag_slope_per_s",
    "drain_s",
    "lost",
    "regressed",
    "resurrected",
    "phantom",
    "stale_with_token",
    "view_mismatch",
    "same_version",
    "violations",
];

impl FromStr for Slo {
    type Err = SloError;

    fn from_str(text: &str) -> Result<Self, SloError> {
        let error = |reason: String| SloError { text: text.to_owned(), reason };
        let (condition, abort) = match text.split_once(',') {
            None => (text, None),
            Some((condition, rest)) => {
                let window = match rest.trim() {
                    "abort" => 10.0,
                    other => other
                        .strip_prefix("abort=")
                        .and_then(|window| milliseconds(window).ok())
                        .map(|ms| ms / 1_000.0)
                        .filter(|window| *window > 0.0)
                        .ok_or_else(|| error(format!("{other:?} is not abort or abort=10s")))?,
                };
                (condition, Some(window))
            }
        };
        let at = condition.find(['<', '>', '=', '!']).ok_or_else(|| error("there is no relation".into()))?;
        let (left, rest) = condition.split_at(at);
        let relations = [
            ("<=", Relation::LessOrEqual),
            (">=", Relation::MoreOrEqual),
            ("==", Relation::Equal),
            ("!=", Relation::NotEqual),
            ("<", Relation::Less),
            (">", Relation::More),
        ];
        let (sign, relation) = relations
            .into_iter()
            .find(|(sign, _)| rest.starts_with(sign))
            .ok_or_else(|| error("the relations are < <= > >= == !=".into()))?;
        let (left, right) = (left.trim(), rest[sign.len()..].trim());
        let (subject, bound) = match left.split_once(':') {
            Some((measure, stat)) => {
                let measure = measure.trim();
                if !MEASURES.contains(&measure) {
                    return Err(error(format!("{measure:?} is not one of {}", MEASURES.join(", "))));
                }
                let stat = Stat::parse(stat.trim())
                    .ok_or_else(|| error(format!("{stat:?} is not p50, p99.9, max, mean or count")))?;
                let bound = if stat == Stat::Count { number(right) } else { milliseconds(right) };
                (Subject::Latency { measure: measure.to_owned(), stat }, bound)
            }
            None if left == "drain_s" => {
                (Subject::Figure(left.to_owned()), number(right).or_else(|_| Ok(milliseconds(right)? / 1_000.0)))
            }
            None if FIGURES.contains(&left) => (Subject::Figure(left.to_owned()), number(right)),
            None => {
                return Err(error(format!("{left:?} is not one of {}", FIGURES.join(", "))));
            }
        };
        let bound = bound.map_err(error)?;
        Ok(Self { text: text.to_owned(), subject, relation, bound, abort_after_s: abort })
    }
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "max" => Some(Self::Max),
            "mean" | "avg" => Some(Self::Mean),
            "count" => Some(Self::Count),
            "p999" => Some(Self::Percentile(99.9)),
            "p9999" => Some(Self::Percentile(99.99)),
            _ => {
                let percentile: f64 = text.strip_prefix('p')?.parse().ok()?;
                (0.0..=100.0).contains(&percentile).then_some(Self::Percentile(percentile))
            }
        }
    }
}

fn number(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|n: &f64| n.is_finite()).ok_or_else(|| format!("{text:?} is no number"))
}

/// A time as milliseconds; a bare number is milliseconds.
fn milliseconds(text: &str) -> Result<f64, String> {
    let units = [("ms", 1.0), ("us", 0.001), ("µs", 0.001), ("s", 1_000.0), ("m", 60_000.0)];
    for (unit, factor) in units {
        if let Some(value) = text.strip_suffix(unit) {
            return Ok(number(value.trim())? * factor);
        }
    }
    number(text)
}

/// How an objective came out.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SloResult {
    /// As given.
    pub slo: String,
    /// It holds.
    pub ok: bool,
    /// What was measured; milliseconds for a latency; null when there was nothing to measure.
    pub value: Option<f64>,
}

impl Slo {
    /// As given.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Ends the run when it has not held for so many seconds on end.
    #[must_use]
    pub fn abort_after_s(&self) -> Option<f64> {
        self.abort_after_s
    }

    /// The measure, and its percentile, if the objective is about one.
    #[must_use]
    pub fn latency(&self) -> Option<(&str, f64)> {
        match &self.subject {
            Subject::Latency { measure, stat: Stat::Percentile(percentile) } => Some((measure, *percentile)),
            Subject::Latency { measure, stat: Stat::Max } => Some((measure, 100.0)),
            _ => None,
        }
    }

    /// True if `value` (milliseconds for a latency) meets the objective.
    #[must_use]
    pub fn holds(&self, value: f64) -> bool {
        match self.relation {
            Relation::Less => value < self.bound,
            Relation::LessOrEqual => value <= self.bound,
            Relation::More => value > self.bound,
            Relation::MoreOrEqual => value >= self.bound,
            Relation::Equal => value == self.bound,
            Relation::NotEqual => value != self.bound,
        }
    }

    /// How it came out. An objective about a measure of nothing does not hold.
    #[must_use]
    pub fn evaluate(&self, summary: &Summary, set: &crate::recorder::Set) -> SloResult {
        let value = match &self.subject {
            Subject::Figure(name) => summary.figure(name),
            Subject::Latency { measure, stat } => crate::recorder::Measure::ALL
                .into_iter()
                .find(|candidate| candidate.name() == measure)
                .and_then(|measure| {
                    let histogram = set.of(measure);
                    match stat {
                        Stat::Count => Some(histogram.len() as f64),
                        _ if histogram.is_empty() => None,
                        Stat::Max => Some(histogram.max() as f64 / 1e6),
                        Stat::Mean => Some(histogram.mean() / 1e6),
                        Stat::Percentile(p) => Some(histogram.value_at_quantile(p / 100.0) as f64 / 1e6),
                    }
                }),
        };
        SloResult { slo: self.text.clone(), ok: value.is_some_and(|value| self.holds(value)), value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objectives_are_read_with_their_units() {
        let slo: Slo = "l2c:p99<50ms".parse().unwrap();
        assert!(slo.holds(49.9) && !slo.holds(50.0));
        assert!("command:p99.9<=1.5s".parse::<Slo>().unwrap().holds(1_500.0));
        assert!("l2c:p999 < 500us".parse::<Slo>().unwrap().holds(0.4));
        assert!("lost==0".parse::<Slo>().unwrap().holds(0.0));
        let aborting: Slo = "l2c:max<1s,abort=5s".parse().unwrap();
        assert_eq!(aborting.abort_after_s(), Some(5.0));
        assert_eq!(aborting.latency(), Some(("l2c", 100.0)));
    }

    #[test]
    fn nonsense_is_refused_with_what_would_do() {
        for text in
            ["", "l2c", "l2c:p99", "l2c:p101<1ms", "lag:p99<1ms", "lost=0", "found==0", "l2c:p99<fast", "lost==0,stop"]
        {
            let error = text.parse::<Slo>().unwrap_err().to_string();
            assert!(error.contains("write like"), "{error}");
        }
    }
}
