//! One run: set-up, preload, warm-up, measurement, drain, last checks, report.
//!
//! ```text
//! pacer thread ──commands──▶ control            (sends when due, reads answers)
//!      │                                         observer thread ◀──watch, reads── view server
//!      └────────── records ──▶ judge (this thread) ◀── sightings ──────┘
//! ```
//! The two threads that take times do nothing else, at raised priority; the judge checks and
//! records at its leisure.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, SystemTime};

use crate::client::{Endpoint, EndpointError, Exchange, ExchangeError};
use crate::clock::{Clock, nanos};
use crate::cross_check::Samples;
use crate::document::RunTag;
use crate::journal::{Message, Reporter, Shared};
use crate::judge::Judge;
use crate::live::Live;
use crate::memory::Memory;
use crate::observer::{Observer, ObserverSettings, ReadOrder};
use crate::options::RunOptions;
use crate::pacer::{Order, Pacer, PacerSettings};
use crate::probe::{ProbeSettings, interval_for};
use crate::recorder::Recorder;
use crate::stages::Scrape;
use crate::summary::{Summary, Verdict};
use crate::verify;
use crate::workload::{Address, Shape, Workload};

mod conclude;
mod lag;
mod phases;

use lag::Lag;

/// Orders on their way to a thread; there are a handful in a run.
const ORDERS: usize = 16;
/// Turns of the judge.
const TURN: Duration = Duration::from_millis(10);

/// Why a run could not be done.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A URL is wrong.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// A server is away.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// A server says no.
    #[error("{0}")]
    Refused(String),
    /// A file can't be written, or a thread not be started.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

impl RunError {
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// What a run leaves behind in memory.
pub struct Finished {
    /// The summary.
    pub summary: Summary,
    /// The recorder, for reports.
    pub recorder: Recorder,
    /// What cross-checked the watch.
    pub samples: Samples,
    /// The seed that was used.
    pub seed: u64,
    /// The priority that the pacing thread got.
    pub priority: String,
    /// When the measured phase began.
    pub measured_at: SystemTime,
}

/// A handle by which a signal handler ends the run early, with a valid report.
pub type Interrupt = Arc<Shared>;

struct Running {
    clock: Clock,
    shared: Arc<Shared>,
    messages: Receiver<Message>,
    orders: SyncSender<Order>,
    read_orders: SyncSender<ReadOrder>,
    /// Orders that the pacer was given.
    ordered: u64,
    judge: Judge,
    live: Live,
    options: RunOptions,
    measure_from: u64,
    measure_to: u64,
    next_tick: u64,
    next_lag: u64,
    lag: Lag,
    cpu_before: (u64, u64, u64),
    cpu_at_measure: Option<(u64, u64, u64, u64)>,
    cpu_shares: [f64; 3],
    memory: Memory,
    breach_since: Vec<Option<u64>>,
    aborted: Option<String>,
    scraped: Vec<(&'static str, Endpoint, Scrape)>,
}

/// Does a run. `shared` may be interrupted from elsewhere.
///
/// # Errors
/// The run could not begin, or the folder can't be written. Everything after the beginning ends
/// in a summary.
pub fn run(options: RunOptions, shared: Interrupt) -> Result<Finished, RunError> {
    let control = options.targets.control()?;
    let views = options.targets.views()?;
    greet(&control, &views, &options.targets.api_key)?;

    let clock = Clock::start();
    let seed = options.load.seed.unwrap_or_else(seed_from_clock);
    let run_tag = tag(seed ^ seed_from_clock());
    let (sender, messages) = std::sync::mpsc::sync_channel(options.queue_batches);
    let (orders, pacer_orders) = std::sync::mpsc::sync_channel(ORDERS);
    let (read_orders, observer_orders) = std::sync::mpsc::sync_channel(ORDERS);

    let load = &options.load;
    let (mix, per_request) = load.mix.per_request(usize::from(load.batch_size));
    let shape = Shape {
        mix,
        skew: load.keys,
        payload_bytes: load.payload,
        batch_size: usize::from(load.batch_size),
        idempotency: !load.no_idempotency,
    };
    let address = Address {
        authority: control.authority.clone(),
        prefix: control.prefix.clone(),
        api_key: options.targets.api_key.clone(),
    };
    let probes = (!load.no_probes).then(|| ProbeSettings {
        views: views.clone(),
        api_key: options.targets.api_key.clone(),
        interval: interval_for(if load.closed { 1_000.0 } else { options.rate }),
    });
    let pacer = Pacer::new(
        clock,
        PacerSettings {
            control: control.clone(),
            connections: usize::from(load.connections),
            timeout: nanos(load.timeout),
            run: run_tag,
            priority: load.priority,
            idempotency: !load.no_idempotency,
            probes,
        },
        Workload::new(shape, run_tag, seed, &address),
        Arc::clone(&shared),
        Reporter::new(sender.clone(), options.queue_batches, Arc::clone(&shared)),
        pacer_orders,
    )
    .map_err(RunError::io("no file descriptor for the pacing thread"))?;
    let observer = Observer::new(
        clock,
        ObserverSettings {
            views: views.clone(),
            api_key: options.targets.api_key.clone(),
            read_connections: usize::from(load.read_connections),
            timeout: nanos(load.timeout),
            run: run_tag,
            priority: load.priority,
            reads: load.reads > 0.0,
            seed,
        },
        Arc::clone(&shared),
        Reporter::new(sender, options.queue_batches, Arc::clone(&shared)),
        observer_orders,
    )
    .map_err(RunError::io("no file descriptor for the observing thread"))?;

    let recorder = match &options.out {
        Some(folder) => {
            Recorder::in_folder(folder).map_err(RunError::io(format!("{} can't be written", folder.display())))?
        }
        None => Recorder::default(),
    };
    let live = Live::new(&options);
    let breach_since = vec![None; options.slos.len()];
    let mut running = Running {
        clock,
        shared: Arc::clone(&shared),
        messages,
        orders,
        read_orders,
        ordered: 0,
        judge: Judge::new(recorder, views.iter().map(|view| view.authority.clone()).collect()),
        live,
        options,
        measure_from: u64::MAX,
        measure_to: u64::MAX,
        next_tick: u64::MAX,
        next_lag: u64::MAX,
        lag: Lag::default(),
        cpu_before: (0, 0, 0),
        cpu_at_measure: None,
        cpu_shares: [0.0; 3],
        memory: Memory::default(),
        breach_since,
        aborted: None,
        scraped: Vec::new(),
    };
    let threads = [
        std::thread::Builder::new().name("pacer".into()).spawn(move || pacer.run()),
        std::thread::Builder::new().name("observer".into()).spawn(move || observer.run()),
    ];
    let outcome = running.phases(per_request, seed);
    shared.stop.store(true, Ordering::Relaxed);
    // The senders may wait for room: the receiver goes first.
    let Running { messages, judge, live, options, .. } = &mut running;
    let mut failed = None;
    for thread in threads {
        match thread {
            Ok(thread) => {
                while !thread.is_finished() {
                    let _ = messages.recv_timeout(TURN);
                }
                if thread.join().is_err() {
                    failed = Some("a thread of the generator died".to_owned());
                }
            }
            Err(source) => {
                return Err(RunError::Io { what: "a thread can't be started".into(), source });
            }
        }
    }
    live.end();
    let (mut summary, measured_at) = outcome?;
    if let Some(why) = failed {
        summary.object(Verdict::Invalid, why);
    }
    judge.recorder.flush().map_err(RunError::io("the report can't be written"))?;
    summary.slo = options.slos.iter().map(|slo| slo.evaluate(&summary, judge.recorder.total())).collect();
    for result in summary.slo.clone().iter().filter(|result| !result.ok) {
        let found = result.value.map_or("nothing was measured".to_owned(), |value| format!("it was {value:.3}"));
        summary.object(Verdict::SloFailed, format!("{} does not hold: {found}", result.slo));
    }
    let priority = shared.pacer_priority.get().cloned().unwrap_or_default();
    let recorder = std::mem::take(&mut judge.recorder);
    let samples = std::mem::take(&mut judge.samples);
    Ok(Finished { summary, recorder, samples, seed, priority, measured_at })
}

/// Asks both planes who we are, so that a wrong URL or key ends in one line.
fn greet(control: &Endpoint, views: &[Endpoint], api_key: &str) -> Result<(), RunError> {
    if api_key.is_empty() {
        return Err(RunError::Refused("no API key: give --api-key or NEXUS_API_KEY".to_owned()));
    }
    let planes =
        std::iter::once(("the control plane", control)).chain(views.iter().map(|view| ("the data plane", view)));
    for (name, endpoint) in planes {
        let reply = Exchange::new(endpoint.clone(), api_key).get("/v1/signals?limit=1")?;
        let at = &endpoint.authority;
        match reply.status {
            200 => {}
            401 => {
                return Err(RunError::Refused(format!("{name} ({at}) does not know this API key")));
            }
            403 => {
                return Err(RunError::Refused(format!(
                    "{name} ({at}) does not let this API key's identity do that; it takes an operator"
                )));
            }
            status => {
                let detail = verify::problem_detail(&reply.body);
                return Err(RunError::Refused(format!("{name} ({at}) answered {status}: {detail}")));
            }
        }
    }
    Ok(())
}

fn seed_from_clock() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    crate::random::mix(nanos(now) ^ u64::from(std::process::id()) << 40)
}

fn tag(value: u64) -> RunTag {
    let mut tag = [0; 8];
    for (i, place) in tag.iter_mut().enumerate() {
        *place = b"0123456789abcdef"[(value >> (i * 4)) as usize & 15];
    }
    tag
}
