//! The floor under latency to consistency: what the four steps cost that no design of this kind can leave out, one at a
//! time and by themselves: a durable commit, a produce with its acknowledgement, a fetch of a record that is there, and a
//! call of a script in Redis that keeps one document. Medians, at the pace of 500 a second.

use std::time::{Duration, Instant};

use infrastructure::Namespace;
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use redis::Script;
use redis::aio::MultiplexedConnection;
use serde::Serialize;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::naive::APPLY;
use crate::systems::ACKS;
use crate::table::median;

const TOPIC: &str = "floor";
const PACE: Duration = Duration::from_millis(2);
const DOCUMENT_BYTES: usize = 400;
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections that are open, and warm.
pub struct Floor {
    postgres: PgConnection,
    producer: FutureProducer,
    broker: TcpStream,
    redis: MultiplexedConnection,
    document: String,
}

/// Medians in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Parts {
    pub commit: f64,
    pub produce: f64,
    pub fetch: f64,
    pub script: f64,
}

impl Parts {
    /// One after the other.
    pub fn sum(&self) -> f64 {
        self.commit + self.produce + self.fetch + self.script
    }
}

impl Floor {
    /// Connects to the servers of a namespace of its own.
    ///
    /// # Errors
    /// A server is away.
    pub async fn prepare(namespace: &Namespace) -> anyhow::Result<Floor> {
        let mut postgres = PgConnection::connect(&namespace.database_url()).await?;
        postgres.execute(AssertSqlSafe(include_str!("tools/tables.sql"))).await?;
        crate::systems::make_topic(namespace, TOPIC, 1).await?;
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", namespace.brokers()).set("acks", ACKS).set("linger.ms", "0");
        let producer = config.set("socket.nagle.disable", "true").create()?;
        let broker = TcpStream::connect(namespace.brokers()).await?;
        broker.set_nodelay(true)?;
        let redis = redis::Client::open(namespace.redis_url())?.get_multiplexed_async_connection().await?;
        Ok(Floor { postgres, producer, broker, redis, document: "d".repeat(DOCUMENT_BYTES) })
    }

    /// Goes through the four steps for so many seconds, after one that is thrown away.
    ///
    /// # Errors
    /// A server is away.
    pub async fn measure(&mut self, seconds: u64) -> anyhow::Result<Parts> {
        let mut times: [Vec<f64>; 4] = Default::default();
        let rounds = 500 * (seconds + 1);
        let start = Instant::now();
        for i in 0..rounds {
            let due = start + PACE * u32::try_from(i)?;
            tokio::time::sleep_until(due.into()).await;
            let steps = self.once().await?;
            if i >= 500 {
                for (all, time) in times.iter_mut().zip(steps) {
                    all.push(time.as_secs_f64() * 1e3);
                }
            }
        }
        let [commit, produce, fetch, script] = times.map(|all| median(&all).unwrap_or(f64::NAN));
        Ok(Parts { commit, produce, fetch, script })
    }

    #[expect(clippy::disallowed_methods, reason = "one record at a time: there is no order to lose")]
    async fn once(&mut self) -> anyhow::Result<[Duration; 4]> {
        let begin = Instant::now();
        sqlx::query(
            "INSERT INTO outbox VALUES (gen_random_uuid(), 'signals', '0190a000-0000-7000-8000-000000000000', 'created', $1)",
        )
        .bind(&self.document)
        .execute(&mut self.postgres)
        .await?;
        let committed = Instant::now();
        let record = FutureRecord::to(TOPIC).key("floor").payload(&self.document).partition(0);
        let delivery = self.producer.send(record, PATIENCE).await.map_err(|(error, _)| error)?;
        let produced = Instant::now();
        self.fetch(delivery.offset).await?;
        let fetched = Instant::now();
        let script = Script::new(APPLY);
        let mut call = script.key("floor:d:0190a000-0000-7000-8000-000000000000");
        call.arg("floor:changes").arg("updated").arg(&self.document);
        let _: i64 = call.invoke_async(&mut self.redis).await?;
        let called = Instant::now();
        Ok([committed - begin, produced - committed, fetched - produced, called - fetched])
    }

    /// One Fetch request (version 4 of the Kafka protocol, the oldest that brokers still take) and its answer, by hand:
    /// clients prefetch, and would hide what one costs.
    async fn fetch(&mut self, offset: i64) -> anyhow::Result<()> {
        const FETCH: i16 = 1;
        const VERSION: i16 = 4;
        let mut body = Vec::with_capacity(96);
        body.extend(FETCH.to_be_bytes());
        body.extend(VERSION.to_be_bytes());
        body.extend(7_i32.to_be_bytes()); // correlation id
        body.extend((-1_i16).to_be_bytes()); // client id: null
        body.extend((-1_i32).to_be_bytes()); // replica id: a consumer
        body.extend(1_000_i32.to_be_bytes()); // wait at most, ms
        body.extend(1_i32.to_be_bytes()); // bytes at least
        body.extend(1_048_576_i32.to_be_bytes()); // bytes at most
        body.push(0); // read uncommitted
        body.extend(1_i32.to_be_bytes()); // topics
        body.extend(i16::try_from(TOPIC.len())?.to_be_bytes());
        body.extend(TOPIC.as_bytes());
        body.extend(1_i32.to_be_bytes()); // partitions
        body.extend(0_i32.to_be_bytes());
        body.extend(offset.to_be_bytes());
        body.extend(1_048_576_i32.to_be_bytes());
        let mut request = i32::try_from(body.len())?.to_be_bytes().to_vec();
        request.extend(body);
        self.broker.write_all(&request).await?;
        let size = self.broker.read_i32().await?;
        let mut answer = vec![0; usize::try_from(size)?];
        self.broker.read_exact(&mut answer).await?;
        let there = answer.windows(DOCUMENT_BYTES).any(|bytes| bytes == self.document.as_bytes());
        anyhow::ensure!(there, "the broker answered a fetch of offset {offset} without the record");
        Ok(())
    }
}
