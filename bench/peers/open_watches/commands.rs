//! The commands: open model, one request in flight on each connection.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use hdrhistogram::Histogram;
use loadgen::client::Endpoint;
use loadgen::clock::{Clock, SECOND};
use loadgen::document::parse_uuid;
use loadgen::journal::thread_cpu;
use loadgen::random::Random;

use super::OpenWatchesOptions;

/// One command in so many changes what the lists show.
const SHARED_EVERY: u64 = 100;
/// One change in so many of a signal that one stream watches deletes it.
const DELETE_EVERY: u64 = 50;
/// Lists are kept at about so many items.
const SHARED_ITEMS: usize = 50;

/// A command that was accepted.
#[derive(Debug, Clone, Copy)]
pub struct Accepted {
    /// The signal.
    pub id: u128,
    /// Its version; none of a deletion.
    pub version: Option<u32>,
    /// On the lists.
    pub listed: bool,
    /// When it was meant to be sent.
    pub intended: u64,
}

/// What was sent.
pub struct Sent {
    pub accepted: Vec<Accepted>,
    /// 503, 429 and failures.
    pub refused: u64,
    /// 404: another command had deleted the signal meanwhile.
    pub rejected: u64,
    /// From intended to sent.
    pub delay: Histogram<u64>,
    /// Nanoseconds from the first intended time to the last.
    pub took: u64,
    /// Nanoseconds of processor time.
    pub cpu: u64,
}

enum Order {
    Create(&'static str),
    Update(String),
    Delete(String),
}

struct State {
    next: u64,
    random: Random,
    /// Signals that one stream each watches, and that are not deleted.
    single: Vec<String>,
    listed: Vec<String>,
    sent: Sent,
}

/// The sender.
pub struct Commands {
    address: SocketAddr,
    api_key: String,
    connections: usize,
    clock: Clock,
    start: u64,
    step: f64,
    count: u64,
    state: RefCell<State>,
}

impl Commands {
    pub fn new(options: &OpenWatchesOptions, ids: &[String], clock: Clock, start: u64) -> anyhow::Result<Self> {
        let count = (options.rate * options.seconds) as u64;
        let sent = Sent {
            accepted: Vec::with_capacity(usize::try_from(count)?),
            refused: 0,
            rejected: 0,
            delay: Histogram::new_with_bounds(1_000, 60 * SECOND, 3)?,
            took: (options.seconds * SECOND as f64) as u64,
            cpu: 0,
        };
        let (random, single, listed) = (Random::new(7), ids.to_vec(), Vec::new());
        Ok(Self {
            address: Endpoint::parse(&options.control)?.address,
            api_key: options.api_key.clone(),
            connections: options.connections,
            clock,
            start,
            step: SECOND as f64 / options.rate,
            count,
            state: RefCell::new(State { next: 0, random, single, listed, sent }),
        })
    }

    /// Sends all of them, and returns when all are answered.
    pub fn send(self) -> anyhow::Result<Sent> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let before = thread_cpu();
        runtime.block_on(futures_util::future::try_join_all((0..self.connections).map(|_| self.one_connection())))?;
        let mut sent = self.state.into_inner().sent;
        sent.cpu = thread_cpu() - before;
        Ok(sent)
    }

    async fn one_connection(&self) -> anyhow::Result<()> {
        let mut client = bench::Client::connect(self.address, &self.api_key).await?;
        loop {
            let Some((intended, order)) = self.take() else { return Ok(()) };
            let now = self.clock.now();
            if intended > now {
                tokio::time::sleep(Duration::from_nanos(intended - now)).await;
            }
            let late = self.clock.now().saturating_sub(intended);
            self.state.borrow_mut().sent.delay.saturating_record(late);
            let json = "content-type: application/json\r\n";
            let (method, path, body) = match &order {
                Order::Create(priority) => {
                    let body =
                        format!(r#"{{"title":"watched","priority":"{priority}","payload":{{"at":{intended}}}}}"#);
                    ("POST", "/v1/signals".to_owned(), body)
                }
                Order::Update(id) => {
                    ("PATCH", format!("/v1/signals/{id}"), format!(r#"{{"payload":{{"at":{intended}}}}}"#))
                }
                Order::Delete(id) => ("DELETE", format!("/v1/signals/{id}"), String::new()),
            };
            let headers = if body.is_empty() { "" } else { json };
            let answer = client.send(method, &path, headers, &body).await?;
            self.answered(intended, &order, &answer)?;
        }
    }

    /// The next command, and when it is meant to be sent.
    fn take(&self) -> Option<(u64, Order)> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let number = state.next;
        if number >= self.count {
            return None;
        }
        state.next += 1;
        let pick = |random: &mut Random, from: &[String]| random.below(from.len());
        let order = if number.is_multiple_of(SHARED_EVERY) {
            match number / SHARED_EVERY % 3 {
                1 if !state.listed.is_empty() => {
                    let at = pick(&mut state.random, &state.listed);
                    Order::Update(state.listed[at].clone())
                }
                2 if state.listed.len() > SHARED_ITEMS || (state.listed.len() > 3 && state.random.below(2) == 0) => {
                    let at = pick(&mut state.random, &state.listed);
                    Order::Delete(state.listed.swap_remove(at))
                }
                _ => Order::Create("critical"),
            }
        } else if number % 2 == 1 && !state.single.is_empty() {
            let at = pick(&mut state.random, &state.single);
            if (number / 2).is_multiple_of(DELETE_EVERY) {
                Order::Delete(state.single.swap_remove(at))
            } else {
                Order::Update(state.single[at].clone())
            }
        } else {
            Order::Create("low")
        };
        Some((self.start + (self.step * number as f64) as u64, order))
    }

    fn answered(&self, intended: u64, order: &Order, answer: &bench::Answer) -> anyhow::Result<()> {
        let mut state = self.state.borrow_mut();
        match answer.status {
            200 | 201 | 204 => {}
            404 => {
                state.sent.rejected += 1;
                return Ok(());
            }
            503 | 429 => {
                state.sent.refused += 1;
                return Ok(());
            }
            status => anyhow::bail!("a command was answered {status}: {}", String::from_utf8_lossy(&answer.body)),
        }
        let version = || answer.header("etag").and_then(|etag| etag.trim_matches('"').parse().ok()).context("no ETag");
        let (id, version, listed) = match order {
            Order::Create(priority) => {
                let document: serde_json::Value = serde_json::from_slice(&answer.body)?;
                let id = document["id"].as_str().context("a signal without an id")?.to_owned();
                let listed = *priority == "critical";
                if listed {
                    state.listed.push(id.clone());
                }
                (id, Some(version()?), listed)
            }
            Order::Update(id) => (id.clone(), Some(version()?), false),
            Order::Delete(id) => (id.clone(), None, false),
        };
        let id = parse_uuid(id.as_bytes()).context("an id that is no UUID")?;
        state.sent.accepted.push(Accepted { id, version, listed, intended });
        Ok(())
    }
}
