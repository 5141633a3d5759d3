//! Forgets what has been kept long enough.

use std::time::Duration;

use super::{Inner, StoreError};

/// Between two rounds.
const PAUSE: Duration = Duration::from_secs(60);
/// Rows that one statement takes, so that none runs long.
const ROWS: i64 = 5000;

// Each names by its place in the heap: no index on the primary key has to be asked again.
const STATEMENTS: [(&str, &str); 3] = [
    (
        "batches",
        "DELETE FROM nexus.batches WHERE ctid = ANY(ARRAY(
             SELECT ctid FROM nexus.batches WHERE at < now() - interval '10 minutes' LIMIT $1))",
    ),
    (
        "idempotency_keys",
        "DELETE FROM nexus.idempotency_keys WHERE ctid = ANY(ARRAY(
             SELECT ctid FROM nexus.idempotency_keys WHERE created_at < now() - interval '25 hours' LIMIT $1))",
    ),
    (
        "deleted_signals",
        "DELETE FROM nexus.deleted_signals WHERE ctid = ANY(ARRAY(
             SELECT ctid FROM nexus.deleted_signals WHERE at < now() - interval '7 days' LIMIT $1))",
    ),
];

impl Inner {
    /// One round; returns how many rows went. A table that fails does not keep the others from their turn.
    pub(super) async fn prune(&self) -> Result<u64, StoreError> {
        let (mut gone, mut failed) = (0, None);
        for (table, statement) in STATEMENTS {
            loop {
                let done = match self.read(sqlx::query(statement).bind(ROWS).execute(&self.reads)).await {
                    Ok(done) => done,
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                };
                gone += done.rows_affected();
                if done.rows_affected() < ROWS.unsigned_abs() {
                    break;
                }
                tracing::debug!(table, "pruned {ROWS} rows, more to come");
            }
        }
        failed.map_or(Ok(gone), Err)
    }

    /// Rounds, until the process ends. A round that fails is repeated with the next one.
    pub(super) async fn prune_for_ever(&self) {
        loop {
            tokio::time::sleep(PAUSE).await;
            if let Err(error) = self.prune().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "pruning failed");
            }
        }
    }
}
