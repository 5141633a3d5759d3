//! The connections of the batches: one each, clean or closed.
//!
//! A pool gives back what a dropped future left behind, an open transaction included, and the next
//! user's statements vanish in it. Here a connection comes back only from who proved it clean
//! ([`Session::keep`]); every other way out closes the socket, and Postgres rolls back.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};

use super::failure::Failure;

/// Connections that wait for the next batch; as many as ran at the same time, at most.
#[derive(Debug)]
pub(super) struct Sessions {
    options: PgConnectOptions,
    idle: Mutex<Vec<PgConnection>>,
}

impl Sessions {
    pub(super) fn new(options: PgConnectOptions) -> Arc<Self> {
        Arc::new(Self { options, idle: Mutex::default() })
    }

    /// A connection that is idle, else a new one.
    pub(super) async fn open(self: &Arc<Self>, deadline: Instant) -> Result<Session, Failure> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(connection) = idle {
            return Ok(Session { connection, sessions: Arc::clone(self) });
        }
        self.connect(deadline).await
    }

    /// A new connection. The idle ones are closed: who asks has seen one of them fail.
    pub(super) async fn open_new(self: &Arc<Self>, deadline: Instant) -> Result<Session, Failure> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.connect(deadline).await
    }

    async fn connect(self: &Arc<Self>, deadline: Instant) -> Result<Session, Failure> {
        let connecting = tokio::time::timeout_at(deadline.into(), self.options.connect());
        match connecting.await {
            Ok(Ok(connection)) => Ok(Session { connection, sessions: Arc::clone(self) }),
            Ok(Err(error)) => Err(Failure::of_connecting(error)),
            Err(_) => Err(Failure::Away(None)),
        }
    }
}

/// One connection, for one batch.
#[derive(Debug)]
pub(super) struct Session {
    connection: PgConnection,
    sessions: Arc<Sessions>,
}

impl Session {
    /// The connection.
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Gives the connection back: it is in no transaction, and nothing is under way on it.
    pub(super) fn keep(self) {
        let Self { connection, sessions } = self;
        sessions.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}
