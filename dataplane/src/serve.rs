//! The view server's wiring, from the socket to Redis.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use contract::partition::Topic;
use redis::Client;
use runtime::config::{HttpSettings, redact_url};
use runtime::http::cors::Cors;
use runtime::http::front::Front;
use runtime::http::wellknown::{About, Check, Readiness, Status};
use runtime::serve::{Limits, bind};
use runtime::shutdown::Shutdown;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::feed::{Feed, Waiters};
use crate::fetch::View;
use crate::http::DataPlane;
use crate::link::Links;
use crate::pulse::{self, Pulse};
use crate::reader::Reader;
use crate::status::ProjectorStatus;
use crate::token_wait::TokenWait;
use crate::view::keys::Keys;
use crate::watch::hub::Hub;

/// An answer of Redis that takes longer counts as its loss.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The settings of the view server.
#[derive(Debug, Clone, Args)]
pub struct ReadSettings {
    /// Where to listen
    #[arg(long = "dataplane-addr", env = "NEXUS_DATAPLANE_ADDR", default_value = "127.0.0.1:8001")]
    pub addr: SocketAddr,

    /// Seconds after its issue that a token is good for; at most half of what tombstones live
    #[arg(long = "token-lifetime-seconds", env = "NEXUS_TOKEN_LIFETIME_SECONDS", default_value_t = 12 * 3600,
          value_parser = clap::value_parser!(u64).range(1..=12 * 3600))]
    pub token_lifetime_s: u64,

    /// Watches open at once; beyond it, 503
    #[arg(long, env = "NEXUS_MAX_WATCHES", default_value_t = 5000)]
    pub max_watches: usize,

    /// Readers, each with rounds of its own; more than one where one core can't keep up
    #[arg(long, env = "NEXUS_READERS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub readers: u16,

    /// What every HTTP server has
    #[command(flatten)]
    pub http: HttpSettings,
}

/// What a view server reads from.
#[derive(Debug, Clone)]
pub struct Readings {
    /// The Redis that holds the view.
    pub redis_url: String,
    /// What the names of its keys begin with.
    pub redis_prefix: String,
    /// The projector of the same process; `None` where it only reads.
    pub projector: Option<watch::Receiver<ProjectorStatus>>,
}

/// Serves reads at the address of `settings` until `shutdown` has begun and requests are drained.
///
/// # Errors
/// The Redis URL is none, or the address can't be had.
pub async fn serve_reads(settings: ReadSettings, readings: Readings, shutdown: Shutdown) -> anyhow::Result<()> {
    let listener = bind(settings.addr).with_context(|| format!("can't listen on {}", settings.addr))?;
    serve_reads_on(listener, settings, readings, shutdown).await
}

/// As [`serve_reads`], on a listener of the caller's.
///
/// # Errors
/// The Redis URL is none.
pub async fn serve_reads_on(
    listener: TcpListener,
    settings: ReadSettings,
    readings: Readings,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let Readings { redis_url, redis_prefix, projector } = readings;
    let client = Client::open(redis_url.as_str())
        .with_context(|| format!("NEXUS_REDIS_URL is no URL of Redis: {}", redact_url(&redis_url)))?;
    let address = listener.local_addr().context("the listener has no address")?;
    tracing::info!(%address, redis = redact_url(&redis_url), "the view server listens");

    let view = Arc::new(View::new(Keys::new(&redis_prefix)));
    let links = Links::keep(client.clone(), RESPONSE_TIMEOUT, shutdown.clone());
    let pulse = pulse::start(Arc::clone(&view), links.clone());
    let waiters = Waiters::default();
    let readers: Vec<Reader> = (0..settings.readers).map(|_| Reader::start(Arc::clone(&view), links.clone())).collect();

    let (signals, signals_end, signals_feed) = Hub::new(Topic::Signals);
    let (identities, identities_end, identities_feed) = Hub::new(Topic::Identities);
    let feed = Feed {
        view: Arc::clone(&view),
        client,
        pulse: pulse.clone(),
        waiters: waiters.clone(),
        hubs: vec![(Topic::Signals, signals_end), (Topic::Identities, identities_end)],
    };
    let mut background = tokio::task::JoinSet::new();
    background.spawn(feed.run());
    background.spawn(signals.clone().run(Arc::clone(&view), links.clone(), signals_feed));
    background.spawn(identities.clone().run(Arc::clone(&view), links.clone(), identities_feed));

    let origins = settings.http.cors_origins.clone().unwrap_or_else(|| vec![format!("http://{address}")]);
    let limits = Limits { connections: settings.http.max_connections, ..Limits::default() };
    let plane = DataPlane {
        tokens: TokenWait { reader: readers[0].clone(), waiters: waiters.clone(), pulse: pulse.clone() },
        view,
        links,
        readers,
        next_reader: Default::default(),
        waiters,
        pulse: pulse.clone(),
        signals,
        identities,
        projector: projector.clone(),
        watches: Arc::new(tokio::sync::Semaphore::new(settings.max_watches)),
        lists: Arc::new(tokio::sync::Semaphore::new(crate::http::LISTS_MAX)),
        token_lifetime: Duration::from_secs(settings.token_lifetime_s),
        shutdown: shutdown.clone(),
    };
    let about = About {
        name: "nexus-dataplane",
        version: env!("CARGO_PKG_VERSION"),
        openapi: include_str!("../../docs/api/dataplane.openapi.json"),
        readiness: Box::new(move || readiness(&pulse.borrow(), projector.as_ref())),
    };
    Front::new(plane, about, Cors::new(&origins)).serve(listener, limits, shutdown).await;
    background.shutdown().await;
    Ok(())
}

/// Ready when Redis is there and the view can be read; degraded when it does not move on.
fn readiness(pulse: &Pulse, projector: Option<&watch::Receiver<ProjectorStatus>>) -> Readiness {
    let mut checks = BTreeMap::new();
    let redis = Check {
        ok: pulse.run_id.is_some(),
        detail: if pulse.run_id.is_some() { "answers" } else { "Redis does not answer" }.to_owned(),
    };
    let unreadable = pulse.unreadable();
    let view = Check { ok: unreadable.is_none(), detail: unreadable.unwrap_or_else(|| "filled".to_owned()) };
    let readable = redis.ok && view.ok;
    checks.insert("redis", redis);
    checks.insert("view", view);
    let mut degraded = false;
    if let Some(projector) = projector {
        let status = projector.borrow();
        let of_broker = |error: &String| format!("the broker does not answer: {error}");
        let wrong = status.broker_error.as_ref().map(of_broker).or_else(|| status.redis_error.clone());
        let wrong = wrong.or_else(|| status.waiting_for.as_ref().map(|what| format!("waits for {what}")));
        degraded = wrong.is_some();
        checks
            .insert("projector", Check { ok: !degraded, detail: wrong.unwrap_or_else(|| "applies events".to_owned()) });
    }
    let status = match (readable, degraded) {
        (false, _) => Status::Unavailable,
        (true, true) => Status::Degraded,
        (true, false) => Status::Ready,
    };
    Readiness { status, checks }
}
