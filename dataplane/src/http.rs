//! Requests to the view server, and its answers.
//!
//! A request goes through here in the order of the errors: key (401), role (403), `Accept` (406), query,
//! headers and token (400), then the wait for its tokens, then the read. A read of one signal without a
//! token takes a single round trip, shared with all that wait beside it.

mod admission;
mod lists;
mod one;
mod parked;
mod status;
mod watches;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use contract::problem::{OVERLOADED, Problem, UNAVAILABLE, VIEW_NOT_READY};
use http::Response;
use runtime::http::body::Body;
use runtime::http::failure::Failure;
use runtime::http::front::{Call, Plane};
use runtime::http::reply;
use runtime::http::route::{Route, Verb, segments};
use runtime::shutdown::Shutdown;
use tokio::sync::{Semaphore, watch};

use crate::feed::Waiters;
use crate::fetch::{ReadError, View};
use crate::link::Links;
use crate::pulse::Pulse;
use crate::reader::Reader;
use crate::status::ProjectorStatus;
use crate::token_wait::{TokenWait, WaitError, late};
use crate::watch::hub::Hub;

/// Lists read at once; beyond it, 503.
pub const LISTS_MAX: usize = 256;
/// Seconds after which who waits for a parked event may ask again: somebody has to mend it.
const PARKED_RETRY_S: u32 = 30;

static SIGNALS: Route = Route::new("/v1/signals", &[Verb::Get]);
static SIGNAL: Route = Route::new("/v1/signals/{id}", &[Verb::Get]);
static IDENTITIES: Route = Route::new("/v1/identities", &[Verb::Get]);
static IDENTITY: Route = Route::new("/v1/identities/{id}", &[Verb::Get]);
static ME: Route = Route::new("/v1/me", &[Verb::Get]);
static STATUS: Route = Route::new("/v1/status", &[Verb::Get]);

/// What every handler needs.
#[derive(Debug)]
pub struct DataPlane {
    /// What is known of the view.
    pub view: Arc<View>,
    /// Connections for lists and watches.
    pub links: Links,
    /// Readers of single entities and keys.
    pub readers: Vec<Reader>,
    /// Takes them in turn.
    pub next_reader: AtomicUsize,
    /// Who waits for a change.
    pub waiters: Waiters,
    /// The wait for tokens.
    pub tokens: TokenWait,
    /// What the view looks like.
    pub pulse: watch::Receiver<Arc<Pulse>>,
    /// Watches of signals.
    pub signals: Hub,
    /// Watches of identities.
    pub identities: Hub,
    /// The projector of this process.
    pub projector: Option<watch::Receiver<ProjectorStatus>>,
    /// How many more watches may open.
    pub watches: Arc<Semaphore>,
    /// How many more lists may be read.
    pub lists: Arc<Semaphore>,
    /// How long a token is good for.
    pub token_lifetime: Duration,
    /// Ends watches.
    pub shutdown: Shutdown,
}

impl DataPlane {
    fn reader(&self) -> &Reader {
        match self.readers.as_slice() {
            [one] => one,
            many => &many[self.next_reader.fetch_add(1, Relaxed) % many.len()],
        }
    }

    /// The answer to a token that is not met, with what is known of its events: for who has a good key.
    async fn unmet(&self, error: WaitError) -> Failure {
        if let WaitError::Late(entities) = &error
            && let Some(parked) = self.parked(entities).await
        {
            return Failure::from(parked.problem()).retry_after(PARKED_RETRY_S);
        }
        unmet_plainly(error)
    }

    /// The number of partitions of signals.
    fn partitions(&self) -> Result<u16, Failure> {
        self.view.signals().ok_or_else(|| {
            let is_away = self.links.current().is_none();
            unreadable(if is_away { ReadError::Away } else { ReadError::NotReady })
        })
    }
}

/// The answer to a token that is not met, which says nothing of what the view holds: for anyone.
fn unmet_plainly(error: WaitError) -> Failure {
    match error {
        WaitError::Refused(problem) => problem.into(),
        WaitError::Read(error) => unreadable(error),
        WaitError::Late(_) => Failure::from(late()).retry_after(1),
    }
}

impl Plane for DataPlane {
    fn resolve(&self, path: &str) -> Option<&'static Route> {
        Some(match segments::<4>(path).as_slice() {
            ["v1", "signals"] => &SIGNALS,
            ["v1", "signals", id] if !id.is_empty() => &SIGNAL,
            ["v1", "identities"] => &IDENTITIES,
            ["v1", "identities", id] if !id.is_empty() => &IDENTITY,
            ["v1", "me"] => &ME,
            ["v1", "status"] => &STATUS,
            _ => return None,
        })
    }

    async fn handle(&self, call: Call) -> Result<Response<Body>, Failure> {
        let id = call.request.uri().path().rsplit('/').next().unwrap_or_default();
        // On the heap but for the hot path: a connection's future is as large as its largest handler.
        let outcome = match call.route.template {
            "/v1/signals/{id}" => self.signal(&call, id).await,
            "/v1/signals" => Box::pin(self.signals(&call)).await,
            "/v1/identities" => Box::pin(self.identities(&call)).await,
            "/v1/identities/{id}" => Box::pin(self.identity(&call, id)).await,
            "/v1/me" => Box::pin(self.me(&call)).await,
            _ => Box::pin(self.status(&call)).await,
        };
        reply::mark_read(outcome)
    }
}

/// The 503 that says why the view can't be read.
fn unreadable(error: ReadError) -> Failure {
    let (kind, detail) = match error {
        ReadError::Away => (&UNAVAILABLE, "Redis, which holds the view, does not answer"),
        ReadError::NotReady => (&VIEW_NOT_READY, "the view is being filled; /readyz says what is missing"),
        ReadError::Overloaded => (&OVERLOADED, "too many reads wait"),
    };
    Failure::from(Problem::new(kind, detail))
}
