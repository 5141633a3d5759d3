//! Makes the first admin, by the same way as every other command, so that its events are sent.

use std::time::Instant;

use contract::command::{CreateIdentity, CreateKey};
use contract::identity::{Kind, Role};
use uuid::Uuid;

use crate::request::{Answer, Caller, Refusal, Request, Work};
use crate::store::{Lookup, Store, StoreError};

/// What [`create_admin`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// The identity's id.
    pub identity: Uuid,
    /// Whether it was made now.
    pub created: bool,
    /// The secret of its new API key, where one was made; it can't be had again.
    pub secret: Option<String>,
}

/// Why there is no admin.
#[derive(Debug, thiserror::Error)]
pub enum CreateAdminError {
    /// The name is not `[a-z0-9][a-z0-9._-]{0,63}`.
    #[error("{0:?} is no name: it must match [a-z0-9][a-z0-9._-]{{0,63}}")]
    Name(String),
    /// An identity of this name exists, but is no active admin.
    #[error("the identity {0} exists and is no active admin; choose another name, or let an admin promote it")]
    NotAdmin(String),
    /// Postgres could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The command got no answer.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The command was rejected.
    #[error("the command was rejected: {0}")]
    Rejected(String),
}

/// Makes sure that there is an admin named `name` with at least one API key; with `new_key` it gets
/// another one in any case. Run again without `new_key`, it does nothing.
///
/// # Errors
/// [`CreateAdminError`].
pub async fn create_admin(store: &Store, name: &str, new_key: bool) -> Result<Admin, CreateAdminError> {
    if !contract::identity::is_name(name) {
        return Err(CreateAdminError::Name(name.to_owned()));
    }
    let known = store.identity_named(name).await?;
    let identity = match known {
        Some(identity) => {
            check_admin(store, identity, name).await?;
            identity
        }
        None => {
            let command = CreateIdentity {
                name: name.to_owned(),
                display_name: None,
                email: None,
                kind: Kind::Human,
                role: Role::Admin,
                active: true,
            };
            let answer = run(store, Work::CreateIdentity(command)).await?;
            member(&answer, "id").and_then(|id| id.parse().ok()).ok_or_else(|| rejected(&answer))?
        }
    };
    // Also where an earlier run was cut off between its two steps.
    let keyless = store.list_keys(identity).await?.is_none_or(|keys| keys.is_empty());
    let mut secret = None;
    if new_key || keyless {
        let command = CreateKey { name: "create-admin".to_owned(), expires_at: None };
        let answer = run(store, Work::CreateKey(identity, command)).await?;
        secret = Some(member(&answer, "secret").ok_or_else(|| rejected(&answer))?);
    }
    Ok(Admin { identity, created: known.is_none(), secret })
}

async fn check_admin(store: &Store, identity: Uuid, name: &str) -> Result<(), CreateAdminError> {
    let Lookup::Found { body, .. } = store.load_identity(identity).await? else {
        return Err(CreateAdminError::NotAdmin(name.to_owned()));
    };
    let value: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    if value["role"] == Role::Admin.as_str() && value["active"] == true {
        return Ok(());
    }
    Err(CreateAdminError::NotAdmin(name.to_owned()))
}

async fn run(store: &Store, work: Work) -> Result<Answer, CreateAdminError> {
    let request = Request {
        caller: Caller { identity: Uuid::nil(), key: Uuid::nil(), role: Role::Admin },
        request_id: "create-admin".to_owned(),
        traceparent: String::new(),
        idempotency: None,
        work,
        bytes: 0,
    };
    let results = store.execute(&[request], Instant::now()).await;
    let answer = results.into_iter().next().unwrap_or(Err(Refusal::Internal))?;
    if answer.status < 400 { Ok(answer) } else { Err(rejected(&answer)) }
}

fn member(answer: &Answer, name: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
    value[name].as_str().map(str::to_owned)
}

fn rejected(answer: &Answer) -> CreateAdminError {
    CreateAdminError::Rejected(String::from_utf8_lossy(&answer.body).into_owned())
}
