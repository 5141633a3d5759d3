//! The routes behind the front, over a real socket: what the front adds is added to all of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use runtime::http::cors::Cors;
use runtime::http::front::Front;
use runtime::http::wellknown::{About, Readiness, Status};
use runtime::serve::{Limits, bind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::http::{OPENAPI, ROUTES};

/// Serves a [`Bench`]'s API for the length of a test.
fn start() -> (SocketAddr, Shutdown) {
    let Bench { api, shutdown, .. } = Bench::new();
    let about = About {
        name: "nexus-control",
        version: "0",
        openapi: OPENAPI,
        readiness: Box::new(|| Readiness { status: Status::Ready, checks: BTreeMap::new() }),
    };
    let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let addr = listener.local_addr().expect("bound");
    let front = Front::new(api, about, Cors::new(&["http://127.0.0.1:8001"]));
    tokio::spawn(front.serve(listener, Limits::default(), shutdown.clone()));
    (addr, shutdown)
}

/// The whole answer to one request on a connection of its own, as text in lower-case header names.
async fn send(addr: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.expect("connected");
    let secret = secret(Role::Admin);
    let request = format!("{head}\r\nHost: x\r\nAuthorization: Bearer {secret}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("an answer");
    text
}

#[tokio::test]
async fn every_route_has_options_and_refuses_other_methods_with_allow() {
    let (addr, shutdown) = start();
    for route in ROUTES {
        let path = route.template.replace("{id}", &KNOWN.to_string()).replace("{key_id}", &KNOWN.to_string());
        let allow = format!("allow: {}\r\n", route.allow().to_str().expect("ASCII"));
        let options = send(addr, &format!("OPTIONS {path} HTTP/1.1")).await;
        assert!(options.starts_with("HTTP/1.1 204 ") && options.contains(&allow), "{options}");
        for method in ["PUT", "GET", "POST", "PATCH", "DELETE"] {
            let has = route.verbs.iter().any(|verb| verb.name() == method);
            let reply = send(addr, &format!("{method} {path} HTTP/1.1")).await;
            assert_eq!(reply.starts_with("HTTP/1.1 405 "), !has, "{method} {path}: {reply}");
            assert_eq!(reply.contains(&allow), !has, "{method} {path}: {reply}");
            assert!(reply.contains("x-request-id: "));
        }
        let slash = send(addr, &format!("GET {path}/ HTTP/1.1")).await;
        assert!(slash.starts_with("HTTP/1.1 404 "), "{path}/: {slash}");
    }
    shutdown.begin();
}

#[tokio::test]
async fn a_head_is_a_get_without_its_body() {
    let (addr, shutdown) = start();
    let path = format!("/v1/signals/{KNOWN}");
    let get = send(addr, &format!("GET {path} HTTP/1.1")).await;
    let head = send(addr, &format!("HEAD {path} HTTP/1.1")).await;
    assert!(get.starts_with("HTTP/1.1 200 ") && head.starts_with("HTTP/1.1 200 "));
    let (_, body) = get.split_once("\r\n\r\n").expect("a body");
    let (head_lines, nothing) = head.split_once("\r\n\r\n").expect("an end");
    assert_eq!(nothing, "");
    assert!(head_lines.contains(&format!("content-length: {}", body.len())), "{head_lines}");
    assert!(head_lines.contains("etag: \"3\""));
    shutdown.begin();
}

#[tokio::test]
async fn only_the_data_planes_pages_may_call_and_see_the_headers_they_need() {
    let (addr, shutdown) = start();
    let path = format!("/v1/signals/{KNOWN}");
    let friend = send(addr, &format!("GET {path} HTTP/1.1\r\nOrigin: http://127.0.0.1:8001")).await;
    assert!(friend.contains("access-control-allow-origin: http://127.0.0.1:8001\r\n"), "{friend}");
    assert!(
        friend.contains("access-control-expose-headers: ETag, Location, Link, Nexus-Token, X-Request-Id, Retry-After")
    );
    let stranger = send(addr, &format!("GET {path} HTTP/1.1\r\nOrigin: http://evil")).await;
    assert!(!stranger.contains("access-control-allow-origin"), "{stranger}");
    let ask = "OPTIONS /v1/signals HTTP/1.1\r\nOrigin: http://127.0.0.1:8001\r\nAccess-Control-Request-Method: POST";
    let preflight = send(addr, ask).await;
    assert!(preflight.contains("access-control-allow-methods: GET, HEAD, POST, OPTIONS"), "{preflight}");
    shutdown.begin();
}
