//! The watch of each view server: opened, resumed where it was lost, and read into sightings.

use super::{Known, Observer, Readable, WATCH_TOKEN};
use crate::client::{Connection, Dechunker, Framing, Ready, parse_head};
use crate::clock::{MILLISECOND, SECOND};
use crate::document;
use crate::journal::{Breach, Message, Sight, Sighting};
use crate::sse;

const RECONNECT_PAUSE: u64 = 100 * MILLISECOND;
/// A stream on which nothing comes for this long is dead: a comment line comes every 15 s.
const SILENCE_MAX: u64 = 40 * SECOND;

/// How far a watch is.
#[derive(Debug)]
enum State {
    /// Not open; try again at this time.
    Down(u64),
    Connecting(Connection),
    Head(Connection),
    Streaming {
        connection: Connection,
        chunks: Option<Dechunker>,
    },
}

/// The watch of one view server.
#[derive(Debug)]
pub(super) struct Watch {
    state: State,
    parser: sse::Parser,
    unchunked: Vec<u8>,
    last_byte: u64,
}

impl Default for Watch {
    fn default() -> Self {
        Self { state: State::Down(0), parser: sse::Parser::default(), unchunked: Vec::new(), last_byte: 0 }
    }
}

impl Observer {
    /// Opens the watch where it is down, and gives it up where it is silent.
    pub(super) fn keep_watching(&mut self, view: usize, now: u64) {
        let watch = &self.watches[view];
        match &watch.state {
            State::Down(at) if *at <= now => self.open_watch(view, now),
            State::Streaming { .. } if now > watch.last_byte + SILENCE_MAX => {
                self.lose_watch(view, "nothing came for 40 s".to_owned());
            }
            _ => {}
        }
    }

    fn open_watch(&mut self, view: usize, now: u64) {
        self.watches[view].state = match Connection::begin(&self.settings.views[view]) {
            Ok(connection) if self.poller.add(&connection, token(view), true).is_ok() => State::Connecting(connection),
            _ => State::Down(now + RECONNECT_PAUSE),
        };
    }

    fn lose_watch(&mut self, view: usize, why: String) {
        let watch = &mut self.watches[view];
        watch.parser.cut();
        watch.state = State::Down(self.clock.now() + RECONNECT_PAUSE);
        self.reporter.send(Message::WatchLost(view as u16, why));
    }

    /// Resumes after the last event where there was one; else starts from now.
    fn watch_request(&self, index: usize, out: &mut Vec<u8>) {
        let view = &self.settings.views[index];
        let last = self.watches[index].parser.last_id();
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

    pub(super) fn on_watch(&mut self, view: usize, event: Ready) {
        let state = std::mem::replace(&mut self.watches[view].state, State::Down(u64::MAX));
        let outcome = match state {
            State::Connecting(connection) => self.watch_connected(view, connection, event),
            State::Head(connection) => self.watch_head(view, connection),
            State::Streaming { connection, chunks } => self.watch_bytes(view, connection, chunks),
            State::Down(at) => Ok(State::Down(at)),
        };
        match outcome {
            Ok(state) => self.watches[view].state = state,
            Err(why) => self.lose_watch(view, why),
        }
    }

    fn watch_connected(&mut self, view: usize, mut connection: Connection, event: Ready) -> Result<State, String> {
        if !event.writable {
            return Ok(State::Connecting(connection));
        }
        connection.finish_connecting().map_err(|error| error.to_string())?;
        self.poller.modify(&connection, token(view), false).map_err(|error| error.to_string())?;
        let mut request = Vec::new();
        self.watch_request(view, &mut request);
        connection.start_request().extend_from_slice(&request);
        connection.reserve(256 * 1024);
        match connection.flush() {
            Ok(true) => Ok(State::Head(connection)),
            Ok(false) => Err("the request did not fit the socket".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn watch_head(&mut self, view: usize, mut connection: Connection) -> Result<State, String> {
        connection.fill().map_err(|error| error.to_string())?;
        let Some(head) = parse_head(connection.received()).map_err(|error| error.to_string())? else {
            return Ok(State::Head(connection));
        };
        if head.status != 200 || !head.event_stream {
            return Err(format!("the view server answered the watch with {}", head.status));
        }
        let rest = connection.received()[head.length..].to_vec();
        connection.consume(connection.received().len());
        let mut chunks = (head.framing == Framing::Chunked).then(Dechunker::default);
        self.take_bytes(view, &rest, chunks.as_mut())?;
        Ok(State::Streaming { connection, chunks })
    }

    fn watch_bytes(
        &mut self,
        view: usize,
        mut connection: Connection,
        mut chunks: Option<Dechunker>,
    ) -> Result<State, String> {
        let count = connection.fill().map_err(|error| error.to_string())?;
        if count > 0 {
            self.take_bytes(view, connection.received(), chunks.as_mut())?;
            connection.consume(connection.received().len());
        }
        Ok(State::Streaming { connection, chunks })
    }

    /// Reads events out of a piece of the stream. All of them get the time at which the piece was
    /// read: that is when a reader had them.
    fn take_bytes(&mut self, view: usize, bytes: &[u8], chunks: Option<&mut Dechunker>) -> Result<(), String> {
        let at = self.clock.now();
        let watch = &mut self.watches[view];
        watch.last_byte = at;
        let mut text = std::mem::take(&mut watch.unchunked);
        text.clear();
        let ended = match chunks {
            Some(chunks) => chunks.feed(bytes, &mut text).map_err(|error| error.to_string())?,
            None => {
                text.extend_from_slice(bytes);
                false
            }
        };
        let mut parser = std::mem::take(&mut watch.parser);
        parser.feed(&text, |event| self.take_event(view as u16, event, at));
        let watch = &mut self.watches[view];
        (watch.parser, watch.unchunked) = (parser, text);
        if self.seen.len() >= 512 {
            self.report();
        }
        if ended { Err("the view server ended the watch".to_owned()) } else { Ok(()) }
    }

    fn take_event(&mut self, view: u16, event: sse::Event<'_>, at: u64) {
        let sight = match event.name {
            b"ready" => {
                self.report();
                self.reporter.send(Message::WatchReady(view));
                return;
            }
            b"reset" => {
                self.report();
                self.reporter.send(Message::WatchReset(view));
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
            view,
            id: document.id,
            version: document.version,
            op: document.op,
            hash: document.hash,
            at,
        });
        let deleted = sight == Sight::Deleted;
        if !self.settings.reads {
            return;
        }
        if let Some(Readable { known, .. }) = self.known.get_mut(document.id) {
            // Of what others make of it, nobody knows what it should be; but gone is gone.
            if document.op.is_some() || deleted {
                known.version = known.version.max(document.version);
                known.deleted |= deleted;
            }
        } else if document.op.is_some() {
            // Only what this run wrote is read.
            let known = Known { version: document.version, deleted: false };
            self.known.put(Readable { id: document.id.into(), known });
        }
    }
}

fn token(view: usize) -> u64 {
    WATCH_TOKEN - view as u64
}
