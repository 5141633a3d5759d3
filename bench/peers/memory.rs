//! Part `memory`: what a signal costs in Redis, index, change feed and all.
//!
//! `used_memory` of an emptied Redis with both planes running and an empty view, and the same with so many signals of 400
//! bytes in it, over their number. The change feed, which is capped, and the tables that Redis made larger are in it.

use std::collections::BTreeMap;
use std::time::Duration;

use infrastructure::Namespace;
use serde_json::json;

use crate::manifest::Manifest;
use crate::options::Options;
use crate::table::{Sample, Table, Target};
use crate::{nexus, tools, usage};

const PART: &str = "memory";
const SUBJECT: &str = "Redis, a signal of 400 bytes";
const COST: &str = "memory, index and all";
const DOCUMENT_BYTES: usize = 400;
/// How far a document may be off.
const SLACK_BYTES: usize = 12;
/// After the last write, until what Redis and the planes do meanwhile is done.
const SETTLE: Duration = Duration::from_secs(2);

/// Measures, and adds to the table.
///
/// # Errors
/// A server does not start, or documents have another size.
pub async fn measure(options: &Options, table: &mut Table, manifest: &mut Manifest) -> anyhow::Result<()> {
    let stack = nexus::stack().await?;
    manifest.servers(&stack.namespace("memory").await).await?;
    for round in 1..=options.repeats {
        let namespace = stack.namespace(&format!("memory{round}")).await;
        // What earlier rounds left is nobody's.
        let mut redis = nexus::redis(&namespace).await?;
        redis::cmd("FLUSHALL").exec_async(&mut redis).await?;
        let planes = nexus::planes(&namespace, options).await?;
        tokio::time::sleep(SETTLE).await;
        let before = info(&namespace).await?;
        tools::say(&format!("  making {} signals", options.signals));
        let (filled, usage) = usage::during(async {
            let ids = nexus::fill(&planes, options.signals, DOCUMENT_BYTES).await?;
            nexus::visible(&planes, &ids).await?;
            anyhow::Ok(ids)
        })
        .await;
        let ids = filled?;
        tokio::time::sleep(SETTLE).await;
        let after = info(&namespace).await?;
        let mut client = bench::Client::connect(planes.dataplane.address(), planes.api_key()).await?;
        let document = client.send("GET", &format!("/v1/signals/{}", ids[0]), "", "").await?.body.len();
        anyhow::ensure!(
            document.abs_diff(DOCUMENT_BYTES) <= SLACK_BYTES,
            "a document has {document} bytes, not {DOCUMENT_BYTES}"
        );
        let number =
            |of: &BTreeMap<String, String>, name: &str| of.get(name).and_then(|value| value.parse::<f64>().ok());
        let used = |of| number(of, "used_memory").unwrap_or(f64::NAN);
        let cost = (used(&after) - used(&before)) / f64::from(options.signals);
        let detail =
            json!({ "signals": options.signals, "document_bytes": document, "before": before, "after": after });
        let sample = Sample { part: PART, subject: SUBJECT.to_owned(), round, detail, usage };
        table.add(sample, &[(COST, "bytes", cost), ("its document alone", "bytes", document as f64)]);
    }
    Ok(())
}

/// Sets what was measured against its targets.
pub fn judge(table: &mut Table) {
    table.bound(PART, SUBJECT, COST, Target::Most(800.0));
}

/// `INFO memory`.
async fn info(namespace: &Namespace) -> anyhow::Result<BTreeMap<String, String>> {
    let mut connection = nexus::redis(namespace).await?;
    let text: String = redis::cmd("INFO").arg("memory").query_async(&mut connection).await?;
    let pairs = text.lines().filter_map(|line| line.trim().split_once(':'));
    Ok(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}
