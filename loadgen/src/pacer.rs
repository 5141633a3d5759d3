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

use crate::client::{Endpoint, Poller, Pool};
use crate::clock::{Clock, MILLISECOND};
use crate::document::RunTag;
use crate::journal::{Bracket, CommandRecord, Message, Phase, Reporter, Shared, thread_cpu};
use crate::priority::Priority;
use crate::probe::{FIRST_TOKEN, Probes};
use crate::schedule::{GRACE, Schedule};
use crate::workload::{Kind, Operation, Workload};

mod answers;

/// How often time-outs, reconnects and reports are looked after.
const HOUSEKEEPING: u64 = 5 * MILLISECOND;
/// First pause before an open outcome is asked for again; doubles to [`SETTLE_PAUSE_MAX`].
const SETTLE_PAUSE: u64 = 50 * MILLISECOND;
const SETTLE_PAUSE_MAX: u64 = 1_000 * MILLISECOND;

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
    /// Send nothing more: what waits for an answer has timed out.
    GiveUp,
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
    /// Orders so far.
    ordered: u64,
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
        let probes = settings.probes.clone().map(Probes::new);
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
            ordered: 0,
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
                if event.token >= FIRST_TOKEN {
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
            self.ordered += 1;
            self.order_open = matches!(order, Order::Creates { .. });
            self.idle_said = false;
            self.source = match order {
                Order::Creates { count, phase } => Source::Creates { left: count, phase },
                Order::Follow { schedule, measure_from, closed } => {
                    Source::Follow { notice: schedule.clone(), send: schedule, measure_from, closed }
                }
                Order::GiveUp => {
                    self.give_up(now);
                    while let Some(completion) = self.pool.expired(u64::MAX) {
                        self.complete(completion, now);
                    }
                    self.unsettled.clear();
                    Source::Nothing
                }
            };
        }
        if self.shared.interrupted.load(Ordering::Relaxed)
            && let Source::Follow { send, notice, .. } = &mut self.source
        {
            send.cut(now);
            notice.cut(now);
        }
        if let Source::Follow { send, .. } = &self.source
            && now >= send.end().saturating_add(GRACE)
        {
            self.give_up(now);
        }
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
                self.reporter.send(Message::CommandsIdle(self.ordered));
            }
        }
    }

    /// Ends the schedule: what the servers have kept waiting past its end is not sent any more.
    fn give_up(&mut self, now: u64) {
        let Source::Follow { send, measure_from, .. } = &mut self.source else { return };
        let waits = send.give_up(now, *measure_from);
        if !waits.is_empty() {
            self.reporter.send(Message::Unsent(waits));
        }
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
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc::sync_channel;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::clock::SECOND;
    use crate::journal::Outcome;
    use crate::workload::{Address, Shape, Skew};

    const PATIENCE: Duration = Duration::from_secs(10);

    /// The next connection, once there is something of a request on it.
    fn asked(server: &TcpListener) -> TcpStream {
        let begin = Instant::now();
        let mut stream = loop {
            match server.accept() {
                Ok((stream, _)) => break stream,
                Err(error) => assert!(begin.elapsed() < PATIENCE, "the pacer did not connect: {error}"),
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read_exact(&mut [0]).expect("a request");
        stream
    }

    #[test]
    fn what_is_in_flight_at_the_end_has_timed_out_and_an_idle_pacer_says_after_which_order() {
        // A server that takes connections, and never answers.
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        server.set_nonblocking(true).unwrap();
        let settings = PacerSettings {
            control: Endpoint::parse(&format!("http://{}", server.local_addr().unwrap())).unwrap(),
            connections: 2,
            timeout: 600 * SECOND,
            run: *b"00000001",
            priority: Priority::None,
            idempotency: true,
            probes: None,
        };
        let shape = Shape {
            mix: "create=1".parse().unwrap(),
            skew: Skew::Uniform,
            payload_bytes: (10, 20),
            batch_size: 1,
            idempotency: true,
        };
        let address = Address { authority: "h:1".to_owned(), prefix: String::new(), api_key: "nxs_k".to_owned() };
        let workload = Workload::new(shape, settings.run, 7, &address);
        let shared = Arc::new(Shared::default());
        let ((sender, heard), (orders, ordered)) = (sync_channel(64), sync_channel(4));
        let reporter = Reporter::new(sender, 64, Arc::clone(&shared));
        let pacer = Pacer::new(Clock::start(), settings, workload, Arc::clone(&shared), reporter, ordered).unwrap();
        let pacing = std::thread::spawn(move || pacer.run());
        let hear = || heard.recv_timeout(PATIENCE).expect("a word of the pacer");

        orders.send(Order::Creates { count: 0, phase: Phase::Preload }).unwrap();
        assert!(matches!(hear(), Message::OrderDone));
        assert!(matches!(hear(), Message::CommandsIdle(1)));
        orders.send(Order::Creates { count: 2, phase: Phase::Measured }).unwrap();
        let _kept = [asked(&server), asked(&server)];
        orders.send(Order::GiveUp).unwrap();
        let Message::Commands(records) = hear() else { panic!("not the commands in flight") };
        let timed_out = |record: &CommandRecord| record.outcome == Outcome::TimedOut && record.answered > record.sent;
        assert!(records.len() == 2 && records.iter().all(timed_out), "{records:?}");
        assert!(matches!(hear(), Message::CommandsIdle(3)));
        shared.stop.store(true, Ordering::Relaxed);
        pacing.join().unwrap();
    }
}
