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
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, SystemTime};

use crate::checker::Violations;
use crate::client::{Endpoint, EndpointError, Exchange, ExchangeError};
use crate::clock::{Clock, MILLISECOND, SECOND, nanos, seconds};
use crate::document::RunTag;
use crate::journal::{CHANNEL_BATCHES, Message, Phase, Reporter, Shared, thread_cpu};
use crate::judge::Judge;
use crate::live::Live;
use crate::observer::{Observer, ObserverSettings, ReadOrder};
use crate::options::RunOptions;
use crate::pacer::{Order, Pacer, PacerSettings};
use crate::probe::{ProbeSettings, interval_for};
use crate::recorder::{Measure, Recorder, Surroundings};
use crate::schedule::{Arrivals, Schedule};
use crate::stages::{Scrape, Stage, Usage};
use crate::summary::{Latency, Summary, Verdict};
use crate::verify;
use crate::workload::{Address, Shape, Workload};

/// How long the watch may take to open.
const WATCH_DEADLINE: u64 = 10 * SECOND;
/// With nothing new for this long, and something outstanding, canaries are sent.
const QUIET: u64 = 1_500 * MILLISECOND;
/// Enough creates that every partition gets some.
const CANARIES: u64 = 256;
/// The share of canaries that must be seen to say that what is missing is lost, not late.
const CANARIES_SEEN: f64 = 0.8;
/// Between the order to begin and the first arrival.
const LEAD: u64 = 50 * MILLISECOND;
/// Orders on their way to a thread; there are a handful in a run.
const ORDERS: usize = 16;
/// Turns of the judge.
const TURN: Duration = Duration::from_millis(10);
/// Steps over which the number of outstanding writes is averaged, for its slope.
const LAG_STEP: u64 = 100 * MILLISECOND;

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
    judge: Judge,
    live: Live,
    options: RunOptions,
    measure_from: u64,
    measure_to: u64,
    next_tick: u64,
    next_lag: u64,
    lag: Vec<(u64, f64)>,
    lag_sum: u64,
    lag_looks: u64,
    cpu_before: (u64, u64, u64),
    cpu_at_measure: Option<(u64, u64, u64, u64)>,
    cpu_shares: [f64; 3],
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
    let (sender, messages) = std::sync::mpsc::sync_channel(CHANNEL_BATCHES);
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
        view: views[0].clone(),
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
        Reporter::new(sender.clone()),
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
            seed,
        },
        Arc::clone(&shared),
        Reporter::new(sender),
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
        judge: Judge::new(recorder),
        live,
        options,
        measure_from: u64::MAX,
        measure_to: u64::MAX,
        next_tick: u64::MAX,
        next_lag: u64::MAX,
        lag: Vec::new(),
        lag_sum: 0,
        lag_looks: 0,
        cpu_before: (0, 0, 0),
        cpu_at_measure: None,
        cpu_shares: [0.0; 3],
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
    Ok(Finished { summary, recorder, seed, priority, measured_at })
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

impl Running {
    /// Everything between the start of the threads and their end.
    fn phases(&mut self, per_request: f64, seed: u64) -> Result<(Summary, SystemTime), RunError> {
        let deadline = self.clock.now() + WATCH_DEADLINE;
        self.wait(deadline, |judge| judge.heard.watch_ready)?;
        if !self.judge.heard.watch_ready {
            let why = self.judge.heard.watch_lost.clone().unwrap_or_else(|| "no ready event".to_owned());
            return Err(RunError::Refused(format!("the watch did not open within 10 s: {why}")));
        }
        self.preload()?;

        let load = self.options.load.clone();
        let start = self.clock.now() + LEAD;
        self.measure_from = start + nanos(load.warmup);
        self.measure_to = self.measure_from + nanos(load.duration);
        let rate = if load.closed { f64::INFINITY } else { self.options.rate / per_request };
        let arrivals = if load.closed { Arrivals::Constant } else { load.arrivals };
        let schedule = Schedule::new(arrivals, rate, start, self.measure_to, seed);
        if load.reads > 0.0 {
            let schedule = Schedule::new(load.arrivals, load.reads, start, self.measure_to, seed ^ 1);
            let order = ReadOrder { schedule, measure_from: self.measure_from };
            let _ = self.read_orders.send(order);
        }
        let order = Order::Follow { schedule, measure_from: self.measure_from, closed: load.closed };
        self.judge.heard.commands_idle = false;
        let _ = self.orders.send(order);
        let wall_start = SystemTime::now() + Duration::from_nanos(LEAD);
        self.judge.recorder.begin(start, wall_start).map_err(RunError::io("run.hlog can't be written"))?;
        (self.next_tick, self.next_lag) = (start + SECOND, start);
        self.cpu_before = self.cpu();

        let from = self.measure_from;
        self.wait(from, |_| false)?;
        let measured_at = SystemTime::now();
        if !self.interrupted() {
            self.live.measuring(measured_at);
        }
        self.scrape();
        let to = self.measure_to;
        self.wait(to, |_| false)?;
        let ended = self.clock.now().min(self.measure_to);
        let (stages, usage) = self.scraped_since(seconds(ended.saturating_sub(self.measure_from)));
        let (drain, lost) = self.drain(ended)?;
        let mut summary = self.conclude(ended, drain, lost)?;
        (summary.stages, summary.usage) = (stages, usage);
        Ok((summary, measured_at))
    }

    /// Notes the planes' metrics.
    fn scrape(&mut self) {
        let targets = &self.options.targets;
        let planes = [
            ("control", targets.control().ok()),
            ("dataplane", targets.views().ok().and_then(|views| views.into_iter().next())),
        ];
        for (name, endpoint) in planes {
            if let Some(endpoint) = endpoint {
                let scrape = Scrape::of(&endpoint);
                self.scraped.push((name, endpoint, scrape));
            }
        }
    }

    /// What they say has happened since.
    fn scraped_since(&self, measured_s: f64) -> (Vec<Stage>, Vec<Usage>) {
        let (mut stages, mut usage) = (Vec::new(), Vec::new());
        for (name, endpoint, before) in &self.scraped {
            let after = Scrape::of(endpoint);
            stages.extend(after.stages_since(before, name));
            usage.extend(after.usage_since(before, name, measured_s.max(0.001)));
        }
        (stages, usage)
    }

    fn preload(&mut self) -> Result<(), RunError> {
        let count = self.options.load.preload;
        if count == 0 {
            return Ok(());
        }
        self.live.say(&format!("preloading {count} signals"));
        let _ = self.orders.send(Order::Creates { count, phase: Phase::Preload });
        let patience = nanos(self.options.load.drain_timeout).max(10 * SECOND);
        let deadline = self.clock.now() + patience;
        self.wait(deadline, |judge| judge.heard.order_done || judge.heard.preload_refused.is_some())?;
        if let Some(status) = self.judge.heard.preload_refused {
            return Err(RunError::Refused(format!("a create of the preload was answered with {status}")));
        }
        if !self.judge.heard.order_done && !self.interrupted() {
            return Err(RunError::Refused(format!(
                "the preload was not done after {} s: {} of {count} accepted",
                patience / SECOND,
                self.judge.heard.preloaded
            )));
        }
        // What does not show up now is outstanding, or lost, at the end.
        loop {
            let quiet_at = self.clock.now().max(self.judge.last_visible()) + 2 * QUIET;
            let visible = self.judge.last_visible();
            self.wait(quiet_at, |judge| judge.checker.outstanding() == 0)?;
            if self.judge.checker.outstanding() == 0 || self.judge.last_visible() == visible || self.interrupted() {
                return Ok(());
            }
        }
    }

    /// Waits until everything accepted is visible, or is proven lost, or time is up. The seconds
    /// that took, and whether what is left is lost.
    fn drain(&mut self, ended: u64) -> Result<(f64, bool), RunError> {
        let deadline = self.clock.now() + nanos(self.options.load.drain_timeout);
        let mut canaries = false;
        loop {
            let done = |judge: &Judge| judge.heard.commands_idle && judge.checker.outstanding() == 0;
            let last = self.judge.last_visible();
            let quiet_at = (self.clock.now() + QUIET).min(deadline);
            self.wait_uninterrupted(quiet_at, done)?;
            if done(&self.judge) {
                let until = self.judge.last_visible().max(ended);
                return Ok((seconds(until - ended), false));
            }
            let now = self.clock.now();
            let unseen = self.judge.checker.outstanding_canaries();
            if canaries
                && self.judge.heard.order_done
                && (CANARIES - unseen.min(CANARIES)) as f64 >= CANARIES_SEEN * CANARIES as f64
                && self.judge.last_visible() == last
            {
                // Later writes of all partitions were seen: what is missing was passed over.
                return Ok((seconds(now - ended), true));
            }
            if now >= deadline {
                return Ok((seconds(now - ended), false));
            }
            if !canaries && self.judge.heard.commands_idle && self.judge.last_visible() == last {
                canaries = true;
                self.judge.heard.order_done = false;
                self.judge.heard.commands_idle = false;
                let _ = self.orders.send(Order::Creates { count: CANARIES, phase: Phase::Canary });
            }
        }
    }

    fn wait(&mut self, until: u64, done: impl Fn(&Judge) -> bool) -> Result<(), RunError> {
        self.listen(until, true, done)
    }

    fn wait_uninterrupted(&mut self, until: u64, done: impl Fn(&Judge) -> bool) -> Result<(), RunError> {
        self.listen(until, false, done)
    }

    /// Judges what comes in until `until`, or `done`, or an interruption.
    fn listen(&mut self, until: u64, heed: bool, done: impl Fn(&Judge) -> bool) -> Result<(), RunError> {
        loop {
            let now = self.clock.now();
            self.turn(now)?;
            if now >= until || done(&self.judge) || (heed && self.interrupted()) {
                return Ok(());
            }
            let patience = Duration::from_nanos(until - now).min(TURN);
            match self.messages.recv_timeout(patience) {
                Ok(message) => {
                    let now = self.clock.now();
                    self.judge.hear(message, now);
                    while let Ok(message) = self.messages.try_recv() {
                        self.judge.hear(message, now);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(RunError::Refused("the generator's threads have died".to_owned()));
                }
            }
            if let Some(why) = self.judge.heard.fatal.take() {
                return Err(RunError::Refused(why));
            }
        }
    }

    fn interrupted(&self) -> bool {
        self.shared.interrupted.load(Ordering::Relaxed)
    }

    fn cpu(&self) -> (u64, u64, u64) {
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        (load(&self.shared.pacer_cpu), load(&self.shared.observer_cpu), thread_cpu())
    }

    /// What is due every second, and every tenth of one.
    fn turn(&mut self, now: u64) -> Result<(), RunError> {
        self.lag_sum += self.judge.checker.outstanding();
        self.lag_looks += 1;
        if now >= self.next_lag {
            self.next_lag += LAG_STEP;
            if now < self.measure_to {
                self.lag.push((now, self.lag_sum as f64 / self.lag_looks as f64));
            }
            (self.lag_sum, self.lag_looks) = (0, 0);
            self.live.draw(&self.judge, &self.shared, now, self.measure_from, self.measure_to);
        }
        if self.cpu_at_measure.is_none() && now >= self.measure_from {
            let (pacer, observer, judge) = self.cpu();
            self.cpu_at_measure = Some((now, pacer, observer, judge));
        }
        if let Some((at, pacer, observer, judge)) = self.cpu_at_measure
            && now > at
            && (now < self.measure_to || self.cpu_shares == [0.0; 3])
        {
            let now_cpu = self.cpu();
            let share = |after: u64, before: u64| after.saturating_sub(before) as f64 / (now - at) as f64;
            self.cpu_shares = [share(now_cpu.0, pacer), share(now_cpu.1, observer), share(now_cpu.2, judge)];
        }
        if now < self.next_tick {
            return Ok(());
        }
        let cpu = self.cpu();
        let length = (now - (self.next_tick - SECOND)).max(1) as f64;
        let share = |after: u64, before: u64| after.saturating_sub(before) as f64 / length;
        let phase = match now {
            now if now <= self.measure_from + SECOND / 2 => "warmup",
            now if now <= self.measure_to + SECOND / 2 => "measure",
            _ => "drain",
        };
        let around = Surroundings {
            phase,
            offered_per_s: if phase == "drain" { 0.0 } else { self.options.rate },
            outstanding: self.judge.checker.outstanding(),
            backlog: self.shared.backlog.load(Ordering::Relaxed),
            cpu: (share(cpu.0, self.cpu_before.0), share(cpu.1, self.cpu_before.1)),
            violations: self.judge.violations().total(),
        };
        self.cpu_before = cpu;
        self.next_tick += SECOND;
        self.check_aborts(now);
        let row =
            self.judge.recorder.tick(now, &around).map_err(RunError::io("timeline.csv can't be written"))?.clone();
        self.live.row(&row);
        Ok(())
    }

    /// Ends the run when an objective with `abort` has been broken for as long as it says.
    fn check_aborts(&mut self, now: u64) {
        if now < self.measure_from || now > self.measure_to {
            return;
        }
        for (i, slo) in self.options.slos.iter().enumerate() {
            let (Some(window), Some((measure, percentile))) = (slo.abort_after_s(), slo.latency()) else {
                continue;
            };
            let Some(measure) = Measure::ALL.into_iter().find(|m| m.name() == measure) else {
                continue;
            };
            let histogram = self.judge.recorder.interval().of(measure);
            let broken =
                !histogram.is_empty() && !slo.holds(histogram.value_at_quantile(percentile / 100.0) as f64 / 1e6);
            let since = &mut self.breach_since[i];
            *since = if broken { since.or(Some(now)) } else { None };
            if since.is_some_and(|since| seconds(now - since) + 1.0 >= window) && self.aborted.is_none() {
                self.aborted = Some(format!("aborted: {} did not hold for {window} s", slo.text()));
                self.shared.interrupted.store(true, Ordering::Relaxed);
            }
        }
    }

    /// The summary, but for the objectives.
    fn conclude(&mut self, ended: u64, drain_s: f64, lost: bool) -> Result<Summary, RunError> {
        let now = self.clock.now();
        // What is outstanding counts at the end of its patience.
        let left = {
            let recorder = &self.judge.recorder;
            let entities = recorder.open_entities();
            let unsure = |op: Option<u64>, id| op.is_some_and(|op| recorder.is_open(op)) || entities.contains(&id);
            self.judge.checker.finish(lost, &unsure)
        };
        for write in &left {
            self.judge.recorder.l2c(now.saturating_sub(write.intended), write.phase);
        }
        let around = Surroundings {
            phase: "drain",
            outstanding: left.len() as u64,
            violations: self.judge.violations().total(),
            ..Surroundings::default()
        };
        self.judge.recorder.tick(now, &around).map_err(RunError::io("timeline.csv can't be written"))?;

        let cross_check = self.judge.cross_check();
        let view_compared = self.compare_planes(left.len() as u64, lost);
        let counts = self.judge.recorder.counts();
        let heard = &self.judge.heard;
        let set = self.judge.recorder.total();
        let latency = |measure| Latency::of(set.of(measure));
        let measured_s = seconds(ended.saturating_sub(self.measure_from));
        let closed = self.options.load.closed;
        let mut achieved = if measured_s > 0.0 { counts.accepted as f64 / measured_s } else { 0.0 };
        achieved = (achieved * 1_000.0).round() / 1_000.0;
        let interrupted = self.interrupted() && self.aborted.is_none();
        let slope = slope(&self.lag, self.measure_from, ended);
        let offered = if closed { achieved } else { self.options.rate };
        let unsent = self.judge.recorder.unsent_count();
        let mut summary = Summary {
            verdict: Verdict::Pass,
            reasons: Vec::new(),
            interrupted,
            mode: if closed { "closed (hides stalls)".into() } else { "open".into() },
            offered_per_s: offered,
            achieved_per_s: achieved,
            sent: counts.sent,
            accepted: counts.accepted,
            refused: counts.refused,
            rejected: counts.rejected,
            failed: counts.failed,
            timed_out: counts.timed_out,
            unknown: counts.unknown,
            settled: counts.settled,
            unchanged: counts.accepted.saturating_sub(counts.changed),
            unsent,
            preloaded: heard.preloaded,
            warmup_s: self.options.load.warmup.as_secs_f64(),
            measured_s,
            drain_s,
            command: latency(Measure::Command),
            service: latency(Measure::Service),
            read: latency(Measure::Read),
            reads_failed: self.judge.recorder.reads().1,
            l2c: latency(Measure::L2c),
            send_delay: latency(Measure::SendDelay),
            own_delay: latency(Measure::OwnDelay),
            outstanding: left.len() as u64,
            lag_slope_per_s: (slope * 1_000.0).round() / 1_000.0,
            flat_lag: slope <= 0.005 * offered && drain_s <= 2.0,
            violations: Violations::default(),
            examples: Vec::new(),
            cross_check,
            view_compared,
            slo: Vec::new(),
            cpu: self.cpu_shares.map(|share| (share * 1_000.0).round() / 1_000.0),
            stages: Vec::new(),
            usage: Vec::new(),
            watch_interruptions: heard.interruptions,
            watch_resets: heard.resets,
            foreign_events: self.judge.checker.foreign(),
        };
        if let Some(check) = cross_check {
            for _ in 0..check.contradictions {
                let text = "a read by id that began after the watch had shown a version missed it";
                self.judge.checker.breach(crate::journal::Breach::Regressed(text.to_owned()));
            }
        }
        summary.violations = self.judge.violations();
        summary.examples = self.judge.checker.examples().to_vec();
        if summary.violations.lost > 0 {
            self.look_for(&left, &mut summary.examples);
        }
        self.give_verdict(&mut summary);
        Ok(summary)
    }

    /// Adds to the examples of lost writes what a read by id shows of them: lost on the way, or
    /// merely never told by the watch.
    fn look_for(&self, left: &[crate::checker::Write], examples: &mut [String]) {
        let targets = &self.options.targets;
        let Some(view) = targets.views().ok().and_then(|views| views.into_iter().next()) else { return };
        let mut exchange = Exchange::new(view, &targets.api_key);
        for write in left.iter().take(examples.len()) {
            let id = crate::document::uuid_text(write.id);
            let Ok(reply) = exchange.get(&format!("/v1/signals/{id}")) else { return };
            let shown = match (reply.version, crate::probe::deleted_version(&reply.body)) {
                (Some(version), _) if reply.status == 200 => format!("version {version}"),
                (_, Some(version)) if reply.status == 404 => format!("its deletion at version {version}"),
                _ => format!("nothing ({})", reply.status),
            };
            for example in examples.iter_mut().filter(|example| example.starts_with(&format!("lost: {id}"))) {
                if !example.contains("a read by id") {
                    example.push_str(&format!("; a read by id shows {shown}"));
                }
            }
        }
    }

    fn give_verdict(&self, summary: &mut Summary) {
        let violations = summary.violations;
        if violations.total() > 0 {
            let names = [
                ("lost", violations.lost),
                ("regressed", violations.regressed),
                ("resurrected", violations.resurrected),
                ("phantom", violations.phantom),
                ("stale_with_token", violations.stale_with_token),
                ("view_mismatch", violations.view_mismatch),
            ];
            let found: Vec<_> = names.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{name} {n}")).collect();
            summary.object(Verdict::Incorrect, format!("promises were broken: {}", found.join(", ")));
        }
        let own = summary.own_delay.map_or(0.0, |delay| delay.p99_ms);
        let limit = summary.l2c.map_or(1.0, |l2c| (l2c.p99_ms / 10.0).max(1.0));
        let mut own_fault = false;
        if own > limit {
            own_fault = true;
            summary.object(
                Verdict::Invalid,
                format!("the generator itself sent late: {own:.3} ms at the 99th percentile, {limit:.3} ms allowed"),
            );
        }
        for (name, share) in ["pacing", "observing", "judging"].iter().zip(summary.cpu) {
            if share > 0.8 {
                own_fault = true;
                let reason = format!("the generator's {name} thread used {:.0} % of a core", share * 100.0);
                summary.object(Verdict::Invalid, reason);
            }
        }
        if let Some(check) = summary.cross_check
            && check.samples >= 20
            && !check.agree
        {
            summary.object(
                Verdict::Invalid,
                format!(
                    "the watch ({:.3} ms) and the sampled reads ({:.3} ms) disagree on when writes became visible",
                    check.watch_p50_ms, check.reads_p50_ms
                ),
            );
        }
        if let Some(why) = &self.aborted {
            summary.object(Verdict::SloFailed, why.clone());
        }
        let closed = self.options.load.closed;
        if !closed && summary.measured_s > 0.0 && summary.achieved_per_s < 0.99 * summary.offered_per_s {
            let busiest = summary.service.map_or(0.0, |service| service.p50_ms);
            let reason = format!(
                "unsustainable at this rate: {:.0} accepted per second of {:.0} offered (median service time {busiest:.3} ms, {} connections, {} refused, {} unsent)",
                summary.achieved_per_s,
                summary.offered_per_s,
                self.options.load.connections,
                summary.refused,
                summary.unsent
            );
            let verdict = if own_fault { Verdict::Invalid } else { Verdict::SloFailed };
            summary.object(verdict, reason);
        } else if !closed && summary.lag_slope_per_s > 0.005 * summary.offered_per_s && summary.drain_s > 2.0 {
            let reason = format!(
                "unsustainable at this rate: writes become visible more slowly than they are accepted (outstanding grew by {:.0}/s, {:.1} s to drain)",
                summary.lag_slope_per_s, summary.drain_s
            );
            summary.object(Verdict::SloFailed, reason);
        }
        if summary.outstanding > 0 && violations.lost == 0 {
            let reason = format!("{} accepted writes were not visible by the end of the drain", summary.outstanding);
            summary.object(Verdict::SloFailed, reason);
        }
    }

    /// Walks both planes, unless told not to or while the view is known to be behind.
    fn compare_planes(&mut self, outstanding: u64, lost: bool) -> String {
        if self.options.load.no_verify {
            return "not asked for".to_owned();
        }
        if outstanding > 0 && !lost {
            return "no: the view was still behind at the end of the drain".to_owned();
        }
        self.live.say("comparing Postgres with the view");
        let targets = &self.options.targets;
        let exchanges = (|| {
            let control = Exchange::new(targets.control()?, &targets.api_key);
            let view = Exchange::new(targets.views()?.swap_remove(0), &targets.api_key);
            Ok::<_, EndpointError>((control, view))
        })();
        let Ok((mut control, mut view)) = exchanges else {
            return "no: a name no longer resolves".to_owned();
        };
        let checker = &self.judge.checker;
        let mut behind = Vec::new();
        let mut seen = std::collections::HashMap::new();
        let outcome = verify::compare(&mut control, &mut view, &mut |id, version| {
            seen.insert(id, version);
        });
        let unsure = self.judge.recorder.open_entities();
        for (id, expected) in checker.expectations().filter(|(id, _)| !unsure.contains(id)) {
            let there = seen.get(&id).copied();
            let right = if expected.deleted { there.is_none() } else { there >= Some(expected.version) };
            if !right {
                behind.push(format!(
                    "{}: the view shows {there:?} where version {}{} was accepted",
                    crate::document::uuid_text(id),
                    expected.version,
                    if expected.deleted { " (a deletion)" } else { "" }
                ));
            }
        }
        match outcome {
            Ok(comparison) => {
                self.judge.checker.mismatch(comparison.different, &comparison.examples);
                // Lost from both planes alike: the comparison can't see it, the checker can.
                if comparison.different == 0 && !lost && !behind.is_empty() {
                    self.judge.checker.mismatch(behind.len() as u64, &behind);
                }
                format!("yes: {} entities, {} differ", comparison.entities, comparison.different)
            }
            Err(error) => format!("no: {error}"),
        }
    }
}

/// Least-squares slope of the outstanding writes over the second half of the measured phase, per
/// second.
fn slope(samples: &[(u64, f64)], from: u64, to: u64) -> f64 {
    let middle = from.saturating_add(to) / 2;
    let points: Vec<(f64, f64)> =
        samples.iter().filter(|(at, _)| *at >= middle && *at <= to).map(|&(at, n)| (seconds(at - middle), n)).collect();
    let count = points.len() as f64;
    if points.len() < 3 {
        return 0.0;
    }
    let mean = |f: fn(&(f64, f64)) -> f64| points.iter().map(f).sum::<f64>() / count;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let covariance: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    let variance: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
    if variance > 0.0 { covariance / variance } else { 0.0 }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_that_of_the_second_half() {
        let samples: Vec<_> =
            (0..100).map(|i| (i * SECOND / 10, if i < 50 { 1_000 - i } else { 100 + i * 2 } as f64)).collect();
        let slope = slope(&samples, 0, 10 * SECOND);
        assert!((slope - 20.0).abs() < 0.1, "{slope}");
    }
}
