//! Figures in prose, taken from committed runs.
//!
//! `<!-- figure results/RUN l2c.p99_ms -->12.3<!-- /figure -->` in a Markdown file: the text between
//! the comments is the member `l2c.p99_ms` of `results/RUN/summary.json` (or `sweep.json`,
//! `compare.json`), the path being relative to the file. Numbers over 100 are shown whole, others
//! with one digit, unless a number of digits follows: `l2c.p50_ms 2`.

use std::path::Path;

use super::{ReportError, read, read_json, write};

const OPEN: &str = "<!-- figure ";
const CLOSE: &str = "<!-- /figure -->";

/// Puts the figures of committed runs into `file`; how many of them were not what the runs say.
/// With `check`, the file stays as it is.
///
/// # Errors
/// A file can't be read or written, or names a figure that there is not.
pub fn splice(file: &Path, check: bool) -> Result<usize, ReportError> {
    let text = read(file)?;
    let folder = file.parent().unwrap_or(Path::new(""));
    let broken = |what: String| ReportError::Format { path: file.to_owned(), what };
    let (mut result, mut rest, mut stale) = (String::with_capacity(text.len()), text.as_str(), 0);
    while let Some(at) = rest.find(OPEN) {
        let (before, marked) = rest.split_at(at);
        let end = marked.find("-->").ok_or_else(|| broken("a figure comment has no end".to_owned()))? + 3;
        let (comment, after) = marked.split_at(end);
        let close = after.find(CLOSE).ok_or_else(|| broken(format!("{comment} has no {CLOSE}")))?;
        let figure = figure(folder, comment[OPEN.len()..end - 3].trim())?;
        stale += usize::from(after[..close] != figure);
        result.push_str(before);
        result.push_str(comment);
        result.push_str(&figure);
        result.push_str(CLOSE);
        rest = &after[close + CLOSE.len()..];
    }
    result.push_str(rest);
    if stale > 0 && !check {
        write(file, &result)?;
    }
    Ok(stale)
}

/// `results/RUN l2c.p99_ms 2` as text.
fn figure(folder: &Path, reference: &str) -> Result<String, ReportError> {
    let broken = |what: String| ReportError::Format { path: folder.to_owned(), what };
    let parts: Vec<&str> = reference.split_whitespace().collect();
    let (run, member, digits) = match parts.as_slice() {
        [run, member] => (run, member, None),
        [run, member, digits] => (run, member, digits.parse::<usize>().ok()),
        _ => return Err(broken(format!("{reference:?} is not a run and a figure"))),
    };
    let run = folder.join(run);
    let file = ["summary.json", "sweep.json", "compare.json"].map(|name| run.join(name));
    let file =
        file.iter().find(|path| path.is_file()).ok_or_else(|| broken(format!("there is no run {reference:?}")))?;
    let value: serde_json::Value = read_json(file)?;
    let value = member.split('.').try_fold(&value, |value, name| match name.parse::<usize>() {
        Ok(index) if value.is_array() => value.get(index),
        _ => value.get(name),
    });
    match value {
        Some(serde_json::Value::Number(number)) => {
            let number = number.as_f64().unwrap_or(f64::NAN);
            let digits = digits.unwrap_or(usize::from(number.abs() < 100.0 && number.fract() != 0.0));
            Ok(with_commas(&format!("{number:.digits$}")))
        }
        Some(serde_json::Value::String(text)) => Ok(text.clone()),
        _ => Err(broken(format!("{} has no figure {member}", file.display()))),
    }
}

/// 12345.6 → 12,345.6
fn with_commas(number: &str) -> String {
    let (whole, fraction) = number.split_once('.').map_or((number, None), |(whole, rest)| (whole, Some(rest)));
    let mut text = String::new();
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    if let Some(fraction) = fraction {
        text.push('.');
        text.push_str(fraction);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_spliced_and_drift_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("results/a");
        std::fs::create_dir_all(&run).unwrap();
        std::fs::write(run.join("summary.json"), r#"{"l2c":{"p99_ms":12.34},"achieved_per_s":12345.6}"#).unwrap();
        let file = folder.path().join("README.md");
        let text = "p99 <!-- figure results/a l2c.p99_ms -->9<!-- /figure --> ms at <!-- figure results/a achieved_per_s --><!-- /figure -->/s.";
        std::fs::write(&file, text).unwrap();
        assert_eq!(splice(&file, true).unwrap(), 2);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text, "checking changes nothing");
        assert_eq!(splice(&file, false).unwrap(), 2);
        assert_eq!(splice(&file, true).unwrap(), 0);
        let spliced = std::fs::read_to_string(&file).unwrap();
        assert!(spliced.contains("-->12.3<!-- /figure --> ms at ") && spliced.contains("-->12,346<!--"), "{spliced}");
        std::fs::write(&file, "<!-- figure results/b x --><!-- /figure -->").unwrap();
        assert!(splice(&file, true).is_err());
    }
}
