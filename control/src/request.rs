//! What flows through the command side: requests into the batcher, answers out of it.
//!
//! A request was authenticated, authorised and checked as far as its body alone can tell. An answer
//! is what the caller gets, success or rejection; a refusal says that there is none.

use bytes::Bytes;
use contract::command::{CreateIdentity, CreateKey, PatchIdentity, Precondition, SignalCommand};
use contract::identity::Role;
use contract::problem::{self, Problem};
use uuid::Uuid;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The identity.
    pub identity: Uuid,
    /// The API key that it used.
    pub key: Uuid,
    /// Its role when it was authenticated.
    pub role: Role,
}

/// What makes a request repeatable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// The `Idempotency-Key`, 1 to 128 printable characters.
    pub key: String,
    /// SHA-256 of method, path, `If-Match` and body bytes: the same request has the same one.
    pub fingerprint: [u8; 32],
}

/// One request of a caller.
#[derive(Debug, Clone)]
pub struct Request {
    /// Who asks.
    pub caller: Caller,
    /// Its id, named in problem documents.
    pub request_id: String,
    /// W3C trace context, or empty; goes with the events.
    pub traceparent: String,
    /// Set where the caller sent an `Idempotency-Key`.
    pub idempotency: Option<Idempotency>,
    /// What is to be done.
    pub work: Work,
    /// Size of the body, in bytes: what the request takes of the queue's bound.
    pub bytes: usize,
}

/// What a request wants.
#[derive(Debug, Clone)]
pub enum Work {
    /// One command on a signal.
    Signal(SignalCommand),
    /// Commands on signals, applied in order in one transaction, each accepted or rejected by itself;
    /// an entry that could not be read is its problem.
    Batch(Vec<Result<SignalCommand, Problem>>),
    /// Create an identity.
    CreateIdentity(CreateIdentity),
    /// Patch this identity.
    UpdateIdentity(Uuid, PatchIdentity, Precondition),
    /// Delete this identity and revoke its keys.
    DeleteIdentity(Uuid, Precondition),
    /// Make a key for this identity.
    CreateKey(Uuid, CreateKey),
    /// Revoke, of this identity, this key.
    RevokeKey(Uuid, Uuid),
    /// A request that breaks a rule (422) but came with an `Idempotency-Key`, which is judged first.
    /// Answered with the problem unless the key belongs to another request or is in use.
    Invalid(Problem),
}

impl Work {
    /// How many commands it holds.
    #[must_use]
    pub fn commands(&self) -> usize {
        match self {
            Work::Batch(entries) => entries.len(),
            _ => 1,
        }
    }

    /// Whether it changes identities or keys, which runs in a transaction of its own.
    #[must_use]
    pub fn is_administration(&self) -> bool {
        match self {
            Work::Signal(_) | Work::Batch(_) | Work::Invalid(_) => false,
            Work::CreateIdentity(_)
            | Work::UpdateIdentity(..)
            | Work::DeleteIdentity(..)
            | Work::CreateKey(..)
            | Work::RevokeKey(..) => true,
        }
    }
}

/// Cached identities and keys that a command made stale: authentication must read them again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Invalidates {
    /// Keys by id.
    pub keys: Vec<Uuid>,
    /// Identities by id; every key of theirs as well.
    pub identities: Vec<Uuid>,
}

/// What the caller is answered. Status 400 or more: the body is a problem document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body; empty with 204.
    pub body: Bytes,
    /// Version for `ETag`.
    pub etag: Option<u64>,
    /// Path for `Location`.
    pub location: Option<String>,
    /// `Nexus-Token`.
    pub token: Option<String>,
    /// Whether it is the first answer again (`Idempotency-Replayed: true`).
    pub replayed: bool,
    /// What authentication must forget.
    pub invalidates: Invalidates,
}

impl Answer {
    /// A success with this body.
    #[must_use]
    pub fn ok(status: u16, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            body: body.into(),
            etag: None,
            location: None,
            token: None,
            replayed: false,
            invalidates: Invalidates::default(),
        }
    }

    /// A rejection.
    #[must_use]
    pub fn rejected(problem: &Problem, request_id: &str) -> Self {
        Self::ok(problem.kind.status, problem.to_json(Some(request_id)))
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The queue is full; nothing happened.
    #[error("the queue is full")]
    Overloaded,
    /// Postgres is away, or this process is shutting down; nothing happened.
    #[error("unavailable: {detail}")]
    Unavailable {
        /// What is missing; may be shown to the caller.
        detail: String,
    },
    /// Postgres was lost while it committed: the command may or may not have been applied.
    #[error("the outcome is unknown")]
    OutcomeUnknown,
    /// A fault of ours, which the log names; nothing happened.
    #[error("internal error")]
    Internal,
}

impl Refusal {
    /// The problem to answer with: a 503, or a 500 for a fault of ours.
    #[must_use]
    pub fn problem(&self) -> Problem {
        match self {
            Refusal::Overloaded => Problem::new(&problem::OVERLOADED, "the queue of commands is full"),
            Refusal::Unavailable { detail } => Problem::new(&problem::UNAVAILABLE, detail.clone()),
            Refusal::OutcomeUnknown => {
                Problem::new(&problem::OUTCOME_UNKNOWN, "the database was lost while it committed")
            }
            Refusal::Internal => Problem::new(&problem::INTERNAL, "the command was not applied"),
        }
    }
}
