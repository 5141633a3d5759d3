//! Part `watches`: so many open streams at so many commands a second; the tool is `open_watches`.

use serde_json::Value;

use crate::manifest::Manifest;
use crate::options::Options;
use crate::table::{Sample, Table, Target};
use crate::{nexus, tools, usage};

const PART: &str = "watches";
const DOCUMENT_BYTES: usize = 400;
const P99: &str = "l2c p99 of the streams";
const SKIPPED: &str = "final states and deletes skipped";

fn subject(options: &Options) -> String {
    format!("Nexus, {} streams at {:.0} commands/s", options.streams, options.compare_rate)
}

/// Measures, and adds to the table.
///
/// # Errors
/// A server does not start, or the streams do not open.
pub async fn measure(options: &Options, table: &mut Table, manifest: &mut Manifest) -> anyhow::Result<()> {
    let subject = subject(options);
    let stack = nexus::stack().await?;
    let namespace = stack.namespace("watches").await;
    manifest.servers(&namespace).await?;
    let planes = nexus::planes(&namespace, options).await?;
    let single = u32::try_from(options.streams / 2)?;
    for round in 0..=options.repeats {
        let seconds = if round == 0 { options.pipeline_warmup } else { options.seconds };
        if seconds == 0 {
            continue;
        }
        // New ones each time: some were deleted. None is critical.
        let body = |i: u32| nexus::body_of(i, DOCUMENT_BYTES, "low");
        let ids = nexus::fill_with(&planes, single, body).await?;
        nexus::visible(&planes, &ids).await?;
        let file = namespace.servers().dir().join("watched");
        std::fs::write(&file, ids.join("\n") + "\n")?;
        let args = [
            "open-watches".to_owned(),
            format!("--control={}", planes.control.url()),
            format!("--view={}", planes.dataplane.url()),
            format!("--ids={}", file.display()),
            format!("--lists={}", options.streams - ids.len()),
            format!("--rate={}", options.compare_rate),
            format!("--seconds={seconds}"),
        ];
        let key = [("PEERS_API_KEY", planes.api_key())];
        let (output, usage) = usage::during(tools::run(&std::env::current_exe()?, args, &key)).await;
        let detail: Value = serde_json::from_str(output?.trim())?;
        if round > 0 {
            add(table, &subject, round, options, detail, usage);
        }
    }
    Ok(())
}

/// Sets what was measured against its targets.
pub fn judge(options: &Options, table: &mut Table) {
    let subject = subject(options);
    table.bound(PART, &subject, P99, Target::Most(50.0));
    table.bound(PART, &subject, SKIPPED, Target::Most(0.0));
}

fn add(table: &mut Table, subject: &str, round: usize, options: &Options, detail: Value, usage: usage::Usage) {
    let number = |name: &str| detail[name].as_f64().unwrap_or(f64::NAN);
    // Streams that ended show nothing, and commands that were not sent can't be late.
    let valid = number("achieved_per_s") >= 0.98 * options.compare_rate && detail["streams_lost"] == 0;
    if !valid {
        let why = format!(
            "round {round} is not valid: {:.0} commands/s achieved, {} refused, {} streams lost",
            number("achieved_per_s"),
            detail["refused"],
            detail["streams_lost"]
        );
        table.remark(PART, subject, why);
        table.withhold(PART);
    }
    let figure = |name: &str| if valid { number(name) } else { f64::NAN };
    let figures = [
        ("l2c p50 of the streams", "ms", figure("p50_ms")),
        (P99, "ms", figure("p99_ms")),
        (SKIPPED, "", number("finals_skipped") + number("deletes_skipped")),
        ("commands never shown", "", number("never_shown")),
        ("versions that went back", "", number("regressed")),
        ("events delivered", "events/s", number("events") / usage.seconds),
        ("sent late, p99", "ms", number("send_delay_p99_ms")),
    ];
    table.add(Sample { part: PART, subject: subject.to_owned(), round, detail, usage }, &figures);
}
