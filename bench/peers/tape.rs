//! A proxy in front of Redis that keeps every call that changes something, and the loop that makes them again.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Calls that change something, as our projector makes them.
const KEPT: [&[u8]; 6] = [b"EVALSHA", b"EVAL", b"SCRIPT", b"SET", b"DEL", b"HSET"];

/// Requests as they went over the wire, in their order.
pub type Calls = Arc<Mutex<Vec<Vec<u8>>>>;

/// The proxy; it ends when this is dropped.
pub struct Tape {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it has kept so far.
    pub calls: Calls,
    accepting: JoinHandle<()>,
}

impl Drop for Tape {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Tape {
    /// Listens in front of the Redis on this port.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(redis: u16) -> anyhow::Result<Tape> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let calls = Calls::default();
        let kept = calls.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let kept = kept.clone();
                tokio::spawn(async move {
                    // A connection that breaks breaks on both sides; the projector makes another.
                    let _ = pass(client, redis, &kept).await;
                });
            }
        });
        Ok(Tape { address, calls, accepting })
    }
}

async fn pass(client: TcpStream, redis: u16, kept: &Calls) -> anyhow::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", redis)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let requests = async {
        let (mut rest, mut piece) = (Vec::new(), vec![0; 256 * 1024]);
        loop {
            let count = from_client.read(&mut piece).await?;
            anyhow::ensure!(count > 0, "the client has hung up");
            to_server.write_all(&piece[..count]).await?;
            rest.extend_from_slice(&piece[..count]);
            let mut at = 0;
            while let Some(length) = value_length(&rest[at..])? {
                let request = &rest[at..at + length];
                if name_of(request).is_some_and(|name| KEPT.iter().any(|kept| kept.eq_ignore_ascii_case(name))) {
                    kept.lock().expect("no holder of this lock panics").push(request.to_vec());
                }
                at += length;
            }
            rest.drain(..at);
        }
    };
    let answers = async {
        tokio::io::copy(&mut from_server, &mut to_client).await?;
        anyhow::Ok(())
    };
    tokio::select! { ended = requests => ended, ended = answers => ended }
}

/// The command's name in a request.
fn name_of(request: &[u8]) -> Option<&[u8]> {
    let text = request.split(|byte| *byte == b'\n').nth(2)?;
    text.strip_suffix(b"\r")
}

/// The length of the value (RESP 2 and 3) at the beginning of `bytes`; none when it is not complete yet.
fn value_length(bytes: &[u8]) -> anyhow::Result<Option<usize>> {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
    let (kind, line) = bytes[..end].split_first().context("an empty line")?;
    let number = || -> anyhow::Result<i64> { Ok(std::str::from_utf8(line)?.trim().parse()?) };
    let head = end + 1;
    match kind {
        b'$' | b'=' => {
            let length = number()?;
            let whole = if length < 0 { head } else { head + usize::try_from(length)? + 2 };
            Ok((bytes.len() >= whole).then_some(whole))
        }
        b'*' | b'>' | b'~' | b'%' => {
            let count = number()?.max(0) * if *kind == b'%' { 2 } else { 1 };
            let mut at = head;
            for _ in 0..count {
                let Some(length) = value_length(&bytes[at..])? else { return Ok(None) };
                at += length;
            }
            Ok(Some(at))
        }
        b'+' | b'-' | b':' | b'_' | b'#' | b',' => Ok(Some(head)),
        other => anyhow::bail!("no RESP value begins with {}", char::from(*other)),
    }
}

/// What the loop did.
pub struct Looped {
    /// Script calls that were answered `applied`.
    pub applied: usize,
    /// How long it took.
    pub seconds: f64,
}

/// Makes the calls again on one connection, `window` of them in flight: as many as the projector has.
///
/// # Errors
/// Redis is away or answers with an error.
pub fn again(calls: &[Vec<u8>], redis: u16, window: usize) -> anyhow::Result<Looped> {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", redis))?;
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    let (mut sent, mut answered, mut applied) = (0, 0, 0);
    let begin = Instant::now();
    while answered < calls.len() {
        while sent < calls.len() && sent - answered < window {
            stream.write_all(&calls[sent])?;
            sent += 1;
        }
        let mut at = 0;
        while let Some(length) = value_length(&buffer[at..])? {
            let answer = &buffer[at..at + length];
            anyhow::ensure!(answer.first() != Some(&b'-'), "Redis: {}", String::from_utf8_lossy(answer));
            applied += usize::from(answer.windows(7).any(|word| word == b"applied"));
            at += length;
            answered += 1;
        }
        buffer.drain(..at);
        if at == 0 && answered < calls.len() {
            let count = stream.read(&mut piece)?;
            anyhow::ensure!(count > 0, "Redis has hung up");
            buffer.extend_from_slice(&piece[..count]);
        }
    }
    Ok(Looped { applied, seconds: begin.elapsed().as_secs_f64() })
}
