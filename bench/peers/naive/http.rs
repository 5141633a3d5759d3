//! What the services share of HTTP: serving, one API key, answers.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

pub type Body = UnsyncBoxBody<Bytes, Infallible>;
pub type Answer = Response<Body>;

/// Serves until the process is ended.
///
/// # Errors
/// The port is taken.
pub async fn serve<F>(
    listen: SocketAddr,
    api_key: &str,
    handle: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
) -> anyhow::Result<()>
where
    F: Future<Output = Answer> + Send,
{
    let listener = TcpListener::bind(listen).await?;
    let expected = format!("Bearer {api_key}");
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (handle, expected) = (handle.clone(), expected.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let known =
                request.headers().get(AUTHORIZATION).is_some_and(|value| value.as_bytes() == expected.as_bytes());
            let answer = known.then(|| handle(request));
            async move {
                let answer = match answer {
                    Some(answer) => answer.await,
                    None => problem(StatusCode::UNAUTHORIZED, "a valid API key is needed"),
                };
                Ok::<_, Infallible>(answer)
            }
        });
        tokio::spawn(async move {
            // A client that goes away is no error of the server.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// An answer with a JSON body.
pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An answer with a signal.
pub fn signal(status: StatusCode, body: impl Into<Bytes>, version: u64) -> Answer {
    let mut response = json(status, body);
    if let Ok(value) = HeaderValue::from_str(&format!("\"{version}\"")) {
        response.headers_mut().insert(ETAG, value);
    }
    response
}

/// An error.
pub fn problem(status: StatusCode, detail: &str) -> Answer {
    json(status, serde_json::json!({ "status": status.as_u16(), "detail": detail }).to_string())
}

/// A page of documents as the walks of loadgen read it.
pub fn page(documents: &[Vec<u8>], next_cursor: Option<&str>) -> Answer {
    let mut body = b"{\"items\":[".to_vec();
    body.extend_from_slice(&documents.join(&b","[..]));
    body.extend_from_slice(b"],\"next_cursor\":");
    body.extend_from_slice(serde_json::json!(next_cursor).to_string().as_bytes());
    body.push(b'}');
    json(StatusCode::OK, body)
}

/// The value of a query parameter that needs no decoding.
pub fn parameter<'a>(request: &'a Request<Incoming>, name: &str) -> Option<&'a str> {
    let query = request.uri().query()?;
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}
