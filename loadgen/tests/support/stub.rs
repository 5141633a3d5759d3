//! Both planes in one thread, without Postgres, broker and Redis: enough of the interface for the
//! generator, with faults on demand.

#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, reason = "a stub of the tests")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use serde_json::{Value, json};
use tokio::sync::mpsc;

// By its path: this file is a module of the tests, and of an example.
#[path = "stub_faults.rs"]
mod faults;

#[allow(unused_imports, reason = "the example needs less")]
pub use faults::{Faults, Settings};

pub const API_KEY: &str = "nxs_stub";

/// What the stub knows of itself.
#[derive(Debug, Default)]
pub struct Counters {
    pub commands: AtomicU64,
    pub events: AtomicU64,
    pub replayed: AtomicU64,
    /// Events that were lost, and that no later one of their entity made up for.
    pub lost: AtomicU64,
    pub stop: AtomicBool,
}

pub struct Stub {
    pub control: String,
    pub view: String,
    /// Another view server over the same state.
    pub second_view: String,
    pub counters: Arc<Counters>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Stub {
    pub fn start(settings: Settings) -> Self {
        let counters = Arc::new(Counters::default());
        let shared = Arc::clone(&counters);
        let (sender, receiver) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("stub".into())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let local = tokio::task::LocalSet::new();
                local.block_on(&runtime, serve(settings, shared, sender));
            })
            .unwrap();
        let [control, view, second_view] =
            receiver.recv().unwrap().map(|address: SocketAddr| format!("http://{address}"));
        Self { control, view, second_view, counters, thread: Some(thread) }
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.counters.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Clone)]
struct Signal {
    version: u64,
    document: Bytes,
    deleted: bool,
}

enum Change {
    Apply {
        id: String,
        signal: Signal,
        number: u64,
    },
    /// Reads show it from now on.
    Read {
        id: String,
        signal: Signal,
    },
    /// The watch of this view server tells it.
    Tell {
        view: usize,
        bytes: Bytes,
    },
}

/// Changes that are due one after the other.
type Line = mpsc::UnboundedSender<(Instant, Change)>;

struct State {
    settings: Settings,
    counters: Arc<Counters>,
    signals: BTreeMap<String, Signal>,
    view: BTreeMap<String, Signal>,
    kept: std::collections::HashMap<String, (u16, u64, Bytes)>,
    /// Of each view server.
    watches: [Vec<mpsc::Sender<Bytes>>; 2],
    changes: Line,
    later_reads: Line,
    /// Of each view server.
    later_told: [Line; 2],
    next: u64,
    told: u64,
    stalled: bool,
    behind: std::collections::HashMap<String, u64>,
}

type Body = BoxBody<Bytes, Infallible>;
type Shared = Rc<RefCell<State>>;

async fn serve(settings: Settings, counters: Arc<Counters>, ready: std::sync::mpsc::Sender<[SocketAddr; 3]>) {
    let lines: [_; 4] = std::array::from_fn(|_| mpsc::unbounded_channel::<(Instant, Change)>());
    let [(changes, due), (later_reads, due_reads), (first, due_first), (second, due_second)] = lines;
    let state = Rc::new(RefCell::new(State {
        settings,
        counters: Arc::clone(&counters),
        signals: BTreeMap::new(),
        view: BTreeMap::new(),
        kept: std::collections::HashMap::new(),
        watches: [Vec::new(), Vec::new()],
        changes,
        later_reads,
        later_told: [first, second],
        next: 0,
        told: 0,
        stalled: false,
        behind: std::collections::HashMap::new(),
    }));
    for mut due in [due, due_reads, due_first, due_second] {
        let applier = Rc::clone(&state);
        tokio::task::spawn_local(async move {
            while let Some((at, change)) = due.recv().await {
                if at > Instant::now() {
                    tokio::time::sleep_until(at.into()).await;
                }
                applier.borrow_mut().apply(change);
            }
        });
    }
    let mut addresses = Vec::new();
    for plane in [Plane::Control, Plane::View(0), Plane::View(1)] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        addresses.push(listener.local_addr().unwrap());
        let state = Rc::clone(&state);
        tokio::task::spawn_local(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                let _ = stream.set_nodelay(true);
                let state = Rc::clone(&state);
                tokio::task::spawn_local(async move {
                    let service = service_fn(move |request| answer(plane, Rc::clone(&state), request));
                    let io = hyper_util::rt::TokioIo::new(stream);
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
                });
            }
        });
    }
    ready.send([addresses[0], addresses[1], addresses[2]]).unwrap();
    while !counters.stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Plane {
    Control,
    View(usize),
}

#[derive(Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cut on purpose")
    }
}

impl std::error::Error for Cut {}

async fn answer(plane: Plane, state: Shared, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or("").to_owned();
    let header =
        |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
    if path == "/metrics" {
        let late = state.borrow().settings.faults.metrics_late;
        tokio::time::sleep(late).await;
        return Ok(problem(404, "not-found", ""));
    }
    if header("authorization") != format!("Bearer {API_KEY}") {
        return Ok(problem(401, "unauthorized", ""));
    }
    let (key, token, accept) = (header("idempotency-key"), header("nexus-token"), header("accept"));
    if method == Method::GET {
        if let Plane::View(view) = plane
            && accept == "text/event-stream"
        {
            return Ok(state.borrow_mut().watch(view));
        }
        if path == "/v1/signals" {
            let walked = plane != Plane::Control && query.contains("order=");
            if walked && state.borrow().settings.faults.lists_fail {
                return Ok(problem(500, "internal", ""));
            }
            return Ok(state.borrow().page(plane, &query));
        }
        let id = path.trim_start_matches("/v1/signals/").to_owned();
        return Ok(state.borrow().read(plane, &id, &token));
    }
    let body = request.into_body().collect().await.map_err(|_| Cut)?.to_bytes();
    let (status, version, document, cut) = state.borrow_mut().command(&method, &path, &key, &body);
    if cut {
        return Err(Cut);
    }
    if status >= 400 {
        return Ok(problem(status, if status == 503 { "overloaded" } else { "not-found" }, ""));
    }
    let mut response = Response::builder().status(status).header("nexus-token", "dG9rZW4");
    if status != 204 {
        response = response.header("etag", format!("\"{version}\"")).header("content-type", "application/json");
    }
    Ok(response.body(Full::new(document).boxed()).unwrap())
}

fn problem(status: u16, code: &str, more: &str) -> Response<Body> {
    let body = format!(
        r#"{{"type":"/problems/{code}","title":"{code}","status":{status},"detail":"stub","code":"{code}"{more}}}"#
    );
    Response::builder()
        .status(status)
        .header("content-type", "application/problem+json")
        .body(Full::new(Bytes::from(body)).boxed())
        .unwrap()
}

fn every(n: Option<u64>, number: u64) -> bool {
    n.is_some_and(|n| number.is_multiple_of(n))
}

impl State {
    fn command(&mut self, method: &Method, path: &str, key: &str, body: &[u8]) -> (u16, u64, Bytes, bool) {
        let faults = self.settings.faults.clone();
        let number = self.counters.commands.fetch_add(1, Ordering::Relaxed) + 1;
        if faults.overloaded && number > 1_000 {
            return (503, 0, Bytes::new(), false);
        }
        if let Some((status, version, document)) = self.kept.get(key).cloned() {
            self.counters.replayed.fetch_add(1, Ordering::Relaxed);
            return (status, version, document, false);
        }
        if let Some((at, length)) = faults.stall
            && number >= at
            && !self.stalled
        {
            self.stalled = true;
            // On purpose on this thread: the whole server stands still.
            std::thread::sleep(length);
        }
        if !faults.service.is_zero() {
            std::thread::sleep(faults.service);
        }
        let outcome = if path == "/v1/signals:batch" {
            self.batch(body)
        } else {
            self.one(method, path.trim_start_matches("/v1/signals").trim_start_matches('/'), body)
        };
        if !key.is_empty() && faults.cut_every.is_some() {
            self.kept.insert(key.to_owned(), outcome.clone());
        }
        (outcome.0, outcome.1, outcome.2, every(faults.cut_every, number))
    }

    fn batch(&mut self, body: &[u8]) -> (u16, u64, Bytes) {
        #[derive(serde::Deserialize)]
        struct Command<'a> {
            op: String,
            id: Option<String>,
            #[serde(borrow)]
            signal: Option<&'a serde_json::value::RawValue>,
        }
        #[derive(serde::Deserialize)]
        struct Batch<'a> {
            #[serde(borrow)]
            commands: Vec<Command<'a>>,
        }
        let batch: Batch<'_> = serde_json::from_slice(body).unwrap();
        let mut results = Vec::new();
        for command in batch.commands {
            let id = command.id.unwrap_or_default();
            let method = match command.op.as_str() {
                "create" => Method::POST,
                "update" => Method::PATCH,
                _ => Method::DELETE,
            };
            let signal = command.signal.map_or("", |signal| signal.get());
            let (status, version, document) = self.one(&method, &id, signal.as_bytes());
            let id = if method == Method::POST {
                serde_json::from_slice::<Value>(&document).unwrap()["id"].as_str().unwrap().to_owned()
            } else {
                id
            };
            results.push(json!({ "status": status, "id": id, "version": version }));
        }
        (200, 0, Bytes::from(json!({ "results": results }).to_string()))
    }

    fn one(&mut self, method: &Method, id: &str, body: &[u8]) -> (u16, u64, Bytes) {
        let text = std::str::from_utf8(body).unwrap_or("");
        let (id, version, status) = if method == Method::POST {
            self.next += 1;
            (format!("01912f5e-0b7c-7cc3-98c4-{:012x}", self.next), 1, 201)
        } else {
            match self.signals.get(id) {
                Some(signal) if !signal.deleted => {
                    let commands = self.counters.commands.load(Ordering::Relaxed);
                    if method == Method::PATCH && every(self.settings.faults.ineffective_every, commands) {
                        return (200, signal.version, signal.document.clone());
                    }
                    let status = if method == Method::PATCH { 200 } else { 204 };
                    let number = self.counters.events.load(Ordering::Relaxed);
                    let same = status == 200 && every(self.settings.faults.same_version_every, number);
                    (id.to_owned(), signal.version + u64::from(!same), status)
                }
                _ => return (404, 0, Bytes::new()),
            }
        };
        let deleted = status == 204;
        let document = if deleted { Bytes::new() } else { render(&id, text, version) };
        let signal = Signal { version, document: document.clone(), deleted };
        self.signals.insert(id.clone(), signal.clone());
        let number = self.counters.events.fetch_add(1, Ordering::Relaxed) + 1;
        let change = Change::Apply { id, signal, number };
        if self.settings.delay.is_zero() {
            self.apply(change);
        } else {
            let _ = self.changes.send((Instant::now() + self.settings.delay, change));
        }
        (status, version, document)
    }

    fn apply(&mut self, change: Change) {
        let (id, mut signal, number) = match change {
            Change::Apply { id, signal, number } => (id, signal, number),
            Change::Read { id, signal } => {
                self.view.insert(id, signal);
                return;
            }
            Change::Tell { view, bytes } => {
                self.tell(view, &bytes);
                return;
            }
        };
        let faults = self.settings.faults.clone();
        if every(faults.lose_every, number) {
            *self.behind.entry(id).or_default() += 1;
            self.counters.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // A later version heals the loss of an earlier one.
        if let Some(lost) = self.behind.remove(&id) {
            self.counters.lost.fetch_sub(lost, Ordering::Relaxed);
        }
        if every(faults.forge_every, number) && !signal.deleted {
            let text = String::from_utf8(signal.document.to_vec()).unwrap();
            signal.document = Bytes::from(text.replace("\"status\":\"pending\"", "\"status\":\"active\""));
        }
        let before = self.view.get(&id).cloned();
        if faults.reads_late.is_zero() {
            self.view.insert(id.clone(), signal.clone());
        } else {
            let read = Change::Read { id: id.clone(), signal: signal.clone() };
            let _ = self.later_reads.send((Instant::now() + faults.reads_late, read));
        }
        if every(faults.corrupt_every, number) && !signal.deleted {
            let text = String::from_utf8(signal.document.to_vec()).unwrap();
            let document = Bytes::from(text.replace("pending", "active"));
            self.view.insert(id.clone(), Signal { document, ..signal.clone() });
        }
        let late = faults.watch_late.filter(|(n, _)| every(Some(*n), number)).map(|(_, late)| late);
        self.show(&id, &signal, late);
        if let Some(before) = before {
            let back = every(faults.regress_every, number) && !signal.deleted
                || every(faults.resurrect_every, number) && signal.deleted;
            if back {
                self.show(&id, &before, late);
            }
        }
    }

    fn show(&mut self, id: &str, signal: &Signal, late: Option<Duration>) {
        let text = if signal.deleted {
            format!("event: deleted\nid: x\ndata: {{\"id\":\"{id}\",\"version\":{}}}\n\n", signal.version)
        } else {
            let name = if signal.version == 1 { "created" } else { "updated" };
            format!("event: {name}\nid: x\ndata: {}\n\n", String::from_utf8_lossy(&signal.document))
        };
        let bytes = Bytes::from(text);
        let late = late.unwrap_or_default();
        self.told += 1;
        for (view, late) in [late, late + self.settings.faults.second_late].into_iter().enumerate() {
            if view == 1 && every(self.settings.faults.second_loses_every, self.told) {
                continue;
            }
            // Once one is late, those behind it wait for their turn.
            if self.settings.faults.watch_late.is_none() && late.is_zero() {
                self.tell(view, &bytes);
            } else {
                let told = Change::Tell { view, bytes: bytes.clone() };
                let _ = self.later_told[view].send((Instant::now() + late, told));
            }
        }
    }

    fn tell(&mut self, view: usize, bytes: &Bytes) {
        self.watches[view].retain(|watch| watch.try_send(bytes.clone()).is_ok());
    }

    fn watch(&mut self, view: usize) -> Response<Body> {
        let (sender, receiver) = mpsc::channel(100_000);
        sender.try_send(Bytes::from_static(b"event: ready\nid: x\ndata: {}\n\n")).unwrap();
        self.watches[view].push(sender);
        let stream = futures(receiver);
        Response::builder()
            .header("content-type", "text/event-stream")
            .body(BodyExt::boxed(StreamBody::new(stream)))
            .unwrap()
    }

    fn read(&self, plane: Plane, id: &str, token: &str) -> Response<Body> {
        let fresh = plane == Plane::Control || !token.is_empty() && !self.settings.faults.ignore_tokens;
        let map = if fresh { &self.signals } else { &self.view };
        match map.get(id) {
            Some(signal) if !signal.deleted => Response::builder()
                .header("etag", format!("\"{}\"", signal.version))
                .header("content-type", "application/json")
                .body(Full::new(signal.document.clone()).boxed())
                .unwrap(),
            Some(signal) => problem(404, "not-found", &format!(",\"deleted_version\":{}", signal.version)),
            None => problem(404, "not-found", ""),
        }
    }

    fn page(&self, plane: Plane, query: &str) -> Response<Body> {
        let map = if plane == Plane::Control { &self.signals } else { &self.view };
        let parameter = |name: &str| query.split('&').find_map(|part| part.strip_prefix(name)).unwrap_or("");
        let limit: usize = parameter("limit=").parse().unwrap_or(50);
        let after = parameter("cursor=").to_owned();
        let mut items = map
            .range::<String, _>((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded))
            .filter(|(_, signal)| !signal.deleted);
        let page: Vec<_> = items.by_ref().take(limit).collect();
        let next = items.next().and_then(|_| page.last()).map(|(id, _)| (*id).clone());
        let less = usize::from(plane == Plane::View(1) && self.settings.faults.second_lists_less);
        let documents: Vec<_> =
            page.iter().skip(less).map(|(_, signal)| String::from_utf8_lossy(&signal.document)).collect();
        let body = format!(r#"{{"items":[{}],"next_cursor":{}}}"#, documents.join(","), json!(next));
        Response::builder()
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)).boxed())
            .unwrap()
    }
}

/// `{"title":…,…}` as the signal that it makes; the stub keeps what the last command said.
fn render(id: &str, command: &str, version: u64) -> Bytes {
    let members = command.trim_start_matches('{').strip_suffix('}').unwrap_or("\"title\":\"\"");
    Bytes::from(format!(
        r#"{{"id":"{id}",{members},"status":"pending","target":null,"created_at":"2026-01-01T00:00:00.000000Z","version":{version}}}"#
    ))
}

/// Several events go out in one piece, as a real server under load would send them.
fn futures(receiver: mpsc::Receiver<Bytes>) -> impl futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>> {
    Events { receiver }
}

struct Events {
    receiver: mpsc::Receiver<Bytes>,
}

impl futures_util::Stream for Events {
    type Item = Result<Frame<Bytes>, Infallible>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        let mut events = Vec::new();
        match self.receiver.poll_recv_many(context, &mut events, 64) {
            std::task::Poll::Ready(0) => std::task::Poll::Ready(None),
            std::task::Poll::Ready(_) => std::task::Poll::Ready(Some(Ok(Frame::data(Bytes::from(events.concat()))))),
            std::task::Poll::Pending => std::task::Poll::Pending,
        }
    }
}
