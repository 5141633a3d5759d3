//! What became of a transaction whose connection was lost at COMMIT.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::Row;
use uuid::Uuid;

use super::session::Sessions;

const PAUSE: Duration = Duration::from_millis(50);

/// Whether the transaction `xid`, which wrote `batch` as its own row, is committed; `None` when that
/// could not be learned by `deadline`.
///
/// First until the number is no longer in progress, or refused: the lost session may still be
/// committing. Then by the row alone: after a crash Postgres gives a number that never reached the
/// disk to somebody else, so its status may be another transaction's.
pub(super) async fn learn(sessions: &Arc<Sessions>, xid: &str, batch: Uuid, deadline: Instant) -> Option<bool> {
    loop {
        let look = tokio::time::timeout_at(deadline.into(), look(sessions, xid, batch, deadline));
        match look.await {
            Ok(Some(outcome)) => return Some(outcome),
            Ok(None) => {}
            Err(_) => return None,
        }
        if Instant::now() + PAUSE >= deadline {
            return None;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// One look; `None` when there is no knowing yet.
async fn look(sessions: &Arc<Sessions>, xid: &str, batch: Uuid, deadline: Instant) -> Option<bool> {
    let mut session = sessions.open_new(deadline).await.ok()?;
    let status = sqlx::query("SELECT pg_xact_status($1::xid8) AS status").bind(xid);
    match status.fetch_one(session.connection()).await {
        // Null: so long ago that it is over.
        Ok(row) => {
            let status: Option<String> = row.try_get("status").ok()?;
            if status.as_deref() == Some("in progress") {
                return None;
            }
        }
        // 22023, the number is in the future: the crash took it back.
        Err(sqlx::Error::Database(refusal)) if refusal.code().as_deref() == Some("22023") => {}
        Err(_) => return None,
    }
    let row = sqlx::query("SELECT EXISTS (SELECT FROM nexus.batches WHERE id = $1) AS written").bind(batch);
    let row = row.fetch_one(session.connection()).await.ok()?;
    let written = row.try_get("written").ok()?;
    session.keep();
    Some(written)
}
