//! A small server that imitates both planes as far as the command line can tell, with faults on demand.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use contract::command::{CreateSignal, batch_from_json};
use contract::json::Json;
use contract::problem::{self, Problem};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Notify;

/// The one good key.
pub const KEY: &str = "nxs_good";

type Body = BoxBody<Bytes, Infallible>;

/// What the stub does with the next batch instead of answering it.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// 503 with `Retry-After` in seconds, nothing applied.
    Away(u32),
    /// Applied, but never answered.
    AppliedButSilent,
    /// Applied, then the connection is cut.
    AppliedButCut,
}

#[derive(Default)]
pub struct State {
    /// By id: version and document.
    pub signals: BTreeMap<String, (u64, String)>,
    answers: HashMap<String, (Vec<u8>, Vec<u8>)>,
    /// What happens to the batches to come; after them all is well.
    pub batch_faults: VecDeque<Fault>,
    /// How many batches came in, answered or not.
    pub batches: usize,
    /// How many reads with a token say `not-yet-consistent` first.
    pub stale_reads: usize,
    /// Paths and queries that were asked for.
    pub asked: Vec<String>,
    /// `Last-Event-ID` of each watch.
    pub resumed_from: Vec<Option<String>>,
    /// What each watch to come is sent before its connection is cut.
    pub streams: VecDeque<String>,
    /// How many pages of a list, after the first, are answered 503 first.
    pub pages_away: usize,
    made: u64,
}

pub struct Stub {
    pub url: String,
    state: Arc<Mutex<State>>,
    pub came: Arc<Notify>,
}

impl Stub {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let state = Arc::new(Mutex::new(State::default()));
        let came = Arc::new(Notify::new());
        let (shared, notify) = (state.clone(), came.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (state, came) = (shared.clone(), notify.clone());
                tokio::spawn(async move {
                    let service = service_fn(move |request| answer(state.clone(), came.clone(), request));
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { url, state, came }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }

    /// Puts `count` signals there.
    pub fn fill(&self, count: u64) {
        let mut state = self.state();
        for i in 0..count {
            state.create(&format!("{{\"title\":\"signal {i}\"}}")).expect("valid");
        }
    }
}

impl State {
    fn create(&mut self, body: &str) -> Result<String, Problem> {
        let json = Json::parse(body.as_bytes()).map_err(|e| Problem::new(&problem::BAD_JSON, e.to_string()))?;
        let signal = CreateSignal::from_json(&json, "").map_err(Problem::validation)?;
        self.made += 1;
        let id = format!("01920000-0000-7000-8000-{:012x}", self.made);
        let title = serde_json::to_string(&signal.title).expect("a string");
        let document = format!(
            r#"{{"id":"{id}","title":{title},"priority":"{}","status":"pending","payload":{},"target":null,"created_by":"01920000-0000-7000-8000-00000000aaaa","created_at":"2026-01-01T00:00:00.000000Z","updated_at":"2026-01-01T00:00:00.000000Z","version":1}}"#,
            signal.priority,
            signal.payload.as_str()
        );
        self.signals.insert(id.clone(), (1, document));
        Ok(id)
    }

    fn batch(&mut self, body: &[u8]) -> Vec<u8> {
        let json = Json::parse(body).expect("the client sends JSON");
        let read = batch_from_json(&json).expect("a frame");
        let Some(Json::Array(commands)) = json.get("commands") else { panic!("commands") };
        let mut results = Vec::new();
        for (entry, command) in read.iter().zip(commands) {
            match entry {
                Ok(_) => {
                    let mut text = String::new();
                    command.get("signal").expect("a creation").write(&mut text);
                    let id = self.create(&text).expect("checked");
                    results.push(format!(r#"{{"status":201,"id":"{id}","version":1}}"#));
                }
                Err(problem) => {
                    let error = String::from_utf8(problem.to_json(None)).expect("UTF-8");
                    results.push(format!(r#"{{"status":{},"error":{error}}}"#, problem.kind.status));
                }
            }
        }
        format!("{{\"results\":[{}]}}", results.join(",")).into_bytes()
    }
}

fn full(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert("x-request-id", "stub-1".parse().expect("a value"));
    response
}

fn refuse(problem: &Problem) -> Response<Body> {
    let status = StatusCode::from_u16(problem.kind.status).expect("a status");
    let mut response = full(status, problem.to_json(Some("stub-1")));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert("retry-after", "1".parse().expect("a value"));
    }
    response
}

fn document(status: StatusCode, version: u64, body: &str) -> Response<Body> {
    let mut response = full(status, body.to_owned());
    response.headers_mut().insert("etag", format!("\"{version}\"").parse().expect("a value"));
    response.headers_mut().insert("nexus-token", "tok-1".parse().expect("a value"));
    response
}

async fn answer(
    state: Arc<Mutex<State>>,
    came: Arc<Notify>,
    request: Request<Incoming>,
) -> Result<Response<Body>, std::io::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let path = parts.uri.path().to_owned();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let key = parts.headers.get("idempotency-key").map(|v| v.to_str().expect("text").to_owned());
    let (response, fault) = {
        let mut state = state.lock().expect("not poisoned");
        state.asked.push(format!("{} {path}?{query}", parts.method));
        let mut fault = None;
        if path.ends_with(":batch") {
            state.batches += 1;
            fault = state.batch_faults.pop_front();
        }
        let response = match fault {
            Some(Fault::Away(seconds)) => {
                let mut response = refuse(&Problem::new(&problem::UNAVAILABLE, "Postgres is away"));
                response.headers_mut().insert("retry-after", seconds.into());
                response
            }
            _ => route(&mut state, &parts.method, &path, &query, &parts.headers, key, &body),
        };
        (response, fault)
    };
    came.notify_waiters();
    match fault {
        Some(Fault::AppliedButSilent) => {
            tokio::time::sleep(Duration::from_secs(600)).await;
            Err(std::io::Error::other("silent"))
        }
        Some(Fault::AppliedButCut) => Err(std::io::Error::other("cut")),
        _ => Ok(response),
    }
}

fn route(
    state: &mut State,
    method: &Method,
    path: &str,
    query: &str,
    headers: &HeaderMap,
    key: Option<String>,
    body: &Bytes,
) -> Response<Body> {
    let header = |name: &str| headers.get(name).map(|v| v.to_str().expect("text"));
    match path {
        "/readyz" => {
            return full(StatusCode::OK, r#"{"status":"ready","checks":{"redis":{"ok":true,"detail":"there"}}}"#);
        }
        "/version" => {
            let version = format!(r#"{{"name":"","version":"{}","commit":null}}"#, env!("CARGO_PKG_VERSION"));
            return full(StatusCode::OK, version);
        }
        _ => {}
    }
    if header("authorization") != Some(&format!("Bearer {KEY}")) {
        return refuse(&Problem::new(&problem::UNAUTHORIZED, "the key is not known"));
    }
    let signal = path.strip_prefix("/v1/signals/");
    match (method.as_str(), path, signal) {
        ("GET", "/v1/me", _) => full(
            StatusCode::OK,
            r#"{"id":"01920000-0000-7000-8000-00000000aaaa","name":"root","role":"admin","active":true}"#,
        ),
        ("GET", "/v1/status", _) => full(
            StatusCode::OK,
            r#"{"ready":true,"freshness":{"seconds":0.002,"silent":false},"partitions":[{"partition":"s0","ready":true,"epoch":5,"checkpoint":{"seq":7,"offset":7},"log_end":{"seq":9,"offset":9},"lag_events":2}]}"#,
        ),
        ("GET", "/v1/signals", _) if header("accept") == Some("text/event-stream") => {
            state.resumed_from.push(header("last-event-id").map(str::to_owned));
            let Some(text) = state.streams.pop_front() else {
                return refuse(&Problem::new(&problem::VIEW_NOT_READY, "no stream is prepared"));
            };
            // The end of the body stands for a broken connection.
            let frames = futures_util::stream::iter([Ok(Frame::data(Bytes::from(text)))]);
            let mut response = Response::new(StreamBody::new(frames).boxed());
            response.headers_mut().insert("content-type", "text/event-stream".parse().expect("a value"));
            response
        }
        ("GET", "/v1/signals", _) if query.contains("cursor=") && state.pages_away > 0 => {
            state.pages_away -= 1;
            refuse(&Problem::new(&problem::VIEW_NOT_READY, "the view is being filled"))
        }
        ("GET", "/v1/signals", _) => list(state, query),
        ("POST", "/v1/signals:batch", _) => {
            let key = key.expect("every batch has a key");
            let (body_seen, replayed) = match state.answers.get(&key) {
                Some((request, answer)) if *request == body[..] => (answer.clone(), true),
                Some(_) => return refuse(&Problem::new(&problem::KEY_REUSED, "another body")),
                None => {
                    let answer = state.batch(body);
                    state.answers.insert(key, (body.to_vec(), answer.clone()));
                    (answer, false)
                }
            };
            let mut response = full(StatusCode::OK, body_seen);
            if replayed {
                response.headers_mut().insert("idempotency-replayed", "true".parse().expect("a value"));
            }
            response
        }
        ("POST", "/v1/signals", _) => match state.create(std::str::from_utf8(body).expect("UTF-8")) {
            Ok(id) => document(StatusCode::CREATED, 1, &state.signals[&id].1),
            Err(problem) => refuse(&problem),
        },
        ("POST", _, _) if path.ends_with("/keys") => full(
            StatusCode::CREATED,
            r#"{"id":"k1","name":"ci","hint":"nxs_…abcd","secret":"nxs_secret","created_at":"2026-01-01T00:00:00.000000Z","expires_at":null}"#,
        ),
        ("GET", _, Some(id)) => {
            if header("nexus-token").is_some() && state.stale_reads > 0 {
                state.stale_reads -= 1;
                return refuse(&Problem::new(&problem::NOT_YET_CONSISTENT, "the view is behind"));
            }
            match state.signals.get(id) {
                Some((version, text)) => document(StatusCode::OK, *version, text),
                None => refuse(&Problem::new(&problem::NOT_FOUND, format!("no signal has the id {id:?}"))),
            }
        }
        ("PATCH" | "DELETE", _, Some(id)) => {
            let Some((version, text)) = state.signals.get(id).cloned() else {
                return refuse(&Problem::new(&problem::NOT_FOUND, format!("no signal has the id {id:?}")));
            };
            if header("if-match").is_some_and(|wanted| wanted != format!("\"{version}\"")) {
                return refuse(&Problem::new(&problem::PRECONDITION_FAILED, format!("the version is {version}")));
            }
            if method == Method::DELETE {
                state.signals.remove(id);
                let mut response = full(StatusCode::NO_CONTENT, "");
                response.headers_mut().insert("nexus-token", "tok-2".parse().expect("a value"));
                return response;
            }
            let text = text.replace(&format!("\"version\":{version}"), &format!("\"version\":{}", version + 1));
            state.signals.insert(id.to_owned(), (version + 1, text.clone()));
            document(StatusCode::OK, version + 1, &text)
        }
        _ => refuse(&Problem::new(&problem::NOT_FOUND, "there is no such route")),
    }
}

fn list(state: &State, query: &str) -> Response<Body> {
    let of = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let limit: usize = of("limit").map_or(50, |text| text.parse().expect("a number"));
    if !(1..=500).contains(&limit) {
        return refuse(&Problem::new(&problem::BAD_QUERY, "limit must be 1 to 500"));
    }
    let from: usize = of("cursor").map_or(0, |text| text.parse().expect("a number"));
    let items: Vec<&str> = state.signals.values().skip(from).take(limit).map(|(_, text)| text.as_str()).collect();
    let next =
        if from + items.len() < state.signals.len() { format!("\"{}\"", from + items.len()) } else { "null".into() };
    full(StatusCode::OK, format!("{{\"items\":[{}],\"next_cursor\":{next}}}", items.join(",")))
}
