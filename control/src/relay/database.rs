//! What the relay asks Postgres, and the once-a-second transaction that stores its copy of the position.

use std::time::Duration;

use contract::event::WATERMARK_PREFIX;
use contract::position::{Lsn, Position};
use contract::token::ServerRun;
use sqlx::{Connection, PgConnection, Row};

use super::RelayError;
use crate::history::{Copy, Epoch};

/// Longest that Postgres may take for one of the relay's statements.
const STATEMENT: Duration = Duration::from_secs(10);

/// The relay's connection for ordinary SQL, beside its replication session.
pub struct Database {
    connection: PgConnection,
}

/// A published position on its way into Postgres' copy and then to the slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The offset of its record.
    pub record_offset: i64,
    /// Its record's JSON.
    pub record: String,
    /// Its `end_lsn`.
    pub end_lsn: Lsn,
}

impl Database {
    /// Connects; every commit on this connection waits for the disk, whatever the server's default is.
    pub async fn connect(url: &str) -> Result<Self, RelayError> {
        let connecting = async {
            let mut connection = PgConnection::connect(url).await?;
            sqlx::query("SET synchronous_commit = on").execute(&mut connection).await?;
            Ok(Self { connection })
        };
        within(connecting).await
    }

    /// The connection itself.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// The row of `nexus.epoch`, `None` before `migrate` has opened one.
    pub async fn epoch(&mut self) -> Result<Option<Epoch>, RelayError> {
        let asking = async {
            let row = sqlx::query("SELECT epoch, history, system, first_lsn::text AS first_lsn FROM nexus.epoch")
                .fetch_optional(&mut self.connection)
                .await?;
            let Some(row) = row else { return Ok(None) };
            Ok(Some(Epoch {
                epoch: u64::try_from(row.try_get::<i64, _>("epoch")?).unwrap_or(0),
                history: u64::try_from(row.try_get::<i64, _>("history")?).unwrap_or(0),
                system: row.try_get("system")?,
                first_lsn: lsn(&row.try_get::<String, _>("first_lsn")?)?,
            }))
        };
        within(asking).await
    }

    /// The row of `nexus.position`, `None` before the first one is stored.
    pub async fn copy(&mut self) -> Result<Option<Copy>, RelayError> {
        let asking = async {
            let row = sqlx::query("SELECT record_offset, record::text AS record FROM nexus.position")
                .fetch_optional(&mut self.connection)
                .await?;
            let Some(row) = row else { return Ok(None) };
            let record: String = row.try_get("record")?;
            let position: Position =
                serde_json::from_str(&record).map_err(|error| sqlx::Error::Decode(error.into()))?;
            Ok(Some(Copy { record_offset: row.try_get("record_offset")?, position }))
        };
        within(asking).await
    }

    /// The system identifier and the run of the server behind this connection.
    pub async fn server(&mut self) -> Result<(String, ServerRun), RelayError> {
        let asking = async {
            let row = sqlx::query(
                "SELECT (SELECT system_identifier::text FROM pg_control_system()) AS system, \
                        ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int AS timeline, \
                        (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint AS started",
            )
            .fetch_one(&mut self.connection)
            .await?;
            let timeline = u32::try_from(row.try_get::<i32, _>("timeline")?).unwrap_or(0);
            Ok((row.try_get("system")?, ServerRun { timeline, started: row.try_get("started")? }))
        };
        within(asking).await
    }

    /// Writes the run in which the chain was proven beside the epoch. Returns whether the epoch still is `epoch`.
    pub async fn store_proven(&mut self, epoch: u64, run: ServerRun) -> Result<bool, RelayError> {
        let asking = async {
            let done = sqlx::query("UPDATE nexus.epoch SET timeline = $2, started = $3 WHERE epoch = $1")
                .bind(i64::try_from(epoch).unwrap_or(0))
                .bind(i32::try_from(run.timeline).unwrap_or(0))
                .bind(run.started)
                .execute(&mut self.connection)
                .await?;
            Ok(done.rows_affected() == 1)
        };
        within(asking).await
    }

    /// Stores `published`, if there is one, as the copy, and emits a watermark, in one transaction of one
    /// round trip. Returns whether the copy was stored: it only rises, and only in `epoch`.
    pub async fn beat(&mut self, epoch: u64, history: u64, published: Option<&Published>) -> Result<bool, RelayError> {
        let asking = async {
            // The row of nexus.epoch is read so that an epoch that is being opened waits for this, or this for it.
            let stored: i64 = sqlx::query_scalar(
                "WITH stored AS ( \
                     INSERT INTO nexus.position AS p (epoch, history, end_lsn, record_offset, record) \
                     SELECT $1, $2, CAST($3::text AS pg_lsn), $4, CAST($5::text AS json) \
                     FROM nexus.epoch e WHERE e.epoch = $1 AND $3::text IS NOT NULL \
                     ON CONFLICT (one) DO UPDATE SET epoch = excluded.epoch, history = excluded.history, \
                         end_lsn = excluded.end_lsn, record_offset = excluded.record_offset, record = excluded.record \
                     WHERE p.epoch < excluded.epoch OR (p.epoch = excluded.epoch AND p.end_lsn <= excluded.end_lsn) \
                     RETURNING 1), \
                 emitted AS ( \
                     SELECT pg_logical_emit_message(true, $6, json_build_object( \
                         'time', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, \
                         'timeline', ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int, \
                         'started', (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint)::text)) \
                 SELECT (SELECT count(*) FROM stored) FROM emitted",
            )
            .bind(i64::try_from(epoch).unwrap_or(0))
            .bind(i64::try_from(history).unwrap_or(0))
            .bind(published.map(|published| published.end_lsn.to_string()))
            .bind(published.map(|published| published.record_offset))
            .bind(published.map(|published| published.record.as_str()))
            .bind(WATERMARK_PREFIX)
            .fetch_one(&mut self.connection)
            .await?;
            Ok(stored == 1)
        };
        within(asking).await
    }
}

fn lsn(text: &str) -> Result<Lsn, sqlx::Error> {
    text.parse().map_err(|error: contract::position::NotAnLsn| sqlx::Error::Decode(error.into()))
}

async fn within<T>(asking: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, RelayError> {
    match tokio::time::timeout(STATEMENT, asking).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(RelayError::Slow("Postgres")),
    }
}
