//! Looks at the view: the watch, and reads at a rate of their own.
//!
//! *Input*: the watch of every view server, a schedule of reads. *Output*: [`Sighting`]s and
//! [`ReadRecord`]s with their times, and the breaches that reads alone can prove. *Bound*: one
//! stream for each view server, one read in flight per connection. *On shutdown*: within 10 ms.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use crate::client::{Endpoint, Poller, Pool};
use crate::clock::{Clock, MILLISECOND};
use crate::document::RunTag;
use crate::journal::{Message, ReadRecord, Reporter, Shared, Sighting, thread_cpu};
use crate::keys::{Keyed, PackedId, Record};
use crate::priority::Priority;
use crate::random::Random;
use crate::schedule::Schedule;

mod reads;
mod watch;

use watch::Watch;

const HOUSEKEEPING: u64 = 5 * MILLISECOND;
/// Poller number of the first view server's watch; the next one's is below it.
const WATCH_TOKEN: u64 = u64::MAX;

/// How the observer was told to work.
#[derive(Debug, Clone)]
pub struct ObserverSettings {
    /// View servers: all are watched, and reads go round them.
    pub views: Vec<Endpoint>,
    /// The caller's key.
    pub api_key: String,
    /// Connections for reads, to each view server.
    pub read_connections: usize,
    /// After this a read is no longer waited for, nanoseconds.
    pub timeout: u64,
    /// Mark of this run.
    pub run: RunTag,
    /// What to ask the kernel for.
    pub priority: Priority,
    /// Reads will be ordered: only then is it kept what they may show.
    pub reads: bool,
    /// For the choice of what is read.
    pub seed: u64,
}

/// What the judge asks of the observer.
#[derive(Debug)]
pub enum ReadOrder {
    /// Read at these times.
    Follow {
        /// Intended times.
        schedule: Schedule,
        /// Those from here on are measured.
        measure_from: u64,
    },
    /// Send nothing more: what waits for an answer has timed out.
    GiveUp,
}

/// The reads that are still to be sent, or to be waited for.
#[derive(Debug)]
struct Reading {
    schedule: Schedule,
    measure_from: u64,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    version: u32,
    deleted: bool,
}

/// What is known of an entity that may be read.
#[derive(Debug, Clone, Copy)]
struct Readable {
    id: PackedId,
    known: Known,
}

impl Record for Readable {
    fn id(&self) -> u128 {
        self.id.into()
    }
}

#[derive(Debug)]
struct Read {
    id: u128,
    intended: u64,
    sent: u64,
    measured: bool,
    /// What was known to be visible when the read was sent.
    floor: Known,
}

/// The observing thread.
pub struct Observer {
    clock: Clock,
    settings: ObserverSettings,
    shared: Arc<Shared>,
    reporter: Reporter,
    orders: Receiver<ReadOrder>,
    poller: Poller,
    watches: Vec<Watch>,
    seen: Vec<Sighting>,
    reads: Option<Reading>,
    pools: Vec<Pool<Read>>,
    next_pool: usize,
    records: Vec<ReadRecord>,
    /// Everything that may be read, in the order it appeared.
    known: Keyed<Readable>,
    random: Random,
}

impl Observer {
    /// An observer that has connected to nothing yet.
    ///
    /// # Errors
    /// No file descriptor for its poller.
    pub fn new(
        clock: Clock,
        settings: ObserverSettings,
        shared: Arc<Shared>,
        reporter: Reporter,
        orders: Receiver<ReadOrder>,
    ) -> std::io::Result<Self> {
        let pools = settings
            .views
            .iter()
            .enumerate()
            .map(|(i, view)| Pool::new(view.clone(), settings.read_connections, (i as u64) << 32))
            .collect();
        let watches = settings.views.iter().map(|_| Watch::default()).collect();
        Ok(Self {
            clock,
            random: Random::new(settings.seed ^ 0x6f62_7365_7276_6572),
            settings,
            shared,
            reporter,
            orders,
            poller: Poller::new()?,
            watches,
            seen: Vec::with_capacity(1024),
            reads: None,
            pools,
            next_pool: 0,
            records: Vec::new(),
            known: Keyed::default(),
        })
    }

    /// Works until [`Shared::stop`].
    pub fn run(mut self) {
        let _ = self.settings.priority.apply();
        let mut ready = Vec::with_capacity(256);
        let mut next_housekeeping = 0;
        while !self.shared.stopped() {
            let now = self.clock.now();
            if now >= next_housekeeping {
                self.housekeeping(now);
                next_housekeeping = now + HOUSEKEEPING;
            }
            let due = self.send_reads();
            let wake = due.unwrap_or(u64::MAX).min(next_housekeeping);
            let now = self.clock.now();
            if let Err(error) = self.poller.wait(wake.saturating_sub(now), &mut ready) {
                self.reporter.send(Message::Fatal(format!("waiting for sockets failed: {error}")));
                break;
            }
            for &event in &ready {
                let below = (WATCH_TOKEN - event.token) as usize;
                if below < self.watches.len() {
                    self.on_watch(below, event);
                } else {
                    self.on_read(event);
                }
            }
        }
        self.report();
        self.reporter.drain();
    }

    fn housekeeping(&mut self, now: u64) {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                ReadOrder::Follow { schedule, measure_from } => self.reads = Some(Reading { schedule, measure_from }),
                ReadOrder::GiveUp => self.give_up_reads(now),
            }
        }
        if self.shared.interrupted.load(Ordering::Relaxed)
            && let Some(reads) = &mut self.reads
        {
            reads.schedule.cut(now);
        }
        for view in 0..self.watches.len() {
            self.keep_watching(view, now);
        }
        for index in 0..self.pools.len() {
            if self.reads.is_some() {
                self.pools[index].reconnect(&self.poller, now);
            }
            while let Some(expired) = self.pools[index].expired(now) {
                self.finish_read(index, expired, now);
            }
        }
        self.shared.observer_cpu.store(thread_cpu(), Ordering::Relaxed);
        self.end_reads(now);
        self.report();
    }

    fn report(&mut self) {
        if !self.seen.is_empty() {
            let seen = std::mem::replace(&mut self.seen, Vec::with_capacity(256));
            self.reporter.send(Message::Seen(seen));
        }
        if !self.records.is_empty() {
            self.reporter.send(Message::Reads(std::mem::take(&mut self.records)));
        }
        self.reporter.push();
    }
}
