//! What became of a transaction whose connection was lost at its commit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::Row;
use uuid::Uuid;

use super::session::{Backend, Session, Sessions};

const PAUSE: Duration = Duration::from_millis(50);

/// Whether the transaction that wrote `batch` as its own row is committed, where the connection to `backend` was lost
/// while it committed; `None` when that could not be learned by `deadline`.
///
/// By the batch's row; its absence counts once that process of Postgres is gone: until then it may still be committing,
/// and it leaves the list of processes only after its transaction has ended. (The transaction's own number would not do: after a
/// crash Postgres gives one that never reached the disk to somebody else.)
pub(super) async fn learn(sessions: &Arc<Sessions>, backend: Backend, batch: Uuid, deadline: Instant) -> Option<bool> {
    loop {
        let look = tokio::time::timeout_at(deadline.into(), look(sessions, backend, batch, deadline));
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
async fn look(sessions: &Arc<Sessions>, backend: Backend, batch: Uuid, deadline: Instant) -> Option<bool> {
    // A standby that has not replayed the end yet knows nothing.
    const THERE: &str = "SELECT pg_is_in_recovery() OR EXISTS (
        SELECT FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2) AS there";
    let mut session = sessions.open_new(deadline).await.ok()?;
    if is_written(&mut session, batch).await? {
        session.keep();
        return Some(true);
    }
    let there = sqlx::query(THERE).bind(backend.pid).bind(backend.started);
    let there: bool = there.fetch_one(session.connection()).await.ok()?.try_get("there").ok()?;
    // In a statement of its own: it must look after the process was seen to be gone.
    let outcome = if there { None } else { Some(is_written(&mut session, batch).await?) };
    session.keep();
    outcome
}

async fn is_written(session: &mut Session, batch: Uuid) -> Option<bool> {
    let row = sqlx::query("SELECT EXISTS (SELECT FROM nexus.batches WHERE id = $1) AS written").bind(batch);
    row.fetch_one(session.connection()).await.ok()?.try_get("written").ok()
}
