//! The highest rate that holds: geometric steps up, bisection, repeats.

use std::path::Path;

use crate::report::plots::{self, SweepPoint};
use crate::report::{ReportError, html, write};
use crate::summary::{Summary, Verdict};

/// How to look for the knee.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// First rate.
    pub from: f64,
    /// No rate above this.
    pub to: f64,
    /// From one rate to the next on the way up.
    pub factor: f64,
    /// Bisection ends when the two rates are this close: 1.05 for 5 %.
    pub precision: f64,
    /// Runs at the knee; most of them must hold.
    pub repeats: usize,
}

/// One run of a sweep.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Point {
    /// Offered rate.
    pub offered_per_s: f64,
    /// Achieved rate.
    pub achieved_per_s: f64,
    /// Verdict of the run.
    pub verdict: Verdict,
    /// Latency to consistency, ms; 0 of nothing.
    pub l2c_p50_ms: f64,
    /// Its 99th percentile.
    pub l2c_p99_ms: f64,
    /// Its maximum.
    pub l2c_max_ms: f64,
    /// 99th percentile of the response time, ms.
    pub command_p99_ms: f64,
    /// 99th percentile of the service time, ms.
    pub service_p99_ms: f64,
    /// Slope of the outstanding writes.
    pub lag_slope_per_s: f64,
    /// Seconds to drain.
    pub drain_s: f64,
    /// It passed, with a flat lag.
    pub held: bool,
    /// Folder of the run, beside the sweep's files.
    pub folder: String,
}

impl Point {
    /// What a run was, for a sweep.
    #[must_use]
    pub fn of(summary: &Summary, folder: &str) -> Self {
        let l2c = |f: fn(&crate::summary::Latency) -> f64| summary.l2c.as_ref().map_or(0.0, f);
        Self {
            offered_per_s: summary.offered_per_s,
            achieved_per_s: summary.achieved_per_s,
            verdict: summary.verdict,
            l2c_p50_ms: l2c(|l2c| l2c.p50_ms),
            l2c_p99_ms: l2c(|l2c| l2c.p99_ms),
            l2c_max_ms: l2c(|l2c| l2c.max_ms),
            command_p99_ms: summary.command.map_or(0.0, |command| command.p99_ms),
            service_p99_ms: summary.service.map_or(0.0, |service| service.p99_ms),
            lag_slope_per_s: summary.lag_slope_per_s,
            drain_s: summary.drain_s,
            held: summary.verdict == Verdict::Pass && summary.flat_lag && !summary.interrupted,
            folder: folder.to_owned(),
        }
    }
}

/// `sweep.json`.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Sweep {
    /// All runs, in their order.
    pub points: Vec<Point>,
    /// The highest rate that held, most of its repeats included.
    pub knee_per_s: Option<f64>,
    /// The objectives.
    pub slo: Vec<String>,
    /// The runs at the knee.
    pub repeats: Vec<Point>,
    /// It was ended early.
    pub interrupted: bool,
}

impl Sweep {
    /// The outcome in one line.
    #[must_use]
    pub fn headline(&self) -> String {
        let Some(knee) = self.knee_per_s else { return "no rate held".to_owned() };
        let mut p99: Vec<f64> = self.repeats.iter().filter(|p| p.held).map(|p| p.l2c_p99_ms).collect();
        p99.sort_by(f64::total_cmp);
        let median = p99.get(p99.len() / 2).copied().unwrap_or(0.0);
        format!(
            "{knee:.0} commands/s held {} with a flat lag, l2c p99 {median:.1} ms ({} of {} repeats)",
            self.slo.join(", "),
            p99.len(),
            self.repeats.len()
        )
    }

    /// The code that the worst run would have exited with; failed objectives are what a sweep
    /// looks for, and no failure of it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let incorrect = self.points.iter().chain(&self.repeats).any(|point| point.verdict == Verdict::Incorrect);
        match (incorrect, self.knee_per_s) {
            (true, _) => Verdict::Incorrect.exit_code(),
            (false, None) => Verdict::SloFailed.exit_code(),
            (false, Some(_)) => 0,
        }
    }
}

/// Looks for the knee with `measure`, which does one run at a rate; it returns `None` when the
/// sweep is to end.
///
/// # Errors
/// What `measure` fails with.
pub fn search<E>(plan: Plan, mut measure: impl FnMut(f64) -> Result<Option<Point>, E>) -> Result<Sweep, E> {
    let mut sweep = Sweep::default();
    let mut run = |sweep: &mut Sweep, rate: f64| -> Result<Option<bool>, E> {
        let Some(point) = measure(rate)? else {
            sweep.interrupted = true;
            return Ok(None);
        };
        let (held, broken) = (point.held, point.verdict == Verdict::Incorrect);
        sweep.points.push(point);
        Ok((!broken).then_some(held))
    };
    let (mut good, mut bad) = (0.0, f64::INFINITY);
    let mut rate = plan.from;
    while bad.is_infinite() && good < plan.to {
        match run(&mut sweep, rate)? {
            None => return Ok(sweep),
            Some(true) => good = rate,
            Some(false) => bad = rate,
        }
        rate = (rate * plan.factor).min(plan.to);
    }
    // Nothing held on the way up: look below the first rate as well, to a sixteenth of it.
    let floor = plan.from / 16.0;
    while bad.is_finite() && bad / good.max(floor) > plan.precision {
        let middle = round_rate((bad * good.max(floor)).sqrt());
        if middle <= good || middle >= bad {
            break;
        }
        match run(&mut sweep, middle)? {
            None => return Ok(sweep),
            Some(true) => good = middle,
            Some(false) => bad = middle,
        }
    }
    while good >= floor {
        let first = sweep.points.len();
        let mut held = 0;
        for _ in 0..plan.repeats {
            match run(&mut sweep, good)? {
                None => return Ok(sweep),
                Some(result) => held += usize::from(result),
            }
        }
        if held * 2 > plan.repeats || plan.repeats == 0 {
            sweep.knee_per_s = Some(good);
            sweep.repeats = sweep.points.split_off(first);
            return Ok(sweep);
        }
        good = round_rate(good / plan.precision);
    }
    Ok(sweep)
}

/// Three digits say enough of a rate.
fn round_rate(rate: f64) -> f64 {
    let unit = 10f64.powf(rate.log10().floor() - 2.0);
    (rate / unit).round() * unit
}

/// Writes `sweep.json`, the plot and the page.
///
/// # Errors
/// A file can't be written.
pub fn render(folder: &Path, sweep: &Sweep) -> Result<(), ReportError> {
    let text = serde_json::to_string_pretty(sweep).unwrap_or_default();
    write(&folder.join("sweep.json"), &text)?;
    let points: Vec<SweepPoint> = sweep
        .points
        .iter()
        .chain(&sweep.repeats)
        .filter(|point| point.l2c_p99_ms > 0.0)
        .map(|point| SweepPoint {
            achieved_per_s: point.achieved_per_s,
            p50_ms: point.l2c_p50_ms,
            p99_ms: point.l2c_p99_ms,
            held: point.held,
        })
        .collect();
    let svg = plots::sweep(&points, sweep.knee_per_s)?;
    write(&folder.join("sweep.svg"), &svg)?;
    let mut rows = String::new();
    for (kind, point) in
        sweep.points.iter().map(|point| ("", point)).chain(sweep.repeats.iter().map(|point| ("repeat", point)))
    {
        rows.push_str(&format!(
            "<tr><td><a href=\"{folder}/report.html\">{offered:.0}</a> {kind}</td><td>{achieved:.0}</td><td>{p50:.2}</td><td>{p99:.2}</td><td>{max:.2}</td><td>{command:.2}</td><td>{service:.2}</td><td>{slope:.1}</td><td>{drain:.2}</td><td>{verdict}{held}</td></tr>\n",
            folder = html::escape(&point.folder),
            offered = point.offered_per_s,
            achieved = point.achieved_per_s,
            p50 = point.l2c_p50_ms,
            p99 = point.l2c_p99_ms,
            max = point.l2c_max_ms,
            command = point.command_p99_ms,
            service = point.service_p99_ms,
            slope = point.lag_slope_per_s,
            drain = point.drain_s,
            verdict = point.verdict.name(),
            held = if point.held { "" } else { ", did not hold" },
        ));
    }
    let body = format!(
        "<h1>Sweep</h1>\n<p><b>{}</b>{}</p>\n{svg}\n<table><tr><th>offered/s</th><th>achieved/s</th><th>l2c p50 ms</th><th>p99</th><th>max</th><th>response p99</th><th>service p99</th><th>lag slope/s</th><th>drain s</th><th></th></tr>\n{rows}</table>\n",
        html::escape(&sweep.headline()),
        if sweep.interrupted { " (interrupted)" } else { "" }
    );
    write(&folder.join("report.html"), &html::page("Sweep", &body))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan = Plan { from: 500.0, to: 64_000.0, factor: 2.0, precision: 1.05, repeats: 3 };

    fn point(rate: f64, held: bool) -> Point {
        Point {
            offered_per_s: rate,
            achieved_per_s: rate,
            verdict: if held { Verdict::Pass } else { Verdict::SloFailed },
            l2c_p50_ms: 1.0,
            l2c_p99_ms: 2.0,
            l2c_max_ms: 3.0,
            command_p99_ms: 1.0,
            service_p99_ms: 1.0,
            lag_slope_per_s: 0.0,
            drain_s: 0.0,
            held,
            folder: String::new(),
        }
    }

    fn sweep(capacity: f64) -> Sweep {
        search::<()>(PLAN, |rate| Ok(Some(point(rate, rate <= capacity)))).unwrap()
    }

    #[test]
    fn the_knee_is_found_within_its_precision() {
        for capacity in [100.0, 512.0, 3_333.0, 20_000.0, 63_000.0] {
            let knee = sweep(capacity).knee_per_s.unwrap();
            assert!(knee <= capacity && knee >= capacity / 1.06, "{knee} for {capacity}");
        }
        assert_eq!(sweep(100_000.0).knee_per_s, Some(64_000.0));
        assert_eq!(sweep(1.0).knee_per_s, None);
    }

    #[test]
    fn a_rate_that_held_by_luck_is_not_the_knee() {
        let mut times = 0;
        let sweep = search::<()>(PLAN, |rate| {
            times += 1;
            let lucky = times <= 4;
            Ok(Some(point(rate, rate <= 2_000.0 || (rate <= 4_000.0 && lucky))))
        });
        assert!(sweep.unwrap().knee_per_s.unwrap() <= 2_000.0);
    }

    #[test]
    fn a_broken_promise_ends_the_sweep() {
        let sweep =
            search::<()>(PLAN, |rate| Ok(Some(Point { verdict: Verdict::Incorrect, ..point(rate, false) }))).unwrap();
        assert_eq!((sweep.points.len(), sweep.exit_code()), (1, 4));
    }
}
