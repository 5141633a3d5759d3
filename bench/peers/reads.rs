//! Part `reads`: `GET` of one signal by id, uniform over all, closed loop on so many connections, one core for the
//! server; then the same with an open model at half of what was reached, for the latency.
//!
//! Beside Nexus: webdis (an HTTP front to Redis, in C) over the same documents in the same Redis, a bare hyper server
//! that answers a constant of that size, and redis-benchmark straight to Redis for orientation.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use infrastructure::{Namespace, Planes, Program, ports};
use serde_json::{Value, json};

use crate::manifest::Manifest;
use crate::options::Options;
use crate::table::{Sample, Table, Target, median};
use crate::tools::{self, Wrk};
use crate::{machine, nexus, usage};

const PART: &str = "reads";
const DOCUMENT_BYTES: usize = 300;
const NEXUS: &str = "Nexus view server";
const WEBDIS: &str = "webdis";
const CONSTANT: &str = "bare hyper, a constant";
const REDIS: &str = "redis-benchmark GET, unpipelined";
const RATE: &str = "rate";
/// webdis' only user, whose password is no secret: it listens on loopback while this runs.
const BASIC: &str = "Basic bmV4dXM6bmV4dXM=";
const READY: Duration = Duration::from_secs(20);

/// Measures, and adds to the table.
///
/// # Errors
/// A program is missing, a server does not start, or answers are errors.
pub async fn measure(options: &Options, table: &mut Table, manifest: &mut Manifest) -> anyhow::Result<()> {
    let stack = nexus::stack().await?;
    let namespace = stack.namespace("reads").await;
    manifest.servers(&namespace).await?;
    let subjects = Subjects::prepare(options, namespace).await?;
    // Not asked from itself: whatever its arguments, it serves.
    if let Ok(query) = tools::find("dpkg-query", "dpkg") {
        manifest.set("webdis", json!(tools::run(&query, ["--show", "webdis"], &[]).await.ok()));
    }
    let order = [NEXUS, WEBDIS, CONSTANT, REDIS];
    for round in 0..=options.repeats {
        let seconds = if round == 0 { options.warmup } else { options.seconds };
        if seconds == 0 {
            continue;
        }
        for subject in order {
            let (rate, detail, usage) = subjects.closed(subject, seconds).await?;
            if round > 0 {
                let sample = Sample { part: PART, subject: subject.to_owned(), round, detail, usage };
                table.add(sample, &[(RATE, "reads/s", rate)]);
            }
        }
    }
    for round in 1..=options.repeats {
        for subject in [NEXUS, WEBDIS, CONSTANT] {
            let half = median(&table.values(PART, subject, RATE)).context("no rate to take half of")? / 2.0;
            let (detail, usage) = subjects.open(subject, half, options.seconds).await?;
            // What was not sent or not answered is not in the percentiles: a server that stalls would look fast.
            let count = |name: &str| detail[name].as_u64();
            let whole = count("unsent") == Some(0) && count("sent").is_some() && count("answered") == count("sent");
            let valid = whole && count("stray") == Some(0);
            if !valid {
                let why = format!(
                    "round {round} is not valid: {} sent, {} unsent, {} answered, {} answers to nothing",
                    detail["sent"], detail["unsent"], detail["answered"], detail["stray"]
                );
                table.remark(PART, subject, why);
                if subject == NEXUS {
                    // The other rounds alone would flatter.
                    table.withhold(PART);
                }
            }
            let figure = |name: &str| detail[name].as_f64().filter(|_| valid).unwrap_or(f64::NAN);
            let (p50, p99, own) = (figure("p50_ms"), figure("p99_ms"), figure("own_delay_p99_ms"));
            let sample = Sample { part: PART, subject: subject.to_owned(), round, detail, usage };
            table.add(
                sample,
                &[
                    ("p50 at half rate", "ms", p50),
                    ("p99 at half rate", "ms", p99),
                    ("generator's own delay, p99", "ms", own),
                ],
            );
        }
    }
    Ok(())
}

/// Sets what was measured against its targets.
pub fn judge(table: &mut Table) {
    table.ratio(PART, "Nexus / webdis", (NEXUS, RATE), (WEBDIS, RATE), Target::Least(1.8));
    table.ratio(PART, "Nexus / bare hyper", (NEXUS, RATE), (CONSTANT, RATE), Target::Least(0.75));
    table.ratio(PART, "Nexus / redis-benchmark", (NEXUS, RATE), (REDIS, RATE), Target::None);
    table.bound(PART, NEXUS, "p99 at half rate", Target::Most(1.0));
}

struct Subjects<'a> {
    options: &'a Options,
    namespace: Namespace,
    planes: Planes,
    webdis: Program,
    webdis_port: u16,
    constant: Program,
    constant_port: u16,
    ids: PathBuf,
    script: PathBuf,
}

/// How to read from one subject over HTTP.
struct Door {
    port: u16,
    before: &'static str,
    after: &'static str,
    authorization: String,
}

impl<'a> Subjects<'a> {
    async fn prepare(options: &'a Options, namespace: Namespace) -> anyhow::Result<Self> {
        let planes = nexus::planes(&namespace, options).await?;
        tools::say(&format!("  making {} signals", options.signals));
        let ids = nexus::fill(&planes, options.signals, DOCUMENT_BYTES).await?;
        nexus::visible(&planes, &ids).await?;
        let servers = namespace.servers();
        let document = put_documents(&planes, servers.redis_url(), &ids).await?;
        let file = servers.dir().join("ids");
        std::fs::write(&file, ids.join("\n") + "\n")?;
        let script = servers.dir().join("reads.lua");
        std::fs::write(&script, include_str!("tools/reads.lua"))?;

        // Started anew on its core, so that it sees one.
        planes.dataplane.stop().await;
        machine::on_core(options.server_core, || Ok(planes.dataplane.spawn()?))?;
        planes.dataplane.wait_ready().await?;
        let (webdis_port, constant_port) = (ports::pick()?, ports::pick()?);
        let webdis = machine::on_core(options.server_core, || start_webdis(&namespace, webdis_port))?;
        let constant = machine::on_core(options.server_core, || {
            let args =
                ["constant".to_owned(), format!("--listen=127.0.0.1:{constant_port}"), format!("--bytes={document}")];
            Ok(servers.start_program("constant", &std::env::current_exe()?, args, &[])?)
        })?;
        for (program, port) in [(&webdis, webdis_port), (&constant, constant_port)] {
            program.wait_ready(READY, || async move { !ports::is_free(port) }).await?;
        }
        // Nothing writes while reads are measured; the relay's watermarks would, a little.
        planes.control.stop().await;
        Ok(Self { options, namespace, planes, webdis, webdis_port, constant, constant_port, ids: file, script })
    }

    fn door(&self, subject: &str) -> Door {
        match subject {
            NEXUS => Door {
                port: self.planes.dataplane.address().port(),
                before: "/v1/signals/",
                after: "",
                authorization: format!("Bearer {}", self.planes.api_key()),
            },
            WEBDIS => Door { port: self.webdis_port, before: "/GET/", after: ".txt", authorization: BASIC.to_owned() },
            _ => Door { port: self.constant_port, before: "/v1/signals/", after: "", authorization: BASIC.to_owned() },
        }
    }

    /// Everybody to its core, before every measurement: threads come and go.
    fn pin(&self, subject: &str) -> anyhow::Result<()> {
        let redis = self.namespace.servers().redis.pid().unwrap_or(0);
        let core = if subject == REDIS { self.options.server_core } else { self.options.redis_core };
        machine::pin(redis, core)?;
        for pid in [self.planes.dataplane.pid(), self.webdis.pid(), self.constant.pid()].into_iter().flatten() {
            machine::pin(pid, self.options.server_core)?;
        }
        Ok(())
    }

    async fn closed(&self, subject: &str, seconds: u64) -> anyhow::Result<(f64, Value, usage::Usage)> {
        self.pin(subject)?;
        if subject == REDIS {
            return self.redis_benchmark(seconds).await;
        }
        let door = self.door(subject);
        let mut args = self.on_generator_core(&tools::find("wrk", "wrk")?);
        args.extend([
            "-t1".to_owned(),
            format!("-c{}", self.options.connections),
            format!("-d{seconds}s"),
            "-s".to_owned(),
            self.script.display().to_string(),
            format!("http://127.0.0.1:{}", door.port),
            "--".to_owned(),
            self.ids.display().to_string(),
            door.before.to_owned(),
            door.after.to_owned(),
            door.authorization,
        ]);
        let (output, usage) = usage::during(tools::run(&tools::find("taskset", "util-linux")?, args, &[])).await;
        let wrk = Wrk::parse(&output?)?;
        anyhow::ensure!(wrk.failed == 0 && wrk.refused == 0, "{subject}: {wrk:?}");
        anyhow::ensure!(
            wrk.bytes_per_answer >= DOCUMENT_BYTES as u64 * 95 / 100,
            "{subject} answers too little: {wrk:?}"
        );
        Ok((wrk.rate(), json!({ "wrk": wrk, "generator_cores": usage.of("wrk") }), usage))
    }

    async fn redis_benchmark(&self, seconds: u64) -> anyhow::Result<(f64, Value, usage::Usage)> {
        let mut args = self.on_generator_core(&tools::find("redis-benchmark", "redis-tools")?);
        // It takes a number of requests, not a time.
        let requests = 80_000 * seconds;
        let port = self.namespace.servers().redis.port();
        args.extend(
            ["-p", &port.to_string(), "-c", &self.options.connections.to_string(), "-n", &requests.to_string()]
                .map(str::to_owned),
        );
        args.extend(
            ["-r", &self.options.signals.to_string(), "-q", "--csv", "GET", "key:__rand_int__"].map(str::to_owned),
        );
        let (output, usage) = usage::during(tools::run(&tools::find("taskset", "util-linux")?, args, &[])).await;
        let output = output?;
        let rate = output
            .lines()
            .filter_map(|line| line.rsplit_once("key:__rand_int__\",\""))
            .find_map(|(_, rest)| rest.split('"').next()?.parse::<f64>().ok());
        let rate = rate.ok_or_else(|| anyhow::anyhow!("redis-benchmark printed no rate: {output}"))?;
        Ok((rate, json!({ "csv": output, "generator_cores": usage.of("redis-benchmark") }), usage))
    }

    async fn open(&self, subject: &str, rate: f64, seconds: u64) -> anyhow::Result<(Value, usage::Usage)> {
        self.pin(subject)?;
        let door = self.door(subject);
        let own = std::env::current_exe()?;
        let mut args = self.on_generator_core(&own);
        // Where the kernel lets us, the generator is ahead of everything else on its core: one that waits for its turn
        // measures that. Redis, on the same core, is its equal: behind it, it would run only in the generator's pauses, and
        // whoever asks Redis would answer in bursts.
        let chrt = tools::find("chrt", "util-linux");
        let raised = match &chrt {
            Ok(chrt) if tools::run(chrt, ["-f", "1", "true"], &[]).await.is_ok() => Some(chrt),
            _ => None,
        };
        let redis = self.namespace.servers().redis.pid().unwrap_or(0).to_string();
        if let Some(chrt) = raised {
            args = self.on_generator_core(chrt);
            args.extend(["-f".to_owned(), "1".to_owned(), own.display().to_string()]);
            tools::run(chrt, ["-a", "-f", "-p", "1", &redis], &[]).await?;
        }
        args.extend([
            "open-reads".to_owned(),
            format!("--server=127.0.0.1:{}", door.port),
            format!("--ids={}", self.ids.display()),
            format!("--before={}", door.before),
            format!("--after={}", door.after),
            format!("--authorization={}", door.authorization),
            format!("--rate={rate:.0}"),
            format!("--seconds={seconds}"),
            format!("--connections={}", self.options.connections),
        ]);
        let (output, usage) = usage::during(tools::run(&tools::find("taskset", "util-linux")?, args, &[])).await;
        if let Some(chrt) = raised {
            tools::run(chrt, ["-a", "-o", "-p", "0", &redis], &[]).await?;
        }
        let detail: Value = serde_json::from_str(output?.trim())?;
        anyhow::ensure!(detail["refused"] == 0, "{subject}: {detail}");
        Ok((detail, usage))
    }

    /// `taskset -c CORE PROGRAM`, without the first word.
    fn on_generator_core(&self, program: &Path) -> Vec<String> {
        vec!["-c".to_owned(), self.options.generator_core.to_string(), program.display().to_string()]
    }
}

/// Puts the documents that the view serves under their bare ids, for webdis, and under the keys that redis-benchmark
/// asks for. Returns their size.
async fn put_documents(planes: &Planes, redis: &str, ids: &[String]) -> anyhow::Result<usize> {
    let mut client = bench::Client::connect(planes.dataplane.address(), planes.api_key()).await?;
    let mut connection = redis::Client::open(redis)?.get_multiplexed_async_connection().await?;
    let mut size = 0;
    for (chunk, some) in ids.chunks(1_000).enumerate() {
        let mut pipe = redis::pipe();
        for (i, id) in some.iter().enumerate() {
            let document = client.send("GET", &format!("/v1/signals/{id}"), "", "").await?.body;
            size = document.len();
            pipe.set(format!("key:{:012}", chunk * 1_000 + i), &document).ignore();
            pipe.set(id, document).ignore();
        }
        pipe.exec_async(&mut connection).await?;
    }
    Ok(size)
}

fn start_webdis(namespace: &Namespace, port: u16) -> anyhow::Result<Program> {
    let servers = namespace.servers();
    let file = servers.dir().join("webdis.json");
    let settings = json!({
        "redis_host": "127.0.0.1",
        "redis_port": servers.redis.port(),
        "redis_auth": null,
        "http_host": "127.0.0.1",
        "http_port": port,
        "threads": 1,
        "pool_size": 20,
        "daemonize": false,
        "database": 0,
        "acl": [
            { "disabled": ["*"] },
            { "http_basic_auth": "nexus:nexus", "enabled": ["GET"] },
        ],
        "verbosity": 0,
        "logfile": servers.dir().join("webdis-own.log"),
    });
    std::fs::write(&file, serde_json::to_vec_pretty(&settings)?)?;
    let webdis = tools::find("webdis", "webdis")?;
    Ok(servers.start_program("webdis", &webdis, [file], &[])?)
}
