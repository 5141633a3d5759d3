//! The streams: one thread reads them all.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use loadgen::client::{Connection, Dechunker, Endpoint, Framing, Poller, Ready, parse_head};
use loadgen::clock::{Clock, MILLISECOND};
use loadgen::document::{self, RunTag};
use loadgen::journal::thread_cpu;
use loadgen::sse;

use super::{OpenWatchesOptions, Shared};

/// Room for what is read at once.
const READ_BYTES: usize = 16 * 1024;
const TURN: u64 = 20 * MILLISECOND;
/// None of these documents is of a run of loadgen.
const NO_RUN: &RunTag = b"--------";

/// One event of one stream.
#[derive(Debug, Clone, Copy)]
pub struct Sighting {
    pub stream: u32,
    pub id: u128,
    pub version: u32,
    pub deleted: bool,
    pub at: u64,
}

/// What was read.
pub struct Read {
    pub sightings: Vec<Sighting>,
    /// Streams that ended, were refused or had to start over.
    pub lost: u64,
    /// Nanoseconds of processor time.
    pub cpu: u64,
}

struct Stream {
    connection: Connection,
    request: String,
    /// Connected, and asked.
    asked: bool,
    /// None before the head has been read; then how the body is framed.
    body: Option<Option<Dechunker>>,
    parser: sse::Parser,
    lost: bool,
}

/// All streams; the first ones watch one signal each.
pub struct Streams {
    clock: Clock,
    shared: Arc<Shared>,
    poller: Poller,
    streams: Vec<Stream>,
    sightings: Vec<Sighting>,
    text: Vec<u8>,
    lost: u64,
}

impl Streams {
    pub fn new(
        options: &OpenWatchesOptions,
        ids: &[String],
        clock: Clock,
        shared: Arc<Shared>,
    ) -> anyhow::Result<Self> {
        let view = Endpoint::parse(&options.view)?;
        let poller = Poller::new()?;
        let single = ids.iter().map(|id| format!("/v1/signals/{id}"));
        let lists = (0..options.lists).map(|_| "/v1/signals?priority=critical".to_owned());
        let mut streams = Vec::new();
        for (token, path) in single.chain(lists).enumerate() {
            let connection = Connection::begin(&view)?;
            poller.add(&connection, token as u64, true)?;
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nAccept: text/event-stream\r\n\r\n",
                view.authority, options.api_key
            );
            let parser = sse::Parser::default();
            streams.push(Stream { connection, request, asked: false, body: None, parser, lost: false });
        }
        Ok(Self { clock, shared, poller, streams, sightings: Vec::new(), text: Vec::new(), lost: 0 })
    }

    /// Reads until it is to stop.
    pub fn read(mut self) -> anyhow::Result<Read> {
        let mut ready = Vec::with_capacity(256);
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.poller.wait(TURN, &mut ready)?;
            for &event in &ready {
                let index = usize::try_from(event.token)?;
                if !self.streams[index].lost
                    && let Err(error) = self.step(index, event)
                {
                    crate::tools::say(&format!("  stream {index}: {error}"));
                    self.streams[index].lost = true;
                    self.lost += 1;
                }
            }
        }
        Ok(Read { sightings: self.sightings, lost: self.lost, cpu: thread_cpu() })
    }

    fn step(&mut self, index: usize, event: Ready) -> anyhow::Result<()> {
        let stream = &mut self.streams[index];
        if !stream.asked {
            if !event.writable {
                return Ok(());
            }
            stream.connection.finish_connecting()?;
            self.poller.modify(&stream.connection, event.token, false)?;
            stream.connection.start_request().extend_from_slice(stream.request.as_bytes());
            stream.connection.reserve(READ_BYTES);
            anyhow::ensure!(stream.connection.flush()?, "the request did not fit the socket");
            stream.asked = true;
            return Ok(());
        }
        stream.connection.fill()?;
        if stream.body.is_none() {
            let Some(head) = parse_head(stream.connection.received())? else { return Ok(()) };
            anyhow::ensure!(head.status == 200 && head.event_stream, "answered with {}", head.status);
            stream.connection.consume(head.length);
            stream.body = Some((head.framing == Framing::Chunked).then(Dechunker::default));
        }
        let at = self.clock.now();
        self.text.clear();
        let bytes = stream.connection.received();
        let ended = match &mut stream.body {
            Some(Some(chunks)) => chunks.feed(bytes, &mut self.text)?,
            _ => {
                self.text.extend_from_slice(bytes);
                false
            }
        };
        let read = bytes.len();
        stream.connection.consume(read);
        let mut odd = None;
        let (sightings, shared) = (&mut self.sightings, &self.shared);
        stream.parser.feed(&self.text, |event| match event.name {
            b"ready" => {
                shared.ready.fetch_add(1, Ordering::Relaxed);
            }
            b"created" | b"updated" | b"deleted" => match document::parse(event.data, NO_RUN) {
                Some(found) => {
                    shared.last_event.store(at, Ordering::Relaxed);
                    let deleted = event.name == b"deleted";
                    let (stream, id, version) = (index as u32, found.id, found.version);
                    sightings.push(Sighting { stream, id, version, deleted, at });
                }
                None => odd = Some("an event without a signal".to_owned()),
            },
            other => odd = Some(format!("an event {}", String::from_utf8_lossy(other))),
        });
        if let Some(odd) = odd {
            anyhow::bail!("{odd}");
        }
        anyhow::ensure!(!ended, "the view server ended it");
        Ok(())
    }
}
