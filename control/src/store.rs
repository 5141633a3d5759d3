//! One batch, one Postgres transaction, one answer to each request; and the authoritative reads.
//!
//! Errors: a rejected command is an [`Answer`]; a [`Refusal`] means that there is none; what a failed
//! transaction means is decided in `failure.rs` alone. Statements of commands run in sessions of their
//! own (`session.rs`), reads in a pool, the looks at API keys that every request needs in another, so that none waits
//! for the others.

mod administration;
mod failure;
mod fold;
mod keys;
mod opening;
mod outcome;
mod prune;
mod random;
mod reads;
mod session;
mod settings;
mod signals;
pub(crate) mod sql;
mod stamp;
mod transaction;
mod write;

use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use contract::id::RisingClock;
use contract::identity::KeyRecord;
use contract::query::ListQuery;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, Executor, PgPool};
use uuid::Uuid;

use self::session::Sessions;
pub use self::settings::{StoreSettings, SynchronousCommit};
use self::stamp::Stamp;
use crate::batcher::CommandMetrics;
use crate::request::{Answer, Refusal, Request};

/// Connections for looks at API keys, and for pings.
const ADMISSION_CONNECTIONS: u32 = 2;

/// The command side's Postgres. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: StoreSettings,
    sessions: Arc<Sessions>,
    reads: PgPool,
    /// For what decides whether a request is let in at all: slow lists must not keep commands out.
    admission: PgPool,
    clock: RisingClock,
    metrics: CommandMetrics,
    /// The epoch's row and the server's run, as they were last seen.
    stamp: Mutex<Option<Stamp>>,
}

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres is away, or refuses us; it may be back soon.
    #[error("Postgres is away")]
    Away(#[source] sqlx::Error),
    /// There are no tables, no rights, or no epoch yet: `nexus-control migrate` makes them.
    #[error("the database is not migrated")]
    Unmigrated,
    /// A fault of ours.
    #[error("Postgres refused a statement")]
    Fault(#[source] sqlx::Error),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        use failure::Failure;
        match Failure::of(error) {
            Failure::Conflict(error) | Failure::Away(Some(error)) => StoreError::Away(error),
            Failure::Unmigrated(_) => StoreError::Unmigrated,
            Failure::Data(error) | Failure::Fault(error) => StoreError::Fault(error),
            Failure::Away(None) | Failure::Stale | Failure::Unknown => StoreError::Away(sqlx::Error::PoolTimedOut),
        }
    }
}

/// What a look for one entity found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// It is there.
    Found {
        /// Its JSON, byte for byte what its event carried.
        body: Bytes,
        /// Its version.
        version: u64,
    },
    /// It was deleted, by this version, within the last days.
    Deleted {
        /// The version of the deletion.
        version: u64,
    },
    /// Nobody knows of it.
    Missing,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The items' JSON, in order.
    pub items: Vec<Bytes>,
    /// The cursor of the page that follows; none on the last one.
    pub next_cursor: Option<String>,
}

impl Store {
    /// A store over the database at `settings.url`. Connects when first used, so that a Postgres that
    /// is away does not keep a server from starting. Must be called within a runtime.
    ///
    /// # Errors
    /// The URL is malformed.
    pub fn new(settings: StoreSettings, metrics: CommandMetrics) -> Result<Self, sqlx::Error> {
        let options: PgConnectOptions = settings.url.parse()?;
        let statement_ms = settings.statement_timeout.as_millis();
        let options = options
            .disable_statement_logging()
            .options([("statement_timeout", statement_ms), ("lock_timeout", statement_ms * 3 / 5)])
            .options([("jit", "off")]);
        let commands = options
            .clone()
            .application_name("nexus-control commands")
            .options([("synchronous_commit", settings.synchronous_commit.as_str())])
            // Every statement looks at what was committed before it, also behind a lock that it had to wait for.
            .options([("default_transaction_isolation", "read committed")])
            // A session that we lost at COMMIT before it got there must not hold its locks for long.
            .options([("idle_in_transaction_session_timeout", statement_ms)])
            // A plan is made once per connection, often while tables are small. Every statement of a
            // batch finds its rows by key, so only plans that stay good when tables grow are let in.
            .options([("plan_cache_mode", "force_generic_plan"), ("enable_seqscan", "off")])
            .options([("enable_hashjoin", "off"), ("enable_mergejoin", "off")]);
        let reads = options.options([("plan_cache_mode", "force_custom_plan")]);
        let pool = |connections| {
            PgPoolOptions::new().max_connections(connections).acquire_timeout(settings.away_after).after_release(
                |connection, _| {
                    Box::pin(async move {
                        if connection.is_in_transaction() {
                            connection.execute("ROLLBACK").await?;
                        }
                        Ok(true)
                    })
                },
            )
        };
        let admission = reads.clone().application_name("nexus-control admission");
        let admission = pool(ADMISSION_CONNECTIONS).connect_lazy_with(admission);
        let reads = pool(settings.read_connections).connect_lazy_with(reads.application_name("nexus-control reads"));
        let sessions = Sessions::new(commands, metrics.sessions.clone());
        let (clock, stamp) = (RisingClock::default(), Mutex::default());
        Ok(Self { inner: Arc::new(Inner { settings, sessions, reads, admission, clock, metrics, stamp }) })
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &StoreSettings {
        &self.inner.settings
    }

    /// Applies the requests in their order; returns one result for each.
    ///
    /// `oldest` is when the first of them was submitted: how long Postgres may be away counts from it.
    ///
    /// # Cancel safety
    /// Safe for Postgres: a dropped session is closed and rolled back. But the answers are lost, so run
    /// it in a task of its own.
    pub async fn execute(&self, requests: &[Request], oldest: Instant) -> Vec<Result<Answer, Refusal>> {
        self.inner.execute(requests, oldest).await
    }

    /// Forgets, for as long as it is awaited, idempotency keys after a day, deletions after a week and
    /// the batches' own rows after some minutes.
    pub async fn prune_for_ever(&self) {
        self.inner.prune_for_ever().await;
    }

    /// One round of [`Store::prune_for_ever`]; returns how many rows went.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn prune(&self) -> Result<u64, StoreError> {
        self.inner.prune().await
    }

    /// Returns once Postgres answers a statement on a migrated database.
    ///
    /// # Errors
    /// [`StoreError::Away`] when it does not within the settings' time.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.inner.ping().await
    }

    /// One signal.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_signal(&self, id: Uuid) -> Result<Lookup, StoreError> {
        self.inner.load_signal(id).await
    }

    /// One page of signals.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list_signals(&self, query: &ListQuery) -> Result<Page, StoreError> {
        self.inner.list_signals(query).await
    }

    /// One identity.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_identity(&self, id: Uuid) -> Result<Lookup, StoreError> {
        self.inner.load_identity(id).await
    }

    /// The identity with this name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn identity_named(&self, name: &str) -> Result<Option<Uuid>, StoreError> {
        self.inner.identity_named(name).await
    }

    /// One page of identities.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list_identities(&self, query: &ListQuery) -> Result<Page, StoreError> {
        self.inner.list_identities(query).await
    }

    /// The keys of an identity, oldest first, each as JSON without its secret; `None` when there is no
    /// such identity.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list_keys(&self, identity: Uuid) -> Result<Option<Vec<Bytes>>, StoreError> {
        self.inner.list_keys(identity).await
    }

    /// The record of a key, with its identity's role and activity; `None` when there is no such key.
    /// Whether the secret is right and the key unexpired is the caller's to check.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_key_for_auth(&self, key: Uuid) -> Result<Option<KeyRecord>, StoreError> {
        self.inner.load_key_for_auth(key).await
    }
}
