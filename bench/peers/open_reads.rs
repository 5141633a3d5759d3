//! Reads at a fixed rate, open model: each is due at `start + i/rate`, whatever became of those before it, and its time
//! is counted from then. One thread, one request in flight on each connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;
use rustix::event::{Timespec, epoll};
use serde_json::json;

/// Where, what and how fast.
#[derive(Debug, Clone, clap::Args)]
pub struct OpenReadsOptions {
    /// The server
    #[arg(long)]
    pub server: SocketAddr,
    /// A file with an id on each line
    #[arg(long)]
    pub ids: PathBuf,
    /// What stands before an id in the path
    #[arg(long)]
    pub before: String,
    /// What stands after it
    #[arg(long, default_value = "")]
    pub after: String,
    /// Value of the Authorization header
    #[arg(long)]
    pub authorization: String,
    /// Reads per second
    #[arg(long)]
    pub rate: f64,
    /// Seconds, of which the first tenth is thrown away
    #[arg(long)]
    pub seconds: f64,
    /// Connections
    #[arg(long)]
    pub connections: usize,
}

/// Room for an answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
    /// When the read in flight was due; none while idle.
    due: Option<Instant>,
}

struct Reader<'a> {
    options: &'a OpenReadsOptions,
    ids: Vec<String>,
    tail: String,
    random: u64,
    idle: Vec<usize>,
    connections: Vec<Connection>,
    request: Vec<u8>,
    latency: Histogram<u64>,
    own_delay: Histogram<u64>,
    answered: u64,
    refused: u64,
    /// Answers that nothing was asked for.
    stray: u64,
    measure_from: Instant,
}

/// Reads, and prints what came of it as one JSON object.
///
/// # Errors
/// The server is away, closes a connection or does not speak HTTP.
pub fn run(options: &OpenReadsOptions) -> anyhow::Result<()> {
    // Without it, a busy neighbour delays this thread by milliseconds. It may not be allowed; the answer says so.
    let raised = rustix::process::setpriority_process(None, -15).is_ok();
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut connections = Vec::new();
    for i in 0..options.connections {
        let stream = TcpStream::connect(options.server)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        epoll::add(&poll, &stream, epoll::EventData::new_u64(i as u64), epoll::EventFlags::IN)?;
        connections.push(Connection { stream, buffer: vec![0; ANSWER_BYTES_MAX], filled: 0, due: None });
    }
    let ids: Vec<String> = std::fs::read_to_string(&options.ids)?.lines().map(str::to_owned).collect();
    anyhow::ensure!(!ids.is_empty(), "no ids in {}", options.ids.display());
    let start = Instant::now() + Duration::from_millis(10);
    let mut reader = Reader {
        options,
        ids,
        tail: format!(" HTTP/1.1\r\nHost: nexus\r\nAuthorization: {}\r\n\r\n", options.authorization),
        random: 0x9e37_79b9_7f4a_7c15,
        idle: (0..options.connections).collect(),
        connections,
        request: Vec::new(),
        latency: Histogram::new_with_bounds(1_000, 60_000_000_000, 3)?,
        own_delay: Histogram::new_with_bounds(100, 60_000_000_000, 3)?,
        answered: 0,
        refused: 0,
        stray: 0,
        measure_from: start + Duration::from_secs_f64(options.seconds / 10.0),
    };
    let end = start + Duration::from_secs_f64(options.seconds);
    let (sent, cpu) = reader.work(&poll, start, end)?;
    let ms = |histogram: &Histogram<u64>, q: f64| histogram.value_at_quantile(q) as f64 / 1e6;
    let latency = &reader.latency;
    let report = json!({
        "rate_per_s": options.rate,
        "sent": sent,
        "measured": latency.len(),
        "answered": reader.answered,
        "refused": reader.refused,
        "stray": reader.stray,
        "unsent": ((options.rate * options.seconds) as u64).saturating_sub(sent),
        "p50_ms": ms(latency, 0.5),
        "p90_ms": ms(latency, 0.9),
        "p99_ms": ms(latency, 0.99),
        "p999_ms": ms(latency, 0.999),
        "max_ms": ms(latency, 1.0),
        "own_delay_p99_ms": ms(&reader.own_delay, 0.99),
        "generator_cores": cpu,
        "raised_priority": raised,
    });
    println!("{report}");
    Ok(())
}

impl Reader<'_> {
    /// Returns how many reads were sent, and the share of a core that took.
    fn work(&mut self, poll: &impl std::os::fd::AsFd, start: Instant, end: Instant) -> anyhow::Result<(u64, f64)> {
        let step = 1.0 / self.options.rate;
        let mut events = Vec::with_capacity(256);
        let (mut sent, mut waited) = (0_u64, Duration::ZERO);
        loop {
            let due = start + Duration::from_secs_f64(step * sent as f64);
            let now = Instant::now();
            if due >= end && self.idle.len() == self.connections.len() || now > end + Duration::from_secs(5) {
                break;
            }
            if due <= now
                && due < end
                && let Some(slot) = self.idle.pop()
            {
                self.send(slot, due, now)?;
                sent += 1;
                continue;
            }
            // Nothing due, or nobody free.
            let patience = if due < end { due.saturating_duration_since(now) } else { Duration::from_millis(100) };
            let patience = if self.idle.is_empty() { Duration::from_millis(100) } else { patience };
            let timeout = Timespec::try_from(patience)?;
            events.clear();
            epoll::wait(poll, rustix::buffer::spare_capacity(&mut events), Some(&timeout))?;
            waited += now.elapsed().min(patience);
            for event in &events {
                self.receive(usize::try_from(event.data.u64())?)?;
            }
        }
        let total = start.elapsed().as_secs_f64();
        Ok((sent, (1.0 - waited.as_secs_f64() / total).max(0.0)))
    }

    fn send(&mut self, slot: usize, due: Instant, now: Instant) -> anyhow::Result<()> {
        // xorshift64: all that matters is that every id comes up.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let id = &self.ids[(self.random % self.ids.len() as u64) as usize];
        self.request.clear();
        for part in ["GET ", &self.options.before, id, &self.options.after, &self.tail] {
            self.request.extend_from_slice(part.as_bytes());
        }
        let connection = &mut self.connections[slot];
        connection.stream.write_all(&self.request)?;
        connection.due = Some(due);
        connection.filled = 0;
        if due >= self.measure_from && self.idle.len() > 1 {
            // Somebody was free before: the delay is this program's own.
            self.own_delay.saturating_record((now - due).as_nanos() as u64);
        }
        Ok(())
    }

    fn receive(&mut self, slot: usize) -> anyhow::Result<()> {
        let connection = &mut self.connections[slot];
        match connection.stream.read(&mut connection.buffer[connection.filled..]) {
            Ok(0) => anyhow::bail!("the server closed a connection"),
            Ok(count) => connection.filled += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let Some(status) = whole_answer(&connection.buffer[..connection.filled])? else { return Ok(()) };
        let Some(due) = connection.due.take() else {
            // Seen once of webdis, on a machine that was busy with something else.
            let text = String::from_utf8_lossy(&connection.buffer[..connection.filled.min(200)]);
            crate::tools::say(&format!("  an answer to nothing: {text:?}"));
            connection.filled = 0;
            self.stray += 1;
            return Ok(());
        };
        self.idle.push(slot);
        self.answered += 1;
        self.refused += u64::from(status != 200);
        if due >= self.measure_from {
            self.latency.saturating_record(due.elapsed().as_nanos() as u64);
        }
        Ok(())
    }
}

/// The status of the answer, once all of it is there.
fn whole_answer(bytes: &[u8]) -> anyhow::Result<Option<u16>> {
    let Some(head) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&bytes[..head])?;
    let status = text.get(9..12).and_then(|status| status.parse().ok()).context("no status line")?;
    let length = text
        .lines()
        .find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok()).flatten()
        })
        .context("an answer without Content-Length")?;
    Ok((bytes.len() >= head + 4 + length).then_some(status))
}
