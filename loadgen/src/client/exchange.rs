//! One request at a time, blocking: for set-up, the walks at the end, and tests.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::Endpoint;
use super::wire::{Dechunker, Framing, ProtocolError, parse_head};

/// How long a blocking request may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The server can't be reached or hung up.
    #[error("{url} does not answer")]
    Io {
        /// The server.
        url: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It answers something else than HTTP.
    #[error("{url} does not speak HTTP/1.1")]
    Protocol {
        /// The server.
        url: String,
        /// Why.
        #[source]
        source: ProtocolError,
    },
}

/// An answer with its body.
#[derive(Debug)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Version in the `ETag`.
    pub version: Option<u32>,
    /// `Nexus-Token`, empty when there is none.
    pub token: String,
    /// The whole body.
    pub body: Vec<u8>,
}

/// A blocking connection that is opened when needed and kept.
#[derive(Debug)]
pub struct Exchange {
    endpoint: Endpoint,
    authorization: String,
    patience: Duration,
    stream: Option<TcpStream>,
}

impl Exchange {
    /// An exchange with `endpoint`, in the name of `api_key` unless that is empty.
    #[must_use]
    pub fn new(endpoint: Endpoint, api_key: &str) -> Self {
        let authorization =
            if api_key.is_empty() { String::new() } else { format!("Authorization: Bearer {api_key}\r\n") };
        Self { endpoint, authorization, patience: TIMEOUT, stream: None }
    }

    /// The same, with another limit for connecting and for each read and write than 30 s.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sends a `GET` and reads the whole answer. A kept connection that the server has closed in
    /// the meantime is opened again once.
    ///
    /// # Errors
    /// The server is not there or does not speak HTTP.
    pub fn get(&mut self, path: &str) -> Result<Reply, ExchangeError> {
        self.request("GET", path, "", b"")
    }

    /// Sends any request; `headers` are whole lines, each with its end.
    ///
    /// # Errors
    /// As for [`Exchange::get`].
    pub fn request(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> Result<Reply, ExchangeError> {
        let kept = self.stream.is_some();
        match self.once(method, path, headers, body) {
            Err(ExchangeError::Io { .. }) if kept => {
                self.stream = None;
                self.once(method, path, headers, body)
            }
            other => other,
        }
    }

    fn once(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> Result<Reply, ExchangeError> {
        let url = format!("http://{}{}", self.endpoint.authority, self.endpoint.prefix);
        let io = |source| ExchangeError::Io { url: url.clone(), source };
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(&self.endpoint, self.patience).map_err(io)?,
        };
        let mut request = format!(
            "{method} {}{path} HTTP/1.1\r\nHost: {}\r\n{}{headers}",
            self.endpoint.prefix, self.endpoint.authority, self.authorization
        )
        .into_bytes();
        if !body.is_empty() {
            request.extend_from_slice(
                format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()).as_bytes(),
            );
        }
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(body);
        stream.write_all(&request).map_err(io)?;

        let protocol = |source| ExchangeError::Protocol { url: url.clone(), source };
        let mut received = Vec::new();
        let mut piece = vec![0; 64 * 1024];
        let head = loop {
            if let Some(head) = parse_head(&received).map_err(protocol)? {
                break head;
            }
            match stream.read(&mut piece).map_err(io)? {
                0 => return Err(io(io::ErrorKind::UnexpectedEof.into())),
                n => received.extend_from_slice(&piece[..n]),
            }
        };
        let token = String::from_utf8_lossy(&received[head.token.clone()]).into_owned();
        let mut raw = received.split_off(head.length);
        let mut dechunker = Dechunker::default();
        let mut content = Vec::new();
        let mut complete = match head.framing {
            Framing::Length(length) => raw.len() >= length,
            Framing::Chunked => dechunker.feed(&raw, &mut content).map_err(protocol)?,
            Framing::UntilClose => false,
        };
        while !complete {
            let n = stream.read(&mut piece).map_err(io)?;
            let new = &piece[..n];
            complete = match head.framing {
                Framing::UntilClose if n == 0 => true,
                _ if n == 0 => return Err(io(io::ErrorKind::UnexpectedEof.into())),
                Framing::Chunked => dechunker.feed(new, &mut content).map_err(protocol)?,
                Framing::Length(length) => {
                    raw.extend_from_slice(new);
                    raw.len() >= length
                }
                Framing::UntilClose => {
                    raw.extend_from_slice(new);
                    false
                }
            };
        }
        if !head.close && head.framing != Framing::UntilClose {
            self.stream = Some(stream);
        }
        let body = if head.framing == Framing::Chunked { content } else { raw };
        Ok(Reply { status: head.status, version: head.version, token, body })
    }
}

fn connect(endpoint: &Endpoint, patience: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&endpoint.address, patience.min(Duration::from_secs(5)))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    Ok(stream)
}
