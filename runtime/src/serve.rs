//! The HTTP/1.1 server: accepts, serves, drains.
//!
//! *Input*: connections on one listener. *Output*: calls of the service. *Bound*: [`Limits::connections`];
//! beyond it accepting waits. *On shutdown*: the listener closes, requests in flight finish, the rest is
//! cut at the deadline.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::{Request, Response};
use hyper::body::Incoming;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::connection;
use crate::http::body::Body;
use crate::shutdown::{DRAIN_DEADLINE, Shutdown};

/// What one server grants its clients.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Bytes of request line and headers; more is 431.
    pub header_bytes: usize,
    /// From a request's first byte to the end of its header.
    pub header_timeout: Duration,
    /// Between two requests of a connection.
    pub idle_timeout: Duration,
    /// How long a client may take no byte of an answer.
    pub write_timeout: Duration,
    /// How long requests in flight may go on after shutdown began.
    pub drain_deadline: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            header_bytes: 16 * 1024,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            write_timeout: Duration::from_secs(20),
            drain_deadline: DRAIN_DEADLINE,
        }
    }
}

impl Limits {
    /// How often a connection looks at its clock: often enough that no limit is overrun by more than a
    /// quarter, seldom enough to cost nothing. No timer is armed per request.
    pub(crate) fn tick(&self) -> Duration {
        let shortest = self.header_timeout.min(self.idle_timeout).min(self.write_timeout);
        (shortest / 4).clamp(Duration::from_millis(10), Duration::from_secs(1))
    }
}

/// A listener on `addr` with SO_REUSEADDR. Must be called within a runtime.
///
/// # Errors
/// The address is taken or not ours.
pub fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(4096)
}

/// Serves `listener` until `shutdown` has begun and the connections are drained.
///
/// Each request is given to `service` on its connection's task; a client that goes away drops the
/// future, so what must finish belongs into a task of its own.
pub async fn serve<S, F>(listener: TcpListener, limits: Limits, shutdown: Shutdown, service: S)
where
    S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let permits = u32::try_from(limits.connections).unwrap_or(u32::MAX).max(1);
    let slots = Arc::new(Semaphore::new(permits as usize));
    let limits = Arc::new(limits);
    let cut = CancellationToken::new();

    loop {
        let slot = tokio::select! {
            biased;
            () = shutdown.begun() => break,
            slot = Arc::clone(&slots).acquire_owned() => slot.expect("the semaphore is never closed"),
        };
        let accepted = tokio::select! {
            biased;
            () = shutdown.begun() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection =
                    connection::run(stream, Arc::clone(&limits), shutdown.clone(), cut.clone(), service.clone());
                tokio::spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
            Err(error) => {
                // Out of descriptors, or a client gone before we came: don't spin on the first.
                tracing::warn!(%error, "accept failed");
                if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    drop(listener);
    let drained = tokio::time::timeout(limits.drain_deadline, slots.acquire_many(permits)).await;
    if drained.is_err() {
        let open = permits as usize - slots.available_permits();
        tracing::warn!(open, "connections did not drain in time, cutting them");
        cut.cancel();
        // Cut tasks end at their next poll; nothing in them waits for the outside any more.
        let _ = tokio::time::timeout(Duration::from_millis(200), slots.acquire_many(permits)).await;
    }
}
