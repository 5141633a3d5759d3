//! Requests → commands and reads; receipts → responses.
//!
//! [`resource`] says what there is, [`Api::answer`] which handler serves it. Each handler takes the
//! steps in the order in which their errors take precedence; [`intake`] has those that all commands
//! share, [`receipt`] the way back.

mod batch;
mod identities;
mod intake;
mod keys;
mod read;
mod receipt;
mod resource;
mod signals;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use contract::problem::{OVERLOADED, Problem, UNAVAILABLE};
use http::request::Parts;
use http::{Request, Response};
use hyper::body::Body as HttpBody;
use runtime::http::body::Body;
use runtime::http::failure::Failure;
use runtime::http::front::{Call, Plane};
use runtime::http::request_id::RequestId;
use runtime::http::route::{Route, Verb};
use runtime::http::{headers, reply};
use runtime::shutdown::Shutdown;
use tokio::sync::oneshot;

use crate::auth::{self, Authority, Denied, Permission};
use crate::reads::{ReadError, Reads};
use crate::request::{self, Answer, Caller, Refusal};
use crate::store::StoreError;
pub use resource::{ROUTES, Resource};

/// Text of `/openapi.json`.
pub const OPENAPI: &str = include_str!("../../docs/api/control.openapi.json");

/// Where commands go.
pub trait Commands: Send + Sync + 'static {
    /// Takes a request over: from here on it is carried out whether or not anyone waits for the answer.
    ///
    /// # Errors
    /// The queue is full, or closed.
    fn submit(&self, request: request::Request) -> Result<oneshot::Receiver<Result<Answer, Refusal>>, Refusal>;
}

/// How long requests wait.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// For a request's body.
    pub body: Duration,
    /// For the answer to a command; past it: 503 `outcome-unknown`.
    pub receipt: Duration,
    /// The same, counted from the beginning of the shutdown.
    pub receipt_in_shutdown: Duration,
    /// How long a key's record is trusted; [`auth::FRESH`] but in tests.
    pub key_record: Duration,
}

/// The command side's own routes.
#[derive(Debug)]
pub struct Api<C, R> {
    commands: Arc<C>,
    reads: Arc<R>,
    authority: Authority<R>,
    deadlines: Deadlines,
    shutdown: Shutdown,
}

/// One request on its way through a handler.
struct Exchange<'a, B> {
    head: &'a Parts,
    body: B,
    id: &'a RequestId,
}

impl<C: Commands, R: Reads> Api<C, R> {
    /// Routes over `commands` and `reads`.
    #[must_use]
    pub fn new(commands: Arc<C>, reads: Arc<R>, deadlines: Deadlines, shutdown: Shutdown) -> Self {
        let authority = Authority::new(Arc::clone(&reads), deadlines.key_record);
        Self { commands, reads, authority, deadlines, shutdown }
    }

    /// The answer to a request whose method is one of its route's.
    ///
    /// # Errors
    /// The problem that the caller is told, in the order of precedence that INTERFACE.md fixes.
    ///
    /// # Cancel safety
    /// A command that was submitted is carried out even when this future is dropped.
    pub async fn answer<B>(&self, request: Request<B>, id: &RequestId) -> Result<Response<Body>, Failure>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin,
    {
        let (head, body) = request.into_parts();
        let verb = Verb::of(&head.method);
        let Some(resource) = Resource::find(head.uri.path()) else {
            return Err(Problem::new(&contract::problem::NOT_FOUND, "there is no such route").into());
        };
        let exchange = Exchange { head: &head, body, id };
        if verb == Some(Verb::Get) {
            return reply::mark_read(self.read(resource, exchange).await);
        }
        match (resource, verb) {
            (Resource::Signals, Some(Verb::Post)) => signals::create(self, exchange).await,
            (Resource::Signal(key), Some(Verb::Patch)) => signals::update(self, exchange, key).await,
            (Resource::Signal(key), Some(Verb::Delete)) => signals::delete(self, exchange, key).await,
            (Resource::SignalBatch, Some(Verb::Post)) => batch::apply(self, exchange).await,
            (Resource::Identities, Some(Verb::Post)) => identities::create(self, exchange).await,
            (Resource::Identity(key), Some(Verb::Patch)) => identities::update(self, exchange, key).await,
            (Resource::Identity(key), Some(Verb::Delete)) => identities::delete(self, exchange, key).await,
            (Resource::Keys(identity), Some(Verb::Post)) => keys::create(self, exchange, identity).await,
            (Resource::Key(identity, key), Some(Verb::Delete)) => keys::revoke(self, exchange, identity, key).await,
            _ => Err(Problem::new(&contract::problem::METHOD_NOT_ALLOWED, "no such method here").into()),
        }
    }

    async fn read<B>(&self, resource: Resource<'_>, exchange: Exchange<'_, B>) -> Result<Response<Body>, Failure> {
        let head = exchange.head;
        match resource {
            Resource::Signals => read::signals(self, head).await,
            Resource::Signal(key) => read::signal(self, head, key).await,
            Resource::Identities => read::identities(self, head).await,
            Resource::Identity(key) => read::identity(self, head, key).await,
            Resource::Keys(identity) => read::keys(self, head, identity).await,
            Resource::Me => read::me(self, head).await,
            Resource::SignalBatch | Resource::Key(..) => {
                Err(Problem::new(&contract::problem::METHOD_NOT_ALLOWED, "no such method here").into())
            }
        }
    }

    /// Who calls, where it may do what it asks for: 401, then 403.
    async fn admit(&self, head: &Parts, permission: Permission) -> Result<Caller, Failure> {
        let secret = headers::bearer(&head.headers)?;
        let caller = self.authority.authenticate(secret).await.map_err(|denied| match denied {
            Denied::Refused(problem) => Failure::from(problem),
            Denied::Unread(error) => unread(error),
        })?;
        auth::require(&caller, permission)?;
        Ok(caller)
    }
}

impl<C: Commands, R: Reads> Plane for Api<C, R> {
    fn resolve(&self, path: &str) -> Option<&'static Route> {
        Resource::find(path).map(Resource::route)
    }

    async fn handle(&self, call: Call) -> Result<Response<Body>, Failure> {
        self.answer(call.request, &call.id).await
    }
}

/// What a read that failed is answered with.
fn unread(error: ReadError) -> Failure {
    let unavailable = |detail| Failure::from(Problem::new(&UNAVAILABLE, detail));
    match &error {
        ReadError::Late => unavailable("Postgres did not answer in time"),
        ReadError::Crowded => {
            Failure::from(Problem::new(&OVERLOADED, "too many API keys that are not known here are being looked up"))
        }
        ReadError::Failed(cause) => match **cause {
            StoreError::Away(_) => unavailable("Postgres is away"),
            StoreError::Unmigrated => unavailable("the database is not migrated"),
            StoreError::Fault(_) => Failure::internal(error),
        },
        ReadError::Broken => Failure::internal(error),
    }
}
