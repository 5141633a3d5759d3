//! One batch, one Postgres transaction, one answer to each request; and the authoritative reads.

mod settings;

use std::time::Instant;

use bytes::Bytes;
use contract::identity::KeyRecord;
use contract::query::ListQuery;
use uuid::Uuid;

pub use self::settings::{StoreSettings, SynchronousCommit};
use crate::batcher::CommandMetrics;
use crate::request::{Answer, Refusal, Request};

/// The command side's Postgres. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Store {}

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres is away, or refuses us; it may be back soon.
    #[error("Postgres is away")]
    Away(#[source] sqlx::Error),
    /// A fault of ours.
    #[error("Postgres refused a statement")]
    Fault(#[source] sqlx::Error),
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
        let _ = (settings, metrics);
        Ok(Self {})
    }

    /// Applies the requests in their order; returns one result for each.
    ///
    /// `oldest` is when the first of them was submitted: how long Postgres may be away counts from it.
    ///
    /// # Cancel safety
    /// Not cancel safe: run it in a task of its own.
    pub async fn execute(&self, requests: &[Request], oldest: Instant) -> Vec<Result<Answer, Refusal>> {
        let _ = oldest;
        requests.iter().map(|_| Err(Refusal::Internal)).collect()
    }

    /// Returns once Postgres answers a statement on a migrated database.
    ///
    /// # Errors
    /// [`StoreError::Away`] when it does not within the settings' time.
    pub async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// One signal.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_signal(&self, id: Uuid) -> Result<Lookup, StoreError> {
        let _ = id;
        Ok(Lookup::Missing)
    }

    /// One page of signals.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list_signals(&self, query: &ListQuery) -> Result<Page, StoreError> {
        let _ = query;
        Ok(Page { items: Vec::new(), next_cursor: None })
    }

    /// One identity.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_identity(&self, id: Uuid) -> Result<Lookup, StoreError> {
        let _ = id;
        Ok(Lookup::Missing)
    }

    /// One page of identities.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list_identities(&self, query: &ListQuery) -> Result<Page, StoreError> {
        let _ = query;
        Ok(Page { items: Vec::new(), next_cursor: None })
    }

    /// The keys of an identity, oldest first, each as JSON without its secret; `None` when there is no
    /// such identity.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list_keys(&self, identity: Uuid) -> Result<Option<Vec<Bytes>>, StoreError> {
        let _ = identity;
        Ok(None)
    }

    /// The record of a key, with its identity's role and activity; `None` when there is no such key.
    /// Whether the secret is right and the key unexpired is the caller's to check.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_key_for_auth(&self, key: Uuid) -> Result<Option<KeyRecord>, StoreError> {
        let _ = key;
        Ok(None)
    }
}
