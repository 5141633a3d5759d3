//! One connection: serving, watching the clock, draining, closing so that the last answer arrives.
//!
//! hyper's own header timeout arms a timer per request; here the socket notes when its phase began and
//! one coarse tick per connection compares.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use ::http::{Request, Response};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prometheus::{IntCounterVec, IntGauge, register_int_counter_vec_with_registry, register_int_gauge_with_registry};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::http::body::Body;
use crate::serve::Limits;
use crate::shutdown::Shutdown;
use crate::telemetry::registry;

/// How long, and for how many bytes, a closing connection still reads what the client sends. Closing
/// a socket with unread bytes resets it, and the client may lose the answer it was given.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 64 * 1024 * 1024;

/// Head and body of an answer up to this size are put together before they are written: the kernel takes
/// longer over a list of pieces than the copy does.
const FLAT_BYTES: usize = 2048;

static OPEN: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge_with_registry!("nexus_http_connections", "Open connections", registry())
        .expect("registered once")
});
static CUT: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec_with_registry!(
        "nexus_http_connections_cut_total",
        "Connections cut off, by what the client was too slow in",
        &["reason"],
        registry()
    )
    .expect("registered once")
});

/// Milliseconds since the first call, from 1: zero stands for "not".
fn now_ms() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}

/// Between requests.
const IDLE: u8 = 0;
/// Some of a request's header has arrived.
const HEAD: u8 = 1;
/// The service has the request, or its answer is a stream: no clock of ours.
const BUSY: u8 = 2;

/// What the tick needs to know. Written and read by the connection's task; atomics because tasks move.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    phase: AtomicU8,
    since_ms: AtomicU64,
    stalled_ms: AtomicU64,
    wrote: AtomicBool,
}

impl Clock {
    fn enter(&self, phase: u8) {
        self.phase.store(phase, Relaxed);
        self.since_ms.store(now_ms(), Relaxed);
    }

    /// Which limit is overrun, if one is.
    fn overrun(&self, limits: &Limits) -> Option<&'static str> {
        let now = now_ms();
        let longer = |since: u64, limit: Duration| u128::from(now.saturating_sub(since)) > limit.as_millis();
        let stalled = self.stalled_ms.load(Relaxed);
        if stalled != 0 {
            return longer(stalled, limits.write_timeout).then_some("write");
        }
        if self.wrote.swap(false, Relaxed) && self.phase.load(Relaxed) == IDLE {
            // A long answer still on its way counts as activity.
            self.since_ms.store(now, Relaxed);
        }
        let since = self.since_ms.load(Relaxed);
        match self.phase.load(Relaxed) {
            IDLE => longer(since, limits.idle_timeout).then_some("idle"),
            HEAD => longer(since, limits.header_timeout).then_some("header"),
            _ => None,
        }
    }
}

/// Keeps its connection's clock stopped while an answer streams.
#[derive(Debug)]
pub(crate) struct Streaming(Arc<Clock>);

impl Drop for Streaming {
    fn drop(&mut self) {
        self.0.enter(IDLE);
    }
}

/// The socket as hyper sees it. When hyper drops it, it leaves the stream in `home`, for lingering.
struct Socket {
    stream: Option<TcpStream>,
    home: Arc<Mutex<Option<TcpStream>>>,
    clock: Arc<Clock>,
}

impl Socket {
    fn stream(&mut self) -> Pin<&mut TcpStream> {
        Pin::new(self.stream.as_mut().expect("taken only when dropped"))
    }

    fn note_write(&self, result: &Poll<io::Result<usize>>) {
        if result.is_pending() {
            if self.clock.stalled_ms.load(Relaxed) == 0 {
                self.clock.stalled_ms.store(now_ms(), Relaxed);
            }
        } else {
            self.clock.stalled_ms.store(0, Relaxed);
            self.clock.wrote.store(true, Relaxed);
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        *self.home.lock().unwrap_or_else(PoisonError::into_inner) = self.stream.take();
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let result = self.stream().poll_read(cx, buf);
        if result.is_ready() && self.clock.phase.load(Relaxed) == IDLE {
            self.clock.enter(HEAD);
        }
        result
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = self.stream().poll_write(cx, buf);
        self.note_write(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = bufs.iter().map(|buf| buf.len()).sum();
        let result = if length <= FLAT_BYTES {
            let (mut flat, mut at) = ([0; FLAT_BYTES], 0);
            for buf in bufs {
                flat[at..at + buf.len()].copy_from_slice(buf);
                at += buf.len();
            }
            self.stream().poll_write(cx, &flat[..length])
        } else {
            self.stream().poll_write_vectored(cx, bufs)
        };
        self.note_write(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}

/// Serves one connection to its end.
pub(crate) async fn run<S, F>(
    stream: TcpStream,
    limits: Arc<Limits>,
    shutdown: Shutdown,
    cut: CancellationToken,
    service: S,
) where
    S: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<Body>>,
{
    OPEN.inc();
    // Without it an answer in two writes waits for the client's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let home = Arc::new(Mutex::new(None));
    let lingers = converse(stream, &home, &limits, &shutdown, &cut, service).await;
    let stream = home.lock().unwrap_or_else(PoisonError::into_inner).take();
    // A process that stops has little time, and a client that keeps its side open must not use it up.
    let patience = if shutdown.is_begun() { LINGER / 4 } else { LINGER };
    if let (true, Some(stream)) = (lingers, stream) {
        tokio::select! {
            () = cut.cancelled() => {}
            _ = tokio::time::timeout(patience, linger(stream)) => {}
        }
    }
    OPEN.dec();
}

/// Serves until the connection ends, and returns whether its end was orderly.
async fn converse<S, F>(
    stream: TcpStream,
    home: &Arc<Mutex<Option<TcpStream>>>,
    limits: &Limits,
    shutdown: &Shutdown,
    cut: &CancellationToken,
    service: S,
) -> bool
where
    S: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<Body>>,
{
    let clock = Arc::new(Clock::default());
    // From the first moment: who connects and says nothing is as slow as who says half a header.
    clock.enter(HEAD);
    let socket = Socket { stream: Some(stream), home: Arc::clone(home), clock: Arc::clone(&clock) };
    let service = service_fn(|request: Request<Incoming>| {
        clock.phase.store(BUSY, Relaxed);
        let clock = &clock;
        let answer = service(request);
        async move {
            let mut response = answer.await;
            match response.body_mut() {
                Body::Stream(stream) => stream.hold(Streaming(Arc::clone(clock))),
                Body::Full(_) | Body::Empty => clock.enter(IDLE),
            }
            Ok::<_, Infallible>(response)
        }
    });
    // Without `pipeline_flush`: while unparsed bytes wait (half a next request, a header too large, a body
    // refused) it leaves the answer before them unsent (hyper 1.12, `Buffered::poll_flush`).
    let mut connection = pin!(
        http1::Builder::new()
            .max_header_size(limits.header_bytes)
            .header_read_timeout(None)
            .half_close(true)
            .serve_connection(TokioIo::new(socket), service)
    );
    // Each is polled only when it was woken itself: a request wakes the task twice, and these some seldom times.
    let mut beside = FuturesUnordered::new();
    beside.push(other_end(&clock, limits, cut, Some(shutdown)));
    loop {
        tokio::select! {
            biased;
            result = connection.as_mut() => {
                if let Err(error) = &result {
                    tracing::debug!(%error, "connection ended");
                }
                return true;
            }
            Some(end) = beside.next() => match end {
                End::Draining => {
                    connection.as_mut().graceful_shutdown();
                    beside.push(other_end(&clock, limits, cut, None));
                }
                End::Slow(reason) => {
                    CUT.with_label_values(&[reason]).inc();
                    tracing::debug!(reason, "client too slow, connection cut");
                    return false;
                }
                End::Cut => return false,
            }
        }
    }
}

/// What ends a connection from outside.
enum End {
    /// The server stops: no request after the one under way.
    Draining,
    /// The client was too slow in this.
    Slow(&'static str),
    /// At once.
    Cut,
}

async fn other_end(clock: &Clock, limits: &Limits, cut: &CancellationToken, shutdown: Option<&Shutdown>) -> End {
    let mut tick = tokio::time::interval(limits.tick());
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut draining = pin!(async {
        match shutdown {
            Some(shutdown) => shutdown.begun().await,
            None => std::future::pending().await,
        }
    });
    loop {
        tokio::select! {
            biased;
            () = cut.cancelled() => return End::Cut,
            () = &mut draining => return End::Draining,
            _ = tick.tick() => if let Some(reason) = clock.overrun(limits) {
                return End::Slow(reason);
            }
        }
    }
}

/// Reads and forgets until the client has closed too.
async fn linger(mut stream: TcpStream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    // On the heap: as an array it would sit in every connection's future for its whole life.
    let mut scratch = vec![0_u8; 16 * 1024];
    let mut left = LINGER_BYTES;
    while let Ok(read @ 1..) = stream.read(&mut scratch).await {
        left = left.saturating_sub(read);
        if left == 0 {
            return;
        }
    }
}
