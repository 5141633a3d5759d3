//! What the HTTP side reads: the authoritative state, straight from Postgres.
//!
//! A trait, so that routes, roles and headers are tested without a database.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use contract::identity::KeyRecord;
use contract::query::{ListQuery, Resource};
use uuid::Uuid;

use crate::store::{Lookup, Page, Store, StoreError};

/// Why something could not be read. Cheap to clone: everyone who waits for one read gets it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// Postgres did not answer in time.
    #[error("Postgres did not answer in time")]
    Late,
    /// Too many reads are on their way to begin another.
    #[error("too many reads are on their way")]
    Crowded,
    /// Postgres could not be asked.
    #[error("a read failed")]
    Failed(#[source] Arc<StoreError>),
    /// The read panicked; the log has its text.
    #[error("a read broke")]
    Broken,
}

/// Reads of the authoritative state. Each sees one moment of it.
pub trait Reads: Send + Sync + fmt::Debug + 'static {
    /// The record of an API key; `None` where there is none, or it is revoked.
    fn key(&self, id: Uuid) -> impl Future<Output = Result<Option<KeyRecord>, ReadError>> + Send;

    /// A signal.
    fn signal(&self, id: Uuid) -> impl Future<Output = Result<Lookup, ReadError>> + Send;

    /// An identity.
    fn identity(&self, id: Uuid) -> impl Future<Output = Result<Lookup, ReadError>> + Send;

    /// A page of signals or identities.
    fn list(&self, query: ListQuery) -> impl Future<Output = Result<Page, ReadError>> + Send;

    /// The keys of an identity, oldest first, without secrets; `None` where there is no such identity.
    fn keys(&self, identity: Uuid) -> impl Future<Output = Result<Option<Vec<Bytes>>, ReadError>> + Send;
}

/// Reads from Postgres, each in a task of its own: a caller that hangs up must not drop a statement midway.
#[derive(Debug, Clone)]
pub struct StoreReads {
    store: Store,
    deadline: Duration,
}

impl StoreReads {
    /// Reads from `store` that are answered within `deadline`.
    #[must_use]
    pub fn new(store: Store, deadline: Duration) -> Self {
        Self { store, deadline }
    }

    async fn run<T, F>(&self, read: impl FnOnce(Store) -> F) -> Result<T, ReadError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        match tokio::time::timeout(self.deadline, tokio::spawn(read(self.store.clone()))).await {
            Ok(Ok(result)) => result.map_err(|error| ReadError::Failed(Arc::new(error))),
            Ok(Err(_)) => Err(ReadError::Broken),
            Err(_) => Err(ReadError::Late),
        }
    }
}

impl Reads for StoreReads {
    async fn key(&self, id: Uuid) -> Result<Option<KeyRecord>, ReadError> {
        self.run(move |store| async move { store.load_key_for_auth(id).await }).await
    }

    async fn signal(&self, id: Uuid) -> Result<Lookup, ReadError> {
        self.run(move |store| async move { store.load_signal(id).await }).await
    }

    async fn identity(&self, id: Uuid) -> Result<Lookup, ReadError> {
        self.run(move |store| async move { store.load_identity(id).await }).await
    }

    async fn list(&self, query: ListQuery) -> Result<Page, ReadError> {
        self.run(move |store| async move {
            match query.resource {
                Resource::Signals => store.list_signals(&query).await,
                Resource::Identities => store.list_identities(&query).await,
            }
        })
        .await
    }

    async fn keys(&self, identity: Uuid) -> Result<Option<Vec<Bytes>>, ReadError> {
        self.run(move |store| async move { store.list_keys(identity).await }).await
    }
}
