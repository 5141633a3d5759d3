//! One connection to Redis, and the run of the server that it reaches.
//!
//! Nothing here connects again by itself: a new connection may reach a server that has forgotten what
//! the old one acknowledged, so whoever uses a link makes the next one and looks at its run id first.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, RedisError};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an answer may take. A batch that was given up may still be applied later: its compare-and-set
/// makes that harmless.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The one policy under which Redis forgets nothing by itself.
const POLICY: &str = "noeviction";

/// Why there is no link, or why it broke.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The URL is none that Redis takes.
    #[error("NEXUS_REDIS_URL is no URL of a Redis server")]
    Url(#[source] RedisError),
    /// The server is away, refuses, or answered with an error.
    #[error("Redis does not answer as it should")]
    Redis(#[from] RedisError),
    /// The server is reading its data from disk.
    #[error("Redis is loading its data")]
    Loading,
    /// The server is a replica, which takes no writes and may lag.
    #[error("Redis is a replica; the view needs its primary")]
    Replica,
    /// The server would delete keys of the view to make room.
    #[error("Redis has maxmemory-policy {0}; the view needs {POLICY}, any other policy deletes parts of it unseen")]
    Policy(String),
    /// The server's answer to INFO lacks a line.
    #[error("Redis tells no {0}")]
    Silent(&'static str),
}

impl LinkError {
    /// Whether waiting can't help: the setting has to change.
    #[must_use]
    pub fn is_setup(&self) -> bool {
        matches!(self, LinkError::Url(_) | LinkError::Policy(_))
    }
}

/// Makes links to one server.
#[derive(Debug, Clone)]
pub struct Redis {
    client: Client,
}

impl Redis {
    /// The server at `url`; nothing is connected yet.
    ///
    /// # Errors
    /// [`LinkError::Url`].
    pub fn new(url: &str) -> Result<Self, LinkError> {
        Ok(Self { client: Client::open(url).map_err(LinkError::Url)? })
    }

    /// A new connection, asked for its run id.
    ///
    /// # Errors
    /// The server is away, loading, a replica, or evicts.
    pub async fn connect(&self) -> Result<RedisLink, LinkError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(ANSWER_TIMEOUT))
            .set_write_backpressure_boundary(1024 * 1024);
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        let info: String = redis::cmd("INFO").query_async(&mut connection).await?;
        let line = |name: &'static str| {
            let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.map(str::trim).ok_or(LinkError::Silent(name))
        };
        if line("loading")? != "0" {
            return Err(LinkError::Loading);
        }
        if line("role")? != "master" {
            return Err(LinkError::Replica);
        }
        let policy = line("maxmemory_policy")?;
        if policy != POLICY {
            return Err(LinkError::Policy(policy.to_owned()));
        }
        let run_id = line("run_id")?.to_owned();
        Ok(RedisLink { connection, run_id })
    }
}

/// One connection. Clones share it.
#[derive(Debug, Clone)]
pub struct RedisLink {
    connection: MultiplexedConnection,
    run_id: String,
}

impl RedisLink {
    /// The run of the server that the connection reaches, for as long as it lives.
    #[must_use]
    pub fn run_id(&self) -> &str {
        &self.run_id
    }

    /// The server's answer to one command.
    ///
    /// # Errors
    /// The connection broke or the server refused; make a new link after the first.
    pub async fn query<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, LinkError> {
        Ok(command.query_async(&mut self.connection).await?)
    }

    /// The connection itself.
    #[must_use]
    pub fn connection(&self) -> MultiplexedConnection {
        self.connection.clone()
    }
}
