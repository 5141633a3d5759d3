//! What was measured: figures with every single value, and ratios whose median is that of the rounds' ratios.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};

use crate::usage::Usage;

/// One measurement of one subject in one round.
#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    /// Which part.
    pub part: &'static str,
    /// Which subject.
    pub subject: String,
    /// Which round, from 1.
    pub round: usize,
    /// Whatever the tools said.
    pub detail: Value,
    /// How busy the machine was, process by process.
    pub usage: Usage,
}

/// One figure of one subject.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// Which part.
    pub part: &'static str,
    /// Which subject.
    pub subject: String,
    /// What it is.
    pub what: String,
    /// Its unit.
    pub unit: &'static str,
    /// One value a round; NaN where it was not measured, or is not valid: left out of the median.
    pub values: Vec<f64>,
}

/// A ratio of two subjects, round by round.
#[derive(Debug, Clone, Serialize)]
pub struct Ratio {
    /// Which part.
    pub part: &'static str,
    /// What over what.
    pub what: String,
    /// What should be reached, as in words like `>= 2`.
    pub target: String,
    /// One value a round; NaN where one of the two is missing.
    pub values: Vec<f64>,
    /// Whether the median reaches the target; none without a target or a median, and where the part is withheld.
    pub reached: Option<bool>,
}

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub struct Table {
    figures: Vec<Figure>,
    ratios: Vec<Ratio>,
    samples: Vec<Sample>,
    notes: Vec<String>,
    remarks: Vec<Remark>,
    withheld: Vec<&'static str>,
    failed: Vec<Failed>,
    /// Where it is written to after every measurement, so that a run that is cut off loses nothing.
    #[serde(skip)]
    folder: Option<PathBuf>,
}

/// A part that did not come to its end: what stands of it in the table may be less than all rounds.
#[derive(Debug, Serialize)]
struct Failed {
    part: &'static str,
    why: String,
}

/// What is wrong with some rounds of one subject.
#[derive(Debug, Serialize)]
struct Remark {
    part: &'static str,
    subject: String,
    text: String,
}

const NOT_MEASURED: &str = "not measured";

/// A bound on a median.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// For orientation.
    None,
    /// This or more.
    Least(f64),
    /// This or less.
    Most(f64),
}

impl Target {
    fn text(self) -> String {
        match self {
            Target::None => String::new(),
            Target::Least(bound) => format!(">= {}", number(bound)),
            Target::Most(bound) => format!("<= {}", number(bound)),
        }
    }

    fn reached(self, value: f64) -> Option<bool> {
        match self {
            Target::None => None,
            Target::Least(bound) => Some(value >= bound),
            Target::Most(bound) => Some(value <= bound),
        }
    }
}

impl Table {
    /// An empty one that writes itself to `folder` as it grows.
    pub fn in_folder(folder: &Path) -> Self {
        Self { folder: Some(folder.to_owned()), ..Self::default() }
    }

    /// Says, before everything else, that a part failed.
    pub fn fail(&mut self, part: &'static str, why: impl Into<String>) {
        self.failed.push(Failed { part, why: one_line(&why.into()) });
    }

    /// Adds a round of a subject in which nothing was measured, and says why in its rows.
    pub fn miss(
        &mut self,
        part: &'static str,
        subject: &str,
        round: usize,
        why: &str,
        figures: &[(&str, &'static str)],
    ) {
        self.remark(part, subject, format!("round {round} failed: {why}"));
        let figures: Vec<_> = figures.iter().map(|(what, unit)| (*what, *unit, f64::NAN)).collect();
        let detail = json!({ "failed": why });
        self.add(Sample { part, subject: subject.to_owned(), round, detail, usage: Usage::default() }, &figures);
    }

    /// Adds a measurement, and the figures that were read out of it.
    pub fn add(&mut self, sample: Sample, figures: &[(&str, &'static str, f64)]) {
        for (what, unit, value) in figures {
            let subject = &sample.subject;
            let known = self
                .figures
                .iter_mut()
                .find(|figure| figure.part == sample.part && figure.subject == *subject && figure.what == *what);
            match known {
                Some(figure) => figure.values.push(*value),
                None => self.figures.push(Figure {
                    part: sample.part,
                    subject: subject.clone(),
                    what: (*what).to_owned(),
                    unit,
                    values: vec![*value],
                }),
            }
        }
        let shown: Vec<_> =
            figures.iter().map(|(what, unit, value)| format!("{what} {} {unit}", number(*value))).collect();
        crate::tools::say(&format!(
            "  {} {}: {} [{}]",
            sample.round,
            sample.subject,
            shown.join(", "),
            sample.usage.brief()
        ));
        self.samples.push(sample);
        if let Some(folder) = &self.folder
            && let Err(error) = self.write(folder)
        {
            crate::tools::say(&format!("  {} can't be written: {error:#}", folder.display()));
        }
    }

    /// The values of a figure, one a round, NaN where a round has none; empty when it was not measured at all.
    pub fn values(&self, part: &str, subject: &str, what: &str) -> Vec<f64> {
        let figure = self.figures.iter().find(|f| f.part == part && f.subject == subject && f.what == what);
        figure.map(|figure| figure.values.clone()).unwrap_or_default()
    }

    /// Says in the rows of a subject what is wrong with a round of it.
    pub fn remark(&mut self, part: &'static str, subject: &str, text: impl Into<String>) {
        let text = one_line(&text.into());
        self.notes.push(format!("{part}, {subject}: {text}"));
        self.remarks.push(Remark { part, subject: subject.to_owned(), text });
    }

    /// No target of the part counts as reached from now on, whatever its median.
    pub fn withhold(&mut self, part: &'static str) {
        self.withheld.push(part);
    }

    /// Sets one subject's figure over another's, round by round; a round without one of them has no value.
    pub fn ratio(&mut self, part: &'static str, what: &str, over: (&str, &str), under: (&str, &str), target: Target) {
        let (a, b) = (self.values(part, over.0, over.1), self.values(part, under.0, under.1));
        let at = |values: &[f64], i: usize| values.get(i).copied().unwrap_or(f64::NAN);
        let ratio = |(a, b): (f64, f64)| if b > 0.0 { a / b } else { f64::NAN };
        let values = (0..a.len().max(b.len())).map(|i| ratio((at(&a, i), at(&b, i)))).collect();
        self.judge(part, what, values, target);
    }

    /// Sets a figure against a bound.
    pub fn bound(&mut self, part: &'static str, subject: &str, what: &str, target: Target) {
        let values = self.values(part, subject, what);
        self.judge(part, &format!("{subject}: {what}"), values, target);
    }

    /// Adds values that are set against a bound; none at all is a row, too.
    pub fn judge(&mut self, part: &'static str, what: &str, values: Vec<f64>, target: Target) {
        let judged = median(&values).filter(|_| !self.withheld.contains(&part));
        let reached = judged.and_then(|median| target.reached(median));
        self.ratios.push(Ratio { part, what: what.to_owned(), target: target.text(), values, reached });
    }

    /// Adds a sentence to the page.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// The page.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for Failed { part, why } in &self.failed {
            let _ = writeln!(text, "**`{part}` failed**, and may have fewer rounds than the others, or none: {why}\n");
        }
        text.push_str("| part | comparison | target | median | reached | every round |\n|---|---|---|---:|---|---|\n");
        for ratio in &self.ratios {
            let reached = match ratio.reached {
                Some(true) => "yes",
                Some(false) => "no",
                None if ratio.target.is_empty() => "",
                None if median(&ratio.values).is_none() => NOT_MEASURED,
                None => "not judged",
            };
            let (part, what, target, middle, all) =
                (ratio.part, &ratio.what, &ratio.target, shown_median(&ratio.values), list(&ratio.values));
            let _ = writeln!(text, "| {part} | {what} | {target} | {middle} | {reached} | {all} |");
        }
        text.push_str("\n| part | subject | figure | median | unit | every round |\n|---|---|---|---:|---|---|\n");
        for figure in &self.figures {
            let Figure { part, subject, what, unit, values } = figure;
            let (middle, mut all) = (shown_median(values), list(values));
            for remark in self.remarks.iter().filter(|remark| remark.part == *part && remark.subject == *subject) {
                let _ = write!(all, "; {}", remark.text);
            }
            let _ = writeln!(text, "| {part} | {subject} | {what} | {middle} | {unit} | {all} |");
        }
        for note in &self.notes {
            let _ = write!(text, "\n- {note}");
        }
        text.push('\n');
        text
    }

    /// Writes `table.md` and `figures.json`.
    ///
    /// # Errors
    /// The folder can't be written.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::write(folder.join("table.md"), self.markdown())?;
        let with_medians = |values: &[f64]| json!({ "median": median(values), "values": values });
        let mut value = serde_json::to_value(self)?;
        for (name, list) in [
            ("figures", self.figures.iter().map(|f| with_medians(&f.values)).collect::<Vec<_>>()),
            ("ratios", self.ratios.iter().map(|r| with_medians(&r.values)).collect()),
        ] {
            for (i, medians) in list.into_iter().enumerate() {
                value[name][i]["median"] = medians["median"].clone();
            }
        }
        std::fs::write(folder.join("figures.json"), serde_json::to_vec_pretty(&value)?)?;
        Ok(())
    }
}

/// A row of a table has one line: the log of a program that failed has several.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "/")
}

/// The middle value, or the mean of the two in the middle, of those that are there; `None` where none is.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

fn shown_median(values: &[f64]) -> String {
    median(values).map_or_else(|| NOT_MEASURED.to_owned(), number)
}

fn list(values: &[f64]) -> String {
    let mut text = values.iter().map(|value| number(*value)).collect::<Vec<_>>().join(" ");
    let missing = values.iter().filter(|value| !value.is_finite()).count();
    if missing > 0 {
        let _ = write!(text, " ({missing} of {} left out)", values.len());
    }
    text
}

/// Three significant digits or whole numbers: `0`, `0.812`, `12.3`, `18042`.
fn number(value: f64) -> String {
    match value.abs() {
        size if !size.is_finite() => "-".to_owned(),
        0.0 => "0".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(values: &[(&str, f64)]) -> Table {
        let mut table = Table::default();
        for (i, (subject, value)) in values.iter().enumerate() {
            let sample = Sample {
                part: "part",
                subject: (*subject).to_owned(),
                round: i,
                detail: Value::Null,
                usage: Usage::default(),
            };
            table.add(sample, &[("rate", "1/s", *value)]);
        }
        table
    }

    #[test]
    fn what_is_missing_is_not_measured_and_reaches_no_target() {
        for values in
            [&[("a", 8.0), ("b", f64::NAN)][..], &[("a", 8.0), ("b", 0.0)], &[("a", f64::NAN), ("b", 2.0)], &[]]
        {
            for target in [Target::Least(0.0), Target::Most(9.0)] {
                let mut table = table(values);
                table.ratio("part", "a / b", ("a", "rate"), ("b", "rate"), target);
                assert_eq!(table.ratios[0].reached, None);
                let row = format!("| part | a / b | {} | not measured | not measured |", target.text());
                assert!(table.markdown().contains(&row), "{}", table.markdown());
            }
        }
    }

    #[test]
    fn rounds_that_are_not_valid_are_left_out_counted_and_keep_their_place() {
        let mut table = table(&[("a", 8.0), ("b", 4.0), ("a", f64::NAN), ("b", 1.0), ("a", 9.0), ("b", 3.0)]);
        table.remark("part", "a", "round 2 is INVALID");
        table.ratio("part", "a / b", ("a", "rate"), ("b", "rate"), Target::Least(2.0));
        let text = table.markdown();
        assert!(text.contains("| part | a / b | >= 2.00 | 2.50 | yes | 2.00 - 3.00 (1 of 3 left out) |"), "{text}");
        assert!(text.contains("8.00 - 9.00 (1 of 3 left out); round 2 is INVALID |"), "{text}");
    }

    #[test]
    fn a_part_that_failed_is_named_first_and_what_was_measured_of_it_is_on_disk() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut table = Table::in_folder(folder.path());
        table.miss("part", "a", 1, "it did\nnot | start", &[("rate", "1/s")]);
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect("written");
        let row = "| part | a | rate | not measured | 1/s | - (1 of 1 left out); round 1 failed: it did not / start |";
        assert!(read("table.md").contains(row), "{}", read("table.md"));
        assert!(read("figures.json").contains("it did not / start"));
        table.fail("part", "it did not start");
        assert!(table.markdown().starts_with("**`part` failed**"), "{}", table.markdown());
    }

    #[test]
    fn a_withheld_part_reaches_nothing() {
        let mut table = table(&[("a", 8.0)]);
        table.withhold("part");
        table.bound("part", "a", "rate", Target::Least(2.0));
        assert!(table.markdown().contains("| 8.00 | not judged |"), "{}", table.markdown());
    }
}
