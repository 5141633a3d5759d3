//! A migrated database of its own with an epoch, and the store over it, as the control plane has them.

use std::time::{Duration, Instant};

use contract::command::SignalCommand;
use contract::id::Uuid;
use contract::identity::Role;
use control::batcher::CommandMetrics;
use control::migrate::migrate_tables;
use control::request::{Answer, Caller, Refusal, Request, Work};
use control::store::{Store, StoreSettings};
use infrastructure::Namespace;
use prometheus::Registry;
use sqlx::{Connection, Executor, PgConnection};

use crate::place::{self, PARTITIONS};
use crate::signals::creation;

pub struct Database {
    pub namespace: Namespace,
    pub store: Store,
    pub metrics: CommandMetrics,
}

impl Database {
    /// No relay reads here, so there is no slot either, which would keep the WAL of all that is written.
    pub fn new(name: &'static str) -> Self {
        let namespace = place::namespace(name);
        let (admin_url, url) = (namespace.database_admin_url(), namespace.database_url());
        let metrics = CommandMetrics::register(&Registry::new()).expect("the first of their names");
        let counted = metrics.clone();
        let store = place::wait(async {
            migrate_tables(&admin_url, &url).await.expect("migrated");
            let mut admin = PgConnection::connect(&admin_url).await.expect("the superuser");
            let row = "INSERT INTO nexus.epoch (epoch, history, system, first_lsn) VALUES (1000, 900, 'x', '0/0')";
            admin.execute(row).await.expect("an epoch");
            Store::new(StoreSettings::new(&*url, PARTITIONS), counted).expect("a URL")
        });
        Self { namespace, store, metrics }
    }

    /// How many signals the table has.
    pub fn rows(&self) -> u64 {
        let url = self.namespace.database_admin_url();
        let count: i64 = place::wait(async {
            let mut admin = PgConnection::connect(&url).await.expect("the superuser");
            sqlx::query_scalar("SELECT count(*) FROM nexus.signals").fetch_one(&mut admin).await.expect("a count")
        });
        u64::try_from(count).expect("a count")
    }
}

/// A request as a handler submits it.
pub fn request(work: Work) -> Request {
    let caller = Caller { identity: Uuid::from_u128(42), key: Uuid::from_u128(43), role: Role::Admin };
    let (request_id, traceparent) = ("bench".to_owned(), String::new());
    Request { caller, request_id, traceparent, idempotency: None, work, bytes: 200 }
}

/// As many requests that create one signal each.
pub fn creations(count: u64) -> Vec<Request> {
    (0..count).map(|i| request(Work::Signal(SignalCommand::Create(creation(i))))).collect()
}

/// Runs a batch; how long it took until the last answer was there, and the answers, all of them acceptances.
pub async fn create(store: &Store, requests: &[Request]) -> (Duration, Vec<Answer>) {
    let begun = Instant::now();
    let results = store.execute(requests, begun).await;
    let took = begun.elapsed();
    let answers: Result<Vec<Answer>, Refusal> = results.into_iter().collect();
    let answers = answers.expect("answers");
    assert_eq!(answers.len(), requests.len());
    assert!(answers.iter().all(|answer| answer.status == 201 && answer.token.is_some()), "accepted: {answers:?}");
    (took, answers)
}
