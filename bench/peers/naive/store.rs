//! Signals in Postgres: one transaction for each command.

use contract::signal::{Payload, Priority, Signal, Status};
use contract::time::Timestamp;
use control::aggregate::{Decision, State};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Row};
use uuid::Uuid;

const COLUMNS: &str = "id, title, priority, status, payload::text, target, created_by, \
    (extract(epoch FROM created_at) * 1000000)::bigint, (extract(epoch FROM updated_at) * 1000000)::bigint, version";

/// What an accepted command changed.
#[derive(Debug)]
pub struct Event {
    pub id: Uuid,
    /// `created`, `updated` or `deleted`.
    pub kind: &'static str,
    pub version: u64,
    /// The signal; of a deleted one its id and version.
    pub document: Vec<u8>,
}

/// The state of a signal, locked until the transaction ends.
///
/// # Errors
/// Postgres.
pub async fn lock(connection: &mut PgConnection, id: Uuid) -> sqlx::Result<State> {
    let query = format!("SELECT {COLUMNS} FROM signals WHERE id = $1 FOR UPDATE");
    let row = sqlx::query(sqlx::AssertSqlSafe(query)).bind(id).fetch_optional(connection).await?;
    Ok(match row {
        Some(row) => State::Live(signal_of(&row)?),
        None => State::Missing,
    })
}

/// Stores what was decided. Returns its event; none where nothing changed.
///
/// # Errors
/// Postgres.
pub async fn store(connection: &mut PgConnection, id: Uuid, decision: &Decision) -> sqlx::Result<Option<Event>> {
    let (kind, signal) = match decision {
        Decision::Created(signal) => ("created", signal),
        Decision::Updated(signal) => ("updated", signal),
        Decision::Unchanged => return Ok(None),
        Decision::Deleted(version) => {
            sqlx::query("DELETE FROM signals WHERE id = $1").bind(id).execute(connection).await?;
            let document = format!(r#"{{"id":"{id}","version":{version}}}"#).into_bytes();
            return Ok(Some(Event { id, kind: "deleted", version: *version, document }));
        }
    };
    let query = match kind {
        "created" => {
            "INSERT INTO signals VALUES ($1, $2, $3, $4, $5::text::json, $6, $7, \
             'epoch'::timestamptz + $8 * interval '1 microsecond', 'epoch'::timestamptz + $9 * interval '1 microsecond', $10)"
        }
        _ => {
            "UPDATE signals SET title = $2, priority = $3, status = $4, payload = $5::text::json, target = $6, created_by = $7, \
             created_at = 'epoch'::timestamptz + $8 * interval '1 microsecond', \
             updated_at = 'epoch'::timestamptz + $9 * interval '1 microsecond', version = $10 WHERE id = $1"
        }
    };
    sqlx::query(query)
        .bind(signal.id)
        .bind(&signal.title)
        .bind(i16::from(signal.priority.rank()))
        .bind(i16::from(signal.status.rank()))
        .bind(signal.payload.as_str())
        .bind(signal.target)
        .bind(signal.created_by)
        .bind(signal.created_at.0)
        .bind(signal.updated_at.0)
        .bind(signal.version as i64)
        .execute(connection)
        .await?;
    Ok(Some(Event { id: signal.id, kind, version: signal.version, document: signal.render() }))
}

/// Writes an event into the outbox, in the columns that Debezium's router takes by default.
///
/// # Errors
/// Postgres.
pub async fn outbox(connection: &mut PgConnection, row: Uuid, event: &Event) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload) VALUES ($1, 'signals', $2, $3, $4)",
    )
    .bind(row)
    .bind(event.id.to_string())
    .bind(event.kind)
    .bind(String::from_utf8_lossy(&event.document))
    .execute(connection)
    .await?;
    Ok(())
}

/// A page of documents after an id, in the order of ids.
///
/// # Errors
/// Postgres.
pub async fn page(pool: &PgPool, after: Uuid, limit: i64) -> sqlx::Result<Vec<Signal>> {
    let query = format!("SELECT {COLUMNS} FROM signals WHERE id > $1 ORDER BY id LIMIT $2");
    let rows = sqlx::query(sqlx::AssertSqlSafe(query)).bind(after).bind(limit).fetch_all(pool).await?;
    rows.iter().map(signal_of).collect()
}

fn signal_of(row: &PgRow) -> sqlx::Result<Signal> {
    let rank = |i: usize| -> sqlx::Result<usize> { Ok(usize::try_from(row.try_get::<i16, _>(i)?).unwrap_or(0)) };
    Ok(Signal {
        id: row.try_get(0)?,
        title: row.try_get(1)?,
        priority: Priority::ALL[rank(2)? % Priority::ALL.len()],
        status: Status::ALL[rank(3)? % Status::ALL.len()],
        payload: Payload::from_stored(row.try_get(4)?),
        target: row.try_get(5)?,
        created_by: row.try_get(6)?,
        created_at: Timestamp(row.try_get(7)?),
        updated_at: Timestamp(row.try_get(8)?),
        version: u64::try_from(row.try_get::<i64, _>(9)?).unwrap_or(0),
    })
}
