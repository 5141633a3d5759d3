//! Looks at the view: the watch, and reads at a rate of their own.
//!
//! *Input*: the watch of one view server, a schedule of reads. *Output*: [`Sighting`]s and
//! [`ReadRecord`]s with their times, and the breaches that reads alone can prove. *Bound*: one
//! stream, one read in flight per connection. *On shutdown*: within 10 ms.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use crate::client::{Connection, Dechunker, Endpoint, Framing, Poller, Pool, Ready, parse_head};
use crate::clock::{Clock, MILLISECOND, SECOND};
use crate::document::{self, IdHasher, RunTag};
use crate::journal::{Breach, Message, ReadRecord, Reporter, Shared, Sight, Sighting, thread_cpu};
use crate::priority::Priority;
use crate::random::Random;
use crate::schedule::Schedule;
use crate::sse;

mod reads;

const HOUSEKEEPING: u64 = 5 * MILLISECOND;
const RECONNECT_PAUSE: u64 = 100 * MILLISECOND;
/// A stream on which nothing comes for this long is dead: a comment line comes every 15 s.
const SILENCE_MAX: u64 = 40 * SECOND;
const WATCH_TOKEN: u64 = u64::MAX;

/// How the observer was told to work.
#[derive(Debug, Clone)]
pub struct ObserverSettings {
    /// View servers; the first one is watched, reads go round all.
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
    /// For the choice of what is read.
    pub seed: u64,
}

/// Start reading at these times; those from `measure_from` on are measured.
#[derive(Debug)]
pub struct ReadOrder {
    /// Intended times.
    pub schedule: Schedule,
    /// Start of the measured phase.
    pub measure_from: u64,
}

#[derive(Debug)]
enum Watch {
    Down(u64),
    Connecting(Connection),
    Head(Connection),
    Streaming { connection: Connection, chunks: Option<Dechunker> },
}

#[derive(Debug, Clone, Copy)]
struct Known {
    version: u32,
    deleted: bool,
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
    watch: Watch,
    parser: sse::Parser,
    unchunked: Vec<u8>,
    last_byte: u64,
    seen: Vec<Sighting>,
    reads: Option<ReadOrder>,
    pools: Vec<Pool<Read>>,
    next_pool: usize,
    records: Vec<ReadRecord>,
    known: HashMap<u128, Known, IdHasher>,
    /// Everything that may be read, in the order it appeared.
    ids: Vec<u128>,
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
        Ok(Self {
            clock,
            random: Random::new(settings.seed ^ 0x6f62_7365_7276_6572),
            settings,
            shared,
            reporter,
            orders,
            poller: Poller::new()?,
            watch: Watch::Down(0),
            parser: sse::Parser::default(),
            unchunked: Vec::new(),
            last_byte: 0,
            seen: Vec::with_capacity(1024),
            reads: None,
            pools,
            next_pool: 0,
            records: Vec::new(),
            known: HashMap::default(),
            ids: Vec::new(),
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
                if event.token == WATCH_TOKEN {
                    self.on_watch(event);
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
            self.reads = Some(order);
        }
        if self.shared.interrupted.load(Ordering::Relaxed)
            && let Some(reads) = &mut self.reads
        {
            reads.schedule.cut(now);
        }
        match &self.watch {
            Watch::Down(at) if *at <= now => self.open_watch(now),
            Watch::Streaming { .. } if now > self.last_byte + SILENCE_MAX => {
                self.lose_watch("nothing came for 40 s".to_owned());
            }
            _ => {}
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

    fn open_watch(&mut self, now: u64) {
        match Connection::begin(&self.settings.views[0]) {
            Ok(connection) if self.poller.add(&connection, WATCH_TOKEN, true).is_ok() => {
                self.watch = Watch::Connecting(connection);
            }
            _ => self.watch = Watch::Down(now + RECONNECT_PAUSE),
        }
    }

    fn lose_watch(&mut self, why: String) {
        self.parser.cut();
        self.watch = Watch::Down(self.clock.now() + RECONNECT_PAUSE);
        self.reporter.send(Message::WatchLost(why));
    }

    /// Resumes after the last event where there was one; else starts from now.
    fn watch_request(&self, out: &mut Vec<u8>) {
        let view = &self.settings.views[0];
        let last = self.parser.last_id();
        let query = if last.is_empty() { "?from=now" } else { "" };
        let text = format!(
            "GET {}/v1/signals{query} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nAccept: text/event-stream\r\n",
            view.prefix, view.authority, self.settings.api_key
        );
        out.extend_from_slice(text.as_bytes());
        if !last.is_empty() {
            out.extend_from_slice(b"Last-Event-ID: ");
            out.extend_from_slice(last);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }

    fn on_watch(&mut self, event: Ready) {
        let watch = std::mem::replace(&mut self.watch, Watch::Down(u64::MAX));
        let outcome = match watch {
            Watch::Connecting(connection) => self.watch_connected(connection, event),
            Watch::Head(connection) => self.watch_head(connection),
            Watch::Streaming { connection, chunks } => self.watch_bytes(connection, chunks),
            Watch::Down(at) => Ok(Watch::Down(at)),
        };
        match outcome {
            Ok(watch) => self.watch = watch,
            Err(why) => self.lose_watch(why),
        }
    }

    fn watch_connected(&mut self, mut connection: Connection, event: Ready) -> Result<Watch, String> {
        if !event.writable {
            return Ok(Watch::Connecting(connection));
        }
        connection.finish_connecting().map_err(|error| error.to_string())?;
        self.poller.modify(&connection, WATCH_TOKEN, false).map_err(|error| error.to_string())?;
        let mut request = Vec::new();
        self.watch_request(&mut request);
        connection.start_request().extend_from_slice(&request);
        connection.reserve(256 * 1024);
        match connection.flush() {
            Ok(true) => Ok(Watch::Head(connection)),
            Ok(false) => Err("the request did not fit the socket".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn watch_head(&mut self, mut connection: Connection) -> Result<Watch, String> {
        connection.fill().map_err(|error| error.to_string())?;
        let Some(head) = parse_head(connection.received()).map_err(|error| error.to_string())? else {
            return Ok(Watch::Head(connection));
        };
        if head.status != 200 || !head.event_stream {
            return Err(format!("the view server answered the watch with {}", head.status));
        }
        let rest = connection.received()[head.length..].to_vec();
        connection.consume(connection.received().len());
        let mut chunks = (head.framing == Framing::Chunked).then(Dechunker::default);
        self.last_byte = self.clock.now();
        self.take_bytes(&rest, chunks.as_mut())?;
        Ok(Watch::Streaming { connection, chunks })
    }

    fn watch_bytes(&mut self, mut connection: Connection, mut chunks: Option<Dechunker>) -> Result<Watch, String> {
        let count = connection.fill().map_err(|error| error.to_string())?;
        if count > 0 {
            self.take_bytes(connection.received(), chunks.as_mut())?;
            connection.consume(connection.received().len());
        }
        Ok(Watch::Streaming { connection, chunks })
    }

    /// Reads events out of a piece of the stream. All of them get the time at which the piece was
    /// read: that is when a reader had them.
    fn take_bytes(&mut self, bytes: &[u8], chunks: Option<&mut Dechunker>) -> Result<(), String> {
        let at = self.clock.now();
        self.last_byte = at;
        let mut text = std::mem::take(&mut self.unchunked);
        text.clear();
        let ended = match chunks {
            Some(chunks) => chunks.feed(bytes, &mut text).map_err(|error| error.to_string())?,
            None => {
                text.extend_from_slice(bytes);
                false
            }
        };
        let mut parser = std::mem::take(&mut self.parser);
        parser.feed(&text, |event| self.take_event(event, at));
        self.parser = parser;
        self.unchunked = text;
        if self.seen.len() >= 512 {
            self.report();
        }
        if ended { Err("the view server ended the watch".to_owned()) } else { Ok(()) }
    }

    fn take_event(&mut self, event: sse::Event<'_>, at: u64) {
        let sight = match event.name {
            b"ready" => {
                self.report();
                self.reporter.send(Message::WatchReady);
                return;
            }
            b"reset" => {
                self.report();
                self.reporter.send(Message::WatchReset);
                return;
            }
            b"deleted" => Sight::Deleted,
            _ => Sight::Present,
        };
        let Some(document) = document::parse(event.data, &self.settings.run) else {
            let text = String::from_utf8_lossy(&event.data[..event.data.len().min(80)]).into_owned();
            let breach = Breach::Phantom(format!("the watch sent what is no signal: {text}"));
            self.reporter.send(Message::Breach(breach));
            return;
        };
        self.seen.push(Sighting {
            sight,
            id: document.id,
            version: document.version,
            op: document.op,
            hash: document.hash,
            at,
        });
        let deleted = sight == Sight::Deleted;
        // Only what this run wrote is read: of others nobody knows what it should be.
        if document.op.is_some() || deleted {
            let ids = &mut self.ids;
            let known = self.known.entry(document.id).or_insert_with(|| {
                if !deleted {
                    ids.push(document.id);
                }
                Known { version: 0, deleted: false }
            });
            known.version = known.version.max(document.version);
            known.deleted |= deleted;
        }
    }
}
