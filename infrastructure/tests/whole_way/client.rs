//! A small HTTP client: one connection, one request in flight, as most callers have it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use infrastructure::Plane;
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("status {} without JSON ({e}): {:?}", self.status, self.body))
    }

    pub fn token(&self) -> String {
        self.header("nexus-token").unwrap_or_else(|| panic!("no token in {self:?}")).to_owned()
    }

    pub fn id(&self) -> String {
        self.json()["id"].as_str().expect("an id").to_owned()
    }

    /// The answer, if it has this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self
    }
}

/// A connection to one plane with one API key.
pub struct Client {
    address: SocketAddr,
    key: String,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    pub fn new(plane: &Plane, key: &str) -> Client {
        Client { address: plane.address(), key: key.to_owned(), sender: None }
    }

    /// Sends a request and reads its answer; an error means that no whole answer came.
    pub async fn try_send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> anyhow::Result<Answer> {
        let exchange = async {
            let mut sender = match self.sender.take() {
                Some(sender) if !sender.is_closed() => sender,
                _ => {
                    let stream = TcpStream::connect(self.address).await?;
                    stream.set_nodelay(true)?;
                    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
                    tokio::spawn(connection);
                    sender
                }
            };
            sender.ready().await?;
            let mut request = Request::builder().method(method).uri(path).header("host", self.address.to_string());
            if !self.key.is_empty() {
                request = request.header("authorization", format!("Bearer {}", self.key));
            }
            if body.is_some() && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
                request = request.header("content-type", "application/json");
            }
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let body = Full::new(Bytes::copy_from_slice(body.unwrap_or_default().as_bytes()));
            let response = sender.send_request(request.body(body)?).await?;
            let (parts, body) = response.into_parts();
            let body = body.collect().await?.to_bytes();
            self.sender = Some(sender);
            Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
        };
        tokio::time::timeout(Duration::from_secs(40), exchange).await?
    }

    /// As [`Client::try_send`], where an answer must come.
    pub async fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&str>) -> Answer {
        let answer = self.try_send(method, path, headers, body).await;
        answer.unwrap_or_else(|e| panic!("{method} {path}: no answer: {e:#}"))
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.send("GET", path, &[], None).await
    }

    /// Reads with a token, willing to wait.
    pub async fn get_with(&mut self, path: &str, token: &str) -> Answer {
        self.send("GET", path, &[("nexus-token", token), ("prefer", "wait=20")], None).await
    }

    /// Creates a signal.
    pub async fn create(&mut self, title: &str) -> Answer {
        self.send("POST", "/v1/signals", &[], Some(&json!({ "title": title }).to_string())).await.expect(201)
    }

    pub async fn patch(&mut self, id: &str, patch: &Value) -> Answer {
        self.send("PATCH", &format!("/v1/signals/{id}"), &[], Some(&patch.to_string())).await
    }
}

/// Waits until `probe` gives something.
pub async fn eventually<T>(what: &str, deadline: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(start.elapsed() < deadline, "waited {deadline:?} for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Every item of a list, page by page.
pub async fn walk(client: &mut Client, path: &str) -> Vec<Value> {
    try_walk(client, path).await.expect("a list that can be read")
}

/// As [`walk`]; `None` where a page is 503.
pub async fn try_walk(client: &mut Client, path: &str) -> Option<Vec<Value>> {
    let mut items = Vec::new();
    let mut next = path.to_owned();
    loop {
        let page = client.get(&next).await;
        if page.status == 503 {
            return None;
        }
        let page = page.expect(200);
        let json = page.json();
        items.extend(json["items"].as_array().expect("items").iter().cloned());
        match page.header("link") {
            Some(link) => {
                let end = link.find('>').expect("a link in angle brackets");
                next = link[1..end].to_owned();
            }
            None => {
                assert!(json["next_cursor"].is_null());
                return Some(items);
            }
        }
    }
}

/// Postgres and the view agree about every signal, as seen through both planes.
pub async fn assert_planes_agree(control: &mut Client, view: &mut Client) -> usize {
    let authoritative = walk(control, "/v1/signals?order=created&limit=500").await;
    eventually("the view to agree with Postgres", Duration::from_secs(30), async || {
        // A partition may still be catching up: 503 until then.
        let seen = try_walk(view, "/v1/signals?order=created&limit=500").await?;
        (seen == authoritative).then_some(())
    })
    .await;
    authoritative.len()
}
