//! Part `ingest`: accepted commands per second, closed loop, against pgbench with an outbox.
//!
//! Both write the same row and an event of the same size to the same server, each with nothing else running: the data
//! plane is stopped, and while pgbench runs the control plane is, too, so that no relay reads pgbench's WAL.

use infrastructure::{Namespace, Planes};
use serde_json::json;
use sqlx::{AssertSqlSafe, Executor};

use crate::manifest::Manifest;
use crate::nexus;
use crate::options::Options;
use crate::table::{Sample, Table, Target};
use crate::tools::{self, Wrk};
use crate::usage;

const PART: &str = "ingest";
/// Bytes of a document.
const DOCUMENT_BYTES: usize = 400;
const NEXUS: &str = "Nexus, one command a request";
pub const TRANSACTION: &str = "pgbench, BEGIN, two inserts, COMMIT";
const STATEMENT: &str = "pgbench, both inserts in one statement";
pub const RATE: &str = "rate";

/// Measures, and adds to the table.
///
/// # Errors
/// A program is missing, a server does not start, or a tool reports errors.
pub async fn measure(options: &Options, table: &mut Table, manifest: &mut Manifest) -> anyhow::Result<()> {
    let stack = nexus::stack().await?;
    let ours = stack.namespace("ingest").await;
    let theirs = stack.namespace("pgbench").await;
    let planes = nexus::planes(&ours, options).await?;
    planes.dataplane.stop().await;
    manifest.servers(&ours).await?;
    let mut subjects = Subjects::prepare(options, ours, theirs, planes).await?;
    for round in 0..=options.repeats {
        for subject in [NEXUS, TRANSACTION, STATEMENT] {
            let seconds = if round == 0 { options.warmup } else { options.seconds };
            if seconds == 0 {
                continue;
            }
            subjects.one(subject, seconds, round, table).await?;
        }
    }
    Ok(())
}

/// Sets what was measured against its targets.
pub fn judge(table: &mut Table) {
    table.ratio(
        PART,
        "Nexus / pgbench (two inserts in a transaction)",
        (NEXUS, RATE),
        (TRANSACTION, RATE),
        Target::Least(2.0),
    );
    table.ratio(PART, "Nexus / pgbench (both in one statement)", (NEXUS, RATE), (STATEMENT, RATE), Target::None);
}

struct Subjects<'a> {
    options: &'a Options,
    ours: Namespace,
    theirs: Namespace,
    planes: Planes,
    scripts: [std::path::PathBuf; 3],
}

impl<'a> Subjects<'a> {
    async fn prepare(options: &'a Options, ours: Namespace, theirs: Namespace, planes: Planes) -> anyhow::Result<Self> {
        nexus::database(&theirs)
            .await?
            .execute(AssertSqlSafe(format!("SET ROLE nexus; {}", include_str!("tools/tables.sql"))))
            .await?;
        let folder = ours.servers().dir().to_owned();
        let note = "x".repeat(nexus::note(DOCUMENT_BYTES));
        let document = "d".repeat(DOCUMENT_BYTES);
        let filled = |text: &str| text.replace("@NOTE@", &note).replace("@DOCUMENT@", &document);
        let files = [
            ("ingest.lua", include_str!("tools/ingest.lua").to_owned()),
            ("transaction.sql", filled(include_str!("tools/transaction.sql"))),
            ("statement.sql", filled(include_str!("tools/statement.sql"))),
        ];
        let scripts = files.map(|(name, text)| (folder.join(name), text));
        for (path, text) in &scripts {
            std::fs::write(path, text)?;
        }
        Ok(Self { options, ours, theirs, planes, scripts: scripts.map(|(path, _)| path) })
    }

    async fn one(
        &mut self,
        subject: &'static str,
        seconds: u64,
        round: usize,
        table: &mut Table,
    ) -> anyhow::Result<()> {
        nexus::checkpoint(&self.ours).await?;
        let (rate, detail, usage) = match subject {
            NEXUS => self.nexus(seconds).await?,
            TRANSACTION => self.pgbench(seconds, 1).await?,
            _ => self.pgbench(seconds, 2).await?,
        };
        if round > 0 {
            let sample = Sample { part: PART, subject: subject.to_owned(), round, detail, usage };
            table.add(sample, &[(RATE, "commands/s", rate)]);
        }
        Ok(())
    }

    async fn nexus(&self, seconds: u64) -> anyhow::Result<(f64, serde_json::Value, usage::Usage)> {
        self.planes.control.start().await?;
        nexus::relayed(&self.ours).await?;
        let before = self.count().await?;
        let connections = self.options.connections.to_string();
        let args = [
            "-t1".to_owned(),
            format!("-c{connections}"),
            format!("-d{seconds}s"),
            "--timeout".to_owned(),
            "10s".to_owned(),
            "-s".to_owned(),
            self.scripts[0].display().to_string(),
            self.planes.control.url(),
            "--".to_owned(),
            self.planes.api_key().to_owned(),
            nexus::note(DOCUMENT_BYTES).to_string(),
        ];
        let wrk = tools::find("wrk", "wrk")?;
        let (output, usage) = usage::during(tools::run(&wrk, args, &[])).await;
        let wrk = Wrk::parse(&output?)?;
        let after = self.count().await?;
        let stored = after - before;
        // A command whose answer came after wrk's end is stored as well; one a connection at most.
        let accepted = wrk.requests - wrk.refused;
        anyhow::ensure!(
            wrk.failed == 0 && stored >= accepted && stored <= accepted + u64::from(self.options.connections),
            "{accepted} commands were accepted, {stored} are stored, {} failed",
            wrk.failed
        );
        nexus::relayed(&self.ours).await?;
        anyhow::ensure!(self.planes.control.stop().await, "the control plane did not end in order");
        let detail = json!({ "wrk": wrk, "stored": stored, "generator_cores": usage.of("wrk") });
        Ok((wrk.rate(), detail, usage))
    }

    async fn count(&self) -> anyhow::Result<u64> {
        let mut connection = nexus::database(&self.ours).await?;
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM nexus.signals").fetch_one(&mut connection).await?;
        Ok(u64::try_from(count)?)
    }

    async fn pgbench(&self, seconds: u64, script: usize) -> anyhow::Result<(f64, serde_json::Value, usage::Usage)> {
        let args = [
            "--no-vacuum".to_owned(),
            "--protocol=prepared".to_owned(),
            format!("--client={}", self.options.connections),
            "--jobs=2".to_owned(),
            format!("--time={seconds}"),
            format!("--file={}", self.scripts[script].display()),
            self.theirs.database_url(),
        ];
        let pgbench = tools::find("pgbench", "postgresql-contrib")?;
        let (output, usage) = usage::during(tools::run(&pgbench, args, &[])).await;
        let output = output?;
        let number = |name: &str| {
            let line = output.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<f64>().ok()
        };
        let rate = number("tps = ").ok_or_else(|| anyhow::anyhow!("pgbench printed no rate: {output}"))?;
        let failed = number("number of failed transactions: ").unwrap_or(0.0);
        anyhow::ensure!(failed == 0.0, "pgbench had failed transactions: {output}");
        let detail = json!({
            "tps": rate,
            "latency_average_ms": number("latency average = "),
            "generator_cores": usage.of("pgbench"),
        });
        Ok((rate, detail, usage))
    }
}
