//! Who calls, and what they may do: API key → identity and role.
//!
//! A key's record is read from Postgres and kept for [`FRESH`]: whatever another control process
//! changed (a key revoked, an identity demoted) holds here within a second, and what this process
//! changed holds at once ([`Authority::forget`]). In the second half of that time one request reads the
//! record again in the background, so that a busy key never waits for Postgres.

pub(crate) mod records;

use std::sync::Arc;
use std::time::Duration;

use contract::identity::{KeyRecord, Role, secret_key_id};
use contract::problem::{FORBIDDEN, Problem, UNAUTHORIZED};
use contract::time::Timestamp;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::reads::{ReadError, Reads};
use crate::request::{Caller, Invalidates};
use records::Records;

/// How long a record may be trusted.
pub const FRESH: Duration = Duration::from_secs(1);

/// What a request needs its caller to be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Ask who it is.
    KnowItself,
    /// Read signals.
    ReadSignals,
    /// Change signals.
    CommandSignals,
    /// Read and change identities and their keys.
    Identities,
}

impl Permission {
    /// Whether a role has it: the whole matrix of roles.
    #[must_use]
    pub fn is_granted_to(self, role: Role) -> bool {
        match self {
            Self::KnowItself | Self::ReadSignals => true,
            Self::CommandSignals => role >= Role::Operator,
            Self::Identities => role == Role::Admin,
        }
    }

    fn needs(self) -> &'static str {
        match self {
            Self::KnowItself | Self::ReadSignals => "reader",
            Self::CommandSignals => "operator",
            Self::Identities => "admin",
        }
    }
}

/// Why a caller is not let in.
#[derive(Debug)]
pub enum Denied {
    /// 401 or 403.
    Refused(Problem),
    /// The key's record could not be read.
    Unread(ReadError),
}

impl From<Problem> for Denied {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem)
    }
}

/// Knows every caller. Cheap to clone.
#[derive(Debug)]
pub struct Authority<R> {
    records: Arc<Records<R>>,
}

impl<R> Clone for Authority<R> {
    fn clone(&self) -> Self {
        Self { records: Arc::clone(&self.records) }
    }
}

impl<R: Reads> Authority<R> {
    /// One that reads records through `reads` and trusts each for as long as `fresh`.
    #[must_use]
    pub fn new(reads: Arc<R>, fresh: Duration) -> Self {
        Self { records: Arc::new(Records::new(reads, fresh)) }
    }

    /// The caller that `secret` (what stands behind `Bearer`) belongs to.
    ///
    /// # Errors
    /// 401 for a key that is malformed, unknown, revoked, wrong or expired, in the same words, so that
    /// nobody learns which; 403 for an inactive identity; [`Denied::Unread`] where Postgres is away, or too many keys that
    /// nobody knows are asked for at once.
    pub async fn authenticate(&self, secret: &str) -> Result<Caller, Denied> {
        let refused = || Problem::new(&UNAUTHORIZED, "the API key is not valid: unknown, revoked or expired");
        let id = secret_key_id(secret).ok_or_else(refused)?;
        let record = self.records.get(id).await.map_err(Denied::Unread)?.ok_or_else(refused)?;
        if !matches(secret, &record) || is_expired(&record, Timestamp::now()) {
            return Err(refused().into());
        }
        if !record.active {
            return Err(Problem::new(&FORBIDDEN, "the identity is inactive").into());
        }
        Ok(Caller { identity: record.identity, key: id, role: record.role })
    }

    /// Forgets what a command changed, before its answer goes out.
    pub fn forget(&self, changed: &Invalidates) {
        self.records.forget(changed);
    }
}

/// Refuses a caller whose role does not have `permission`.
///
/// # Errors
/// 403, naming the role that would do.
pub fn require(caller: &Caller, permission: Permission) -> Result<(), Problem> {
    if permission.is_granted_to(caller.role) {
        return Ok(());
    }
    let detail = format!("this needs the role {}; the caller has the role {}", permission.needs(), caller.role);
    Err(Problem::new(&FORBIDDEN, detail))
}

fn matches(secret: &str, record: &KeyRecord) -> bool {
    let presented: [u8; 32] = Sha256::digest(secret.as_bytes()).into();
    record.digest().is_some_and(|known| presented.ct_eq(&known).into())
}

fn is_expired(record: &KeyRecord, now: Timestamp) -> bool {
    record.expires_at.is_some_and(|expires_at| expires_at <= now.0)
}
