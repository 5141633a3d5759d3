//! The replication slot and the epoch's first row: made once, by `migrate`, after its SQL.

use contract::position::Lsn;
use contract::time::Timestamp;
use sqlx::{Connection, PgConnection, Row};

/// The empty publication that pgoutput wants; the relay reads logical messages only.
pub const PUBLICATION: &str = "nexus";

/// Why the slot could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// Postgres refused.
    #[error("the replication slot can't be made or looked up")]
    Sql(#[from] sqlx::Error),
    /// There is one without an epoch: whose events it has confirmed nobody knows.
    #[error(
        "the replication slot {0} exists but this database has no epoch: it belongs to another database or was left \
         behind; drop it with SELECT pg_drop_replication_slot('{0}')"
    )]
    Foreign(String),
    /// Logical messages are not in the WAL.
    #[error("wal_level is {0}; it must be logical (a change needs a restart of Postgres)")]
    WalLevel(String),
}

/// Opens the first epoch of a database: makes the slot and writes the row of `nexus.epoch`.
///
/// Returns whether it did: where there is a row, nothing happens, not even when the slot is gone, because
/// a slot made again would hide the hole. Call it on a connection of its own after the SQL has committed:
/// Postgres makes no slot in a transaction that has written.
///
/// Two of them at the same time are harmless: a lock lets one wait for the other. One that dies between
/// slot and row leaves a slot that the next one removes, since nothing can have been confirmed to it.
///
/// `tables` is the migrating role's; where that may not replicate, `replicating` is of a role that may, and needs no
/// right to any table.
///
/// # Errors
/// [`SlotError`].
pub async fn establish(
    tables: &mut PgConnection,
    replicating: Option<&mut PgConnection>,
    slot: &str,
) -> Result<bool, SlotError> {
    let level: String = sqlx::query_scalar("SELECT current_setting('wal_level')").fetch_one(&mut *tables).await?;
    if level != "logical" {
        return Err(SlotError::WalLevel(level));
    }
    // A session's lock: it outlives no crash, and the slot can't be made inside a transaction that holds one.
    sqlx::query("SELECT pg_advisory_lock(hashtext('nexus.slot'))").execute(&mut *tables).await?;
    let made = establish_locked(tables, replicating, slot).await;
    sqlx::query("SELECT pg_advisory_unlock(hashtext('nexus.slot'))").execute(&mut *tables).await?;
    made
}

async fn establish_locked(
    tables: &mut PgConnection,
    mut replicating: Option<&mut PgConnection>,
    slot: &str,
) -> Result<bool, SlotError> {
    let epochs: i64 = sqlx::query_scalar("SELECT count(*) FROM nexus.epoch").fetch_one(&mut *tables).await?;
    if epochs > 0 {
        return Ok(false);
    }
    let slots = replicating.as_deref_mut().unwrap_or(&mut *tables);
    remove_leftover(slots, slot).await?;
    let lsn: String = sqlx::query_scalar("SELECT lsn::text FROM pg_create_logical_replication_slot($1, 'pgoutput')")
        .bind(slot)
        .fetch_one(slots)
        .await?;
    let written = sqlx::query(
        "INSERT INTO nexus.epoch (epoch, history, system, first_lsn) \
         SELECT $1, 0, system_identifier::text, CAST($2::text AS pg_lsn) FROM pg_control_system()",
    )
    .bind(Timestamp::now().millis())
    .bind(&lsn)
    .execute(&mut *tables)
    .await;
    if let Err(error) = written {
        let slots = replicating.unwrap_or(tables);
        sqlx::query("SELECT pg_drop_replication_slot($1)").bind(slot).execute(slots).await?;
        return Err(error.into());
    }
    tracing::info!(slot, lsn, "made the replication slot and opened the first epoch");
    Ok(true)
}

/// Drops the slot that an interrupted call left in this database.
async fn remove_leftover(connection: &mut PgConnection, slot: &str) -> Result<(), SlotError> {
    let row = sqlx::query(
        "SELECT database = current_database() AND plugin = 'pgoutput' AND NOT active AS ours \
         FROM pg_replication_slots WHERE slot_name = $1",
    )
    .bind(slot)
    .fetch_optional(&mut *connection)
    .await?;
    match row {
        None => Ok(()),
        Some(row) if row.try_get::<Option<bool>, _>("ours")? == Some(true) => {
            tracing::warn!(slot, "dropping the slot that an interrupted migration left behind");
            sqlx::query("SELECT pg_drop_replication_slot($1)").bind(slot).execute(&mut *connection).await?;
            Ok(())
        }
        Some(_) => Err(SlotError::Foreign(slot.to_owned())),
    }
}

/// The slot as Postgres shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotRow {
    /// `confirmed_flush_lsn`.
    pub confirmed: Option<Lsn>,
    /// Whether a session reads from it.
    pub active: bool,
    /// `wal_status`: `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: String,
}

/// Looks the slot up; `None` where there is none.
///
/// # Errors
/// Postgres is away or refuses.
pub async fn look_up(connection: &mut PgConnection, slot: &str) -> Result<Option<SlotRow>, sqlx::Error> {
    let row = sqlx::query(
        "SELECT confirmed_flush_lsn::text AS confirmed, active, coalesce(wal_status, 'lost') AS wal_status \
         FROM pg_replication_slots WHERE slot_name = $1 AND database = current_database()",
    )
    .bind(slot)
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let confirmed: Option<String> = row.try_get("confirmed")?;
    Ok(Some(SlotRow {
        confirmed: confirmed.and_then(|text| text.parse().ok()),
        active: row.try_get("active")?,
        wal_status: row.try_get("wal_status")?,
    }))
}

/// Makes the slot at `url`, on a connection of its own. See [`establish`].
///
/// # Errors
/// [`SlotError`].
pub async fn establish_at(url: &str, slot: &str) -> Result<bool, SlotError> {
    let mut connection = PgConnection::connect(url).await?;
    let made = establish(&mut connection, None, slot).await;
    connection.close().await?;
    made
}
