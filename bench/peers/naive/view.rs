//! The read service: documents by id, all of them in pages, and a watch.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use tokio::sync::broadcast;

use super::http::{self, Answer, problem};
use super::{channel, document_key};

/// Where the service is and what it uses.
#[derive(Debug, Clone, clap::Args)]
pub struct ViewOptions {
    /// Where to listen
    #[arg(long)]
    pub listen: SocketAddr,
    /// The one API key
    #[arg(long)]
    pub api_key: String,
    /// Redis
    #[arg(long)]
    pub redis: String,
    /// What keys begin with
    #[arg(long)]
    pub prefix: String,
}

/// Events that a slow watch may be behind before it is cut off.
const BEHIND_MAX: usize = 65_536;
/// Between two comment lines of a silent watch.
const COMMENT: Duration = Duration::from_secs(10);

struct View {
    redis: MultiplexedConnection,
    prefix: String,
    changes: broadcast::Sender<Bytes>,
}

/// Serves until the process is ended, or Redis is lost.
///
/// # Errors
/// Redis or the port can't be had.
pub async fn serve(options: ViewOptions) -> anyhow::Result<()> {
    let client = redis::Client::open(options.redis.as_str())?;
    let mut subscription = client.get_async_pubsub().await?;
    subscription.subscribe(channel(&options.prefix)).await?;
    let (changes, _) = broadcast::channel(BEHIND_MAX);
    let teller = changes.clone();
    let hear = async move {
        let number = AtomicU64::new(0);
        let mut messages = subscription.on_message();
        while let Some(message) = messages.next().await {
            if let Some(event) = event_of(message.get_payload_bytes(), number.fetch_add(1, Ordering::Relaxed)) {
                // Nobody may be watching.
                let _ = teller.send(event);
            }
        }
        anyhow::bail!("Redis ended the subscription")
    };
    let redis = client.get_multiplexed_async_connection().await?;
    let view = Arc::new(View { redis, prefix: options.prefix, changes });
    let serve = http::serve(options.listen, &options.api_key, move |request| {
        let view = view.clone();
        async move { view.handle(request).await }
    });
    tokio::select! { ended = hear => ended, ended = serve => ended }
}

/// A message (`type document`) as an event of a watch.
fn event_of(message: &[u8], number: u64) -> Option<Bytes> {
    let space = message.iter().position(|byte| *byte == b' ')?;
    let (kind, document) = (&message[..space], &message[space + 1..]);
    let mut event = Vec::with_capacity(document.len() + 64);
    for part in [&b"event: "[..], kind, b"\nid: ", number.to_string().as_bytes(), b"\ndata: ", document, b"\n\n"] {
        event.extend_from_slice(part);
    }
    Some(event.into())
}

/// What is kept of a deleted signal is its id and version alone.
fn is_tombstone(document: &[u8]) -> bool {
    const MEMBER_AFTER_ID: usize = r#"{"id":"00000000-0000-0000-0000-000000000000","#.len();
    document.get(MEMBER_AFTER_ID..).is_some_and(|rest| rest.starts_with(b"\"version\""))
}

/// The version, which a document ends with.
fn version(document: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(document.strip_suffix(b"}")?).ok()?;
    text.rsplit_once("\"version\":")?.1.parse().ok()
}

impl View {
    async fn handle(&self, request: Request<Incoming>) -> Answer {
        let rest = request.uri().path().strip_prefix("/v1/signals").map(str::to_owned);
        let streamed = request.headers().get(ACCEPT).is_some_and(|value| value == "text/event-stream");
        match (request.method(), rest.as_deref()) {
            (&Method::GET, Some("")) if streamed => self.watch(),
            (&Method::GET, Some("")) => self.list(&request).await.unwrap_or_else(unavailable),
            (&Method::GET, Some(id)) => self.one(id.trim_start_matches('/')).await.unwrap_or_else(unavailable),
            _ => problem(StatusCode::NOT_FOUND, "there is nothing here"),
        }
    }

    async fn one(&self, id: &str) -> redis::RedisResult<Answer> {
        let document: Option<Vec<u8>> = self.redis.clone().get(document_key(&self.prefix, id)).await?;
        Ok(match document {
            None => problem(StatusCode::NOT_FOUND, "there is nothing here"),
            Some(document) => {
                let version = version(&document).unwrap_or(0);
                if is_tombstone(&document) {
                    http::json(StatusCode::NOT_FOUND, format!(r#"{{"status":404,"deleted_version":{version}}}"#))
                } else {
                    http::signal(StatusCode::OK, document, version)
                }
            }
        })
    }

    /// A page of the walk over all keys; its cursor is Redis' own.
    async fn list(&self, request: &Request<Incoming>) -> redis::RedisResult<Answer> {
        let cursor = http::parameter(request, "cursor").unwrap_or("0");
        let limit = http::parameter(request, "limit").unwrap_or("500");
        let mut connection = self.redis.clone();
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(format!("{}d:*", self.prefix)).arg("COUNT").arg(limit);
        let (next, keys): (String, Vec<String>) = scan.query_async(&mut connection).await?;
        let documents: Vec<Option<Vec<u8>>> = if keys.is_empty() { Vec::new() } else { connection.mget(&keys).await? };
        let documents: Vec<Vec<u8>> =
            documents.into_iter().flatten().filter(|document| !is_tombstone(document)).collect();
        Ok(http::page(&documents, (next != "0").then_some(next.as_str())))
    }

    fn watch(&self) -> Answer {
        let changes = self.changes.subscribe();
        let ready = stream::once(std::future::ready(Bytes::from_static(b"event: ready\ndata: {}\n\n")));
        let events = stream::unfold(changes, |mut changes| async move {
            match tokio::time::timeout(COMMENT, changes.recv()).await {
                Ok(Ok(event)) => Some((event, changes)),
                Err(_) => Some((Bytes::from_static(b": still here\n\n"), changes)),
                // Too far behind, or at the end: the client has to start over.
                Ok(Err(_)) => None,
            }
        });
        let frames = ready.chain(events).map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
        let mut answer = Response::new(StreamBody::new(frames).boxed_unsync());
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        answer
    }
}

fn unavailable(error: redis::RedisError) -> Answer {
    problem(StatusCode::SERVICE_UNAVAILABLE, &error.to_string())
}
