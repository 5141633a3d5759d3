//! `results/README.md`: the committed runs, one line each.

use std::fmt::Write as _;
use std::path::Path;

use super::{ReportError, html, read_json, write};
use crate::summary::Summary;

/// Writes `README.md` in `folder` from the runs, sweeps and comparisons in its sub-folders; how
/// many there were.
///
/// # Errors
/// A summary is broken, or the page can't be written.
pub fn render(folder: &Path) -> Result<usize, ReportError> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .map_err(|source| ReportError::Io { path: folder.to_owned(), source })?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.is_dir())
        .collect();
    names.sort();
    let mut text = String::from(
        "# Results\n\nOne folder per run, made by `loadgen`; this page is made by `loadgen report results`.\n\
         Those named `-stages` are made by `make bench` and hold a summary and a manifest.\n\
         Every other holds its exact command, machine and servers (`manifest.json`), the figures (`summary.json`),\n\
         the raw histograms (`run.hlog`, `total.hlog`, readable by HdrHistogram tools), `timeline.csv`, and `report.html`.\n\
         The clock of a latency to consistency (l2c) starts when the command was *meant* to be sent and stops when\n\
         the view server's watch shows its version or a later one.\n\n\
         The machines are shared virtual machines with 2 cores that carry everything: servers, both planes and the\n\
         generator. Take ratios, not absolutes; the authors measure their own product.\n\n",
    );
    let mut table = String::new();
    let mut count = 0;
    let mut others = String::new();
    for path in names {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.join("sweep.json").is_file() {
            let sweep: crate::sweep::Sweep = read_json(&path.join("sweep.json"))?;
            let _ = writeln!(others, "- [{name}]({name}/report.html): sweep; {}", sweep.headline());
            count += 1;
        } else if path.join("compare.json").is_file() {
            let comparison: crate::compare::Comparison = read_json(&path.join("compare.json"))?;
            let _ = writeln!(others, "- [{name}]({name}/report.html): comparison; {}", comparison.headline());
            count += 1;
        } else if path.join("summary.md").is_file() {
            // Of `make bench`: its summary.json has figures of its own.
            let summary: serde_json::Value = read_json(&path.join("summary.json"))?;
            let headline = summary["headline"].as_str().unwrap_or("no headline");
            let manifest: serde_json::Value = read_json(&path.join("manifest.json"))?;
            let _ = writeln!(others, "- [{name}]({name}/summary.md): {headline}; {}", html::commit(&manifest));
            count += 1;
        } else if path.join("summary.json").is_file() {
            let summary: Summary = read_json(&path.join("summary.json"))?;
            let manifest: serde_json::Value = read_json(&path.join("manifest.json"))?;
            let ms = |latency: Option<f64>| latency.map_or("–".to_owned(), |ms| format!("{ms:.2} ms"));
            let _ = writeln!(
                table,
                "| [{name}]({name}/report.html) | {} | {:.0} | {:.0} | {} | {} | {} | {} | {:.0} s | {} |",
                summary.verdict.name(),
                summary.offered_per_s,
                summary.achieved_per_s,
                ms(summary.l2c.map(|l2c| l2c.p50_ms)),
                ms(summary.l2c.map(|l2c| l2c.p99_ms)),
                ms(summary.l2c.map(|l2c| l2c.max_ms)),
                ms(summary.command.map(|command| command.p99_ms)),
                summary.measured_s,
                html::commit(&manifest)
            );
            count += 1;
        }
    }
    if !table.is_empty() {
        text.push_str(
            "| run | verdict | offered/s | achieved/s | l2c p50 | l2c p99 | l2c max | command p99 | duration | source |\n\
             |---|---|---:|---:|---:|---:|---:|---:|---:|---|\n",
        );
        text.push_str(&table);
        text.push('\n');
    }
    text.push_str(if count == 0 { "No run is committed yet.\n" } else { &others });
    write(&folder.join("README.md"), &text)?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_the_stages_is_listed_by_its_headline() {
        let results = tempfile::tempdir().unwrap();
        let run = results.path().join("2026-01-01-stages");
        std::fs::create_dir(&run).unwrap();
        std::fs::write(run.join("summary.json"), r#"{"kind":"stages","headline":"9 benches","stages":{}}"#).unwrap();
        std::fs::write(run.join("summary.md"), "# Stages").unwrap();
        std::fs::write(run.join("manifest.json"), r#"{"source":{"commit":"0123456789abcdef","dirty":true}}"#).unwrap();
        assert_eq!(render(results.path()).unwrap(), 1);
        let page = std::fs::read_to_string(results.path().join("README.md")).unwrap();
        let line = "- [2026-01-01-stages](2026-01-01-stages/summary.md): 9 benches; commit 0123456789ab with changes";
        assert!(page.contains(line), "{page}");
    }
}
