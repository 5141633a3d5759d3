//! The connections of the batches: one each, clean or closed.
//!
//! A pool gives back what a dropped future left behind, an open transaction included, and the next
//! user's statements vanish in it. Here a connection comes back only from who proved it clean
//! ([`Session::keep`]); every other way out closes the socket, and Postgres rolls back.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::IntCounterVec;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection, Row};

use super::failure::Failure;
use super::sql::PgTime;

/// How long an idle connection counts as living.
const FRESH: Duration = Duration::from_millis(50);

/// Connections that wait for the next batch; as many as ran at the same time, at most.
#[derive(Debug)]
pub(super) struct Sessions {
    options: PgConnectOptions,
    idle: Mutex<Vec<(PgConnection, Backend, Instant)>>,
    /// Sessions opened, by their settings.
    opened: IntCounterVec,
}

impl Sessions {
    pub(super) fn new(options: PgConnectOptions, opened: IntCounterVec) -> Arc<Self> {
        Arc::new(Self { options, idle: Mutex::default(), opened })
    }

    /// A connection that is idle, else a new one.
    pub(super) async fn open(self: &Arc<Self>, deadline: Instant) -> Result<Session, Failure> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some((connection, backend, kept)) = idle {
            let is_fresh = kept.elapsed() < FRESH;
            return Ok(Session { connection, backend, is_fresh, sessions: Arc::clone(self) });
        }
        self.connect(deadline).await
    }

    /// A new connection. The idle ones are closed: who asks has seen one of them fail.
    pub(super) async fn open_new(self: &Arc<Self>, deadline: Instant) -> Result<Session, Failure> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.connect(deadline).await
    }

    async fn connect(self: &Arc<Self>, deadline: Instant) -> Result<Session, Failure> {
        let connecting = async {
            let mut connection = self.options.connect().await?;
            let backend = Backend::of(&mut connection, &self.opened).await?;
            Ok((connection, backend))
        };
        match tokio::time::timeout_at(deadline.into(), connecting).await {
            Ok(Ok((connection, backend))) => {
                Ok(Session { connection, backend, is_fresh: true, sessions: Arc::clone(self) })
            }
            Ok(Err(error)) => Err(Failure::of_connecting(error)),
            Err(_) => Err(Failure::Away(None)),
        }
    }
}

/// The process of Postgres behind a connection. No two have the same number and beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Backend {
    pub(super) pid: i32,
    pub(super) started: PgTime,
}

impl Backend {
    /// Asks who is there, and counts the session by what makes its commits durable.
    async fn of(connection: &mut PgConnection, opened: &IntCounterVec) -> Result<Self, sqlx::Error> {
        const MINE: &str = "SELECT pid, backend_start, current_setting('synchronous_commit') AS synchronous_commit, \
             current_setting('fsync') AS fsync, current_setting('server_version') AS server_version \
             FROM pg_stat_activity WHERE pid = pg_backend_pid()";
        let row = sqlx::query(MINE).persistent(false).fetch_one(connection).await?;
        let said = |name| row.try_get::<&str, _>(name);
        opened.with_label_values(&[said("synchronous_commit")?, said("fsync")?, said("server_version")?]).inc();
        Ok(Self { pid: row.try_get("pid")?, started: row.try_get("backend_start")? })
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} since {}", self.pid, self.started.0)
    }
}

/// One connection, for one batch.
#[derive(Debug)]
pub(super) struct Session {
    connection: PgConnection,
    backend: Backend,
    is_fresh: bool,
    sessions: Arc<Sessions>,
}

impl Session {
    /// The connection.
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// The process at its other end.
    pub(super) fn backend(&self) -> Backend {
        self.backend
    }

    /// Whether Postgres answered on it a moment ago. On one that was idle for longer, the first statement is one whose
    /// loss leaves nothing unknown.
    pub(super) fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    /// Gives the connection back: it is in no transaction, and nothing is under way on it.
    pub(super) fn keep(self) {
        let Self { connection, backend, sessions, .. } = self;
        sessions.idle.lock().unwrap_or_else(PoisonError::into_inner).push((connection, backend, Instant::now()));
    }
}
