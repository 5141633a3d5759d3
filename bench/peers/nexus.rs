//! A stack for measuring, and Nexus on it.

use std::time::Duration;

use anyhow::Context;
use bench::Client;
use infrastructure::{BrokerProfile, Namespace, Options as ServerOptions, Planes, TestStack};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::options::Options;

/// Commands in one request when views are filled; the most that a batch may have.
const BATCH: u32 = 1_000;
/// Requests at once then.
const FILLERS: u32 = 4;
/// How long the relay may take to come to the end of the WAL, and the projector to that of the topics.
const CATCH_UP: Duration = Duration::from_secs(300);
/// Longest that Redis may take for an answer.
const REDIS_PATIENCE: Duration = Duration::from_secs(60);
/// WAL behind which the relay counts as being at the end: its own bookkeeping.
const WAL_REST_BYTES: i64 = 512 * 1024;

/// Servers for measuring: the broker's JVM with all it wants, the rest as in every stack.
///
/// # Errors
/// A server does not start.
pub async fn stack() -> anyhow::Result<TestStack> {
    crate::tools::say("  starting servers");
    Ok(TestStack::start_with(ServerOptions { dir: None, broker_profile: BrokerProfile::Benchmark }).await?)
}

/// Both planes in a namespace, with the settings that were asked for.
///
/// # Errors
/// A plane does not start.
pub async fn planes(namespace: &Namespace, options: &Options) -> anyhow::Result<Planes> {
    Ok(Planes::start_with(namespace, &options.plane_settings()).await?)
}

/// The body of a create whose rendered document has close to `bytes` bytes.
pub fn create_body(i: u32, bytes: usize) -> String {
    body_of(i, bytes, "high")
}

/// The same, of any priority.
pub fn body_of(i: u32, bytes: usize, priority: &str) -> String {
    format!(r#"{{"title":"peers {i:08}","priority":"{priority}","payload":{{"note":"{}"}}}}"#, "x".repeat(note(bytes)))
}

/// Priorities in turns, as far apart in the index as they can be.
pub const PRIORITIES: [&str; 4] = ["low", "normal", "high", "critical"];

/// Length of the payload's text in a document of so many bytes.
pub fn note(bytes: usize) -> usize {
    /// A document with an empty note, its title of 14 characters.
    const REST: usize = 301 - 10;
    bytes.saturating_sub(REST)
}

/// Creates signals by batches, all alike. Returns their ids.
///
/// # Errors
/// A command is refused.
pub async fn fill(planes: &Planes, count: u32, bytes: usize) -> anyhow::Result<Vec<String>> {
    fill_with(planes, count, |i| create_body(i, bytes)).await
}

/// Creates signals by batches, each by the body that `body` gives for its number. Returns their ids, in no order of theirs.
///
/// # Errors
/// A command is refused.
pub async fn fill_with(
    planes: &Planes,
    count: u32,
    body: impl Fn(u32) -> String + Copy,
) -> anyhow::Result<Vec<String>> {
    let share = count.div_ceil(FILLERS);
    let one = |filler: u32| async move {
        let mut client = Client::connect(planes.control.address(), planes.api_key()).await?;
        let (mut next, end) = (filler * share, ((filler + 1) * share).min(count));
        let mut ids = Vec::new();
        while next < end {
            let last = (next + BATCH).min(end);
            let commands: Vec<String> =
                (next..last).map(|i| format!(r#"{{"op":"create","signal":{}}}"#, body(i))).collect();
            let body = format!(r#"{{"commands":[{}]}}"#, commands.join(","));
            let json = "content-type: application/json\r\n";
            let answer = client.send("POST", "/v1/signals:batch", json, &body).await?;
            if answer.status == 503 {
                tokio::time::sleep(Duration::from_millis(50)).await; // its queue is full, and it said to come back
                continue;
            }
            anyhow::ensure!(answer.status == 200, "a batch was answered {}: {}", answer.status, answer.head);
            let results: serde_json::Value = serde_json::from_slice(&answer.body)?;
            for result in results["results"].as_array().context("a batch without results")? {
                anyhow::ensure!(result["status"] == 201, "a create was answered {result}");
                ids.push(result["id"].as_str().context("a result without an id")?.to_owned());
            }
            next = last;
        }
        anyhow::Ok(ids)
    };
    let ids = futures_util::future::try_join_all((0..FILLERS).map(one)).await?;
    Ok(ids.into_iter().flatten().collect())
}

/// Waits until the view server answers a read of each of these.
///
/// # Errors
/// One is not there in five minutes.
pub async fn visible(planes: &Planes, ids: &[String]) -> anyhow::Result<()> {
    let mut client = Client::connect(planes.dataplane.address(), planes.api_key()).await?;
    let begin = std::time::Instant::now();
    for id in ids {
        while client.send("GET", &format!("/v1/signals/{id}"), "", "").await?.status != 200 {
            anyhow::ensure!(begin.elapsed() < CATCH_UP, "waited for {id} to be visible");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

/// A connection to the namespace's database as the superuser.
///
/// # Errors
/// Postgres is away.
pub async fn database(namespace: &Namespace) -> anyhow::Result<PgConnection> {
    Ok(PgConnection::connect(&namespace.database_admin_url()).await?)
}

/// Waits until the relay has published all that is in the WAL.
///
/// # Errors
/// It has not in five minutes.
pub async fn relayed(namespace: &Namespace) -> anyhow::Result<()> {
    let mut connection = database(namespace).await?;
    let query = format!(
        "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), confirmed_flush_lsn)::bigint \
         FROM pg_replication_slots WHERE slot_name = '{}'",
        namespace.slot()
    );
    let begin = std::time::Instant::now();
    loop {
        let behind: i64 = sqlx::query_scalar(AssertSqlSafe(query.clone())).fetch_one(&mut connection).await?;
        if behind < WAL_REST_BYTES {
            return Ok(());
        }
        anyhow::ensure!(begin.elapsed() < CATCH_UP, "waited for the relay, {behind} bytes behind");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Starts every measurement of writes from the same point: nothing dirty, the next checkpoint far away.
///
/// # Errors
/// Postgres is away.
pub async fn checkpoint(namespace: &Namespace) -> anyhow::Result<()> {
    sqlx::query("CHECKPOINT").execute(&mut database(namespace).await?).await?;
    Ok(())
}

/// A connection to the namespace's Redis that waits for what takes Redis seconds: to forget a million keys.
///
/// # Errors
/// Redis is away.
pub async fn redis(namespace: &Namespace) -> anyhow::Result<redis::aio::MultiplexedConnection> {
    let patient = redis::AsyncConnectionConfig::new().set_response_timeout(Some(REDIS_PATIENCE));
    Ok(redis::Client::open(namespace.redis_url())?.get_multiplexed_async_connection_with_config(&patient).await?)
}
