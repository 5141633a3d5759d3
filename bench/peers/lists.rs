//! Part `lists`: lists of 50 signals by priority, out of so many signals, closed loop on so many connections.
//!
//! The requests are the first page, the first page of each priority, and pages further on by their cursors, in random
//! order. Every page is checked once: 50 items, highest priority first, then oldest first.

use infrastructure::Planes;
use serde_json::{Value, json};

use crate::manifest::Manifest;
use crate::options::Options;
use crate::table::{Sample, Table, Target};
use crate::tools::{self, Wrk};
use crate::{nexus, usage};

const PART: &str = "lists";
const SUBJECT: &str = "Nexus, lists of 50 by priority";
const RATE: &str = "rate";
const DOCUMENT_BYTES: usize = 300;
const ITEMS: usize = 50;
/// Pages that are walked to; more of them are nothing new.
const PAGES: usize = 200;

/// Measures, and adds to the table.
///
/// # Errors
/// A program is missing, a server does not start, or a page is wrong.
pub async fn measure(options: &Options, table: &mut Table, manifest: &mut Manifest) -> anyhow::Result<()> {
    let stack = nexus::stack().await?;
    let namespace = stack.namespace("lists").await;
    manifest.servers(&namespace).await?;
    let planes = nexus::planes(&namespace, options).await?;
    tools::say(&format!("  making {} signals", options.signals));
    let body = |i: u32| nexus::body_of(i, DOCUMENT_BYTES, nexus::PRIORITIES[i as usize % nexus::PRIORITIES.len()]);
    let ids = nexus::fill_with(&planes, options.signals, body).await?;
    nexus::visible(&planes, &ids).await?;
    let queries = queries(&planes).await?;
    // Nothing writes while lists are read; the relay's watermarks would, a little.
    planes.control.stop().await;
    let servers = namespace.servers();
    let (file, script) = (servers.dir().join("queries"), servers.dir().join("reads.lua"));
    std::fs::write(&file, queries.join("\n") + "\n")?;
    std::fs::write(&script, include_str!("tools/reads.lua"))?;

    for round in 0..=options.repeats {
        let seconds = if round == 0 { options.warmup } else { options.seconds };
        if seconds == 0 {
            continue;
        }
        let args = [
            "-t1".to_owned(),
            format!("-c{}", options.connections),
            format!("-d{seconds}s"),
            "--timeout".to_owned(),
            "10s".to_owned(),
            "-s".to_owned(),
            script.display().to_string(),
            planes.dataplane.url(),
            "--".to_owned(),
            file.display().to_string(),
            "/v1/signals?".to_owned(),
            String::new(),
            format!("Bearer {}", planes.api_key()),
        ];
        let (output, usage) = usage::during(tools::run(&tools::find("wrk", "wrk")?, args, &[])).await;
        let wrk = Wrk::parse(&output?)?;
        anyhow::ensure!(wrk.failed == 0 && wrk.refused == 0, "{wrk:?}");
        let least = (ITEMS * DOCUMENT_BYTES * 95 / 100) as u64;
        anyhow::ensure!(wrk.bytes_per_answer >= least, "a list has too little in it: {wrk:?}");
        if round > 0 {
            let rate = wrk.rate();
            let detail = json!({ "wrk": wrk, "generator_cores": usage.of("wrk"), "queries": queries.len() });
            let sample = Sample { part: PART, subject: SUBJECT.to_owned(), round, detail, usage };
            table.add(sample, &[(RATE, "lists/s", rate), ("items", "signals/s", rate * ITEMS as f64)]);
        }
    }
    Ok(())
}

/// Sets what was measured against its targets.
pub fn judge(table: &mut Table) {
    table.bound(PART, SUBJECT, RATE, Target::Least(10_000.0));
}

/// The queries, each of them asked and checked.
async fn queries(planes: &Planes) -> anyhow::Result<Vec<String>> {
    let mut client = bench::Client::connect(planes.dataplane.address(), planes.api_key()).await?;
    let mut queries = Vec::new();
    for priority in nexus::PRIORITIES {
        let query = format!("limit={ITEMS}&order=priority&priority={priority}");
        page(&mut client, &query).await?;
        queries.push(query);
    }
    let first = format!("limit={ITEMS}&order=priority");
    let mut query = first.clone();
    for _ in 0..PAGES {
        let cursor = page(&mut client, &query).await?;
        queries.push(query);
        query = format!("{first}&cursor={cursor}");
    }
    Ok(queries)
}

/// Asks for one page, which must be full and in order. Returns its cursor.
async fn page(client: &mut bench::Client, query: &str) -> anyhow::Result<String> {
    let answer = client.send("GET", &format!("/v1/signals?{query}"), "", "").await?;
    let page: Value = serde_json::from_slice(&answer.body)?;
    let rank = |item: &Value| {
        let priority = item["priority"].as_str().unwrap_or_default();
        let rank = nexus::PRIORITIES.iter().position(|known| *known == priority);
        // Ids rise with the time of creation.
        (std::cmp::Reverse(rank), item["id"].as_str().unwrap_or_default().to_owned())
    };
    let ranks: Vec<_> = page["items"].as_array().into_iter().flatten().map(rank).collect();
    anyhow::ensure!(answer.status == 200 && ranks.len() == ITEMS, "{query}: {} items", ranks.len());
    anyhow::ensure!(ranks.is_sorted(), "{query}: not highest priority first, then oldest first");
    let cursor = page["next_cursor"].as_str();
    Ok(cursor.ok_or_else(|| anyhow::anyhow!("{query}: no further page"))?.to_owned())
}
