//! HTTP to one plane: one kept-alive HTTP/1.1 connection, made when it is needed and again when it broke.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, ETAG, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::args::Connection;
use super::error::{CliError, Report};

/// The header that carries tokens both ways.
pub static NEXUS_TOKEN: HeaderName = HeaderName::from_static("nexus-token");
/// The header that names a request.
pub static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The header that tells a repeated answer.
pub static IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A page of the largest signals stays well under it.
const ANSWER_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plane {
    /// Takes commands.
    Control,
    /// Serves reads.
    Data,
}

impl Plane {
    /// What people call it.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Control => "control plane",
            Self::Data => "data plane",
        }
    }

    /// The setting of its address.
    #[must_use]
    pub fn setting(self) -> &'static str {
        match self {
            Self::Control => "NEXUS_CONTROL_URL",
            Self::Data => "NEXUS_DATAPLANE_URL",
        }
    }

    /// The flag of its address, without hyphens in front.
    #[must_use]
    pub fn flag(self) -> &'static str {
        match self {
            Self::Control => "control-url",
            Self::Data => "dataplane-url",
        }
    }
}

/// One request to make.
#[derive(Debug, Clone)]
pub struct Call {
    method: Method,
    path: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
    patience: Duration,
}

impl Call {
    /// A request without a body; `path` begins with `/` and may have a query.
    #[must_use]
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), headers: Vec::new(), body: Bytes::new(), patience: Duration::ZERO }
    }

    /// A `GET`.
    #[must_use]
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// The same, with one more header.
    ///
    /// # Errors
    /// The value can't stand in a header.
    pub fn with(mut self, name: &HeaderName, value: &str) -> Result<Self, CliError> {
        let value = HeaderValue::from_str(value)
            .map_err(|_| CliError::Usage(format!("the value of {name} has characters that no header may have")))?;
        self.headers.push((name.clone(), value));
        Ok(self)
    }

    /// The same, with a JSON body.
    #[must_use]
    pub fn json(mut self, body: impl Into<Bytes>) -> Self {
        let patch = self.method == Method::PATCH;
        let kind = if patch { "application/merge-patch+json" } else { "application/json" };
        self.headers.push((CONTENT_TYPE, HeaderValue::from_static(kind)));
        self.body = body.into();
        self
    }

    /// The same, with so much more time: the server was asked to wait.
    #[must_use]
    pub fn patient(mut self, more: Duration) -> Self {
        self.patience += more;
        self
    }

    /// Whether sending it twice does no more than sending it once.
    fn repeatable(&self) -> bool {
        self.method == Method::GET || self.headers.iter().any(|(name, _)| *name == IDEMPOTENCY_KEY)
    }
}

/// One answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its header.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// The text of a header.
    #[must_use]
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The version in the `ETag`.
    #[must_use]
    pub fn version(&self) -> Option<u64> {
        self.header(&ETAG)?.trim_matches('"').parse().ok()
    }

    /// The command's token.
    #[must_use]
    pub fn token(&self) -> Option<String> {
        self.header(&NEXUS_TOKEN).map(str::to_owned)
    }

    /// Whether it repeats an earlier answer.
    #[must_use]
    pub fn replayed(&self) -> bool {
        self.header(&IDEMPOTENCY_REPLAYED) == Some("true")
    }
}

/// A plane, as far as this process talks to it.
#[derive(Debug)]
pub struct Client {
    plane: Plane,
    url: String,
    host: String,
    port: u16,
    authority: HeaderValue,
    prefix: String,
    key: Option<HeaderValue>,
    limit: Duration,
    verbose: bool,
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// A failure of the wire, and whether the request may have reached the server.
struct Broken {
    cause: String,
    sent: bool,
}

impl Client {
    /// A client that has not connected yet.
    ///
    /// # Errors
    /// The address or the key can't be one.
    pub fn new(plane: Plane, settings: &Connection) -> Result<Self, CliError> {
        let url = match plane {
            Plane::Control => &settings.control_url,
            Plane::Data => &settings.dataplane_url,
        };
        let url = url.trim_end_matches('/').to_owned();
        let wrong = |what: &str| {
            CliError::Usage(format!(
                "{} (or --{}) is {url:?}, which {what}: it must look like http://127.0.0.1:8000",
                plane.setting(),
                plane.flag()
            ))
        };
        let uri: Uri = url.parse().map_err(|_| wrong("is no URL"))?;
        let authority = uri.authority().ok_or_else(|| wrong("names no host"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(wrong("asks for TLS, which is the business of a proxy in front")),
            _ => return Err(wrong("is no http:// address")),
        }
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(wrong("has parts that don't belong there"));
        }
        let key = settings.api_key.as_deref().map(str::trim).filter(|key| !key.is_empty());
        let key = key.map(|key| HeaderValue::from_str(&format!("Bearer {key}"))).transpose();
        let mut key = key.map_err(|_| CliError::Usage("NEXUS_API_KEY (or --api-key) is no API key".to_owned()))?;
        if let Some(key) = &mut key {
            key.set_sensitive(true);
        }
        Ok(Self {
            plane,
            host: authority.host().trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: authority.port_u16().unwrap_or(80),
            authority: HeaderValue::from_str(authority.as_str()).map_err(|_| wrong("is no URL"))?,
            prefix: uri.path().trim_end_matches('/').to_owned(),
            url,
            key,
            limit: settings.request_timeout,
            verbose: settings.verbose,
            connection: None,
        })
    }

    /// Which server it talks to.
    #[must_use]
    pub fn plane(&self) -> Plane {
        self.plane
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The answer of success.
    ///
    /// # Errors
    /// Nothing answers, or it answers with another status than 2xx.
    pub async fn call(&mut self, call: &Call) -> Result<Answer, CliError> {
        let answer = self.exchange(call).await?;
        if answer.status.is_success() {
            return Ok(answer);
        }
        Err(self.refused(answer.status, &answer.headers, &answer.body))
    }

    /// The answer, whatever it is.
    ///
    /// # Errors
    /// Nothing answers.
    pub async fn exchange(&mut self, call: &Call) -> Result<Answer, CliError> {
        let deadline = Instant::now() + self.limit + call.patience;
        let response = self.send(call, deadline).await?;
        let (parts, body) = response.into_parts();
        let body =
            timeout(deadline.saturating_duration_since(Instant::now()), Limited::new(body, ANSWER_BYTES_MAX).collect());
        let body = match body.await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) => {
                return Err(self.unreachable(Broken {
                    cause: format!("the answer broke off ({error})"),
                    sent: !call.repeatable(),
                }));
            }
            Err(_) => {
                return Err(self.unreachable(Broken { cause: self.timed_out(call), sent: !call.repeatable() }));
            }
        };
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }

    /// An endless answer: its status must be 200; its body is read without a deadline.
    ///
    /// # Errors
    /// Nothing answers, or it refuses.
    pub async fn open(&mut self, call: &Call) -> Result<Incoming, CliError> {
        let deadline = Instant::now() + self.limit;
        let response = self.send(call, deadline).await?;
        // The stream has the connection for itself.
        self.connection = None;
        if response.status() == StatusCode::OK {
            return Ok(response.into_body());
        }
        let (parts, body) = response.into_parts();
        let body = timeout(self.limit, Limited::new(body, 1 << 20).collect()).await;
        let body = body.ok().and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
        Err(self.refused(parts.status, &parts.headers, &body))
    }

    /// The error that an answer without success is.
    #[must_use]
    pub fn refused(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> CliError {
        CliError::Problem(Box::new(Report::new(self.plane, status, headers, body, self.key.is_some())))
    }

    async fn send(&mut self, call: &Call, deadline: Instant) -> Result<Response<Incoming>, CliError> {
        let start = Instant::now();
        loop {
            let reused = self.connection.is_some();
            let left = deadline.saturating_duration_since(Instant::now());
            let result = match timeout(left, self.attempt(call)).await {
                Ok(result) => result,
                Err(_) => Err(Broken { cause: self.timed_out(call), sent: true }),
            };
            match result {
                Ok(response) => {
                    if self.verbose {
                        let id = response.headers().get("x-request-id").and_then(|v| v.to_str().ok()).unwrap_or("-");
                        super::terminal::note(&format!(
                            "{} {}{} → {} in {:.1} ms, request {id}",
                            call.method,
                            self.url,
                            call.path,
                            response.status().as_u16(),
                            start.elapsed().as_secs_f64() * 1000.0
                        ));
                    }
                    return Ok(response);
                }
                Err(broken) => {
                    self.connection = None;
                    // A server may close an idle connection at any time: that alone is no failure.
                    if reused && Instant::now() < deadline && (call.repeatable() || !broken.sent) {
                        continue;
                    }
                    return Err(self.unreachable(Broken { sent: broken.sent && call.method != Method::GET, ..broken }));
                }
            }
        }
    }

    async fn attempt(&mut self, call: &Call) -> Result<Response<Incoming>, Broken> {
        if let Some(connection) = &mut self.connection
            && connection.ready().await.is_err()
        {
            self.connection = None;
        }
        if self.connection.is_none() {
            self.connection = Some(self.connect().await.map_err(|cause| Broken { cause, sent: false })?);
        }
        let mut request = Request::builder().method(call.method.clone()).uri(format!("{}{}", self.prefix, call.path));
        if let Some(headers) = request.headers_mut() {
            headers.insert(HOST, self.authority.clone());
            headers.insert(USER_AGENT, HeaderValue::from_static(concat!("nexus-cli/", env!("CARGO_PKG_VERSION"))));
            headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
            if let Some(key) = &self.key {
                headers.insert(AUTHORIZATION, key.clone());
            }
            for (name, value) in &call.headers {
                if *name == ACCEPT {
                    headers.insert(name.clone(), value.clone());
                } else {
                    headers.append(name.clone(), value.clone());
                }
            }
        }
        let request = request
            .body(Full::new(call.body.clone()))
            .map_err(|error| Broken { cause: format!("the request can't be made ({error})"), sent: false })?;
        let Some(connection) = &mut self.connection else {
            return Err(Broken { cause: "the connection is gone".to_owned(), sent: false });
        };
        connection.send_request(request).await.map_err(|error| Broken {
            sent: !error.is_canceled(),
            cause: if error.is_canceled() || error.is_incomplete_message() || error.is_closed() {
                "it closed the connection without an answer".to_owned()
            } else {
                error.to_string()
            },
        })
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let stream = match timeout(CONNECT_TIMEOUT, TcpStream::connect((self.host.as_str(), self.port))).await {
            Ok(stream) => stream.map_err(|error| plain(&error))?,
            Err(_) => return Err(format!("no connection within {} s", CONNECT_TIMEOUT.as_secs())),
        };
        stream.set_nodelay(true).map_err(|error| plain(&error))?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        // It ends when the sender is dropped; its errors come out of the requests.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }

    fn timed_out(&self, call: &Call) -> String {
        format!("no answer within {:.1} s (--request-timeout)", (self.limit + call.patience).as_secs_f64())
    }

    fn unreachable(&self, broken: Broken) -> CliError {
        CliError::Unreachable { plane: self.plane, url: self.url.clone(), cause: broken.cause, sent: broken.sent }
    }
}

/// The error's words without Rust's `(os error …)`.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split_once(" (os error").map_or(text.clone(), |(words, _)| words.to_lowercase())
}

/// A path segment, percent-encoded where it must be.
#[must_use]
pub fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'~') || (b == b'.' && !matches!(text, "." | "..")) {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(url: &str) -> Connection {
        Connection {
            control_url: url.to_owned(),
            dataplane_url: url.to_owned(),
            api_key: Some(String::new()),
            request_timeout: Duration::from_secs(1),
            verbose: false,
        }
    }

    #[test]
    fn an_address_that_is_none_names_its_setting() {
        for url in ["", "localhost", "ftp://x", "https://x", "http://a:b@x", "http://x?y"] {
            let error = Client::new(Plane::Data, &settings(url)).expect_err("refused");
            assert!(error.to_string().contains("NEXUS_DATAPLANE_URL") && error.exit_code() == 2, "{url}: {error}");
        }
        let client = Client::new(Plane::Control, &settings("http://[::1]:9/nexus/")).expect("good");
        assert_eq!((client.host.as_str(), client.port, client.prefix.as_str()), ("::1", 9, "/nexus"));
        assert!(client.key.is_none());
    }

    #[test]
    fn a_segment_can_not_leave_its_place() {
        assert_eq!(segment("a/../b?c#d é"), "a%2F..%2Fb%3Fc%23d%20%C3%A9");
        assert_eq!(segment(".."), "%2E%2E");
    }
}
