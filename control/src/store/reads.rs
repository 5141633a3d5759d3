//! The authoritative reads: single statements on connections that never hold a transaction, so that a
//! caller who goes away leaves nothing behind.

use std::future::Future;

use bytes::Bytes;
use contract::identity::{KeyRecord, Role};
use contract::query::{After, ListQuery, Order};
use contract::signal::Priority;
use sqlx::Row;
use uuid::Uuid;

use super::signals::{ranked, signal_columns};
use super::sql::{PgTime, count};
use super::{Inner, Lookup, Page, StoreError, administration, keys, signals};

const SIGNAL: &str = concat!("SELECT ", signal_columns!(), " FROM nexus.signals WHERE id = $1");

macro_rules! signals_page {
    ($after:literal, $order:literal) => {
        concat!(
            "SELECT ",
            signal_columns!(),
            " FROM nexus.signals WHERE status = ANY($1::smallint[]) AND priority = ANY($2::smallint[]) AND ",
            $after,
            " ORDER BY ",
            $order,
            " LIMIT $5"
        )
    };
}

// $3: the id after which the page begins; $4: its item's priority. A time in the id: order of ids is
// order of creation.
const SIGNALS_CREATED: &str = signals_page!("id > $3 AND $4::smallint IS NOT NULL", "id");
const SIGNALS_CREATED_DESCENDING: &str = signals_page!("id < $3 AND $4::smallint IS NOT NULL", "id DESC");
const SIGNALS_PRIORITY: &str =
    signals_page!("(priority < $4::smallint OR (priority = $4 AND id > $3))", "priority DESC, id");

const IDENTITIES_CREATED: &str = "SELECT * FROM nexus.identities WHERE id > $1 ORDER BY id LIMIT $2";
const IDENTITIES_CREATED_DESCENDING: &str = "SELECT * FROM nexus.identities WHERE id < $1 ORDER BY id DESC LIMIT $2";

impl Inner {
    pub(super) async fn load_signal(&self, id: Uuid) -> Result<Lookup, StoreError> {
        let row = sqlx::query(SIGNAL).bind(id).fetch_optional(&self.reads);
        if let Some(row) = self.read(row).await? {
            let signal = signals::from_row(&row)?;
            return Ok(Lookup::Found { body: signal.render().into(), version: signal.version });
        }
        let deleted = sqlx::query("SELECT version FROM nexus.deleted_signals WHERE id = $1").bind(id);
        match self.read(deleted.fetch_optional(&self.reads)).await? {
            Some(row) => Ok(Lookup::Deleted { version: count(row.try_get("version")?) }),
            None => Ok(Lookup::Missing),
        }
    }

    pub(super) async fn list_signals(&self, query: &ListQuery) -> Result<Page, StoreError> {
        let statuses: Vec<i16> = query.filter.statuses().map(|status| i16::from(status.rank())).collect();
        let priorities: Vec<i16> = query.filter.priorities().map(|priority| i16::from(priority.rank())).collect();
        let (statement, start) = match query.order {
            Order::Created => (SIGNALS_CREATED, Uuid::nil()),
            Order::CreatedDescending => (SIGNALS_CREATED_DESCENDING, Uuid::max()),
            Order::Priority => (SIGNALS_PRIORITY, Uuid::nil()),
        };
        let (id, priority) = match query.after {
            Some(after) => (after.id, i16::from(after.priority.rank())),
            None => (start, i16::MAX),
        };
        let page = sqlx::query(statement).bind(statuses).bind(priorities).bind(id).bind(priority).bind(limit(query));
        let rows = self.read(page.fetch_all(&self.reads)).await?;
        let mut items = rows.iter().map(signals::from_row).collect::<Result<Vec<_>, _>>()?;
        let more = items.len() > query.limit;
        items.truncate(query.limit);
        let last = items.last().map(|signal| After { priority: signal.priority, id: signal.id });
        Ok(page_of(query, more, last, items.iter().map(|signal| signal.render().into()).collect()))
    }

    pub(super) async fn load_identity(&self, id: Uuid) -> Result<Lookup, StoreError> {
        Ok(match self.read(administration::load(&self.reads, id)).await? {
            Some(identity) => Lookup::Found { body: identity.render().into(), version: identity.version },
            None => Lookup::Missing,
        })
    }

    pub(super) async fn list_identities(&self, query: &ListQuery) -> Result<Page, StoreError> {
        let (statement, start) = match query.order {
            Order::CreatedDescending => (IDENTITIES_CREATED_DESCENDING, Uuid::max()),
            Order::Created | Order::Priority => (IDENTITIES_CREATED, Uuid::nil()),
        };
        let page = sqlx::query(statement).bind(query.after.map_or(start, |after| after.id)).bind(limit(query));
        let rows = self.read(page.fetch_all(&self.reads)).await?;
        let mut items = rows.iter().map(administration::from_row).collect::<Result<Vec<_>, _>>()?;
        let more = items.len() > query.limit;
        items.truncate(query.limit);
        let last = items.last().map(|identity| After { priority: Priority::Low, id: identity.id });
        Ok(page_of(query, more, last, items.iter().map(|identity| identity.render().into()).collect()))
    }

    pub(super) async fn list_keys(&self, identity: Uuid) -> Result<Option<Vec<Bytes>>, StoreError> {
        if self.read(administration::load(&self.reads, identity)).await?.is_none() {
            return Ok(None);
        }
        let keys = self.read(keys::of_identity(&self.reads, identity)).await?;
        Ok(Some(keys.iter().map(|key| key.render(None).into()).collect()))
    }

    pub(super) async fn load_key_for_auth(&self, key: Uuid) -> Result<Option<KeyRecord>, StoreError> {
        let look = "SELECT k.identity, k.sha256, k.expires_at, k.version, i.role, i.active
                    FROM nexus.api_keys k JOIN nexus.identities i ON i.id = k.identity WHERE k.id = $1";
        let row = self.read(sqlx::query(look).bind(key).fetch_optional(&self.admission)).await?;
        let Some(row) = row else { return Ok(None) };
        let expires_at: Option<PgTime> = row.try_get("expires_at")?;
        let sha256: Vec<u8> = row.try_get("sha256")?;
        Ok(Some(KeyRecord {
            id: key,
            identity: row.try_get("identity")?,
            role: ranked(Role::ALL, row.try_get("role")?)?,
            active: row.try_get("active")?,
            sha256: keys::hexadecimal(&sha256),
            expires_at: expires_at.map(|time| time.0.0),
            version: count(row.try_get("version")?),
        }))
    }

    pub(super) async fn identity_named(&self, name: &str) -> Result<Option<Uuid>, StoreError> {
        let look = sqlx::query("SELECT id FROM nexus.identities WHERE name = $1").bind(name);
        let row = self.read(look.fetch_optional(&self.reads)).await?;
        Ok(row.map(|row| row.try_get("id")).transpose()?)
    }

    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        // The function is of the newest migration: without it no command can be written (42883).
        let look = sqlx::query("SELECT 'nexus.refuse_batch()'::regprocedure FROM nexus.epoch");
        match self.read(look.fetch_optional(&self.admission)).await? {
            Some(_) => Ok(()),
            None => Err(StoreError::Unmigrated),
        }
    }

    /// A read that must be over soon, also where the server is frozen or cut off.
    pub(super) async fn read<T>(&self, read: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, StoreError> {
        let limit = self.settings.statement_timeout;
        let read = tokio::time::timeout(limit, read).await;
        Ok(read.unwrap_or(Err(sqlx::Error::PoolTimedOut))?)
    }
}

/// One more than asked for, which tells whether another page follows.
fn limit(query: &ListQuery) -> i64 {
    i64::try_from(query.limit).unwrap_or(i64::MAX).saturating_add(1)
}

fn page_of(query: &ListQuery, more: bool, last: Option<After>, items: Vec<Bytes>) -> Page {
    let next_cursor = last.filter(|_| more).map(|after| query.cursor(after));
    Page { items, next_cursor }
}
