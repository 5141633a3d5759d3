//! The whole ways of a command that are compared, each behind the same loadgen.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use infrastructure::{Namespace, Planes, Program, executable, ports};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor};

use crate::options::Options;
use crate::usage::{self, Usage};
use crate::{debezium, nexus, tools};

const READY: Duration = Duration::from_secs(20);
/// The one key of the peers' services, which listen on loopback while this runs.
const PEER_KEY: &str = "peers";
/// What every producer of the peers and of the floor waits for, as the relay of Nexus does.
pub const ACKS: &str = "all";
/// As many as Nexus has.
const PARTITIONS: i32 = 4;
/// Commands under way at once, at most: one a connection. Fewer would bound the rate, at 10,000/s from answers of 3 ms on.
pub const CONNECTIONS: &str = "--connections=256";

/// One system under load.
pub struct System {
    /// As it stands in the table.
    pub name: &'static str,
    control: String,
    view: String,
    api_key: String,
    /// What it is made of; they end with it.
    programs: Vec<Program>,
    planes: Option<Planes>,
}

/// What loadgen found in one run.
pub struct Run {
    /// `summary.json`.
    pub summary: Value,
    /// Who used the machine.
    pub usage: Usage,
}

pub const NEXUS: &str = "Nexus";
pub const NAIVE: &str = "naive: commit, then publish";
pub const DEBEZIUM: &str = "outbox, Debezium, Benthos";

impl System {
    /// Nexus in a namespace of its own.
    ///
    /// # Errors
    /// A plane does not start.
    pub async fn nexus(namespace: &Namespace, options: &Options) -> anyhow::Result<System> {
        let planes = nexus::planes(namespace, options).await?;
        Ok(System {
            name: NEXUS,
            control: planes.control.url(),
            view: planes.dataplane.url(),
            api_key: planes.api_key().to_owned(),
            programs: Vec::new(),
            planes: Some(planes),
        })
    }

    /// The design that most teams start with.
    ///
    /// # Errors
    /// A program does not start.
    pub async fn naive(namespace: &Namespace) -> anyhow::Result<System> {
        let (topic, prefix) = ("naive.signals", "naive:");
        let mut programs = Vec::new();
        let (control, view) = services(namespace, topic, prefix, false, &mut programs).await?;
        let args = [
            "apply".to_owned(),
            format!("--brokers={}", namespace.brokers()),
            format!("--topic={topic}"),
            format!("--redis={}", namespace.redis_url()),
            format!("--prefix={prefix}"),
        ];
        programs.push(namespace.servers().start_program("naive-apply", &std::env::current_exe()?, args, &[])?);
        Ok(System { name: NAIVE, control, view, api_key: PEER_KEY.to_owned(), programs, planes: None })
    }

    /// The outbox that Debezium and Benthos carry to Redis.
    ///
    /// # Errors
    /// A program can't be had or does not start.
    pub async fn debezium(namespace: &Namespace, options: &Options) -> anyhow::Result<System> {
        let prefix = "debezium:";
        let mut programs = Vec::new();
        let (control, view) = services(namespace, debezium::TOPIC, prefix, true, &mut programs).await?;
        programs.extend(debezium::start(namespace, prefix, options).await?);
        Ok(System { name: DEBEZIUM, control, view, api_key: PEER_KEY.to_owned(), programs, planes: None })
    }

    /// One word of its name, for files.
    pub fn short(&self) -> &'static str {
        self.name.split([' ', ':', ',']).next().unwrap_or(self.name)
    }

    /// Memory that its own processes have resident, in MiB; the servers that all share are not counted.
    pub fn resident_mib(&self) -> f64 {
        self.pids().map(usage::resident_mib).sum()
    }

    /// Processor time that they have taken so far, in seconds of one core.
    pub fn cpu_seconds(&self) -> f64 {
        self.pids().map(usage::cpu_seconds).sum()
    }

    fn pids(&self) -> impl Iterator<Item = u32> + '_ {
        let planes = self.planes.iter().flat_map(|planes| [planes.control.pid(), planes.dataplane.pid()]);
        planes.chain(self.programs.iter().map(Program::pid)).flatten()
    }

    /// One run of loadgen, reported below `out`.
    ///
    /// # Errors
    /// It could not begin.
    pub async fn run(&self, rate: f64, seconds: u64, more: &[&str], out: &Path) -> anyhow::Result<Run> {
        let (rate, seconds) = (format!("--rate={rate}"), format!("--duration={seconds}s"));
        let args: Vec<&str> = ["run", &rate, &seconds, CONNECTIONS, "--quiet", "--plain"]
            .into_iter()
            .chain(more.iter().copied())
            .collect();
        let (output, usage) = usage::during(self.loadgen(&args, out)).await;
        output?;
        let summary = std::fs::read(out.join("summary.json")).context("loadgen left no summary")?;
        Ok(Run { summary: serde_json::from_slice(&summary)?, usage })
    }

    /// Any command of loadgen against this system. An objective that fails is no error.
    ///
    /// # Errors
    /// It could not begin.
    pub async fn loadgen(&self, args: &[&str], out: &Path) -> anyhow::Result<()> {
        let program = executable("loadgen")?;
        let args = args.iter().map(ToString::to_string).chain([format!("--out={}", out.display())]);
        let env = [
            ("NEXUS_CONTROL_URL", self.control.as_str()),
            ("NEXUS_DATAPLANE_URL", self.view.as_str()),
            ("NEXUS_API_KEY", self.api_key.as_str()),
        ];
        let output = tools::output(&program, args, &env).await?;
        // 1 and 2: it could not begin. The others are verdicts.
        let begun = output.status.code().is_some_and(|code| code != 1 && code != 2);
        anyhow::ensure!(begun, "loadgen: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }
}

/// The command service and the read service of a peer, ready. Returns their URLs.
async fn services(
    namespace: &Namespace,
    topic: &str,
    prefix: &str,
    outbox: bool,
    programs: &mut Vec<Program>,
) -> anyhow::Result<(String, String)> {
    let tables = format!("SET ROLE nexus; {}", include_str!("tools/tables.sql"));
    nexus::database(namespace).await?.execute(AssertSqlSafe(tables)).await?;
    make_topic(namespace, topic, PARTITIONS).await?;
    let (commands_port, view_port) = (ports::pick()?, ports::pick()?);
    let own = std::env::current_exe()?;
    let name = prefix.trim_end_matches(':');
    let mut args = vec![
        "commands".to_owned(),
        format!("--listen=127.0.0.1:{commands_port}"),
        format!("--api-key={PEER_KEY}"),
        format!("--brokers={}", namespace.brokers()),
        format!("--topic={topic}"),
    ];
    args.extend(outbox.then(|| "--outbox".to_owned()));
    let database = [("PEERS_DATABASE_URL".to_owned(), namespace.database_url())];
    let servers = namespace.servers();
    let commands = servers.start_program(&format!("{name}-commands"), &own, args, &database)?;
    let args = [
        "view".to_owned(),
        format!("--listen=127.0.0.1:{view_port}"),
        format!("--api-key={PEER_KEY}"),
        format!("--redis={}", namespace.redis_url()),
        format!("--prefix={prefix}"),
    ];
    let view = servers.start_program(&format!("{name}-view"), &own, args, &[])?;
    for (program, port) in [(&commands, commands_port), (&view, view_port)] {
        program.wait_ready(READY, || async move { !ports::is_free(port) }).await?;
    }
    programs.extend([commands, view]);
    Ok((format!("http://127.0.0.1:{commands_port}"), format!("http://127.0.0.1:{view_port}")))
}

/// Makes a topic.
///
/// # Errors
/// The broker refuses.
pub async fn make_topic(namespace: &Namespace, topic: &str, partitions: i32) -> anyhow::Result<()> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", namespace.brokers()).create()?;
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    for made in admin.create_topics([&new], &AdminOptions::new()).await? {
        made.map_err(|(topic, code)| anyhow::anyhow!("can't make the topic {topic}: {code}"))?;
    }
    Ok(())
}
