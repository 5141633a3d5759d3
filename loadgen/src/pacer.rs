//! Sends commands when they are due, and reads their answers.
//!
//! *Input*: a [`Schedule`], a [`Workload`], orders. *Output*: a [`CommandRecord`] for each command.
//! *Bound*: one request in flight per connection; what is due waits in the schedule, which needs no
//! memory. *On shutdown*: stops at the next turn, within 10 ms.
//!
//! One thread and one `epoll`: each turn sends everything that is due and can be sent, then sleeps
//! until the next arrival or the next answer. Between any two events of a turn the schedule is
//! looked at again, so that a burst of answers delays no arrival by more than one answer's work.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use crate::client::{Completion, Endpoint, Failure, Head, Poller, Pool};
use crate::clock::{Clock, MILLISECOND};
use crate::document::{self, RunTag};
use crate::journal::{Bracket, CommandRecord, Message, Outcome, Phase, Reporter, Shared, thread_cpu};
use crate::priority::Priority;
use crate::probe::Probes;
use crate::schedule::Schedule;
use crate::workload::{BatchResult, Kind, Operation, Workload};

/// How often time-outs, reconnects and reports are looked after.
const HOUSEKEEPING: u64 = 5 * MILLISECOND;
/// First pause before an open outcome is asked for again; doubles to [`SETTLE_PAUSE_MAX`].
const SETTLE_PAUSE: u64 = 50 * MILLISECOND;
const SETTLE_PAUSE_MAX: u64 = 1_000 * MILLISECOND;
/// How long after the end of the schedule commands that were due before it may still be sent.
const GRACE: u64 = 250 * MILLISECOND;
/// Poller numbers of the sampling connections start here.
const PROBE_TOKENS: u64 = 1 << 32;

/// What the judge asks of the pacer.
#[derive(Debug)]
pub enum Order {
    /// Send `count` creates as fast as the connections go.
    Creates {
        /// How many.
        count: u64,
        /// As what they count.
        phase: Phase,
    },
    /// Follow the schedule.
    Follow {
        /// Intended times.
        schedule: Schedule,
        /// Intended times from here on are measured.
        measure_from: u64,
        /// Ignore the spacing: the next command goes when a connection is free.
        closed: bool,
    },
}

/// How the pacer was told to work.
#[derive(Debug, Clone)]
pub struct PacerSettings {
    /// The control plane.
    pub control: Endpoint,
    /// Connections to it.
    pub connections: usize,
    /// After this an answer is no longer waited for, nanoseconds.
    pub timeout: u64,
    /// Mark of this run.
    pub run: RunTag,
    /// What to ask the kernel for.
    pub priority: Priority,
    /// Requests carry an `Idempotency-Key`, so that open outcomes can be settled.
    pub idempotency: bool,
    /// Share of accepted commands to sample with reads, per second at most.
    pub probes: Option<crate::probe::ProbeSettings>,
}

#[derive(Debug)]
struct InFlight {
    operations: Vec<Operation>,
    batch: bool,
    phase: Phase,
    intended: u64,
    sent: u64,
    attempt: u32,
}

#[derive(Debug)]
struct Unsettled {
    request: Vec<u8>,
    flight: InFlight,
    not_before: u64,
}

#[derive(Debug)]
enum Source {
    Nothing,
    Creates { left: u64, phase: Phase },
    Follow { send: Schedule, notice: Schedule, measure_from: u64, closed: bool },
}

/// The pacing thread.
pub struct Pacer {
    clock: Clock,
    settings: PacerSettings,
    shared: Arc<Shared>,
    reporter: Reporter,
    orders: Receiver<Order>,
    workload: Workload,
    poller: Poller,
    pool: Pool<InFlight>,
    probes: Option<Probes>,
    source: Source,
    unsettled: VecDeque<Unsettled>,
    records: Vec<CommandRecord>,
    own_delays: Vec<u64>,
    brackets: Vec<Bracket>,
    order_open: bool,
    idle_said: bool,
    /// When this thread last meant to wake.
    planned: u64,
}

impl Pacer {
    /// A pacer that has connected to nothing yet.
    ///
    /// # Errors
    /// No file descriptor for its poller.
    pub fn new(
        clock: Clock,
        settings: PacerSettings,
        workload: Workload,
        shared: Arc<Shared>,
        reporter: Reporter,
        orders: Receiver<Order>,
    ) -> std::io::Result<Self> {
        let pool = Pool::new(settings.control.clone(), settings.connections, 0);
        let probes = settings.probes.clone().map(|probes| Probes::new(probes, PROBE_TOKENS));
        Ok(Self {
            clock,
            settings,
            shared,
            reporter,
            orders,
            workload,
            poller: Poller::new()?,
            pool,
            probes,
            source: Source::Nothing,
            unsettled: VecDeque::new(),
            records: Vec::with_capacity(1024),
            own_delays: Vec::with_capacity(1024),
            brackets: Vec::new(),
            order_open: false,
            idle_said: true,
            planned: 0,
        })
    }

    /// Works until [`Shared::stop`].
    pub fn run(mut self) {
        let _ = self.shared.pacer_priority.set(self.settings.priority.apply());
        let mut ready = Vec::with_capacity(256);
        let mut next_housekeeping = 0;
        while !self.shared.stopped() {
            let mut now = self.clock.now();
            if now >= next_housekeeping {
                self.housekeeping(now);
                next_housekeeping = now + HOUSEKEEPING;
            }
            now = self.dispatch();
            self.planned = self.next_due().unwrap_or(u64::MAX).min(next_housekeeping);
            if let Err(error) = self.poller.wait(self.planned.saturating_sub(now), &mut ready) {
                self.reporter.send(Message::Fatal(format!("waiting for sockets failed: {error}")));
                break;
            }
            if !self.pool.has_idle() {
                self.notice(self.clock.now());
            }
            for &event in &ready {
                let now = self.clock.now();
                if event.token >= PROBE_TOKENS {
                    if let Some(probes) = &mut self.probes {
                        probes.on_ready(&self.poller, event, now, &mut self.reporter, &mut self.brackets);
                    }
                } else if let Some(completion) = self.pool.on_ready(&self.poller, event, now) {
                    self.complete(completion, now);
                }
                self.dispatch();
            }
        }
        self.report();
        self.reporter.drain();
    }

    /// Sends everything that is due and finds a connection; the time afterwards.
    fn dispatch(&mut self) -> u64 {
        loop {
            let now = self.clock.now();
            if self.settle_one(now) {
                continue;
            }
            let idle = self.pool.has_idle();
            let (intended, phase, only) = match &mut self.source {
                Source::Nothing => return now,
                Source::Creates { left: 0, .. } => return now,
                Source::Creates { left, phase } => {
                    if !idle {
                        return now;
                    }
                    *left -= 1;
                    (now, *phase, Some(Kind::Create))
                }
                Source::Follow { send, notice, measure_from, closed } => {
                    let Some(due) = send.peek().filter(|&due| due <= now || *closed) else {
                        return now;
                    };
                    if *closed && now >= send.end() {
                        send.cut(0);
                        return now;
                    }
                    if !idle {
                        self.notice(now);
                        return now;
                    }
                    let intended = if *closed { now.max(send.start()) } else { due };
                    if *closed && now < send.start() {
                        return now;
                    }
                    if send.index() == notice.index() {
                        if intended >= *measure_from {
                            self.own_delays.push(now.saturating_sub(intended));
                        }
                        notice.advance();
                    }
                    send.advance();
                    let measured = intended >= *measure_from;
                    (intended, if measured { Phase::Measured } else { Phase::Warmup }, None)
                }
            };
            self.send(intended, phase, only, now);
        }
    }

    /// Arrivals that are due while every connection is busy: the servers make them wait. Ours is
    /// only how much later we look than we meant to; there was no reason to wake for each of them.
    fn notice(&mut self, now: u64) {
        let Source::Follow { notice, measure_from, closed: false, .. } = &mut self.source else { return };
        while let Some(due) = notice.peek().filter(|&due| due <= now) {
            if due >= *measure_from {
                self.own_delays.push(now.saturating_sub(due.max(self.planned)));
            }
            notice.advance();
        }
    }

    fn send(&mut self, intended: u64, phase: Phase, only: Option<Kind>, now: u64) {
        let operations = self.workload.choose(only);
        let batch = operations.len() > 1;
        if phase == Phase::Measured {
            self.shared.measured_sent.fetch_add(operations.len() as u64, Ordering::Relaxed);
        }
        let rendered = operations.clone();
        let flight = InFlight { operations, batch, phase, intended, sent: now, attempt: 0 };
        let workload = &mut self.workload;
        self.pool.send(&self.poller, flight, now + self.settings.timeout, |out| {
            workload.render(&rendered, batch, out);
        });
    }

    /// Repeats one command whose outcome is open, if one is due; true if it did.
    fn settle_one(&mut self, now: u64) -> bool {
        let due = self.unsettled.front().is_some_and(|open| open.not_before <= now);
        if !due || !self.pool.has_idle() {
            return false;
        }
        let Some(open) = self.unsettled.pop_front() else {
            return false;
        };
        let deadline = now + self.settings.timeout;
        self.pool.send(&self.poller, open.flight, deadline, |out| {
            out.extend_from_slice(&open.request);
        })
    }

    fn next_due(&self) -> Option<u64> {
        let settle = self.unsettled.front().map(|open| open.not_before);
        if !self.pool.has_idle() {
            return None;
        }
        let due = match &self.source {
            Source::Follow { send, closed: false, .. } => send.peek(),
            Source::Follow { send, closed: true, .. } => send.peek().map(|_| send.start()),
            _ => None,
        };
        match (settle, due) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    fn housekeeping(&mut self, now: u64) {
        self.pool.reconnect(&self.poller, now);
        while let Some(completion) = self.pool.expired(now) {
            self.complete(completion, now);
        }
        if let Some(probes) = &mut self.probes {
            probes.housekeeping(&self.poller, now);
        }
        while let Ok(order) = self.orders.try_recv() {
            self.order_open = matches!(order, Order::Creates { .. });
            self.idle_said = false;
            self.source = match order {
                Order::Creates { count, phase } => Source::Creates { left: count, phase },
                Order::Follow { schedule, measure_from, closed } => {
                    Source::Follow { notice: schedule.clone(), send: schedule, measure_from, closed }
                }
            };
        }
        if self.shared.interrupted.load(Ordering::Relaxed)
            && let Source::Follow { send, notice, .. } = &mut self.source
        {
            send.cut(now);
            notice.cut(now);
        }
        self.give_up(now);
        self.shared.pacer_cpu.store(thread_cpu(), Ordering::Relaxed);
        if let Source::Follow { send, notice, .. } = &self.source {
            let backlog = notice.index().saturating_sub(send.index());
            self.shared.backlog.store(backlog, Ordering::Relaxed);
        }
        self.report();
        let exhausted = match &self.source {
            Source::Nothing => true,
            Source::Creates { left, .. } => *left == 0,
            Source::Follow { send, .. } => send.peek().is_none(),
        };
        if exhausted && self.pool.busy() == 0 {
            if self.order_open && self.unsettled.is_empty() {
                self.order_open = false;
                self.reporter.send(Message::OrderDone);
            }
            if !self.idle_said && self.unsettled.is_empty() {
                self.idle_said = true;
                self.reporter.send(Message::CommandsIdle);
            }
        }
    }

    /// Ends the schedule: what the servers have kept waiting past its end is not sent any more.
    fn give_up(&mut self, now: u64) {
        let Source::Follow { send, measure_from, .. } = &mut self.source else { return };
        if now < send.end().saturating_add(GRACE) || send.peek().is_none() {
            return;
        }
        let mut waits = Vec::new();
        while let Some(due) = send.peek() {
            if due >= *measure_from {
                waits.push(now - due);
            }
            send.advance();
        }
        self.reporter.send(Message::Unsent(waits));
    }

    fn report(&mut self) {
        if !self.records.is_empty() {
            let records = std::mem::replace(&mut self.records, Vec::with_capacity(256));
            self.reporter.send(Message::Commands(records));
        }
        if !self.own_delays.is_empty() {
            let delays = std::mem::replace(&mut self.own_delays, Vec::with_capacity(256));
            self.reporter.send(Message::OwnDelays(delays));
        }
        if !self.brackets.is_empty() {
            self.reporter.send(Message::Brackets(std::mem::take(&mut self.brackets)));
        }
        self.reporter.push();
    }

    /// Turns an answer, or its absence, into records.
    fn complete(&mut self, completion: Completion<InFlight>, now: u64) {
        let Completion { slot, tag: flight, result } = completion;
        let verdict = match &result {
            Ok(head) => self.judge(slot, head, &flight),
            Err(Failure::TimedOut) => Verdict::Open(Outcome::TimedOut, 0),
            Err(Failure::Lost) => Verdict::Open(Outcome::Unknown, 0),
            Err(Failure::Garbled) => Verdict::Open(Outcome::Unknown, 0),
        };
        let settled = flight.attempt > 0;
        match verdict {
            Verdict::Open(outcome, status) => {
                if !settled {
                    for &operation in &flight.operations {
                        self.workload.unknown(operation);
                        let id = self.workload.id_of(operation).unwrap_or(0);
                        self.record(&flight, operation, Row { id, ..Row::empty(outcome, status) }, now);
                    }
                }
                if self.settings.idempotency {
                    let request = self.pool.request(slot).to_vec();
                    let pause = SETTLE_PAUSE << flight.attempt.min(8);
                    let not_before = now + pause.min(SETTLE_PAUSE_MAX);
                    let flight = InFlight { attempt: flight.attempt + 1, ..flight };
                    self.unsettled.push_back(Unsettled { request, flight, not_before });
                }
            }
            Verdict::Batch(results, status) => self.complete_batch(&flight, &results, status, now),
            Verdict::One { outcome, status, id, version, hash } => {
                let operation = flight.operations[0];
                let mut sampled = false;
                if let (Outcome::Accepted { changed: true }, Ok(head), Some(probes)) =
                    (outcome, &result, &mut self.probes)
                    && flight.phase == Phase::Measured
                {
                    let token = &self.pool.received(slot)[head.token.clone()];
                    let deleted = operation.kind == Kind::Delete;
                    sampled = probes.offer(&self.poller, id, version, deleted, flight.intended, token, now);
                }
                let row = Row { outcome, status, id, version, hash, sampled };
                self.settle(&flight, operation, row, now);
            }
        }
        self.pool.release(slot, now);
    }

    fn judge(&self, slot: usize, head: &Head, flight: &InFlight) -> Verdict {
        let body = self.pool.body(slot);
        let status = head.status;
        let no_change = |outcome| Verdict::One { outcome, status, id: 0, version: 0, hash: 0 };
        match status {
            200..=299 if flight.batch => match serde_json::from_slice::<BatchAnswer>(body) {
                Ok(answer) if answer.results.len() == flight.operations.len() => Verdict::Batch(answer.results, status),
                _ => Verdict::Batch(Vec::new(), status),
            },
            200..=299 => {
                let operation = flight.operations[0];
                if operation.kind == Kind::Delete {
                    let id = self.workload.id_of(operation).unwrap_or(0);
                    let version = head.version.or_else(|| self.workload.version_of_delete(operation)).unwrap_or(0);
                    let outcome = Outcome::Accepted { changed: true };
                    return Verdict::One { outcome, status, id, version, hash: 0 };
                }
                match document::parse(body, &self.settings.run) {
                    Some(document) => Verdict::One {
                        // A body of another operation means that this one left no trace of its own.
                        outcome: Outcome::Accepted { changed: document.op == Some(operation.op) },
                        status,
                        id: document.id,
                        version: head.version.unwrap_or(document.version),
                        hash: document.hash,
                    },
                    None => no_change(Outcome::Failed),
                }
            }
            // Still running under this key: ask again.
            409 if flight.attempt > 0 && contains(body, b"idempotency-in-progress") => {
                Verdict::Open(Outcome::Unknown, status)
            }
            503 if contains(body, b"outcome-unknown") => Verdict::Open(Outcome::Unknown, status),
            // A repetition that was turned away says nothing about the first attempt.
            500..=599 | 429 if flight.attempt > 0 => Verdict::Open(Outcome::Unknown, status),
            503 | 429 => no_change(Outcome::Refused),
            400..=499 => no_change(Outcome::Rejected),
            _ => no_change(Outcome::Failed),
        }
    }

    fn complete_batch(&mut self, flight: &InFlight, results: &[BatchResult], status: u16, now: u64) {
        for (i, &operation) in flight.operations.iter().enumerate() {
            let Some(result) = results.get(i) else {
                self.settle(flight, operation, Row::empty(Outcome::Failed, status), now);
                continue;
            };
            let id = result.uuid().or_else(|| self.workload.id_of(operation)).unwrap_or(0);
            let version = result.version.or_else(|| self.workload.version_of_delete(operation));
            let outcome = match result.status {
                200..=299 => Outcome::Accepted { changed: true },
                503 | 429 => Outcome::Refused,
                400..=499 => Outcome::Rejected,
                _ => Outcome::Failed,
            };
            let version = version.unwrap_or(0);
            let row = Row { outcome, status: result.status, id, version, hash: 0, sampled: false };
            self.settle(flight, operation, row, now);
        }
    }

    fn settle(&mut self, flight: &InFlight, operation: Operation, row: Row, now: u64) {
        match row.outcome {
            Outcome::Accepted { .. } => self.workload.accepted(operation, row.id, row.version),
            _ if row.status == 404 => self.workload.vanished(operation),
            _ => self.workload.refused(operation),
        }
        self.record(flight, operation, row, now);
    }

    fn record(&mut self, flight: &InFlight, operation: Operation, row: Row, now: u64) {
        self.records.push(CommandRecord {
            kind: operation.kind,
            phase: flight.phase,
            outcome: row.outcome,
            settled: flight.attempt > 0,
            sampled: row.sampled,
            status: row.status,
            op: operation.op,
            id: row.id,
            version: row.version,
            hash: row.hash,
            intended: flight.intended,
            sent: flight.sent,
            answered: now,
        });
        if self.records.len() >= 512 {
            self.report();
        }
    }
}

/// What one command's answer said.
struct Row {
    outcome: Outcome,
    status: u16,
    id: u128,
    version: u32,
    hash: u64,
    sampled: bool,
}

impl Row {
    fn empty(outcome: Outcome, status: u16) -> Self {
        Self { outcome, status, id: 0, version: 0, hash: 0, sampled: false }
    }
}

#[derive(serde::Deserialize)]
struct BatchAnswer {
    results: Vec<BatchResult>,
}

enum Verdict {
    One { outcome: Outcome, status: u16, id: u128, version: u32, hash: u64 },
    Batch(Vec<BatchResult>, u16),
    Open(Outcome, u16),
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(text, part).is_some()
}
