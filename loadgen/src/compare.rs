//! Two sets of runs side by side: is B slower than A, or is that noise?
//!
//! Each side needs at least five runs, done in turns (A B B A …), because a machine drifts. The
//! interval of a ratio comes from the bootstrap over whole runs (percentile method, 10,000
//! resamples): the values within a run depend on each other. "Regressed" and "improved" are said
//! only where the interval excludes 1 and the effect is 5 % or more.

use std::path::{Path, PathBuf};

use crate::random::Random;
use crate::report::{ReportError, html, read_json, write};
use crate::summary::{Summary, Verdict};

/// Runs that each side must have.
pub const RUNS_MIN: usize = 5;
const RESAMPLES: usize = 10_000;
const EFFECT_MIN: f64 = 0.05;

/// One run of a side.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct RunFigures {
    /// Its folder.
    pub folder: String,
    /// When it was started; orders the runs of both sides.
    pub started: String,
    /// Latency to consistency, median, ms.
    pub l2c_p50_ms: f64,
    /// Its 99th percentile.
    pub l2c_p99_ms: f64,
    /// Achieved commands per second.
    pub achieved_per_s: f64,
}

/// What became of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finding {
    /// Worse, and not by chance.
    Regressed,
    /// Better, and not by chance.
    Improved,
    /// No difference that these runs can show.
    Same,
}

/// A ratio B / A with its 95 % interval.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Ratio {
    /// What of.
    pub figure: String,
    /// Median of A's runs.
    pub a: f64,
    /// Median of B's runs.
    pub b: f64,
    /// B / A.
    pub ratio: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// What that means.
    pub finding: Finding,
}

/// `compare.json`.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Comparison {
    /// The first side.
    pub a: Vec<RunFigures>,
    /// The second side.
    pub b: Vec<RunFigures>,
    /// The figures.
    pub ratios: Vec<Ratio>,
    /// What should make a reader doubt.
    pub stamps: Vec<String>,
}

impl Comparison {
    /// The outcome in one line.
    #[must_use]
    pub fn headline(&self) -> String {
        let mut text = self
            .ratios
            .iter()
            .map(|ratio| {
                let finding = match ratio.finding {
                    Finding::Regressed => "regressed",
                    Finding::Improved => "improved",
                    Finding::Same => "no difference shown",
                };
                format!("{} ×{:.3} [{:.3}, {:.3}] {finding}", ratio.figure, ratio.ratio, ratio.low, ratio.high)
            })
            .collect::<Vec<_>>()
            .join("; ");
        for stamp in &self.stamps {
            text.push_str("; ");
            text.push_str(stamp);
        }
        text
    }

    /// Something regressed.
    #[must_use]
    pub fn regressed(&self) -> bool {
        self.ratios.iter().any(|ratio| ratio.finding == Finding::Regressed)
    }
}

/// Why two sets can't be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A file is missing or broken.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// Not without `--force`.
    #[error("{0}; --force compares all the same, and says so")]
    Refused(String),
}

/// Reads the runs in the sub-folders of `folder` (or the one run in it).
///
/// # Errors
/// A summary is broken.
pub fn load(folder: &Path) -> Result<Vec<(RunFigures, Summary, serde_json::Value)>, ReportError> {
    let mut folders: Vec<PathBuf> = std::fs::read_dir(folder)
        .map_err(|source| ReportError::Io { path: folder.to_owned(), source })?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .chain(std::iter::once(folder.to_owned()))
        .filter(|path| path.join("summary.json").is_file())
        .collect();
    folders.sort();
    folders
        .into_iter()
        .map(|path| {
            let summary: Summary = read_json(&path.join("summary.json"))?;
            let manifest: serde_json::Value = read_json(&path.join("manifest.json"))?;
            let figures = RunFigures {
                folder: path.display().to_string(),
                started: manifest["started"].as_str().unwrap_or("").to_owned(),
                l2c_p50_ms: summary.l2c.map_or(f64::NAN, |l2c| l2c.p50_ms),
                l2c_p99_ms: summary.l2c.map_or(f64::NAN, |l2c| l2c.p99_ms),
                achieved_per_s: summary.achieved_per_s,
            };
            Ok((figures, summary, manifest))
        })
        .collect()
}

/// Compares the runs in two folders.
///
/// # Errors
/// Files are missing; or, unless `force`, there are too few runs, runs on different machines, runs
/// that did not come to their end, or runs whose figures mean nothing.
pub fn compare(a: &Path, b: &Path, force: bool) -> Result<Comparison, CompareError> {
    let (side_a, side_b) = (load(a)?, load(b)?);
    let mut stamps = Vec::new();
    let mut doubt = |text: String| {
        if force {
            stamps.push(text);
            Ok(())
        } else {
            Err(CompareError::Refused(text))
        }
    };
    for (name, side) in [("A", &side_a), ("B", &side_b)] {
        if side.len() < RUNS_MIN {
            doubt(format!("{name} has {} runs, and it takes {RUNS_MIN}", side.len()))?;
        }
        if let Some((figures, summary, _)) =
            side.iter().find(|(_, summary, _)| matches!(summary.verdict, Verdict::Invalid | Verdict::Incorrect))
        {
            doubt(format!("{} is {}", figures.folder, summary.verdict.name()))?;
        }
        if let Some((figures, ..)) = side.iter().find(|(_, summary, _)| summary.interrupted) {
            doubt(format!("{} was interrupted", figures.folder))?;
        }
    }
    let machines: Vec<_> = side_a.iter().chain(&side_b).map(|(_, _, manifest)| &manifest["machine"]).collect();
    if machines.windows(2).any(|pair| pair[0] != pair[1]) {
        doubt("the runs are from different machines".to_owned())?;
    }
    let loads: Vec<_> = side_a.iter().chain(&side_b).map(|(_, _, manifest)| &manifest["load"]).collect();
    if loads.windows(2).any(|pair| pair[0] != pair[1]) {
        doubt("the runs had different loads".to_owned())?;
    }
    let figures = |side: &[(RunFigures, Summary, serde_json::Value)]| {
        side.iter().map(|(figures, _, _)| figures.clone()).collect::<Vec<_>>()
    };
    let (a, b) = (figures(&side_a), figures(&side_b));
    if !interleaved(&a, &b) {
        doubt("the runs of the two sides were not done in turns".to_owned())?;
    }
    let figure = |name: &str, of: fn(&RunFigures) -> f64, less_is_better| {
        ratio(name, &a.iter().map(of).collect::<Vec<_>>(), &b.iter().map(of).collect::<Vec<_>>(), less_is_better)
    };
    let ratios = vec![
        figure("l2c p50", |run| run.l2c_p50_ms, true),
        figure("l2c p99", |run| run.l2c_p99_ms, true),
        figure("achieved rate", |run| run.achieved_per_s, false),
    ];
    Ok(Comparison { a, b, ratios, stamps })
}

/// True when neither side has three runs in a row that the other has none between.
fn interleaved(a: &[RunFigures], b: &[RunFigures]) -> bool {
    let mut order: Vec<(&str, bool)> = a
        .iter()
        .map(|run| (run.started.as_str(), false))
        .chain(b.iter().map(|run| (run.started.as_str(), true)))
        .collect();
    order.sort_unstable();
    order.windows(3).all(|three| !(three[0].1 == three[1].1 && three[1].1 == three[2].1))
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The ratio of the medians with its bootstrap interval.
#[must_use]
pub fn ratio(name: &str, a: &[f64], b: &[f64], less_is_better: bool) -> Ratio {
    let mut random = Random::new(0x0bad_5eed);
    let mut resample = |values: &[f64]| -> f64 {
        let drawn: Vec<f64> = values.iter().map(|_| values[random.below(values.len())]).collect();
        median(&drawn)
    };
    let mut ratios: Vec<f64> = (0..RESAMPLES).map(|_| resample(b) / resample(a)).collect();
    ratios.sort_by(f64::total_cmp);
    let at = |quantile: f64| ratios[((RESAMPLES - 1) as f64 * quantile).round() as usize];
    let (low, high, ratio) = (at(0.025), at(0.975), median(b) / median(a));
    let more = low > 1.0 && ratio >= 1.0 + EFFECT_MIN;
    let less = high < 1.0 && ratio <= 1.0 - EFFECT_MIN;
    let finding = match (more, less) {
        (true, _) if less_is_better => Finding::Regressed,
        (_, true) if less_is_better => Finding::Improved,
        (true, _) => Finding::Improved,
        (_, true) => Finding::Regressed,
        _ => Finding::Same,
    };
    Ratio { figure: name.to_owned(), a: median(a), b: median(b), ratio, low, high, finding }
}

/// Whose turn it is in A B B A A B B A …: true for B.
#[must_use]
pub fn turn_of_b(run: usize) -> bool {
    matches!(run % 4, 1 | 2)
}

/// Writes `compare.json` and the page.
///
/// # Errors
/// A file can't be written.
pub fn render(folder: &Path, comparison: &Comparison) -> Result<(), ReportError> {
    write(&folder.join("compare.json"), &serde_json::to_string_pretty(comparison).unwrap_or_default())?;
    let mut body = String::from("<h1>Comparison</h1>\n");
    for stamp in &comparison.stamps {
        body.push_str(&format!("<p><b>Forced: {}</b></p>\n", html::escape(stamp)));
    }
    body.push_str(
        "<table><tr><th></th><th>A, median</th><th>B, median</th><th>B / A</th><th>95 % interval</th><th></th></tr>\n",
    );
    for ratio in &comparison.ratios {
        body.push_str(&format!(
            "<tr><td>{}</td><td>{:.3}</td><td>{:.3}</td><td>{:.3}</td><td>{:.3} to {:.3}</td><td>{:?}</td></tr>\n",
            ratio.figure, ratio.a, ratio.b, ratio.ratio, ratio.low, ratio.high, ratio.finding
        ));
    }
    body.push_str("</table>\n<h2>Runs</h2>\n<table><tr><th></th><th>started</th><th>l2c p50 ms</th><th>p99 ms</th><th>achieved/s</th></tr>\n");
    for (name, runs) in [("A", &comparison.a), ("B", &comparison.b)] {
        for run in runs {
            body.push_str(&format!(
                "<tr><td>{name}</td><td>{}</td><td>{:.3}</td><td>{:.3}</td><td>{:.1}</td></tr>\n",
                html::escape(&run.started),
                run.l2c_p50_ms,
                run.l2c_p99_ms,
                run.achieved_per_s
            ));
        }
    }
    body.push_str("</table>\n");
    write(&folder.join("report.html"), &html::page("Comparison", &body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_no_regression_and_a_real_one_is() {
        let a = [10.0, 10.4, 9.8, 10.1, 10.3, 9.9];
        let noise = [10.2, 9.7, 10.5, 10.0, 10.1, 10.2];
        let slower = [12.1, 11.8, 12.4, 12.0, 11.9, 12.2];
        assert_eq!(ratio("x", &a, &noise, true).finding, Finding::Same);
        assert_eq!(ratio("x", &a, &slower, true).finding, Finding::Regressed);
        assert_eq!(ratio("x", &slower, &a, true).finding, Finding::Improved);
        assert_eq!(ratio("rate", &a, &slower, false).finding, Finding::Improved);
        let small = a.map(|value| value * 1.03);
        assert_eq!(ratio("x", &a, &small, true).finding, Finding::Same, "under 5 % is not worth a word");
    }

    #[test]
    fn a_run_that_was_interrupted_is_not_compared_unless_forced() {
        let folder = tempfile::tempdir().unwrap();
        let side = |b| folder.path().join(if b { "b" } else { "a" });
        for run in 0..2 * RUNS_MIN {
            let path = side(turn_of_b(run)).join(run.to_string());
            std::fs::create_dir_all(&path).unwrap();
            let summary = Summary { interrupted: run == 6, ..Summary::default() };
            std::fs::write(path.join("summary.json"), serde_json::to_vec(&summary).unwrap()).unwrap();
            std::fs::write(path.join("manifest.json"), format!(r#"{{"started":"{run}"}}"#)).unwrap();
        }
        let error = compare(&side(false), &side(true), false).unwrap_err().to_string();
        assert!(error.contains("b/6 was interrupted"), "{error}");
        let stamps = compare(&side(false), &side(true), true).unwrap().stamps;
        assert!(stamps.len() == 1 && stamps[0].ends_with("b/6 was interrupted"), "{stamps:?}");
    }

    #[test]
    fn turns_go_abba() {
        let turns: String = (0..8).map(|run| if turn_of_b(run) { 'B' } else { 'A' }).collect();
        assert_eq!(turns, "ABBAABBA");
    }
}
