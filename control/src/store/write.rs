//! The one statement that writes a batch: rows, answers to keep, the batch's own row, and the events.

use std::sync::LazyLock;

use bytes::Bytes;
use contract::bundle::{BUNDLE_PREFIX, Bundles};
use contract::signal::Signal;
use contract::time::Timestamp;
use sqlx::PgConnection;
use uuid::Uuid;

use super::session::Backend;
use super::sql::{PgTime, bigint};
use super::stamp::Stamp;
use crate::request::{Answer, Request};

/// What a transaction writes. No signal stands in it twice.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) created: Vec<Signal>,
    /// Signals whose row changes, with the version that it has before.
    pub(super) updated: Vec<(Signal, u64)>,
    /// Signals whose row goes, with the version that it has before.
    pub(super) deleted: Vec<(Uuid, u64)>,
    /// Deletions to remember, with their version; also of what came to be in the same transaction.
    pub(super) tombstones: Vec<(Uuid, u64)>,
    pub(super) kept: Vec<Kept>,
    /// In command order.
    pub(super) events: Bundles,
}

/// An answer to keep for a repeated request.
#[derive(Debug)]
pub(super) struct Kept {
    identity: Uuid,
    key: String,
    fingerprint: [u8; 32],
    status: u16,
    body: Bytes,
    etag: Option<u64>,
    location: Option<String>,
    token: Option<String>,
}

impl Kept {
    /// What to keep of an answer, if anything: it must be one that stays true, and the request must
    /// have a key. `body` where a repetition gets another one.
    pub(super) fn of(request: &Request, answer: &Answer, body: Option<Bytes>) -> Option<Self> {
        let idempotency = request.idempotency.as_ref()?;
        let lasts = (200..300).contains(&answer.status) || matches!(answer.status, 404 | 409 | 412);
        if !lasts || answer.replayed {
            return None;
        }
        Some(Self {
            identity: request.caller.identity,
            key: idempotency.key.clone(),
            fingerprint: idempotency.fingerprint,
            status: answer.status,
            body: body.unwrap_or_else(|| answer.body.clone()),
            etag: answer.etag,
            location: answer.location.clone(),
            token: answer.token.clone(),
        })
    }
}

// The parts of a WITH run in no particular order, but on rows that have nothing in common.
// Only the order of the events counts, and that is the main query's.
//
// Every part has a variant of the statement without it: to set up a part that then finds no rows costs Postgres more than
// a row does, and a small batch is mostly of one kind. The parameters keep their places, so those of a part left out are
// sent, and empty.
const CREATED: &str = "created AS (
    INSERT INTO nexus.signals (id, title, priority, status, payload, target, created_by, created_at, updated_at, version)
    SELECT id, title, priority, status, payload::json, target, created_by, created_at, updated_at, version
    FROM unnest($1::uuid[], $2::text[], $3::smallint[], $4::smallint[], $5::text[], $6::uuid[], $7::uuid[],
                $8::timestamptz[], $9::timestamptz[], $10::bigint[])
         AS r (id, title, priority, status, payload, target, created_by, created_at, updated_at, version)
), ";

const UPDATED: Checked = Checked {
    part: "updated AS (
    UPDATE nexus.signals s
    SET title = r.title, priority = r.priority, status = r.status, payload = r.payload::json, target = r.target,
        updated_at = r.updated_at, version = r.version
    FROM unnest($11::uuid[], $12::text[], $13::smallint[], $14::smallint[], $15::text[], $16::uuid[],
                $17::timestamptz[], $18::bigint[], $19::bigint[])
         AS r (id, title, priority, status, payload, target, updated_at, version, was)
    WHERE s.id = r.id AND s.version = r.was
    RETURNING 1
), ",
    holds: " AND (SELECT count(*) FROM updated) = cardinality($11)",
};

const DELETED: Checked = Checked {
    part: "deleted AS (
    DELETE FROM nexus.signals s USING unnest($20::uuid[], $21::bigint[]) AS r (id, was)
    WHERE s.id = r.id AND s.version = r.was
    RETURNING 1
), tombstones AS (
    INSERT INTO nexus.deleted_signals (id, version, at)
    SELECT id, version, now() FROM unnest($22::uuid[], $23::bigint[]) AS r (id, version)
    ON CONFLICT (id) DO UPDATE SET version = EXCLUDED.version, at = EXCLUDED.at
), ",
    holds: " AND (SELECT count(*) FROM deleted) = cardinality($20)",
};

const KEPT: Checked = Checked {
    part: "kept AS (
    INSERT INTO nexus.idempotency_keys (identity, key, fingerprint, status, body, etag, location, token, created_at)
    SELECT r.*, now()
    FROM unnest($24::uuid[], $25::text[], $26::bytea[], $27::smallint[], $28::bytea[], $29::bigint[], $30::text[],
                $31::text[]) AS r
    ON CONFLICT DO NOTHING
    RETURNING 1
), ",
    holds: " AND (SELECT count(*) FROM kept) = cardinality($24)",
};

/// A part of the statement, and the condition that it did all it was to do.
struct Checked {
    part: &'static str,
    holds: &'static str,
}

/// Which parts a batch needs. Those that always stand in the statement are not named.
#[derive(Debug, Clone, Copy)]
struct Parts {
    created: bool,
    updated: bool,
    deleted: bool,
    kept: bool,
}

impl Parts {
    /// The statement with these parts.
    fn statement(self) -> &'static str {
        static STATEMENTS: LazyLock<[String; 16]> = LazyLock::new(|| {
            std::array::from_fn(|place| {
                let has = |bit: usize| place & bit != 0;
                Parts { created: has(1), updated: has(2), deleted: has(4), kept: has(8) }.compose()
            })
        });
        let bit = |has: bool, bit: usize| if has { bit } else { 0 };
        &STATEMENTS[bit(self.created, 1) | bit(self.updated, 2) | bit(self.deleted, 4) | bit(self.kept, 8)]
    }

    // The CASE holds the transaction to what its commands were decided on: where the epoch's row, the server's run, a row's
    // version or an idempotency key is not as it was, its other branch raises NX001, and nothing is written. So it does
    // where another process of Postgres runs the statement than the session was opened with (a pooler by transactions
    // between us): the outcome of a lost commit could not be learned.
    // Reading the epoch's table locks it against the opening of another epoch (ACCESS EXCLUSIVE) until this transaction
    // ends, so that no batch straddles the change.
    fn compose(self) -> String {
        let checked = [(self.updated, UPDATED), (self.deleted, DELETED), (self.kept, KEPT)];
        let checked = || checked.iter().filter(|(has, _)| *has).map(|(_, checked)| checked);
        let created = if self.created { CREATED } else { "" };
        let parts: String = checked().map(|checked| checked.part).collect();
        let hold: String = checked().map(|checked| checked.holds).collect();
        format!(
            "
WITH {created}{parts}batch AS (
    INSERT INTO nexus.batches (id, at) VALUES ($32, now())
)
SELECT CASE WHEN
           (SELECT (epoch, history) = ($33, $34) AND (timeline, started) IS NOT DISTINCT FROM ($35::int, $36::bigint)
            FROM nexus.epoch)
           AND pg_postmaster_start_time() = $37
           AND substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) = $38
           AND pg_backend_pid() = $41{hold}
       THEN 1 ELSE nexus.refuse_batch() END,
       (SELECT count(pg_logical_emit_message(true, $39, message)) FROM (
            SELECT message FROM unnest($40::bytea[]) WITH ORDINALITY AS e (message, place) ORDER BY place
        ) events)"
        )
    }
}

impl Changes {
    /// Whether there is nothing to write, so that the transaction need not commit.
    pub(super) fn is_empty(&self) -> bool {
        self.created.is_empty()
            && self.updated.is_empty()
            && self.deleted.is_empty()
            && self.tombstones.is_empty()
            && self.kept.is_empty()
            && self.events.is_empty()
    }

    /// Writes everything, and `batch` as the transaction's own row; outside of BEGIN and COMMIT it is a transaction by
    /// itself.
    ///
    /// # Errors
    /// [`Failure::Stale`] is what the error means where something that the changes were decided on no longer stands.
    pub(super) async fn write(
        &mut self,
        connection: &mut PgConnection,
        stamp: &Stamp,
        backend: Backend,
        batch: Uuid,
    ) -> Result<(), sqlx::Error> {
        // One order for all transactions: two that share keys wait for each other, but never in a ring.
        self.kept.sort_by(|a, b| (a.identity, &a.key).cmp(&(b.identity, &b.key)));
        self.statement(stamp, backend, batch).fetch_one(connection).await.map(drop)
    }

    fn statement(
        &self,
        stamp: &Stamp,
        backend: Backend,
        batch: Uuid,
    ) -> sqlx::query::Query<'_, sqlx::Postgres, sqlx::postgres::PgArguments> {
        let (created, updated, deleted, kept) = (&self.created, &self.updated, &self.deleted, &self.kept);
        let (buried, burials): (Vec<Uuid>, Vec<i64>) =
            self.tombstones.iter().map(|(id, version)| (*id, bigint(*version))).unzip();
        let parts = Parts {
            created: !created.is_empty(),
            updated: !updated.is_empty(),
            deleted: !deleted.is_empty() || !self.tombstones.is_empty(),
            kept: !kept.is_empty(),
        };
        sqlx::query(parts.statement())
            .bind(column(created, |s| s.id))
            .bind(column(created, |s| s.title.as_str()))
            .bind(column(created, |s| i16::from(s.priority.rank())))
            .bind(column(created, |s| i16::from(s.status.rank())))
            .bind(column(created, |s| s.payload.as_str()))
            .bind(column(created, |s| s.target))
            .bind(column(created, |s| s.created_by))
            .bind(column(created, |s| PgTime(s.created_at)))
            .bind(column(created, |s| PgTime(s.updated_at)))
            .bind(column(created, |s| bigint(s.version)))
            .bind(column(updated, |(s, _)| s.id))
            .bind(column(updated, |(s, _)| s.title.as_str()))
            .bind(column(updated, |(s, _)| i16::from(s.priority.rank())))
            .bind(column(updated, |(s, _)| i16::from(s.status.rank())))
            .bind(column(updated, |(s, _)| s.payload.as_str()))
            .bind(column(updated, |(s, _)| s.target))
            .bind(column(updated, |(s, _)| PgTime(s.updated_at)))
            .bind(column(updated, |(s, _)| bigint(s.version)))
            .bind(column(updated, |(_, was)| bigint(*was)))
            .bind(column(deleted, |(id, _)| *id))
            .bind(column(deleted, |(_, was)| bigint(*was)))
            .bind(buried)
            .bind(burials)
            .bind(column(kept, |k| k.identity))
            .bind(column(kept, |k| k.key.as_str()))
            .bind(column(kept, |k| k.fingerprint.as_slice()))
            .bind(column(kept, |k| k.status.cast_signed()))
            .bind(column(kept, |k| k.body.as_ref()))
            .bind(column(kept, |k| k.etag.map(bigint)))
            .bind(column(kept, |k| k.location.as_deref()))
            .bind(column(kept, |k| k.token.as_deref()))
            .bind(batch)
            .bind(bigint(stamp.epoch))
            .bind(bigint(stamp.history))
            .bind(stamp.proven.map(|run| run.timeline.cast_signed()))
            .bind(stamp.proven.map(|run| run.started))
            .bind(PgTime(Timestamp(stamp.run.started)))
            .bind(format!("{:08X}", stamp.run.timeline))
            .bind(BUNDLE_PREFIX)
            .bind(self.events.contents())
            .bind(backend.pid)
    }
}

fn column<'r, R, T>(rows: &'r [R], get: impl Fn(&'r R) -> T) -> Vec<T> {
    rows.iter().map(get).collect()
}
