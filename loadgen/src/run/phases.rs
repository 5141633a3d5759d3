//! The phases in their order, and the loop in which the judge listens meanwhile.

use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, SystemTime};

use super::{RunError, Running, TURN};
use crate::clock::{MILLISECOND, SECOND, nanos, seconds};
use crate::journal::{Phase, thread_cpu};
use crate::judge::Judge;
use crate::observer::ReadOrder;
use crate::pacer::Order;
use crate::recorder::{Measure, Surroundings};
use crate::schedule::{Arrivals, Schedule};
use crate::stages::{Scrape, Stage, Usage};
use crate::summary::Summary;

/// How long the watch may take to open.
const WATCH_DEADLINE: u64 = 10 * SECOND;
/// With nothing new for this long, and something outstanding, canaries are sent.
const QUIET: u64 = 1_500 * MILLISECOND;
/// Enough creates that every partition gets some, of as many as there may be.
const CANARIES: u64 = 512;
/// The share of canaries that must have been accepted and seen to say that anything is lost, not late. For our own
/// planes one in the same partition is proof ([`crate::checker::Checker::overtaken`]); of others, which may choose
/// partitions in another way, it is not known whether one stands still.
const CANARIES_SEEN: f64 = 0.8;
/// How long the other threads may take to say what they have given up.
const GIVE_UP: u64 = SECOND;
/// Between the order to begin and the first arrival.
const LEAD: u64 = 50 * MILLISECOND;
/// Steps over which the number of outstanding writes is averaged, for its slope.
const LAG_STEP: u64 = 100 * MILLISECOND;

impl Running {
    /// Everything between the start of the threads and their end.
    pub(super) fn phases(&mut self, per_request: f64, seed: u64) -> Result<(Summary, SystemTime), RunError> {
        let deadline = self.clock.now() + WATCH_DEADLINE;
        self.wait(deadline, |judge| judge.heard.watch_ready)?;
        if !self.judge.heard.watch_ready {
            let lost = self.judge.heard.watch_lost.iter().flatten().next().cloned();
            let why = lost.unwrap_or_else(|| "no ready event".to_owned());
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
            let order = ReadOrder::Follow { schedule, measure_from: self.measure_from };
            self.judge.heard.reads_open = true;
            let _ = self.read_orders.send(order);
        }
        self.order(Order::Follow { schedule, measure_from: self.measure_from, closed: load.closed });
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

    /// Gives the pacer an order.
    fn order(&mut self, order: Order) {
        self.ordered += 1;
        let _ = self.orders.send(order);
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
        self.order(Order::Creates { count, phase: Phase::Preload });
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
    /// that took, and whether what later writes have overtaken is lost.
    fn drain(&mut self, ended: u64) -> Result<(f64, bool), RunError> {
        let mut quiet_since = self.clock.now();
        let deadline = quiet_since + nanos(self.options.load.drain_timeout);
        let mut last = self.judge.last_visible();
        let mut canaries = false;
        loop {
            if self.shared.overrun() {
                // Of what is open now nobody will hear: the rest of what was told is taken in, and that is all.
                let until = self.clock.now() + SECOND;
                self.wait_uninterrupted(until, |_| false)?;
                return Ok((seconds(self.clock.now().saturating_sub(ended)), false));
            }
            let ordered = self.ordered;
            let answered = |judge: &Judge| judge.heard.commands_idle == ordered;
            let done = |judge: &Judge| answered(judge) && !judge.heard.reads_open && judge.checker.outstanding() == 0;
            let quiet_at = (self.clock.now() + QUIET).min(deadline);
            self.wait_uninterrupted(quiet_at, done)?;
            if done(&self.judge) {
                let until = self.judge.last_visible().max(ended);
                return Ok((seconds(until - ended), false));
            }
            let now = self.clock.now();
            if self.judge.last_visible() != last {
                (last, quiet_since) = (self.judge.last_visible(), now);
            }
            let quiet = now >= quiet_since + QUIET;
            let seen = self.judge.canaries_seen() as f64 >= CANARIES_SEEN * CANARIES as f64;
            let moved_on = quiet && seen && self.judge.heard.order_done;
            if now >= deadline || (moved_on && self.judge.checker.all_overtaken()) {
                self.give_up()?;
                return Ok((seconds(now - ended), moved_on));
            }
            if !canaries && quiet && answered(&self.judge) && self.judge.checker.outstanding() > 0 {
                canaries = true;
                self.judge.heard.order_done = false;
                self.order(Order::Creates { count: CANARIES, phase: Phase::Canary });
            }
        }
    }

    /// Ends what is still in flight: it counts at its wait, as timed out.
    fn give_up(&mut self) -> Result<(), RunError> {
        self.order(Order::GiveUp);
        let _ = self.read_orders.send(ReadOrder::GiveUp);
        let (ordered, until) = (self.ordered, self.clock.now() + GIVE_UP);
        self.wait_uninterrupted(until, |judge| judge.heard.commands_idle == ordered && !judge.heard.reads_open)
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

    pub(super) fn interrupted(&self) -> bool {
        self.shared.interrupted.load(Ordering::Relaxed)
    }

    fn cpu(&self) -> (u64, u64, u64) {
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        (load(&self.shared.pacer_cpu), load(&self.shared.observer_cpu), thread_cpu())
    }

    /// What is due every second, and every tenth of one.
    fn turn(&mut self, now: u64) -> Result<(), RunError> {
        self.memory.look(now, self.measure_from, self.measure_to);
        self.lag.look(self.judge.checker.outstanding());
        if now >= self.next_lag {
            self.next_lag += LAG_STEP;
            self.lag.step(now, now < self.measure_to);
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
}
