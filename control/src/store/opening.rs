//! What every transaction must know before it decides: which chain of events it writes to, which identities exist,
//! which idempotency keys were used; in one round trip.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use contract::problem::{KEY_REUSED, Problem};
use contract::token::ServerRun;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::sql::{PgTime, count};
use super::stamp::Stamp;
use crate::request::{Answer, Idempotency, Invalidates, Request};

/// What the first statement found.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) stamp: Stamp,
    /// Which of the asked identities exist.
    pub(super) identities: HashSet<Uuid>,
    stored: HashMap<Key, Stored>,
    is_remembered: bool,
}

/// An identity and its key's spelling.
type Key = (Uuid, String);

/// The first answer to a request with an idempotency key.
#[derive(Debug)]
struct Stored {
    fingerprint: Vec<u8>,
    answer: Answer,
}

// Reading the epoch's table locks it against the opening of another epoch (ACCESS EXCLUSIVE) until
// this transaction ends, so that no batch straddles the change.
const OPEN: &str = "
SELECT e.epoch, e.history, e.timeline, e.started,
       substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) AS run_timeline,
       pg_postmaster_start_time() AS run_started,
       ARRAY(SELECT i.id FROM nexus.identities i WHERE i.id = ANY($1)) AS identities,
       k.identity, k.key, k.fingerprint, k.status, k.body, k.etag, k.location, k.token
FROM nexus.epoch e
LEFT JOIN (
    SELECT s.* FROM unnest($2::uuid[], $3::text[]) AS asked (identity, key)
    JOIN nexus.idempotency_keys s ON s.identity = asked.identity AND s.key = asked.key
) k ON true";

impl Opening {
    /// Without a look at Postgres.
    pub(super) fn known(stamp: Stamp) -> Self {
        Self { stamp, identities: HashSet::new(), stored: HashMap::new(), is_remembered: true }
    }

    /// Whether it is only what an earlier transaction found.
    pub(super) fn is_remembered(&self) -> bool {
        self.is_remembered
    }

    /// The idempotency keys of `requests` and those of `identities` that exist; `None` where there is no epoch yet.
    pub(super) async fn read(
        connection: &mut PgConnection,
        requests: &[&Request],
        identities: &[Uuid],
    ) -> Result<Option<Self>, sqlx::Error> {
        let keyed =
            requests.iter().filter_map(|request| Some((request.caller.identity, request.idempotency.as_ref()?)));
        let (owners, keys): (Vec<Uuid>, Vec<&str>) = keyed.map(|(owner, it)| (owner, it.key.as_str())).unzip();
        let rows = sqlx::query(OPEN).bind(identities).bind(owners).bind(keys).fetch_all(connection).await?;
        let Some(first) = rows.first() else { return Ok(None) };
        let mut opening = Self::from_row(first)?;
        for row in &rows {
            if let Some((key, stored)) = Stored::from_row(row)? {
                opening.stored.insert(key, stored);
            }
        }
        Ok(Some(opening))
    }

    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let timeline: Option<i32> = row.try_get("timeline")?;
        let started: Option<i64> = row.try_get("started")?;
        let proven =
            timeline.zip(started).map(|(timeline, started)| ServerRun { timeline: timeline.cast_unsigned(), started });
        let run_timeline: &str = row.try_get("run_timeline")?;
        let run_started: PgTime = row.try_get("run_started")?;
        let run = ServerRun {
            timeline: u32::from_str_radix(run_timeline, 16).map_err(|error| sqlx::Error::Decode(error.into()))?,
            started: run_started.0.0,
        };
        let (epoch, history) = (count(row.try_get("epoch")?), count(row.try_get("history")?));
        let identities: Vec<Uuid> = row.try_get("identities")?;
        Ok(Self {
            stamp: Stamp { epoch, history, proven, run },
            identities: identities.into_iter().collect(),
            stored: HashMap::new(),
            is_remembered: false,
        })
    }

    /// The answer that the request's idempotency key settles: the first one again, or a rejection.
    pub(super) fn settled(&self, request: &Request) -> Option<Answer> {
        let Idempotency { key, fingerprint } = request.idempotency.as_ref()?;
        let stored = self.stored.get(&(request.caller.identity, key.clone()))?;
        if stored.fingerprint == fingerprint {
            return Some(stored.answer.clone());
        }
        let problem =
            Problem::new(&KEY_REUSED, "the key belongs to a request with another method, path, If-Match or body");
        Some(Answer::rejected(&problem, &request.request_id))
    }
}

impl Stored {
    fn from_row(row: &PgRow) -> Result<Option<(Key, Self)>, sqlx::Error> {
        let Some(identity) = row.try_get::<Option<Uuid>, _>("identity")? else { return Ok(None) };
        let body: Vec<u8> = row.try_get("body")?;
        let status: i16 = row.try_get("status")?;
        let answer = Answer {
            status: status.cast_unsigned(),
            body: Bytes::from(body),
            etag: row.try_get::<Option<i64>, _>("etag")?.map(count),
            location: row.try_get("location")?,
            token: row.try_get("token")?,
            replayed: true,
            invalidates: Invalidates::default(),
        };
        Ok(Some(((identity, row.try_get("key")?), Self { fingerprint: row.try_get("fingerprint")?, answer })))
    }
}
