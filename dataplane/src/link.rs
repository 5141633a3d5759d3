//! The view server's connections to Redis: made by hand, so that none is silently another server's.
//!
//! *Input*: failures reported by whoever used a link. *Output*: the present link, or none. *Bound*: two
//! connections. *On shutdown*: ends at once.
//!
//! Every connection asks for the server's run id before anything else: a view written on another run
//! may have forgotten what came after it, and must not be served.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError, RedisResult};
use runtime::shutdown::Shutdown;
use tokio::sync::{mpsc, watch};

use crate::wire::{self, Wire};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// The connections to one run of a Redis server; they never connect again by themselves.
#[derive(Clone)]
pub struct Link {
    /// The one for all that is not read often.
    pub connection: MultiplexedConnection,
    /// The one for documents and lists.
    pub wire: Wire,
    /// The server's run id.
    pub run_id: Arc<str>,
    serial: u64,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("run_id", &self.run_id).field("serial", &self.serial).finish_non_exhaustive()
    }
}

/// Connects, and asks for the run id. An answer that takes longer than `response_timeout` counts as
/// the connection's loss.
///
/// # Errors
/// Redis is away, refuses, or the two connections reach no run of it or different ones.
pub async fn connect(client: &Client, response_timeout: Option<Duration>) -> RedisResult<Link> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(response_timeout);
    let wire = Wire::connect(client.get_connection_info(), response_timeout);
    let wire = tokio::time::timeout(CONNECT_TIMEOUT, wire).await;
    let (wire, run_id) = wire.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    let info: String = redis::cmd("INFO").arg("server").query_async(&mut connection).await?;
    if wire::run_id(&info) != Some(&*run_id) {
        return Err(io::Error::other("Redis was started again between two connections").into());
    }
    Ok(Link { connection, wire, run_id, serial: 0 })
}

/// The present link, shared by all who read.
#[derive(Debug, Clone)]
pub struct Links {
    current: watch::Receiver<Option<Link>>,
    failures: mpsc::Sender<u64>,
}

impl Links {
    /// Starts keeping a link to `client`'s server.
    #[must_use]
    pub fn keep(client: Client, response_timeout: Duration, shutdown: Shutdown) -> Self {
        let (sender, current) = watch::channel(None);
        let (failures, reports) = mpsc::channel(64);
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown.begun() => {
                    // Requests in flight still need it while they drain.
                    tokio::time::sleep(runtime::shutdown::DRAIN_DEADLINE).await;
                }
                () = keep(client, response_timeout, sender, reports) => {}
            }
        });
        Self { current, failures }
    }

    /// The present link; `None` while Redis is away.
    #[must_use]
    pub fn current(&self) -> Option<Link> {
        self.current.borrow().clone()
    }

    /// Says what went wrong on `link`, and returns whether the link is lost (else the request was at fault).
    pub fn report(&self, link: &Link, error: &RedisError) -> bool {
        let lost = error.is_io_error() || error.is_unrecoverable_error() || error.is_timeout();
        if lost {
            tracing::warn!(error = %error, "a connection to Redis is lost");
            // Full: others have reported it already.
            let _ = self.failures.try_send(link.serial);
        } else {
            tracing::warn!(error = %error, "Redis refused a read");
        }
        lost
    }
}

async fn keep(
    client: Client,
    response_timeout: Duration,
    current: watch::Sender<Option<Link>>,
    mut reports: mpsc::Receiver<u64>,
) {
    let (mut serial, mut pause) = (0, FIRST_PAUSE);
    loop {
        match connect(&client, Some(response_timeout)).await {
            Ok(link) => {
                serial += 1;
                pause = FIRST_PAUSE;
                tracing::info!(run_id = &*link.run_id, "connected to Redis");
                current.send_replace(Some(Link { serial, ..link }));
                loop {
                    match reports.recv().await {
                        Some(failed) if failed == serial => break,
                        Some(_) => {}
                        None => return,
                    }
                }
                current.send_replace(None);
            }
            Err(error) => {
                tracing::debug!(%error, "Redis is away");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}
