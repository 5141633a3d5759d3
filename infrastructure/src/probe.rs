//! Small questions over TCP that tell whether a process is ready: one HTTP request, one Redis command.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long an answer may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// An answer over HTTP/1.1.
#[derive(Clone, Debug)]
pub struct HttpAnswer {
    /// The status code.
    pub status: u16,
    /// The body, as text.
    pub body: String,
}

/// Sends one GET with a connection of its own and reads the answer to its end. Meant for probes, not for load.
///
/// `None` when nothing listens there, it does not answer within two seconds, or it does not speak HTTP.
pub async fn http_get(address: SocketAddr, path: &str, api_key: Option<&str>) -> Option<HttpAnswer> {
    let bearer = api_key.map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{bearer}Connection: close\r\n\r\n");
    let bytes = tokio::time::timeout(PATIENCE, exchange(address, request.as_bytes())).await.ok()??;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(HttpAnswer { status, body: body.to_owned() })
}

async fn exchange(address: SocketAddr, request: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(request).await.ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    Some(answer)
}

/// Whether Redis answers a PING (while it still loads its data it answers with an error).
pub(crate) async fn redis_answers(address: SocketAddr) -> bool {
    let answer = tokio::time::timeout(PATIENCE, exchange(address, b"PING\r\nQUIT\r\n")).await;
    matches!(answer, Ok(Some(bytes)) if bytes.starts_with(b"+PONG"))
}

/// Whether anything accepts connections there.
pub(crate) async fn accepts(address: SocketAddr) -> bool {
    matches!(tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await, Ok(Ok(_)))
}
