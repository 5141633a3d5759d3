//! One page that needs nothing but itself.

use std::fmt::Write as _;

use super::Stored;
use crate::summary::{Latency, Summary, Verdict};

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:960px;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}\
h1{font-size:1.5rem;margin:0 0 .3rem}h2{font-size:1.1rem;margin:2rem 0 .5rem}table{border-collapse:collapse;width:100%}\
th,td{text-align:right;padding:.25rem .6rem;border-bottom:1px solid #e3e6ea;font-variant-numeric:tabular-nums}\
th:first-child,td:first-child{text-align:left}.verdict{display:inline-block;padding:.1rem .6rem;border-radius:.3rem;color:#fff}\
.PASS{background:#368a4c}.SLO_FAILED{background:#d6841c}.INVALID{background:#6b6f76}.INCORRECT{background:#c43a31}\
svg{max-width:100%;height:auto;border:1px solid #e3e6ea;margin:.4rem 0}pre{overflow:auto;background:#f5f6f8;padding:.8rem;font-size:12px}\
.note{color:#555}ul{margin:.3rem 0}";

/// Text that is safe inside an element.
#[must_use]
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A whole page around `body`.
#[must_use]
pub fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{}</title><style>{STYLE}</style></head>\n<body>\n{body}</body></html>\n",
        escape(title)
    )
}

/// The page of a run.
#[must_use]
pub fn run(stored: &Stored, plots: &[(&str, String)]) -> String {
    let summary = &stored.summary;
    let mut body = String::new();
    // Writing to a string can't fail.
    let _ = writeln!(
        body,
        "<h1>Load run <span class=\"verdict {0}\">{0}</span></h1>\n<p class=\"note\">{1} · {2} · seed {3}{4}</p>",
        summary.verdict.name(),
        escape(stored.manifest["measured_from"].as_str().unwrap_or("")),
        escape(&commit(&stored.manifest)),
        stored.manifest["seed"],
        if summary.interrupted { " · interrupted" } else { "" }
    );
    list(&mut body, &summary.reasons);
    list(&mut body, &summary.examples);
    let _ = writeln!(
        body,
        "<p>{:.0} commands/s offered ({}), <b>{:.1}/s achieved</b> over {:.1} s after {:.1} s of warm-up; {:.2} s to drain, outstanding {}.</p>",
        summary.offered_per_s,
        escape(&summary.mode),
        summary.achieved_per_s,
        summary.measured_s,
        summary.warmup_s,
        summary.drain_s,
        summary.outstanding
    );
    latencies(&mut body, summary);
    counts(&mut body, summary);
    if !summary.slo.is_empty() {
        body.push_str("<h2>Objectives</h2>\n<table><tr><th>objective</th><th>measured</th><th></th></tr>\n");
        for slo in &summary.slo {
            let value = slo.value.map_or("nothing".to_owned(), |value| format!("{value:.3}"));
            let light = if slo.ok { "holds" } else { "<b>does not hold</b>" };
            let _ = writeln!(body, "<tr><td>{}</td><td>{value}</td><td>{light}</td></tr>", escape(&slo.slo));
        }
        body.push_str("</table>\n");
    }
    body.push_str("<h2>Plots</h2>\n");
    for (_, svg) in plots {
        body.push_str(svg);
        body.push('\n');
    }
    stages(&mut body, summary);
    trust(&mut body, summary);
    let manifest = serde_json::to_string_pretty(&stored.manifest).unwrap_or_default();
    let _ = writeln!(body, "<h2>What was run, and where</h2>\n<pre>{}</pre>", escape(&manifest));
    page(&format!("Load run: {}", summary.verdict.name()), &body)
}

/// Commit and whether the tree was changed, from a manifest.
#[must_use]
pub fn commit(manifest: &serde_json::Value) -> String {
    let source = &manifest["source"];
    let Some(commit) = source["commit"].as_str() else { return "no commit known".to_owned() };
    let dirty = if source["dirty"].as_bool() == Some(true) { " with changes" } else { "" };
    format!("commit {}{dirty}", &commit[..commit.len().min(12)])
}

fn list(body: &mut String, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    body.push_str("<ul>");
    for line in lines {
        let _ = write!(body, "<li>{}</li>", escape(line));
    }
    body.push_str("</ul>\n");
}

fn latencies(body: &mut String, summary: &Summary) {
    body.push_str("<h2>Latencies, ms</h2>\n<table><tr><th></th><th>count</th><th>mean</th><th>p50</th><th>p90</th><th>p99</th><th>p99.9</th><th>max</th></tr>\n");
    let mut reads = String::from("reads: intended → answered");
    if summary.reads_failed + summary.reads_unsent > 0 {
        let _ = write!(reads, " ({} failed, {} never sent)", summary.reads_failed, summary.reads_unsent);
    }
    let mut row = |name: &str, latency: Option<Latency>| {
        let Some(Latency { count, mean_ms, p50_ms, p90_ms, p99_ms, p999_ms, max_ms }) = latency else { return };
        let _ = writeln!(
            body,
            "<tr><td>{name}</td><td>{count}</td><td>{mean_ms:.3}</td><td>{p50_ms:.3}</td><td>{p90_ms:.3}</td><td>{p99_ms:.3}</td><td>{p999_ms:.3}</td><td>{max_ms:.3}</td></tr>"
        );
    };
    row("latency to consistency: intended → visible", summary.l2c);
    for of in &summary.l2c_by_view {
        row(&format!("on {} alone ({} never)", escape(&of.view), of.outstanding), of.l2c);
    }
    row("response time: intended → answered", summary.command);
    row("service time: sent → answered", summary.service);
    row(&reads, summary.read);
    row("send delay: intended → sent", summary.send_delay);
    row("of it, the generator's own", summary.own_delay);
    body.push_str("</table>\n");
}

fn counts(body: &mut String, summary: &Summary) {
    let counts = [
        ("sent", summary.sent),
        ("accepted", summary.accepted),
        ("refused", summary.refused),
        ("rejected", summary.rejected),
        ("failed", summary.failed),
        ("timed out", summary.timed_out),
        ("unknown", summary.unknown),
        ("settled", summary.settled),
        ("unsent", summary.unsent),
        ("preloaded", summary.preloaded),
    ];
    body.push_str("<h2>Commands</h2>\n<table><tr>");
    for (name, _) in counts {
        let _ = write!(body, "<th>{name}</th>");
    }
    body.push_str("</tr><tr>");
    for (_, count) in counts {
        let _ = write!(body, "<td>{count}</td>");
    }
    body.push_str("</tr></table>\n");
}

/// What the planes say of themselves.
fn stages(body: &mut String, summary: &Summary) {
    if summary.stages.is_empty() {
        return;
    }
    body.push_str("<h2>Stages, by the planes' own metrics</h2>\n<table><tr><th>metric (ms where seconds)</th><th>plane</th><th>count</th><th>mean</th><th>p50</th><th>p99</th></tr>\n");
    for stage in &summary.stages {
        let _ = writeln!(
            body,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{:.3}</td><td>{:.3}</td><td>{:.3}</td></tr>",
            escape(&stage.metric),
            escape(&stage.plane),
            stage.count,
            stage.mean,
            stage.p50,
            stage.p99
        );
    }
    body.push_str("</table>\n");
    for usage in &summary.usage {
        let _ = writeln!(
            body,
            "<p class=\"note\">{}: {:.2} of a core, {} MiB resident</p>",
            escape(&usage.plane),
            usage.cpu,
            usage.resident_bytes >> 20
        );
    }
}

/// Why the figures may be believed, or not.
fn trust(body: &mut String, summary: &Summary) {
    body.push_str("<h2>Checks</h2>\n<table>\n");
    for (name, count) in summary.violations.named() {
        let _ = writeln!(body, "<tr><td>{}</td><td>{count}</td></tr>", name.replace('_', " "));
    }
    let _ = writeln!(body, "<tr><td>Postgres and view compared</td><td>{}</td></tr>", escape(&summary.view_compared));
    if let Some(check) = summary.cross_check {
        let _ = writeln!(
            body,
            "<tr><td>watch against {} sampled reads, l2c</td><td>p50 {:.3} ms against {:.3} ms, p99 {:.3} ms against {:.3} ms (difference by sample {:.3} ms, resolution {:.3} ms; {:.1} % there at the first read)</td></tr>",
            check.samples,
            check.watch_p50_ms,
            check.reads_p50_ms,
            check.watch_p99_ms,
            check.reads_p99_ms,
            check.difference_p50_ms,
            check.resolution_p50_ms,
            check.at_once_share * 100.0
        );
        let _ = writeln!(
            body,
            "<tr><td>of it, l2c reported too high</td><td>by {:.3} ms at p50, {:.3} ms at p99, {:.3} ms at most; {:.1} % of the latency</td></tr>",
            check.over_p50_ms,
            check.over_p99_ms,
            check.over_max_ms,
            check.over_share * 100.0
        );
    }
    let [pacer, observer, judge] = summary.cpu;
    let _ = writeln!(
        body,
        "<tr><td>the generator's threads, share of a core</td><td>pacing {pacer:.2}, observing {observer:.2}, judging {judge:.2}</td></tr>"
    );
    let crate::memory::Memory { start, quarter, end } = summary.rss_mib;
    let _ = writeln!(
        body,
        "<tr><td>the generator's memory at start, quarter and end</td><td>{start} MiB, {quarter} MiB, {end} MiB</td></tr></table>"
    );
    if summary.verdict == Verdict::Invalid {
        body.push_str(
            "<p><b>The generator itself was the bottleneck, or could not check what it has to: this run says nothing about the servers.</b></p>\n",
        );
    }
}
