//! The command side: REST over Postgres, group commit, and the relay into the broker.
//!
//! All of its wiring is here, in the order in which a command flows: [`http`] → [`auth`] → [`batcher`]
//! → [`store`], and from the WAL on, the relay.

<<<<<<< HEAD
pub mod auth;
pub mod batcher;
pub mod http;
pub mod readiness;
pub mod reads;
pub mod relay_status;
=======
pub mod aggregate;
pub mod batcher;
pub mod create_admin;
pub mod migrate;
>>>>>>> store
pub mod request;
pub mod settings;
pub mod store;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use runtime::config::redact_url;
use runtime::http::cors::Cors;
use runtime::http::front::Front;
use runtime::http::wellknown::About;
use runtime::serve::Limits;
use runtime::shutdown::Shutdown;
use runtime::telemetry;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use crate::batcher::{Batcher, CommandMetrics};
use crate::http::{Api, Commands, Deadlines, OPENAPI};
use crate::readiness::ReadinessWatch;
use crate::reads::StoreReads;
use crate::relay_status::RelayStatus;
use crate::request::{Answer, Refusal, Request};
use crate::settings::{ServeSettings, SettingsError};
use crate::store::Store;

/// How long requests may go on after the shutdown began.
const HTTP_DRAIN: Duration = Duration::from_millis(3_000);
/// When, after the shutdown began, a command still without an outcome is answered with outcome-unknown:
/// before its connection is cut.
const RECEIPT_IN_SHUTDOWN: Duration = Duration::from_millis(2_500);
/// How long, once no request is left, commands may go on whose callers hung up.
const BATCHER_DRAIN: Duration = Duration::from_millis(700);

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting can't be used.
    #[error("the settings can't be used")]
    Settings(#[from] SettingsError),
    /// The address is taken or not ours.
    #[error("can't listen on {addr}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The database's URL can't be read.
    #[error("NEXUS_DATABASE_URL is not a URI that psql takes")]
    Store(#[source] sqlx::Error),
    /// A metric's name is taken: a fault of ours.
    #[error("the metrics can't be registered")]
    Metrics(#[from] prometheus::Error),
}

/// Serves the API and relays events until `shutdown` has begun and everything is drained, in under 5 s.
///
/// Starts whether or not Postgres and the broker are there: `/readyz` says what is missing.
///
/// # Errors
/// [`StartError`], before anything was served.
pub async fn serve(settings: ServeSettings, shutdown: Shutdown) -> Result<(), StartError> {
    let addr = settings.control_addr;
    let listener = runtime::serve::bind(addr).map_err(|source| StartError::Listen { addr, source })?;

    // 3, 2 before 1: what a command flows into is there before it.
    let metrics = CommandMetrics::register(telemetry::registry())?;
    let store = Store::new(settings.commands.store(&settings.database), metrics.clone()).map_err(StartError::Store)?;
    let batcher = Batcher::start(store.clone(), settings.commands.batcher(), metrics);

    // 5: from the WAL to the broker.
    let (_status, relay_status) = watch::channel(RelayStatus::starting());

    // 1: the API over both.
    let readiness = ReadinessWatch::start(store.clone(), relay_status);
    let reads = StoreReads::new(store, Duration::from_millis(settings.commands.read_timeout_ms));
    let front = front(&settings, batcher.clone(), reads, readiness, shutdown.clone());
    let limits = Limits { connections: settings.http.max_connections, drain_deadline: HTTP_DRAIN, ..Limits::default() };
    announce(&listener, &settings);
    front.serve(listener, limits, shutdown).await;

    // No request is left; what their callers left behind is finished before the relay stops.
    if !batcher.drain(BATCHER_DRAIN).await {
        tracing::warn!("commands without a caller did not finish in time");
    }
    tracing::info!("stopped");
    Ok(())
}

fn front(
    settings: &ServeSettings,
    batcher: Batcher,
    reads: StoreReads,
    readiness: ReadinessWatch,
    shutdown: Shutdown,
) -> Front<Api<Batcher, StoreReads>> {
    let deadlines = Deadlines {
        body: runtime::http::body::BODY_TIMEOUT,
        receipt: Duration::from_millis(settings.commands.command_timeout_ms),
        receipt_in_shutdown: RECEIPT_IN_SHUTDOWN,
    };
    let about = About {
        name: "nexus-control",
        version: env!("CARGO_PKG_VERSION"),
        openapi: OPENAPI,
        readiness: Box::new(move || readiness.now()),
    };
    let api = Api::new(Arc::new(batcher), Arc::new(reads), deadlines, shutdown);
    Front::new(api, about, Cors::new(&settings.origins()))
}

impl Commands for Batcher {
    fn submit(&self, request: Request) -> Result<oneshot::Receiver<Result<Answer, Refusal>>, Refusal> {
        Batcher::submit(self, request)
    }
}

fn announce(listener: &TcpListener, settings: &ServeSettings) {
    let addr = listener.local_addr().unwrap_or(settings.control_addr);
    tracing::info!(
        %addr,
        database = redact_url(&settings.database.database_url),
        brokers = settings.brokers,
        synchronous_commit = %settings.commands.synchronous_commit,
        "serving"
    );
}
