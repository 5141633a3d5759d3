//! The command side: REST over Postgres, group commit, and the relay into the broker.
//!
//! All of its wiring is here, in the order in which a command flows: [`http`] ▸ [`auth`] ▸ [`batcher`] ▸
//! [`store`] (with [`aggregate`]), and from the WAL on [`relay`] ▸ [`publisher`].

pub mod aggregate;
mod apart;
pub mod auth;
pub mod batcher;
pub mod create_admin;
pub mod history;
pub mod http;
pub mod migrate;
pub mod publisher;
pub mod readiness;
pub mod reads;
pub mod relay;
pub mod relay_status;
pub mod relay_thread;
pub mod request;
pub mod settings;
pub mod slot;
pub mod store;
pub mod topics;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use runtime::config::redact_url;
use runtime::http::cors::Cors;
use runtime::http::front::Front;
use runtime::http::wellknown::About;
use runtime::serve::Limits;
use runtime::shutdown::{Shutdown, within};
use runtime::telemetry;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use crate::batcher::{Batcher, CommandMetrics};
use crate::http::{Api, Commands, Deadlines, OPENAPI};
use crate::readiness::ReadinessWatch;
use crate::reads::StoreReads;
use crate::relay::{RelayError, RelaySettings};
use crate::relay_thread::RelayThread;
use crate::request::{Answer, Refusal, Request};
use crate::settings::{ServeSettings, SettingsError};
use crate::store::Store;
use crate::topics::TopicSettings;

/// How long requests may go on after the shutdown began.
const HTTP_DRAIN: Duration = Duration::from_millis(3_000);
/// When, after the shutdown began, a command still without an outcome is answered with outcome-unknown:
/// before its connection is cut.
const RECEIPT_IN_SHUTDOWN: Duration = Duration::from_millis(2_500);
/// How long, once no request is left, commands may go on whose callers hung up.
const BATCHER_DRAIN: Duration = Duration::from_millis(700);
/// How long the relay may take for its last commit. All three together stay under 5 s.
const RELAY_STOP: Duration = Duration::from_millis(1_000);

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
    /// The relay could never work with these settings.
    #[error("the relay can't work")]
    Relay(#[source] RelayError),
    /// The system grants no thread.
    #[error("the relay's thread can't be started")]
    Thread(#[source] io::Error),
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
    runtime::sabotage::announce();
    let addr = settings.control_addr;
    let listener = runtime::serve::bind(addr).map_err(|source| StartError::Listen { addr, source })?;

    // 3, 2 before 1: what a command flows into is there before it.
    let metrics = CommandMetrics::register(telemetry::registry())?;
    let store = Store::new(settings.commands.store(&settings.database), metrics.clone()).map_err(StartError::Store)?;
    let batcher = Batcher::start(store.clone(), settings.commands.batcher(), metrics);

    // Old idempotency keys, deletions and batches' own rows; statements that commit by themselves, so it may be cut short.
    let pruned = store.clone();
    let _pruning = AbortOnDropHandle::new(tokio::spawn(async move { pruned.prune_for_ever().await }));

    // 5: from the WAL to the broker.
    let mut relay = RelayThread::start(relay_settings(&settings)?).map_err(StartError::Thread)?;

    // 1: the API over both.
    let readiness = ReadinessWatch::start(store.clone(), relay.status());
    let reads = StoreReads::new(store, Duration::from_millis(settings.commands.read_timeout_ms));
    let front = front(&settings, batcher.clone(), reads, readiness, shutdown.clone());
    let limits = Limits { connections: settings.http.max_connections, drain_deadline: HTTP_DRAIN, ..Limits::default() };
    announce(&listener, &settings);
    let serving = front.serve(listener, limits, shutdown.clone());
    tokio::pin!(serving);
    let relay_failed = tokio::select! {
        () = &mut serving => None,
        ended = relay.stopped() => {
            shutdown.begin();
            serving.await;
            ended.err()
        }
    };

    // No request is left; what their callers left behind is finished before the relay stops.
    if !batcher.drain(BATCHER_DRAIN).await {
        tracing::warn!("commands without a caller did not finish in time");
    }
    if let Some(error) = relay_failed {
        return Err(StartError::Relay(error));
    }
    relay.stop();
    within("relay", RELAY_STOP, relay.stopped()).await;
    tracing::info!("stopped");
    Ok(())
}

fn relay_settings(settings: &ServeSettings) -> Result<RelaySettings, SettingsError> {
    Ok(RelaySettings {
        database_url: settings.database.database_url.clone(),
        replication_url: settings.replication_url().to_owned(),
        slot: settings.database.slot()?,
        topics: TopicSettings {
            brokers: settings.brokers.clone(),
            prefix: settings.topic_prefix.clone(),
            partitions: settings.database.partitions,
            replication: settings.replication,
        },
    })
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
        key_record: auth::FRESH,
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
