//! Debezium's Postgres connector with its outbox router on Kafka Connect standalone, and Benthos behind it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use infrastructure::{Namespace, Program, fetch_jars, ports, probe};

use crate::naive::{APPLY, TYPE, channel, document_key};
use crate::options::Options;
use crate::tools;

const POM: &str = include_str!("pom.xml");
const MAIN: &str = include_str!("benthos/main.go");
const GO_MOD: &str = include_str!("benthos/go.mod");
const GO_SUM: &str = include_str!("benthos/go.sum");
/// A JVM that scans its class path on a busy machine takes its time.
const READY: Duration = Duration::from_secs(90);
/// The topic that the router makes of `signals`.
pub const TOPIC: &str = "debezium.signals";

/// Benthos, built from `benthos/` unless it is in the cache.
///
/// # Errors
/// Go is missing or too old, or the module proxy can't be reached.
async fn benthos() -> anyhow::Result<PathBuf> {
    let cache = infrastructure::cache()?;
    let folder = cache.join(format!("benthos-{:016x}", hash(&[MAIN, GO_MOD, GO_SUM])));
    let program = folder.join("benthos");
    if program.is_file() {
        return Ok(program);
    }
    tools::say("  building Benthos");
    std::fs::create_dir_all(&folder)?;
    for (name, text) in [("main.go", MAIN), ("go.mod", GO_MOD), ("go.sum", GO_SUM)] {
        std::fs::write(folder.join(name), text)?;
    }
    let go = tools::find("go", "golang (1.21 or later)")?;
    let (path, modules) = (folder.display().to_string(), cache.join("go").display().to_string());
    // Built beside and moved: a build that was cut off is never taken for a program. The modules stay writable.
    let args = ["build", "-C", &path, "-modcacherw", "-trimpath", "-o", "building", "."];
    tools::run(&go, args, &[("GOPATH", &modules), ("GOFLAGS", "-mod=mod")]).await?;
    std::fs::rename(folder.join("building"), &program)?;
    Ok(program)
}

fn hash(texts: &[&str]) -> u64 {
    // FNV-1a, as for the cache of jars: the same in every build.
    let bytes = texts.iter().flat_map(|text| text.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Starts both against the namespace, whose database has the outbox and whose broker has [`TOPIC`].
///
/// # Errors
/// Something can't be had or does not become ready.
pub async fn start(namespace: &Namespace, prefix: &str, options: &Options) -> anyhow::Result<Vec<Program>> {
    let benthos = benthos().await?;
    Ok(vec![start_connect(namespace).await?, start_benthos(namespace, &benthos, prefix, options).await?])
}

async fn start_connect(namespace: &Namespace) -> anyhow::Result<Program> {
    let servers = namespace.servers();
    let port = ports::pick()?;
    let url = namespace.database_url();
    let (user, rest) = url.trim_start_matches("postgres://").split_once(':').unwrap_or_default();
    let password = rest.split_once('@').map_or("", |(password, _)| password);
    let worker = format!(
        "bootstrap.servers={brokers}\n\
         listeners=http://127.0.0.1:{port}\n\
         key.converter=org.apache.kafka.connect.storage.StringConverter\n\
         value.converter=org.apache.kafka.connect.storage.StringConverter\n\
         offset.storage.file.filename={offsets}\n\
         offset.flush.interval.ms=10000\n\
         plugin.discovery=service_load\n\
         producer.acks={acks}\n\
         producer.linger.ms=0\n",
        acks = crate::systems::ACKS,
        brokers = namespace.brokers(),
        offsets = servers.dir().join("connect.offsets").display(),
    );
    let connector = format!(
        "name=outbox\n\
         connector.class=io.debezium.connector.postgresql.PostgresConnector\n\
         tasks.max=1\n\
         database.hostname=127.0.0.1\n\
         database.port={port}\n\
         database.user={user}\n\
         database.password={password}\n\
         database.dbname={database}\n\
         topic.prefix=debezium\n\
         plugin.name=pgoutput\n\
         slot.name=debezium_{database}\n\
         publication.name=debezium\n\
         publication.autocreate.mode=filtered\n\
         table.include.list=public.outbox\n\
         snapshot.mode=no_data\n\
         tombstones.on.delete=false\n\
         poll.interval.ms=10\n\
         transforms=outbox\n\
         transforms.outbox.type=io.debezium.transforms.outbox.EventRouter\n\
         transforms.outbox.route.topic.replacement=debezium.${{routedByValue}}\n\
         transforms.outbox.table.fields.additional.placement=type:header:{TYPE}\n",
        port = servers.postgres.port(),
        database = namespace.id(),
    );
    let files = [("connect-worker.properties", worker), ("connect-outbox.properties", connector)];
    let mut args: Vec<OsString> =
        ["-Xms512m", "-Xmx512m", "-XX:+UseG1GC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp"]
            .map(OsString::from)
            .to_vec();
    args.push(fetch_jars("debezium", POM).await?);
    args.push("org.apache.kafka.connect.cli.ConnectStandalone".into());
    for (name, text) in files {
        let path = servers.dir().join(name);
        std::fs::write(&path, text)?;
        args.push(path.into());
    }
    let java = tools::find("java", "default-jre-headless")?;
    let program = servers.start_program("connect", &java, args, &[])?;
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let running = || async move {
        let answer = probe::http_get(address, "/connectors/outbox/status", None).await;
        // The connector's state and its task's.
        answer.is_some_and(|answer| answer.body.matches("\"RUNNING\"").count() >= 2)
    };
    program.wait_ready(READY, running).await?;
    Ok(program)
}

async fn start_benthos(
    namespace: &Namespace,
    benthos: &std::path::Path,
    prefix: &str,
    options: &Options,
) -> anyhow::Result<Program> {
    let servers = namespace.servers();
    let port = ports::pick()?;
    // Order is kept by one thread: the limit of this input holds back fetches, not the records of one that is there, so that
    // with more threads, and a limit of 1, a key's versions went back in the view.
    let settings = format!(
        "http: {{ address: '127.0.0.1:{port}' }}\n\
         input:\n  kafka_franz:\n    seed_brokers: ['{brokers}']\n    topics: ['{TOPIC}']\n    \
         consumer_group: '{prefix}benthos'\n    checkpoint_limit: {limit}\n    start_from_oldest: true\n    commit_period: 1s\n\
         pipeline:\n  threads: {threads}\n  processors:\n    - redis_script:\n        url: '{redis}'\n        \
         script: |\n          {APPLY}\n        \
         keys_mapping: 'root = [ \"{key}\" + meta(\"kafka_key\") ]'\n        \
         args_mapping: 'root = [ \"{channel}\", meta(\"{TYPE}\"), content().string() ]'\n\
         output: {{ drop: {{}} }}\n\
         logger: {{ level: WARN }}\n",
        brokers = namespace.brokers(),
        redis = namespace.redis_url(),
        key = document_key(prefix, ""),
        channel = channel(prefix),
        threads = options.benthos_threads,
        limit = if options.benthos_threads == 1 { 1024 } else { 1 },
    );
    let file = servers.dir().join("benthos.yaml");
    std::fs::write(&file, settings)?;
    let args: [OsString; 2] = ["-c".into(), file.into()];
    let program = servers.start_program("benthos", benthos, args, &[])?;
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let ready = || async move { probe::http_get(address, "/ready", None).await.is_some_and(|a| a.status == 200) };
    program.wait_ready(READY, ready).await?;
    Ok(program)
}
