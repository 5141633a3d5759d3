//! The highest rate that holds: geometric steps up, bisection, repeats.

use std::path::Path;

use crate::report::plots::{self, SweepPoint};
use crate::report::{ReportError, html, write};
use crate::summary::{Summary, Verdict};

/// Runs of one rate after which it did not hold, where each was [`Verdict::Invalid`]: such a run says nothing of the rate.
const TRIES: usize = 3;

/// The exit code of what could not be done.
const NOT_DONE: u8 = 1;

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
    /// It passed, with a flat lag, to its end.
    pub held: bool,
    /// Why it did not hold; empty where it did.
    #[serde(default)]
    pub why: Vec<String>,
    /// It was ended early: what it shows of its rate is not the whole.
    #[serde(default)]
    pub interrupted: bool,
    /// Folder of the run, beside the sweep's files.
    pub folder: String,
}

impl Point {
    /// What a run was, for a sweep.
    #[must_use]
    pub fn of(summary: &Summary, folder: &str) -> Self {
        let l2c = |f: fn(&crate::summary::Latency) -> f64| summary.l2c.as_ref().map_or(0.0, f);
        let mut why = summary.reasons.clone();
        if summary.interrupted {
            why.insert(0, format!("interrupted {:.1} s into the measured phase", summary.measured_s));
        }
        if !summary.flat_lag {
            why.push(format!(
                "the lag was not flat: outstanding writes grew by {:.1}/s, and it took {:.2} s to drain",
                summary.lag_slope_per_s, summary.drain_s
            ));
        }
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
            held: summary.verdict == Verdict::Pass && why.is_empty(),
            why,
            interrupted: summary.interrupted,
            folder: folder.to_owned(),
        }
    }

    /// The run in one line: rates, latency, verdict, and why it did not hold.
    #[must_use]
    pub fn line(&self) -> String {
        let held = if self.held { ", held".to_owned() } else { format!(", did not hold: {}", self.why.join("; ")) };
        format!(
            "{:>8.0}/s offered, {:>8.0}/s achieved, l2c p50 {:.2} p99 {:.2} ms: {}{held}",
            self.offered_per_s,
            self.achieved_per_s,
            self.l2c_p50_ms,
            self.l2c_p99_ms,
            self.verdict.name(),
        )
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
    /// In which step, at which rate.
    #[serde(default)]
    pub interrupted_in: Option<String>,
}

impl Sweep {
    /// The outcome in one line.
    #[must_use]
    pub fn headline(&self) -> String {
        if let Some(step) = &self.interrupted_in {
            return format!("interrupted {step}, the knee was not found; {}", self.so_far());
        }
        let slo = self.slo.join(", ");
        let Some(knee) = self.knee_per_s else {
            let lowest = self.points.iter().min_by(|a, b| a.offered_per_s.total_cmp(&b.offered_per_s));
            let why = lowest.map_or_else(String::new, |point| {
                format!(
                    "; the lowest, {:.0} commands/s, was {}: {}",
                    point.offered_per_s,
                    point.verdict.name(),
                    point.why.join("; ")
                )
            });
            return format!("no rate held {slo} with a flat lag{why}");
        };
        let mut p99: Vec<f64> = self.repeats.iter().filter(|p| p.held).map(|p| p.l2c_p99_ms).collect();
        p99.sort_by(f64::total_cmp);
        let median = p99.get(p99.len() / 2).copied().unwrap_or(0.0);
        format!(
            "{knee:.0} commands/s held {slo} with a flat lag, l2c p99 {median:.1} ms ({} of {} repeats)",
            p99.len(),
            self.repeats.len()
        )
    }

    /// Which rates were tried to the end and what came of them.
    fn so_far(&self) -> String {
        let tried = |held: bool| -> Vec<String> {
            let points = self.points.iter().filter(|point| !point.interrupted && point.held == held);
            let verdict = |point: &Point| if held { String::new() } else { format!(" ({})", point.verdict.name()) };
            points.map(|point| format!("{:.0}{}", point.offered_per_s, verdict(point))).collect()
        };
        match (tried(true), tried(false)) {
            (held, failed) if held.is_empty() && failed.is_empty() => "no rate was tried to its end".to_owned(),
            (held, failed) if failed.is_empty() => format!("commands/s that held: {}", held.join(", ")),
            (held, failed) if held.is_empty() => format!("commands/s that did not hold: {}", failed.join(", ")),
            (held, failed) => {
                format!("commands/s that held: {}; that did not: {}", held.join(", "), failed.join(", "))
            }
        }
    }

    /// A broken promise in any run counts. Else 0 where a rate held; where none did, the code of the mildest verdict
    /// that was reached, for a sweep looks for objectives that fail. A sweep that was interrupted answers by the runs that
    /// came to their end, and with the code of what could not be done ([`NOT_DONE`]) where there is none.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let all = || self.points.iter().chain(&self.repeats);
        if all().any(|point| point.verdict == Verdict::Incorrect) {
            return Verdict::Incorrect.exit_code();
        }
        if self.knee_per_s.is_some() || (self.interrupted && all().any(|point| point.held)) {
            return 0;
        }
        let whole = all().filter(|point| !point.interrupted);
        // Passed, but with a lag that was not flat: an objective of every sweep.
        let mildest = whole.map(|point| point.verdict.max(Verdict::SloFailed)).min();
        mildest.map_or(NOT_DONE, Verdict::exit_code)
    }
}

/// Looks for the knee with `measure`, which does one run at a rate; it returns `None` when the
/// sweep is to end before the run, and a point that was [interrupted](Point::interrupted) when it was to end in it.
///
/// # Errors
/// What `measure` fails with.
pub fn search<E>(plan: Plan, mut measure: impl FnMut(f64) -> Result<Option<Point>, E>) -> Result<Sweep, E> {
    let mut sweep = Sweep::default();
    let mut run = |sweep: &mut Sweep, rate: f64, step: &str| -> Result<Option<bool>, E> {
        let mut tries = 0;
        loop {
            let point = measure(rate)?;
            if point.as_ref().is_none_or(|point| point.interrupted) {
                let before = if point.is_some() { "" } else { "before the run " };
                sweep.interrupted = true;
                sweep.interrupted_in = Some(format!("{before}{step}, at {rate:.0} commands/s"));
                sweep.points.extend(point);
                return Ok(None);
            }
            let Some(point) = point else { return Ok(None) };
            let (held, verdict) = (point.held, point.verdict);
            sweep.points.push(point);
            tries += 1;
            if verdict != Verdict::Invalid || tries == TRIES {
                return Ok((verdict != Verdict::Incorrect).then_some(held));
            }
        }
    };
    let (mut good, mut bad) = (0.0, f64::INFINITY);
    let mut rate = plan.from;
    while bad.is_infinite() && good < plan.to {
        match run(&mut sweep, rate, "on the way up")? {
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
        match run(&mut sweep, middle, &format!("between {good:.0} and {bad:.0}"))? {
            None => return Ok(sweep),
            Some(true) => good = middle,
            Some(false) => bad = middle,
        }
    }
    while good >= floor {
        let (mut runs, mut held) = (Vec::new(), 0);
        for repeat in 1..=plan.repeats {
            match run(&mut sweep, good, &format!("in repeat {repeat} of {}", plan.repeats))? {
                None => return Ok(sweep),
                Some(result) => held += usize::from(result),
            }
            runs.push(sweep.points.len() - 1);
        }
        if held * 2 > plan.repeats || plan.repeats == 0 {
            sweep.knee_per_s = Some(good);
            sweep.repeats = runs.iter().rev().map(|place| sweep.points.remove(*place)).collect();
            sweep.repeats.reverse();
            return Ok(sweep);
        }
        good = round_rate(good / plan.precision);
    }
    Ok(sweep)
}

/// Three digits say enough of a rate.
fn round_rate(rate: f64) -> f64 {
    let digits = 2.0 - rate.log10().floor();
    // Divided, because 681 * 0.1 is 68.10000000000001.
    if digits > 0.0 {
        let unit = 10f64.powf(digits);
        (rate * unit).round() / unit
    } else {
        let unit = 10f64.powf(-digits);
        (rate / unit).round() * unit
    }
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
            held = if point.held { ", held".to_owned() } else { format!(", did not hold: {}", html::escape(&point.why.join("; "))) },
        ));
    }
    let body = format!(
        "<h1>Sweep</h1>\n<p><b>{}</b></p>\n{svg}\n<table><tr><th>offered/s</th><th>achieved/s</th><th>l2c p50 ms</th><th>p99</th><th>max</th><th>response p99</th><th>service p99</th><th>lag slope/s</th><th>drain s</th><th></th></tr>\n{rows}</table>\n",
        html::escape(&sweep.headline())
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
            why: if held { Vec::new() } else { vec!["too slow".to_owned()] },
            interrupted: false,
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
    fn a_rate_is_tried_again_while_its_runs_are_invalid_but_not_for_ever() {
        let mut runs = 0;
        let sweep = search::<()>(PLAN, |rate| {
            runs += 1;
            // Every other run the generator was late, and above 10,000/s in all of them.
            let invalid = runs % 2 == 1 || rate > 10_000.0;
            let verdict = if invalid { Verdict::Invalid } else { point(rate, rate <= 3_000.0).verdict };
            Ok(Some(Point { verdict, ..point(rate, !invalid && rate <= 3_000.0) }))
        })
        .unwrap();
        let knee = sweep.knee_per_s.unwrap();
        assert!((2_800.0..=3_000.0).contains(&knee), "{knee}");
        assert_eq!(sweep.repeats.iter().map(|point| point.held).collect::<Vec<_>>(), [true; 3]);
        let invalid_at_the_knee = sweep.points.iter().filter(|p| p.offered_per_s == knee && !p.held).count();
        assert!(invalid_at_the_knee >= 3, "each stays on record");
        let mut runs = 0;
        let never = search::<()>(PLAN, |rate| {
            runs += 1;
            Ok(Some(Point { verdict: Verdict::Invalid, ..point(rate, false) }))
        });
        assert_eq!(never.unwrap().knee_per_s, None);
        assert_eq!(runs % TRIES, 0);
    }

    #[test]
    fn a_broken_promise_ends_the_sweep() {
        let sweep =
            search::<()>(PLAN, |rate| Ok(Some(Point { verdict: Verdict::Incorrect, ..point(rate, false) }))).unwrap();
        assert_eq!((sweep.points.len(), sweep.exit_code()), (1, 4));
    }

    /// Ends in the run that follows `runs` whole ones; `midway`, else before it.
    fn ended_after(runs: usize, capacity: f64, midway: bool) -> Sweep {
        let mut done = 0;
        let mut sweep = search::<()>(PLAN, |rate| {
            done += 1;
            let interrupted = done > runs;
            Ok((!interrupted || midway).then(|| Point { interrupted, ..point(rate, rate <= capacity && !interrupted) }))
        })
        .unwrap();
        sweep.slo = vec!["l2c:p99<50ms".to_owned()];
        sweep
    }

    #[test]
    fn an_interrupted_sweep_says_where_and_what_the_runs_before_came_to() {
        let sweep = ended_after(3, 1_500.0, true);
        assert_eq!(
            sweep.headline(),
            "interrupted between 1000 and 2000, at 1410 commands/s, the knee was not found; \
             commands/s that held: 500, 1000; that did not: 2000 (SLO_FAILED)"
        );
        assert_eq!((sweep.points.len(), sweep.exit_code()), (4, 0), "a rate held");
        assert_eq!(ended_after(3, 1_500.0, false).points.len(), 3);
        let nothing_held = ended_after(2, 1.0, true);
        assert_eq!(nothing_held.exit_code(), 99);
        for midway in [true, false] {
            let at_once = ended_after(0, 1_500.0, midway);
            assert!(at_once.headline().ends_with("no rate was tried to its end"), "{}", at_once.headline());
            assert_eq!(at_once.exit_code(), 1, "nothing failed, and nothing is known");
        }
    }

    #[test]
    fn an_interrupted_run_that_broke_a_promise_counts() {
        let mut sweep = ended_after(2, 1_500.0, true);
        sweep.points[2].verdict = Verdict::Incorrect;
        assert_eq!(sweep.exit_code(), 4);
    }

    #[test]
    fn a_sweep_in_which_only_the_generator_failed_is_invalid() {
        let invalid = |rate| Ok::<_, ()>(Some(Point { verdict: Verdict::Invalid, ..point(rate, false) }));
        let sweep = search(PLAN, invalid).unwrap();
        assert_eq!(sweep.exit_code(), 3);
        assert!(sweep.headline().contains("was INVALID: too slow"), "{}", sweep.headline());
    }
}
