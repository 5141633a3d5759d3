//! The routes without sockets, Postgres or broker: commands are recorded and answered as the test says.

mod answers;
mod description;
mod front;
mod refusals;
mod rights;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use contract::identity::{KeyRecord, Role, format_secret};
use contract::query::ListQuery;
use contract::time::Timestamp;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::Full;
use runtime::http::body::Body;
use runtime::http::request_id::RequestId;
use runtime::shutdown::Shutdown;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{Api, Commands, Deadlines};
use crate::reads::{ReadError, Reads};
use crate::request::{self, Answer, Refusal, Work};
use crate::store::{Lookup, Page};

/// A signal and an identity that [`Memory`] knows, at version 3.
const KNOWN: Uuid = Uuid::from_u64_pair(0x0192_3456_789a_7bcd, 0x8123_4567_89ab_cdef);
/// One that was deleted by version 9.
const DELETED: Uuid = Uuid::from_u64_pair(0x0192_3456_789a_7bcd, 0x8123_4567_89ab_0000);

/// How long a command may wait here, and how long a key is trusted.
const RECEIPT: Duration = Duration::from_millis(200);
const KEY_RECORD: Duration = Duration::from_millis(400);

/// Answers every command, and keeps what it was asked.
#[derive(Debug)]
struct Recorder {
    asked: Mutex<Vec<request::Request>>,
    outcome: Mutex<Outcome>,
}

#[derive(Debug, Clone)]
enum Outcome {
    Answer(Box<Answer>),
    Refuse(Refusal),
    /// The receipt comes never.
    Hang,
    /// The queue does not even take it.
    TakeNothing(Refusal),
}

impl Commands for Recorder {
    fn submit(&self, request: request::Request) -> Result<oneshot::Receiver<Result<Answer, Refusal>>, Refusal> {
        let (sender, receiver) = oneshot::channel();
        let problem = match &request.work {
            Work::Invalid(problem) => Some(problem.clone()),
            _ => None,
        };
        let id = request.request_id.clone();
        self.asked.lock().expect("unpoisoned").push(request);
        let result = match (self.outcome.lock().expect("unpoisoned").clone(), problem) {
            (Outcome::TakeNothing(refusal), _) => return Err(refusal),
            (Outcome::Hang, _) => {
                std::mem::forget(sender);
                return Ok(receiver);
            }
            (Outcome::Refuse(refusal), _) => Err(refusal),
            (Outcome::Answer(_), Some(problem)) => Ok(Answer::rejected(&problem, &id)),
            (Outcome::Answer(answer), None) => Ok(*answer),
        };
        sender.send(result).expect("the receiver is here");
        Ok(receiver)
    }
}

/// What Postgres would know.
#[derive(Debug, Default)]
struct Memory {
    keys: Mutex<HashMap<Uuid, KeyRecord>>,
    key_reads: Mutex<u32>,
    page: Mutex<Option<Page>>,
    queries: Mutex<Vec<ListQuery>>,
    is_away: Mutex<bool>,
    /// Keys are read while nobody holds it for writing.
    gate: tokio::sync::RwLock<()>,
}

impl Memory {
    fn check(&self) -> Result<(), ReadError> {
        if *self.is_away.lock().expect("unpoisoned") { Err(ReadError::Late) } else { Ok(()) }
    }

    fn document(&self, id: Uuid) -> Result<Lookup, ReadError> {
        self.check()?;
        let body = Bytes::from(format!("{{\"id\":\"{id}\",\"version\":3}}"));
        Ok(match id {
            DELETED => Lookup::Deleted { version: 9 },
            KNOWN => Lookup::Found { body, version: 3 },
            // Every caller's own identity is there.
            id if id.as_u64_pair().0 == 1 => Lookup::Found { body, version: 3 },
            _ => Lookup::Missing,
        })
    }
}

impl Reads for Memory {
    async fn key(&self, id: Uuid) -> Result<Option<KeyRecord>, ReadError> {
        *self.key_reads.lock().expect("unpoisoned") += 1;
        drop(self.gate.read().await);
        self.check()?;
        Ok(self.keys.lock().expect("unpoisoned").get(&id).cloned())
    }

    async fn signal(&self, id: Uuid) -> Result<Lookup, ReadError> {
        self.document(id)
    }

    async fn identity(&self, id: Uuid) -> Result<Lookup, ReadError> {
        self.document(id)
    }

    async fn list(&self, query: ListQuery) -> Result<Page, ReadError> {
        self.check()?;
        self.queries.lock().expect("unpoisoned").push(query);
        let page = self.page.lock().expect("unpoisoned").clone();
        Ok(page.unwrap_or(Page { items: Vec::new(), next_cursor: None }))
    }

    async fn keys(&self, identity: Uuid) -> Result<Option<Vec<Bytes>>, ReadError> {
        self.check()?;
        Ok((identity == KNOWN).then(|| vec![Bytes::from_static(b"{\"id\":\"k\"}")]))
    }
}

/// The API over both, with a key for each role.
struct Bench {
    api: Api<Recorder, Memory>,
    commands: Arc<Recorder>,
    memory: Arc<Memory>,
    shutdown: Shutdown,
}

/// What came back.
#[derive(Debug)]
struct Reply {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    fn pointers(&self) -> Vec<String> {
        let errors = self.json()["errors"].as_array().cloned().unwrap_or_default();
        errors.iter().map(|error| error["pointer"].as_str().expect("a pointer").to_owned()).collect()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("ASCII"))
    }
}

/// The secret of a role's key.
fn secret(role: Role) -> String {
    format_secret(Uuid::from_u64_pair(2, u64::from(role.rank())), &[7; 32])
}

fn record(secret: &str, role: Role) -> KeyRecord {
    let id = contract::identity::secret_key_id(secret).expect("a secret");
    let digest = Sha256::digest(secret.as_bytes());
    KeyRecord {
        id,
        identity: Uuid::from_u64_pair(1, u64::from(role.rank())),
        role,
        active: true,
        sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        expires_at: None,
        version: 1,
    }
}

impl Bench {
    fn new() -> Self {
        let mut answer = Answer::ok(200, "{\"ok\":true}");
        answer.etag = Some(4);
        answer.token = Some("token".to_owned());
        let commands =
            Arc::new(Recorder { asked: Mutex::default(), outcome: Mutex::new(Outcome::Answer(Box::new(answer))) });
        let memory = Arc::new(Memory::default());
        for role in [Role::Reader, Role::Operator, Role::Admin] {
            let record = record(&secret(role), role);
            memory.keys.lock().expect("unpoisoned").insert(record.id, record);
        }
        let deadlines = Deadlines {
            body: Duration::from_secs(1),
            receipt: RECEIPT,
            receipt_in_shutdown: RECEIPT / 4,
            key_record: KEY_RECORD,
        };
        let shutdown = Shutdown::new();
        let api = Api::new(Arc::clone(&commands), Arc::clone(&memory), deadlines, shutdown.clone());
        Self { api, commands, memory, shutdown }
    }

    fn set(&self, outcome: Outcome) {
        *self.commands.outcome.lock().expect("unpoisoned") = outcome;
    }

    fn answer_with(&self, answer: Answer) {
        self.set(Outcome::Answer(Box::new(answer)));
    }

    /// The requests that reached the batcher since the last look.
    fn asked(&self) -> Vec<request::Request> {
        std::mem::take(&mut *self.commands.asked.lock().expect("unpoisoned"))
    }

    fn call<'b>(&'b self, method: &str, path: &str) -> Call<'b> {
        let builder = Request::builder().method(method).uri(path);
        let builder = builder.header("x-request-id", "r1");
        Call { bench: self, builder, secret: Some(secret(Role::Admin)), has_type: false, body: Bytes::new() }
    }
}

/// A request to be sent, by the admin unless said otherwise.
struct Call<'b> {
    bench: &'b Bench,
    builder: http::request::Builder,
    secret: Option<String>,
    has_type: bool,
    body: Bytes,
}

impl Call<'_> {
    fn by(mut self, secret: Option<String>) -> Self {
        self.secret = secret;
        self
    }

    fn header(mut self, name: &str, value: &str) -> Self {
        self.has_type |= name == "content-type";
        self.builder = self.builder.header(name, value);
        self
    }

    /// A body, of `application/json` unless a header says otherwise.
    fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        if !self.has_type {
            self.builder = self.builder.header("content-type", "application/json");
        }
        self
    }

    async fn send(self) -> Reply {
        let mut builder = self.builder;
        if let Some(secret) = self.secret {
            builder = builder.header("authorization", format!("Bearer {secret}"));
        }
        let request = builder.body(Full::new(self.body)).expect("a request");
        let id = RequestId::of(request.headers());
        let outcome = self.bench.api.answer(request, &id).await;
        let response = outcome.unwrap_or_else(|failure| failure.into_response(&id));
        let (head, body) = response.into_parts();
        let text = match body {
            Body::Full(bytes) => String::from_utf8(bytes.to_vec()).expect("UTF-8"),
            Body::Empty => String::new(),
            Body::Stream(_) => panic!("nothing here streams"),
        };
        let problem = head.headers.get("content-type").is_some_and(|media| media == "application/problem+json");
        assert_eq!(problem, head.status.as_u16() >= 400, "{text}");
        assert!(head.status != StatusCode::INTERNAL_SERVER_ERROR || text.contains("request_id"), "{text}");
        Reply { status: head.status.as_u16(), headers: head.headers, text }
    }
}
