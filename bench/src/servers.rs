//! The servers that benches run on, and what they say of themselves.

use std::collections::BTreeMap;

use anyhow::Context;
use control::store::SynchronousCommit;
use control::topics::{self, TopicSettings};
use infrastructure::{BrokerProfile, Namespace, Options, TestStack};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};

/// Servers of the benches' own on free ports, the broker in its profile for measuring. They end with this process,
/// however it ends.
///
/// # Errors
/// A server is missing or does not start.
pub async fn start() -> infrastructure::Result<TestStack> {
    TestStack::start_with(Options { dir: None, broker_profile: BrokerProfile::Benchmark }).await
}

/// Versions and settings of the servers behind `namespace`, asked from sessions like the planes'. Makes the product's
/// topics in it where they are missing, because the broker is asked about them.
///
/// # Errors
/// A server is away, or a commit of the control plane's would not wait for the disk.
pub async fn asked(namespace: &Namespace) -> anyhow::Result<Value> {
    Ok(json!({
        "postgres": postgres(namespace).await.context("Postgres does not tell its settings")?,
        "redis": redis(namespace).await.context("Redis does not tell its settings")?,
        "broker": broker(namespace).await.context("the broker does not tell its settings")?,
    }))
}

async fn postgres(namespace: &Namespace) -> anyhow::Result<Value> {
    let role: PgConnectOptions = namespace.database_url().parse()?;
    // As the store opens the sessions of its batches.
    let session = role.options([("synchronous_commit", SynchronousCommit::default().as_str())]);
    let mut connection = PgConnection::connect_with(&session).await?;
    let mut settings: BTreeMap<&str, String> = BTreeMap::new();
    for name in [
        "server_version",
        "fsync",
        "synchronous_commit",
        "full_page_writes",
        "wal_sync_method",
        "wal_level",
        "shared_buffers",
    ] {
        let query = sqlx::query_scalar("SELECT current_setting($1)").bind(name);
        settings.insert(name, query.fetch_one(&mut connection).await?);
    }
    for name in ["fsync", "synchronous_commit"] {
        anyhow::ensure!(settings[name] == "on", "{name} is {}: commits do not wait for the disk", settings[name]);
    }
    Ok(json!(settings))
}

async fn redis(namespace: &Namespace) -> anyhow::Result<Value> {
    let mut connection = redis::Client::open(namespace.redis_url())?.get_multiplexed_async_connection().await?;
    let info: String = redis::cmd("INFO").arg("server").query_async(&mut connection).await?;
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).map(str::trim);
    let mut settings = BTreeMap::from([("redis_version".to_owned(), version.unwrap_or("unknown").to_owned())]);
    for name in ["appendonly", "appendfsync", "save", "maxmemory-policy"] {
        let answer: BTreeMap<String, String> =
            redis::cmd("CONFIG").arg("GET").arg(name).query_async(&mut connection).await?;
        settings.extend(answer);
    }
    Ok(json!(settings))
}

async fn broker(namespace: &Namespace) -> anyhow::Result<Value> {
    let topics = TopicSettings {
        brokers: namespace.brokers().to_owned(),
        prefix: namespace.topic_prefix(),
        partitions: namespace.partitions(),
        replication: None,
    };
    topics::ensure(&topics).await?;
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", namespace.brokers()).create()?;
    let topic = topics.name(contract::partition::Topic::Signals);
    let answers = admin.describe_configs([&ResourceSpecifier::Topic(&topic)], &AdminOptions::new()).await?;
    let mut settings: BTreeMap<String, Option<String>> = BTreeMap::new();
    for answer in answers {
        let resource = answer.map_err(|code| anyhow::anyhow!("topic {topic}: {code}"))?;
        for name in ["min.insync.replicas", "flush.messages", "flush.ms", "compression.type"] {
            settings.insert(name.to_owned(), resource.get(name).and_then(|entry| entry.value.clone()));
        }
    }
    Ok(json!({
        "version": version(namespace),
        "profile": "benchmark: 1 GiB of heap, G1, all compiler tiers",
        "topic": settings,
        "acks": "all: a constant of the relay's producer (control/src/publisher.rs), assumed, not asked; \
                 with one broker that is its page cache, as flush.messages says",
    }))
}

/// The broker's version as its jars on the command line say it; the program's name for any other.
fn version(namespace: &Namespace) -> String {
    let line = namespace.servers().broker.pid().and_then(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).ok());
    let line = line.unwrap_or_default();
    let line = String::from_utf8_lossy(&line);
    match line.split_once("kafka_2.13-").and_then(|(_, rest)| rest.split_once(".jar")) {
        Some((version, _)) => format!("Apache Kafka {version}"),
        None => line.split('\0').next().unwrap_or("").rsplit('/').next().unwrap_or("").to_owned(),
    }
}
