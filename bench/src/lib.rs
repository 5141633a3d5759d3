//! What the benches share: a client with one connection, documents of a known size, the servers, and the report.

pub mod report;
pub mod servers;

use std::net::SocketAddr;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A signal's creation whose rendered document has some 400 bytes.
#[must_use]
pub fn create_body(i: u64) -> String {
    format!(r#"{{"title":"bench {i}","priority":"high","payload":{{"note":"{}","n":{i}}}}}"#, "x".repeat(100))
}

/// One HTTP/1.1 connection with one request in flight.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    key: String,
    buffer: Vec<u8>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The header, status line included.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a header; the name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn connect(address: SocketAddr, key: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, key: key.to_owned(), buffer: Vec::new() })
    }

    /// Sends a request and reads its answer, which must have a `content-length`.
    ///
    /// # Errors
    /// The connection broke, or the answer is no HTTP.
    pub async fn send(&mut self, method: &str, path: &str, headers: &str, body: &str) -> anyhow::Result<Answer> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: nexus\r\nauthorization: Bearer {}\r\n{headers}content-length: {}\r\n\r\n{body}",
            self.key,
            body.len()
        );
        self.stream.write_all(request.as_bytes()).await?;
        self.buffer.clear();
        loop {
            anyhow::ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the server closed the connection");
            let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
            let status = head.get(9..12).and_then(|text| text.parse().ok()).context("no status")?;
            let mut answer = Answer { status, head, body: Vec::new() };
            let length: usize = answer.header("content-length").unwrap_or("0").parse()?;
            while self.buffer.len() < end + 4 + length {
                anyhow::ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the answer ends early");
            }
            answer.body = self.buffer[end + 4..end + 4 + length].to_vec();
            return Ok(answer);
        }
    }
}
