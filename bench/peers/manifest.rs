//! `manifest.json`: what was run, on what, with which settings, beside whom.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use control::store::SynchronousCommit;
use infrastructure::Namespace;
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};

use crate::options::Options;
use crate::{machine, systems, tools, usage};

/// The state of the machine and of what runs on it.
#[derive(Debug)]
pub struct Manifest {
    value: Value,
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Manifest {
    /// Looks at the machine.
    pub fn begin(options: &Options) -> Self {
        let value = json!({
            "command": std::env::args().collect::<Vec<_>>(),
            "started": jiff::Timestamp::now().to_string(),
            "commit": output("git", &["rev-parse", "HEAD"]),
            "dirty": output("git", &["status", "--porcelain"]).map(|text| !text.is_empty()),
            "compiler": output("rustc", &["--version"]),
            "profile": if cfg!(debug_assertions) { "debug" } else { "release" },
            "machine": machine::fingerprint(),
            "load_before": usage::load_average(),
            "shared_with_before": busiest(),
            "fair_play": {
                "source": "constants in the code of this comparison, but for the servers' settings below",
                "one_request_in_flight_per_connection": true,
                "pipelining": false,
                "batches_of_commands": false,
                "auth": "API key on every request to Nexus and to the peers' services; webdis with basic authentication",
                "acks": {
                    "peers and floor": systems::ACKS,
                    "Nexus": "all: a constant in the code of its relay",
                },
                "order": "subjects in turns, round by round; a warm-up round of each is thrown away",
            },
            "pins": {
                "reads": {
                    "server (data plane, webdis, constant, redis-server for redis-benchmark)": options.server_core,
                    "generator": options.generator_core,
                    "redis-server behind the data plane and webdis": options.redis_core,
                    "at half rate": "generator and redis-server with SCHED_FIFO, priority 1, where the kernel allows it",
                },
                "all other parts": "nothing is pinned",
            },
            "plane_settings": options.settings,
            "rounds": options.repeats,
            "seconds": options.seconds,
        });
        Self { value }
    }

    /// Adds something.
    pub fn set(&mut self, name: &str, value: Value) {
        self.value[name] = value;
    }

    /// Asks the servers, from sessions like those that are measured: of the planes' and the peers' own role, and with
    /// the option that the control plane gives the sessions of its commands.
    ///
    /// # Errors
    /// A server is away, or commits of either do not wait for the disk.
    pub async fn servers(&mut self, namespace: &Namespace) -> anyhow::Result<()> {
        let role: PgConnectOptions = namespace.database_url().parse()?;
        let commit = SynchronousCommit::default();
        let mut settings = json!({});
        for (whose, options) in
            [("peers", role.clone()), ("commands of Nexus", role.options([("synchronous_commit", commit.as_str())]))]
        {
            let mut connection = PgConnection::connect_with(&options).await?;
            for name in [
                "session_authorization",
                "server_version",
                "fsync",
                "synchronous_commit",
                "full_page_writes",
                "wal_level",
                "shared_buffers",
            ] {
                let query = sqlx::query_scalar::<_, String>("SELECT current_setting($1)").bind(name);
                settings[whose][name] = json!(query.fetch_one(&mut connection).await?);
            }
            for name in ["fsync", "synchronous_commit"] {
                let value = &settings[whose][name];
                anyhow::ensure!(value == "on", "{name} is {value} in the sessions of the {whose}");
            }
        }
        let mut store = redis::Client::open(namespace.redis_url())?.get_multiplexed_async_connection().await?;
        let mut kept: BTreeMap<String, String> = BTreeMap::new();
        for name in ["appendonly", "appendfsync"] {
            let answer: BTreeMap<String, String> =
                redis::cmd("CONFIG").arg("GET").arg(name).query_async(&mut store).await?;
            kept.extend(answer);
        }
        let redis = tools::find("redis-server", "redis-server");
        self.value["servers"] = json!({
            "postgres": settings,
            "redis": tools::version(redis, "--version").await,
            "redis_settings": kept,
            "broker": broker_version(namespace),
            "broker_profile": "benchmark: 1 GiB of heap, G1, all compiler tiers",
        });
        for (name, package) in [("wrk", "wrk"), ("pgbench", "postgresql-contrib"), ("redis-benchmark", "redis-tools")] {
            let argument = if name == "wrk" { "-v" } else { "--version" };
            self.value["tools"][name] = json!(tools::version(tools::find(name, package), argument).await);
        }
        Ok(())
    }

    /// Notes how long a part took.
    pub fn took(&mut self, part: &str, time: std::time::Duration) {
        self.value["took_s"][part] = json!(time.as_secs());
    }

    /// Notes the machine's state at the end.
    pub fn end(&mut self, failures: &[String]) {
        self.value["ended"] = json!(jiff::Timestamp::now().to_string());
        self.value["load_after"] = json!(usage::load_average());
        self.value["failures"] = json!(failures);
    }

    /// Writes `manifest.json`.
    ///
    /// # Errors
    /// The folder can't be written.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::write(folder.join("manifest.json"), serde_json::to_vec_pretty(&self.value)?)?;
        Ok(())
    }
}

/// The broker's version as its jars on the command line say it; `redpanda` for that.
fn broker_version(namespace: &Namespace) -> String {
    let pid = namespace.servers().broker.pid().unwrap_or(0);
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line);
    match line.split_once("kafka_2.13-").and_then(|(_, rest)| rest.split_once(".jar")) {
        Some((version, _)) => format!("Apache Kafka {version}"),
        None => line.split('\0').next().unwrap_or("").rsplit('/').next().unwrap_or("").to_owned(),
    }
}

/// Busy processes before anything is started: name and share of a core since they started.
fn busiest() -> Vec<String> {
    let text = output("ps", &["-eo", "pcpu,comm", "--sort=-pcpu", "--no-headers"]).unwrap_or_default();
    let busy = |line: &&str| line.split_whitespace().next().and_then(|share| share.parse::<f64>().ok()) >= Some(1.0);
    text.lines().take(10).filter(busy).map(|line| line.trim().to_owned()).collect()
}
