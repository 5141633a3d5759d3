//! API keys: rows, records and what their owners see.

use contract::identity::{Identity, KeyRecord};
use contract::json::write_string;
use contract::time::Timestamp;
use sha2::{Digest, Sha256};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::sql::{PgTime, bigint, count};

/// How many of the secret's last characters its owner sees in lists.
const HINT_CHARS: usize = 4;

/// A key as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) id: Uuid,
    pub(super) identity: Uuid,
    pub(super) name: String,
    pub(super) hint: String,
    pub(super) sha256: Vec<u8>,
    pub(super) created_at: Timestamp,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) version: u64,
}

impl Key {
    /// A key with this secret.
    pub(super) fn new(
        id: Uuid,
        identity: Uuid,
        name: String,
        secret: &str,
        created_at: Timestamp,
        expires_at: Option<Timestamp>,
    ) -> Self {
        let hint = secret[secret.len().saturating_sub(HINT_CHARS)..].to_owned();
        let sha256 = Sha256::digest(secret.as_bytes()).to_vec();
        Self { id, identity, name, hint, sha256, created_at, expires_at, version: 1 }
    }

    pub(super) fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let created_at: PgTime = row.try_get("created_at")?;
        let expires_at: Option<PgTime> = row.try_get("expires_at")?;
        Ok(Self {
            id: row.try_get("id")?,
            identity: row.try_get("identity")?,
            name: row.try_get("name")?,
            hint: row.try_get("hint")?,
            sha256: row.try_get("sha256")?,
            created_at: created_at.0,
            expires_at: expires_at.map(|time| time.0),
            version: count(row.try_get("version")?),
        })
    }

    /// What the data plane gets to know, with its owner's present role and activity.
    pub(super) fn record(&self, owner: &Identity) -> KeyRecord {
        KeyRecord {
            id: self.id,
            identity: self.identity,
            role: owner.role,
            active: owner.active,
            sha256: hexadecimal(&self.sha256),
            expires_at: self.expires_at.map(|time| time.0),
            version: self.version,
        }
    }

    /// The key as JSON for its owner: with its secret the once, without it ever after.
    pub(super) fn render(&self, secret: Option<&str>) -> Vec<u8> {
        let mut out = format!("{{\"id\":\"{}\",\"name\":", self.id);
        write_string(&mut out, &self.name);
        out.push_str(",\"hint\":");
        write_string(&mut out, &self.hint);
        if let Some(secret) = secret {
            out.push_str(",\"secret\":");
            write_string(&mut out, secret);
        }
        out.push_str(&format!(",\"created_at\":\"{}\",\"expires_at\":", self.created_at));
        match self.expires_at {
            Some(time) => out.push_str(&format!("\"{time}\"}}")),
            None => out.push_str("null}"),
        }
        out.into_bytes()
    }

    pub(super) async fn insert(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let insert = "INSERT INTO nexus.api_keys (id, identity, name, hint, sha256, created_at, expires_at, version)
                      VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
        let query = sqlx::query(insert).bind(self.id).bind(self.identity).bind(&self.name).bind(&self.hint);
        let query = query.bind(&self.sha256).bind(PgTime(self.created_at)).bind(self.expires_at.map(PgTime));
        query.bind(bigint(self.version)).execute(connection).await.map(drop)
    }
}

/// The keys of an identity, oldest first.
pub(super) async fn of_identity<'e>(
    executor: impl sqlx::PgExecutor<'e>,
    identity: Uuid,
) -> Result<Vec<Key>, sqlx::Error> {
    let rows = sqlx::query("SELECT * FROM nexus.api_keys WHERE identity = $1 ORDER BY id").bind(identity);
    rows.fetch_all(executor).await?.iter().map(Key::from_row).collect()
}

/// Lower-case hexadecimal digits.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}
