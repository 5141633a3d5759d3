//! Connections to one server, each with at most one request in flight.
//!
//! The pool owns connecting, reconnecting, time-outs and framing; its user decides what to send
//! when, and what an answer means. `T` is what the user wants back with the answer.

use std::collections::VecDeque;
use std::io;

use super::wire::{Connection, Dechunker, Framing, Head, ProtocolError, parse_head};
use super::{Endpoint, Poller, Ready};
use crate::clock::MILLISECOND;

/// How long a server that refused a connection is left alone.
const RECONNECT_PAUSE: u64 = 100 * MILLISECOND;

/// Why a request has no answer. It may have been applied all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The connection ended before the answer was complete.
    Lost,
    /// The time-out passed.
    TimedOut,
    /// What came back is no HTTP.
    Garbled,
}

/// A request that has ended, one way or the other.
#[derive(Debug)]
pub struct Completion<T> {
    /// Which connection; for [`Pool::body`] and [`Pool::request`], then [`Pool::release`].
    pub slot: usize,
    /// What the sender attached.
    pub tag: T,
    /// The answer's head, or why there is none.
    pub result: Result<Head, Failure>,
}

#[derive(Debug)]
enum State<T> {
    /// No connection; try again at this time.
    Down(u64),
    Connecting,
    Idle,
    Busy {
        tag: Option<T>,
        deadline: u64,
    },
    /// Answered; the user still reads the buffers.
    Held {
        reusable: bool,
    },
}

#[derive(Debug)]
struct Slot<T> {
    connection: Option<Connection>,
    state: State<T>,
    head: Option<Head>,
    body: std::ops::Range<usize>,
    unchunked: Vec<u8>,
    waits_to_write: bool,
}

/// The connections to one server.
#[derive(Debug)]
pub struct Pool<T> {
    endpoint: Endpoint,
    slots: Vec<Slot<T>>,
    idle: VecDeque<usize>,
    busy: usize,
    first_token: u64,
    refused: Option<String>,
}

impl<T> Pool<T> {
    /// `size` connections to `endpoint`, known to the poller as `first_token..first_token + size`.
    /// Nothing is connected before the first sweep of the pool.
    #[must_use]
    pub fn new(endpoint: Endpoint, size: usize, first_token: u64) -> Self {
        let slots = (0..size)
            .map(|_| Slot {
                connection: None,
                state: State::Down(0),
                head: None,
                body: 0..0,
                unchunked: Vec::new(),
                waits_to_write: false,
            })
            .collect();
        Self { endpoint, slots, idle: VecDeque::new(), busy: 0, first_token, refused: None }
    }

    /// The server.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// True when a request can be sent at once.
    #[must_use]
    pub fn has_idle(&self) -> bool {
        !self.idle.is_empty()
    }

    /// Requests that wait for their answers.
    #[must_use]
    pub fn busy(&self) -> usize {
        self.busy
    }

    /// Why the last attempt to connect failed, if it did.
    #[must_use]
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// Sends what `render` writes on an idle connection; false (and nothing rendered) when there
    /// is none.
    pub fn send(&mut self, poller: &Poller, tag: T, deadline: u64, render: impl FnOnce(&mut Vec<u8>)) -> bool {
        let Some(index) = self.idle.pop_front() else {
            return false;
        };
        let token = self.first_token + index as u64;
        let slot = &mut self.slots[index];
        let Some(connection) = slot.connection.as_mut() else {
            return false;
        };
        render(connection.start_request());
        slot.head = None;
        // A write that fails here surfaces as readable with an error, and so as a loss.
        if let Ok(false) = connection.flush()
            && poller.modify(&*connection, token, true).is_ok()
        {
            slot.waits_to_write = true;
        }
        slot.state = State::Busy { tag: Some(tag), deadline };
        self.busy += 1;
        true
    }

    /// Handles what the poller reported for one of this pool's connections.
    pub fn on_ready(&mut self, poller: &Poller, ready: Ready, now: u64) -> Option<Completion<T>> {
        let index = usize::try_from(ready.token.checked_sub(self.first_token)?).ok()?;
        let slot = self.slots.get_mut(index)?;
        let connection = slot.connection.as_mut()?;
        match slot.state {
            State::Connecting if ready.writable => {
                match connection.finish_connecting() {
                    Ok(()) if poller.modify(&*connection, ready.token, false).is_ok() => {
                        slot.state = State::Idle;
                        self.idle.push_back(index);
                        self.refused = None;
                    }
                    Ok(()) => self.drop_connection(index, now),
                    Err(error) => {
                        self.refused = Some(error.to_string());
                        self.drop_connection(index, now + RECONNECT_PAUSE);
                    }
                }
                None
            }
            State::Idle if ready.readable => {
                // The server closed an idle connection, or said something unasked.
                self.idle.retain(|&other| other != index);
                self.drop_connection(index, now);
                None
            }
            State::Busy { .. } => {
                if slot.waits_to_write && ready.writable {
                    match connection.flush() {
                        Ok(true) => {
                            slot.waits_to_write = false;
                            if poller.modify(&*connection, ready.token, false).is_err() {
                                return self.fail(index, Failure::Lost);
                            }
                        }
                        Ok(false) => {}
                        Err(_) => return self.fail(index, Failure::Lost),
                    }
                }
                if !ready.readable {
                    return None;
                }
                match read_answer(slot) {
                    Ok(false) => None,
                    Ok(true) => self.complete(index),
                    Err(ReadError::Gone) => self.fail(index, Failure::Lost),
                    Err(ReadError::Garbled) => self.fail(index, Failure::Garbled),
                }
            }
            _ => None,
        }
    }

    fn complete(&mut self, index: usize) -> Option<Completion<T>> {
        let slot = &mut self.slots[index];
        let head = slot.head.clone()?;
        let reusable = !head.close && head.framing != Framing::UntilClose;
        let State::Busy { tag, .. } = std::mem::replace(&mut slot.state, State::Held { reusable }) else {
            return None;
        };
        self.busy -= 1;
        Some(Completion { slot: index, tag: tag?, result: Ok(head) })
    }

    fn fail(&mut self, index: usize, failure: Failure) -> Option<Completion<T>> {
        let slot = &mut self.slots[index];
        let State::Busy { tag, .. } = std::mem::replace(&mut slot.state, State::Held { reusable: false }) else {
            return None;
        };
        self.busy -= 1;
        Some(Completion { slot: index, tag: tag?, result: Err(failure) })
    }

    /// The body of a completed answer.
    #[must_use]
    pub fn body(&self, slot: usize) -> &[u8] {
        let slot = &self.slots[slot];
        match (&slot.head, &slot.connection) {
            (Some(Head { framing: Framing::Chunked, .. }), _) => &slot.unchunked,
            (_, Some(connection)) => &connection.received()[slot.body.clone()],
            _ => &[],
        }
    }

    /// The bytes received with a completed answer, into which [`Head::token`] points.
    #[must_use]
    pub fn received(&self, slot: usize) -> &[u8] {
        self.slots[slot].connection.as_ref().map_or(&[], Connection::received)
    }

    /// The bytes of the request that a completion belongs to.
    #[must_use]
    pub fn request(&self, slot: usize) -> &[u8] {
        self.slots[slot].connection.as_ref().map_or(&[], |connection| &connection.request)
    }

    /// Gives the connection of a completion back.
    pub fn release(&mut self, index: usize, now: u64) {
        let slot = &mut self.slots[index];
        if let State::Held { reusable } = slot.state {
            if reusable {
                slot.state = State::Idle;
                self.idle.push_back(index);
            } else {
                self.drop_connection(index, now);
            }
        }
    }

    fn drop_connection(&mut self, index: usize, retry_at: u64) {
        let slot = &mut self.slots[index];
        slot.connection = None;
        slot.waits_to_write = false;
        slot.state = State::Down(retry_at);
    }

    /// Opens what is down and due; to be called every few milliseconds.
    pub fn reconnect(&mut self, poller: &Poller, now: u64) {
        for index in 0..self.slots.len() {
            if !matches!(self.slots[index].state, State::Down(at) if at <= now) {
                continue;
            }
            let token = self.first_token + index as u64;
            match Connection::begin(&self.endpoint) {
                Ok(connection) if poller.add(&connection, token, true).is_ok() => {
                    let slot = &mut self.slots[index];
                    slot.connection = Some(connection);
                    slot.state = State::Connecting;
                }
                Ok(_) => self.slots[index].state = State::Down(now + RECONNECT_PAUSE),
                Err(error) => {
                    self.refused = Some(error.to_string());
                    self.slots[index].state = State::Down(now + RECONNECT_PAUSE);
                }
            }
        }
    }

    /// One request whose time-out has passed, if there is any; to be called until there is none.
    pub fn expired(&mut self, now: u64) -> Option<Completion<T>> {
        let index =
            self.slots.iter().position(|slot| matches!(slot.state, State::Busy { deadline, .. } if deadline <= now))?;
        self.fail(index, Failure::TimedOut)
    }
}

enum ReadError {
    Gone,
    Garbled,
}

impl From<ProtocolError> for ReadError {
    fn from(_: ProtocolError) -> Self {
        Self::Garbled
    }
}

/// Reads once and says whether the answer is complete.
fn read_answer<T>(slot: &mut Slot<T>) -> Result<bool, ReadError> {
    let Some(connection) = slot.connection.as_mut() else {
        return Err(ReadError::Gone);
    };
    let ended = match connection.fill() {
        Ok(0) => return Ok(false),
        Ok(_) => false,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => true,
        Err(_) => return Err(ReadError::Gone),
    };
    if slot.head.is_none() {
        slot.head = parse_head(connection.received())?;
    }
    let Some(head) = &slot.head else {
        return if ended { Err(ReadError::Gone) } else { Ok(false) };
    };
    let received = connection.received().len();
    match head.framing {
        Framing::Length(length) => {
            let end = head.length + length;
            if received >= end {
                slot.body = head.length..end;
                Ok(true)
            } else if ended {
                Err(ReadError::Gone)
            } else {
                connection.reserve(end);
                Ok(false)
            }
        }
        Framing::Chunked => {
            // Decoded from the start each time: such answers are rare and small here.
            slot.unchunked.clear();
            let body = &connection.received()[head.length..];
            if Dechunker::default().feed(body, &mut slot.unchunked)? {
                Ok(true)
            } else if ended {
                Err(ReadError::Gone)
            } else {
                Ok(false)
            }
        }
        Framing::UntilClose => {
            slot.body = head.length..received;
            Ok(ended)
        }
    }
}
