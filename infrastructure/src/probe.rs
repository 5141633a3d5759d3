//! Small questions over TCP that tell whether a process is ready: one HTTP request, one Redis command.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, ToSocketAddrs, UnixStream};

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

async fn exchange(address: impl ToSocketAddrs, request: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(request).await.ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    Some(answer)
}

/// Whether the plane at `address` says that it is ready.
pub(crate) async fn is_ready(address: SocketAddr) -> bool {
    http_get(address, "/readyz", None).await.is_some_and(|answer| answer.status == 200)
}

/// Whether Redis answers a PING (while it still loads its data it answers with an error).
pub(crate) async fn redis_answers(address: SocketAddr) -> bool {
    let answer = tokio::time::timeout(PATIENCE, exchange(address, b"PING\r\nQUIT\r\n")).await;
    matches!(answer, Ok(Some(bytes)) if bytes.starts_with(b"+PONG"))
}

/// Whether the Redis of a URL is there, be it that it asks for a password first. Behind TLS, and on a Unix socket, a
/// connection is all that is asked for.
pub(crate) async fn redis_is_there(url: &str) -> bool {
    let (scheme, rest) = url.split_once("://").unwrap_or(("redis", url));
    let asked = async {
        if scheme.contains("unix") {
            return UnixStream::connect(rest.split('?').next().unwrap_or_default()).await.is_ok();
        }
        let address = redis_address(rest);
        if scheme == "rediss" {
            return TcpStream::connect(&*address).await.is_ok();
        }
        let answer = exchange(&*address, b"PING\r\nQUIT\r\n").await.unwrap_or_default();
        answer.starts_with(b"+PONG") || answer.starts_with(b"-NOAUTH")
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or(false)
}

/// Host and port out of what follows the scheme of a URL.
fn redis_address(rest: &str) -> String {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    let has_port = address.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
    if has_port { address.to_owned() } else { format!("{address}:6379") }
}

/// Whether anything accepts connections there.
pub(crate) async fn accepts(address: SocketAddr) -> bool {
    matches!(tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await, Ok(Ok(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_every_url_of_a_redis() {
        for (rest, address) in [
            ("127.0.0.1:6380/0", "127.0.0.1:6380"),
            ("user:p%40ss@cache.example/1?protocol=resp3", "cache.example:6379"),
            (":secret@[::1]:7000", "[::1]:7000"),
            ("[::1]/2", "[::1]:6379"),
        ] {
            assert_eq!(redis_address(rest), address);
        }
    }
}
