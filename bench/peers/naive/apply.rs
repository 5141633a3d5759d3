//! The consumer: one event, one call to Redis, and only then the next.

use futures_util::StreamExt;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::message::Headers;
use rdkafka::{ClientConfig, Message};
use redis::Script;

use super::{APPLY, TYPE, channel, document_key};

/// What the consumer uses.
#[derive(Debug, Clone, clap::Args)]
pub struct ApplyOptions {
    /// The broker
    #[arg(long)]
    pub brokers: String,
    /// The topic
    #[arg(long)]
    pub topic: String,
    /// Redis
    #[arg(long)]
    pub redis: String,
    /// What keys begin with
    #[arg(long)]
    pub prefix: String,
}

/// Consumes until the process is ended.
///
/// # Errors
/// The broker or Redis fails.
pub async fn run(options: ApplyOptions) -> anyhow::Result<()> {
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", &options.brokers)
        .set("group.id", format!("{}apply", options.prefix))
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "true")
        // A record comes as soon as it is there, and an empty queue is looked at again at once.
        .set("fetch.min.bytes", "1")
        .set("fetch.queue.backoff.ms", "5")
        .set("socket.nagle.disable", "true")
        .create()?;
    consumer.subscribe(&[&options.topic])?;
    let mut connection = redis::Client::open(options.redis.as_str())?.get_multiplexed_async_connection().await?;
    let script = Script::new(APPLY);
    let channel = channel(&options.prefix);
    println!("consuming");
    let mut records = consumer.stream();
    while let Some(record) = records.next().await {
        let record = record?;
        let (Some(key), Some(document)) = (record.key(), record.payload()) else { continue };
        let headers = record.headers().into_iter().flat_map(|headers| headers.iter());
        let kind = headers.filter(|header| header.key == TYPE).find_map(|header| header.value).unwrap_or(b"updated");
        let key = document_key(&options.prefix, &String::from_utf8_lossy(key));
        let _: i64 = script.key(key).arg(&channel).arg(kind).arg(document).invoke_async(&mut connection).await?;
    }
    Ok(())
}
