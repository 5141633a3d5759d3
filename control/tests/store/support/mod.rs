//! A migrated database of its own for a test, and what its WAL carries.

#![allow(dead_code, clippy::unwrap_used)]

pub mod proxy;

use std::time::Instant;

use bytes::Bytes;
use contract::bundle::{self, BUNDLE_PREFIX};
use contract::command::{CreateSignal, PatchSignal, Precondition, SignalCommand};
use contract::event::{Change, Event};
use contract::identity::Role;
use contract::partition::Topic;
use contract::query::{ListQuery, Order, Resource};
use contract::signal::{Payload, Priority};
use control::batcher::CommandMetrics;
use control::migrate::migrate_tables;
use control::request::{Answer, Caller, Idempotency, Refusal, Request, Work};
use control::store::{Store, StoreSettings};
use infrastructure::{Namespace, TestStack};
use serde_json::Value;
use sqlx::{Connection, Executor, PgConnection, Row};
use uuid::Uuid;

pub const PARTITIONS: u16 = 4;

/// A database with tables, an epoch and a slot.
pub struct Place {
    pub namespace: Namespace,
    pub store: Store,
}

/// An event that the WAL carries, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emitted {
    pub topic: Topic,
    pub id: Uuid,
    pub change: Change,
    pub version: u64,
    pub traceparent: String,
    pub value: Vec<u8>,
}

impl Place {
    pub async fn new(name: &str) -> Self {
        Self::new_in(TestStack::shared().await, name).await
    }

    pub async fn new_in(stack: &TestStack, name: &str) -> Self {
        let namespace = stack.namespace(name).await;
        migrate_tables(&namespace.database_admin_url(), &namespace.database_url()).await.expect("migrated");
        let mut admin = PgConnection::connect(&namespace.database_admin_url()).await.expect("the superuser");
        let slot = sqlx::query("SELECT pg_create_logical_replication_slot($1, 'pgoutput')").bind(namespace.slot());
        slot.execute(&mut admin).await.expect("a slot");
        let row = "INSERT INTO nexus.epoch (epoch, history, system, first_lsn) VALUES (1000, 900, 'x', '0/0')";
        admin.execute(row).await.expect("an epoch");
        let store = store(&namespace.database_url());
        Self { namespace, store }
    }

    pub async fn admin(&self) -> PgConnection {
        PgConnection::connect(&self.namespace.database_admin_url()).await.expect("the superuser")
    }

    /// The events in the WAL, in commit order.
    pub async fn events(&self) -> Vec<Emitted> {
        let peek = "SELECT data FROM pg_logical_slot_peek_binary_changes($1, NULL, NULL,
                    'proto_version', '1', 'publication_names', 'nexus', 'messages', 'true')";
        let rows = sqlx::query(peek).bind(self.namespace.slot()).fetch_all(&mut self.admin().await).await.unwrap();
        rows.iter().flat_map(|row| emitted(row.get("data"))).collect()
    }

    /// The rows of all signals, rendered, by id.
    pub async fn rows(&self) -> Vec<(Uuid, Vec<u8>)> {
        let mut rows = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut parameters = vec![("limit", "500")];
            parameters.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let query =
                ListQuery::parse(Resource::Signals, parameters, Order::Created, &[Order::Created], &[]).unwrap();
            let page = self.store.list_signals(&query).await.unwrap();
            rows.extend(page.items.iter().map(|item| {
                let value: Value = serde_json::from_slice(item).unwrap();
                (value["id"].as_str().unwrap().parse().unwrap(), item.to_vec())
            }));
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        rows
    }

    pub async fn run(&self, work: Work) -> Answer {
        self.try_run(request(work)).await.expect("an answer")
    }

    pub async fn try_run(&self, request: Request) -> Result<Answer, Refusal> {
        self.store.execute(&[request], Instant::now()).await.remove(0)
    }

    /// A new signal's id.
    pub async fn create(&self, title: &str) -> Uuid {
        id_of(&self.run(create(title)).await)
    }
}

pub fn store(url: &str) -> Store {
    Store::new(StoreSettings::new(url, PARTITIONS), metrics()).expect("a URL")
}

pub fn metrics() -> CommandMetrics {
    CommandMetrics::register(&prometheus::Registry::new()).expect("the first of their names")
}

/// The events in a message of pgoutput: 'M', flags, LSN, prefix, length, content (protocol-logicalrep-message-formats).
fn emitted(data: &[u8]) -> Vec<Emitted> {
    if data.first() != Some(&b'M') {
        return Vec::new();
    }
    let rest = &data[1 + 1 + 8..];
    let end = rest.iter().position(|b| *b == 0).expect("a prefix");
    if &rest[..end] != BUNDLE_PREFIX.as_bytes() {
        return Vec::new();
    }
    let content = Bytes::copy_from_slice(&rest[end + 1 + 4..]);
    let event = |event: Bytes| {
        let Event { topic, id, change, version, traceparent, value, .. } = Event::decode(&event).expect("an event");
        Emitted { topic, id, change, version, traceparent: traceparent.into(), value: value.into() }
    };
    bundle::split(content).map(event).collect()
}

pub fn caller() -> Caller {
    Caller { identity: Uuid::from_u128(42), key: Uuid::from_u128(43), role: Role::Admin }
}

pub fn request(work: Work) -> Request {
    Request {
        caller: caller(),
        request_id: "test".into(),
        traceparent: String::new(),
        idempotency: None,
        work,
        bytes: 100,
    }
}

pub fn keyed(work: Work, key: &str, fingerprint: u8) -> Request {
    let idempotency = Some(Idempotency { key: key.into(), fingerprint: [fingerprint; 32] });
    Request { idempotency, ..request(work) }
}

pub fn creation(title: &str) -> SignalCommand {
    let payload = Payload::from_stored(r#"{"n":1.50}"#.into());
    SignalCommand::Create(CreateSignal { title: title.into(), priority: Priority::Normal, payload, target: None })
}

pub fn create(title: &str) -> Work {
    Work::Signal(creation(title))
}

pub fn retitle(id: Uuid, title: &str, precondition: Precondition) -> SignalCommand {
    SignalCommand::Update(id, PatchSignal { title: Some(title.into()), ..PatchSignal::default() }, precondition)
}

pub fn json(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).expect("JSON")
}

pub fn id_of(answer: &Answer) -> Uuid {
    json(answer)["id"].as_str().expect("an id").parse().expect("a UUID")
}
