//! A few reads by id beside the watch.
//!
//! Some accepted commands are sampled; each sample is one of two:
//! - a *bracket*: the entity is read again and again from the moment its command was answered, until
//!   a read shows the version. The command became visible between the last read without it and the
//!   first with it, which the watch must agree with;
//! - a *token read*: one read with the command's token, which must never show less, on each view server in turn.
//!
//! Brackets are read where the watch is, on the first view server.

use crate::client::{Completion, Endpoint, Poller, Pool, Ready};
use crate::clock::{MILLISECOND, SECOND};
use crate::document::{self, format_uuid};
use crate::journal::{Bracket, Breach, Message, Reporter};

/// A sample that is not visible after this is left to the watch.
const GIVE_UP: u64 = 2 * SECOND;
/// Poller numbers of the first server's connections start here, the next one's at twice of it.
pub const FIRST_TOKEN: u64 = 1 << 32;
/// Samples at once, on each server.
const CONNECTIONS: usize = 2;

/// Where and how often to sample.
#[derive(Debug, Clone)]
pub struct ProbeSettings {
    /// The view servers; the first one is watched.
    pub views: Vec<Endpoint>,
    /// The caller's key.
    pub api_key: String,
    /// Pause between samples, nanoseconds.
    pub interval: u64,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    id: u128,
    version: u32,
    deleted: bool,
    intended: u64,
    began: u64,
    sent: u64,
    last_negative: u64,
    with_token: bool,
    server: usize,
}

#[derive(Debug)]
struct Server {
    pool: Pool<Sample>,
    common: String,
    prefix: String,
}

/// The sampling side of the pacing thread.
#[derive(Debug)]
pub struct Probes {
    servers: Vec<Server>,
    /// Where the next token read goes.
    turn: usize,
    interval: u64,
    next: u64,
    token_next: bool,
}

impl Probes {
    /// Samplers whose connections are known to the poller from [`FIRST_TOKEN`] on.
    #[must_use]
    pub fn new(settings: ProbeSettings) -> Self {
        let api_key = &settings.api_key;
        let servers = settings.views.into_iter().enumerate().map(|(index, view)| Server {
            common: format!("Host: {}\r\nAuthorization: Bearer {api_key}\r\n", view.authority),
            prefix: view.prefix.clone(),
            pool: Pool::new(view, CONNECTIONS, FIRST_TOKEN * (index as u64 + 1)),
        });
        Self { servers: servers.collect(), turn: 0, interval: settings.interval, next: 0, token_next: false }
    }

    /// Which server the next sample goes to.
    fn place(&self) -> usize {
        if self.token_next { self.turn % self.servers.len() } else { 0 }
    }

    /// True when the next accepted command is to be sampled.
    #[must_use]
    pub fn wants(&self, now: u64) -> bool {
        now >= self.next && self.servers[self.place()].pool.has_idle()
    }

    /// Starts a sample of an accepted command; true if it is one whose bracket will be reported.
    #[expect(clippy::too_many_arguments, reason = "what a sample is")]
    pub fn offer(
        &mut self,
        poller: &Poller,
        id: u128,
        version: u32,
        deleted: bool,
        intended: u64,
        token: &[u8],
        now: u64,
    ) -> bool {
        if !self.wants(now) || version == 0 {
            return false;
        }
        self.next = now + self.interval;
        let server = self.place();
        let with_token = self.token_next && !token.is_empty();
        self.turn += usize::from(self.token_next);
        self.token_next = !self.token_next;
        let sample =
            Sample { id, version, deleted, intended, began: now, sent: now, last_negative: 0, with_token, server };
        self.read(poller, sample, token, now);
        !with_token
    }

    fn read(&mut self, poller: &Poller, sample: Sample, token: &[u8], now: u64) {
        let Server { pool, common, prefix } = &mut self.servers[sample.server];
        pool.send(poller, Sample { sent: now, ..sample }, now + GIVE_UP, |out| {
            out.extend_from_slice(b"GET ");
            out.extend_from_slice(prefix.as_bytes());
            out.extend_from_slice(b"/v1/signals/");
            out.extend_from_slice(&format_uuid(sample.id));
            out.extend_from_slice(b" HTTP/1.1\r\n");
            out.extend_from_slice(common.as_bytes());
            if sample.with_token {
                out.extend_from_slice(b"Prefer: wait=1\r\nNexus-Token: ");
                out.extend_from_slice(token);
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(b"\r\n");
        });
    }

    /// Opens connections and gives up what takes too long.
    pub fn housekeeping(&mut self, poller: &Poller, now: u64) {
        for Server { pool, .. } in &mut self.servers {
            pool.reconnect(poller, now);
            while let Some(expired) = pool.expired(now) {
                pool.release(expired.slot, now);
            }
        }
    }

    /// Handles an answer to a sample.
    pub fn on_ready(
        &mut self,
        poller: &Poller,
        event: Ready,
        now: u64,
        reporter: &mut Reporter,
        brackets: &mut Vec<Bracket>,
    ) {
        let index = (event.token / FIRST_TOKEN - 1) as usize;
        let Some(Server { pool, .. }) = self.servers.get_mut(index) else {
            return;
        };
        let Some(Completion { slot, tag: sample, result }) = pool.on_ready(poller, event, now) else {
            return;
        };
        let shown = result.ok().and_then(|head| {
            let body = pool.body(slot);
            shows(head.status, head.version, body, &sample).map(|shown| (shown, head.status))
        });
        pool.release(slot, now);
        match shown {
            // Nothing to conclude from a refusal or a lost connection.
            None => {}
            Some((true, _)) if sample.with_token => {}
            Some((false, status)) if sample.with_token => {
                let entity = document::uuid_text(sample.id);
                let text = format!(
                    "{entity}: a read with the token of version {} answered {status} with less",
                    sample.version
                );
                reporter.send(Message::Breach(Breach::StaleWithToken(text)));
            }
            Some((true, _)) => brackets.push(Bracket {
                id: sample.id,
                version: sample.version,
                last_negative: sample.last_negative,
                first_positive: now,
                intended: sample.intended,
            }),
            Some((false, _)) => {
                let again = Sample { last_negative: sample.sent, ..sample };
                if now < sample.began + GIVE_UP && self.servers[sample.server].pool.has_idle() {
                    self.read(poller, again, b"", now);
                }
            }
        }
    }
}

/// Whether an answer shows the sample's version or a later one; `None` when it says nothing.
fn shows(status: u16, version: Option<u32>, body: &[u8], sample: &Sample) -> Option<bool> {
    match status {
        200 => Some(!sample.deleted && version? >= sample.version),
        404 => Some(deleted_version(body).is_some_and(|gone| gone >= sample.version)),
        _ => None,
    }
}

/// The `deleted_version` of a problem document.
#[must_use]
pub fn deleted_version(body: &[u8]) -> Option<u32> {
    #[derive(serde::Deserialize)]
    struct Gone {
        deleted_version: Option<u32>,
    }
    serde_json::from_slice::<Gone>(body).ok()?.deleted_version
}

/// The shortest pause between samples that keeps them a small part of the load.
#[must_use]
pub fn interval_for(rate: f64) -> u64 {
    let per_second = (rate / 50.0).clamp(1.0, 20.0);
    ((SECOND as f64 / per_second) as u64).max(MILLISECOND)
}
