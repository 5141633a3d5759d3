//! The server over real sockets: limits, draining, and what the front does around a handler.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Response, StatusCode};
use runtime::http::body::{self, Body};
use runtime::http::cors::Cors;
use runtime::http::failure::Failure;
use runtime::http::front::{Call, Front, Plane};
use runtime::http::reply;
use runtime::http::route::{Route, Verb, segments};
use runtime::http::wellknown::{About, Readiness, Status};
use runtime::serve::{self, Limits};
use runtime::shutdown::Shutdown;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

static ITEM: Route = Route::new("/item", &[Verb::Get, Verb::Post]);
static SLOW: Route = Route::new("/slow", &[Verb::Get]);
static PANIC: Route = Route::new("/panic", &[Verb::Get]);
static STREAM: Route = Route::new("/stream", &[Verb::Get]);
static BIG: Route = Route::new("/big", &[Verb::Get]);

/// Says when the slow handler has begun, and when it may end.
#[derive(Default)]
struct Gate {
    begun: Notify,
    open: Notify,
}

struct Toy {
    gate: Arc<Gate>,
}

impl Plane for Toy {
    fn resolve(&self, path: &str) -> Option<&'static Route> {
        match segments::<2>(path).as_slice() {
            ["item"] => Some(&ITEM),
            ["slow"] => Some(&SLOW),
            ["panic"] => Some(&PANIC),
            ["stream"] => Some(&STREAM),
            ["big"] => Some(&BIG),
            _ => None,
        }
    }

    async fn handle(&self, call: Call) -> Result<Response<Body>, Failure> {
        match (call.route.template, call.verb) {
            ("/item", Verb::Post) => {
                let (parts, incoming) = call.request.into_parts();
                let timeout = Duration::from_millis(300);
                let body = body::collect(incoming, &parts.headers, body::BODY_LIMIT, timeout).await?;
                Ok(reply::json(StatusCode::CREATED, body.len().to_string()))
            }
            ("/slow", _) => {
                self.gate.begun.notify_one();
                self.gate.open.notified().await;
                Ok(reply::json(StatusCode::OK, "\"slow\""))
            }
            ("/panic", _) => panic!("on purpose"),
            ("/big", _) => Ok(reply::json(StatusCode::OK, vec![b' '; 64 << 20])),
            ("/stream", _) => {
                let (sender, body) = Body::channel(2);
                tokio::spawn(async move {
                    for _ in 0..3 {
                        tokio::time::sleep(Duration::from_millis(300)).await;
                        if sender.send(Bytes::from_static(b"data: x\n\n")).await.is_err() {
                            return;
                        }
                    }
                });
                Ok(reply::event_stream(body))
            }
            _ => Ok(reply::json(StatusCode::OK, "{\"a\":1}")),
        }
    }
}

struct Server {
    addr: SocketAddr,
    gate: Arc<Gate>,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

fn limits() -> Limits {
    Limits {
        header_timeout: Duration::from_millis(200),
        idle_timeout: Duration::from_millis(500),
        write_timeout: Duration::from_millis(400),
        drain_deadline: Duration::from_millis(600),
        ..Limits::default()
    }
}

fn start(limits: Limits) -> Server {
    let listener = serve::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let addr = listener.local_addr().expect("bound");
    let gate = Arc::new(Gate::default());
    let shutdown = Shutdown::new();
    let readiness = Box::new(|| Readiness { status: Status::Ready, checks: BTreeMap::new() });
    let about = About { name: "toy", version: "0", openapi: "{}", readiness };
    let front = Front::new(Toy { gate: Arc::clone(&gate) }, about, Cors::new(&["http://page"]));
    let task = tokio::spawn(front.serve(listener, limits, shutdown.clone()));
    Server { addr, gate, shutdown, task }
}

/// `future`, or a panic that names what was waited for.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(10), future).await {
        Ok(value) => value,
        Err(_) => panic!("waited 10 s for {what}"),
    }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.expect("the server listens")
    }

    /// Everything that the server answers to `request`, up to the end of the connection.
    async fn talk(&self, request: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request).await.expect("the server reads");
        rest(&mut stream).await
    }
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    soon("the end of the connection", stream.read_to_end(&mut answer)).await.expect("an orderly end");
    String::from_utf8(answer).expect("UTF-8")
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn a_client_that_dribbles_its_header_is_cut_off() {
    let server = start(limits());
    for beginning in ["", "GET /item HT"] {
        let begun = Instant::now();
        assert_eq!(server.talk(beginning.as_bytes()).await, "");
        assert!(begun.elapsed() >= Duration::from_millis(200), "{beginning:?}: {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(3), "{beginning:?}: {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_stream_is_not() {
    let server = start(limits());
    let begun = Instant::now();
    let answer = server.talk(b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(answer.matches("data: x").count(), 3, "{answer}");
    assert!(begun.elapsed() >= Duration::from_millis(1_400), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_header_over_16_kib_is_431() {
    let server = start(limits());
    let request = format!("GET /item HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "x".repeat(20 * 1024));
    let answer = server.talk(request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn a_body_over_the_limit_is_answered_413_even_while_it_is_being_sent() {
    let server = start(limits());
    let body = vec![b'x'; 4 << 20];
    let announced = format!("POST /item HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    let answer = server.talk(&[announced.as_bytes(), &body].concat()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("\"code\":\"payload-too-large\""), "{answer}");

    let chunked = format!("POST /item HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n", body.len());
    let answer = server.talk(&[chunked.as_bytes(), &body, b"\r\n0\r\n\r\n"].concat()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn a_body_that_stalls_is_answered_408_and_closed() {
    let server = start(limits());
    let answer = server.talk(b"POST /item HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc").await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_is_cut_off() {
    let server = start(limits());
    let mut stream = server.connect().await;
    stream.write_all(&get("/big")).await.expect("the server reads");
    let mut one = [0];
    soon("the answer's first byte", stream.read_exact(&mut one)).await.expect("an answer");
    // Nothing is read meanwhile: the socket's buffers fill, then the clock runs. The server's open
    // connections are its own gauge.
    soon("the cut", async {
        while !String::from_utf8_lossy(&runtime::telemetry::render()).contains("cut_total{reason=\"write\"} 1") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn head_has_the_length_of_get_and_no_body() {
    let server = start(limits());
    let answer = server.talk(b"HEAD /item HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole header");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(head.matches("content-length: 7").count(), 1, "{head}");
    assert_eq!(body, "");
    let answer = server.talk(b"HEAD /none HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn routes_answer_404_405_and_options() {
    let server = start(limits());
    for path in ["/item/", "/none", "//item", "/livez/"] {
        let answer = server.talk(&get(path)).await;
        assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("application/problem+json"), "{answer}");
    }
    let answer = server.talk(b"DELETE /item HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET, HEAD, POST, OPTIONS\r\n"), "{answer}");
    let preflight = b"OPTIONS /item HTTP/1.1\r\nhost: x\r\norigin: http://page\r\n\
        access-control-request-method: POST\r\nconnection: close\r\n\r\n";
    let answer = server.talk(preflight).await;
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
    for line in ["allow: GET", "access-control-allow-origin: http://page", "access-control-allow-methods: GET"] {
        assert!(answer.contains(line), "{line} is not in {answer}");
    }
}

#[tokio::test]
async fn a_request_without_a_host_or_with_two_is_400_with_a_problem() {
    let server = start(limits());
    for hosts in ["", "host: x\r\nhost: x\r\n", "host: a b\r\n"] {
        for path in ["/item", "/livez", "/none"] {
            let answer = server.talk(format!("GET {path} HTTP/1.1\r\n{hosts}\r\n").as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("connection: close\r\n"), "{answer}");
            assert!(
                answer.contains("application/problem+json") && answer.contains("\"code\":\"bad-request\""),
                "{answer}"
            );
        }
    }
    for request in ["GET /item HTTP/1.0\r\n\r\n", "GET /item HTTP/1.1\r\nhost:\r\nconnection: close\r\n\r\n"] {
        let answer = server.talk(request.as_bytes()).await;
        assert!(answer.contains(" 200 OK\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn a_panic_is_answered_500_and_the_server_goes_on() {
    let server = start(limits());
    let answer = server.talk(b"GET /panic HTTP/1.1\r\nhost: x\r\nx-request-id: r7\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 500 ") && answer.contains("\"request_id\":\"r7\""), "{answer}");
    assert!(answer.contains("x-request-id: r7\r\n") && !answer.contains("on purpose"), "{answer}");
    assert!(server.talk(&get("/item")).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn draining_answers_what_is_in_flight_and_refuses_what_is_new() {
    let server = start(limits());
    let mut stream = server.connect().await;
    stream.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("the server reads");
    soon("the handler", server.gate.begun.notified()).await;
    server.shutdown.begin();
    soon("the listener to close", async {
        while TcpStream::connect(server.addr).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    server.gate.open.notify_one();
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\"slow\""), "{answer}");
    drop(stream);
    soon("the server to end", server.task).await.expect("no panic");
}

#[tokio::test]
async fn draining_ends_at_its_deadline_whatever_hangs() {
    let server = start(limits());
    let mut stream = server.connect().await;
    stream.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("the server reads");
    soon("the handler", server.gate.begun.notified()).await;
    let begun = Instant::now();
    server.shutdown.begin();
    soon("the server to end", server.task).await.expect("no panic");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn connections_beyond_the_bound_wait() {
    let server = start(Limits { connections: 1, ..limits() });
    let mut first = server.connect().await;
    first.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("the server reads");
    soon("the handler", server.gate.begun.notified()).await;
    let mut second = server.connect().await;
    second.write_all(&get("/item")).await.expect("the kernel takes it");
    let early = tokio::time::timeout(Duration::from_millis(100), second.readable()).await;
    assert!(early.is_err(), "the second was served beside the first");
    server.gate.open.notify_one();
    assert!(rest(&mut first).await.starts_with("HTTP/1.1 200 "));
    drop(first);
    assert!(rest(&mut second).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = start(limits());
    let requests =
        [&b"GET /item HTTP/1.1\r\nhost: x\r\n\r\n"[..], b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n", &get("/none")]
            .concat();
    let answer = server.talk(&requests).await;
    let statuses: Vec<&str> = answer.split("HTTP/1.1 ").skip(1).map(|one| &one[..3]).collect();
    assert_eq!(statuses, ["200", "200", "404"], "{answer}");
}

#[tokio::test]
async fn an_answer_does_not_wait_for_the_other_half_of_the_next_request() {
    let server = start(Limits { header_timeout: Duration::from_secs(60), ..limits() });
    let mut stream = server.connect().await;
    stream.write_all(b"GET /item HTTP/1.1\r\nhost: x\r\n\r\nGET /it").await.expect("the server reads");
    let mut status = [0; 12];
    soon("the first answer", stream.read_exact(&mut status)).await.expect("an answer");
    assert_eq!(&status, b"HTTP/1.1 200");
}
