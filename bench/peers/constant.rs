//! A bare hyper server that answers a constant: what HTTP alone costs, with one thread and nothing behind it.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Where and what.
#[derive(Debug, Clone, clap::Args)]
pub struct ConstantOptions {
    /// Where to listen
    #[arg(long)]
    pub listen: SocketAddr,
    /// Bytes of the body
    #[arg(long)]
    pub bytes: usize,
}

/// Serves until the process is ended.
///
/// # Errors
/// The port is taken.
pub async fn serve(options: ConstantOptions) -> anyhow::Result<()> {
    let body = Bytes::from(vec![b'x'; options.bytes]);
    let listener = TcpListener::bind(options.listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let body = body.clone();
        let service = service_fn(move |_: Request<hyper::body::Incoming>| {
            let mut response = Response::new(Full::new(body.clone()));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            std::future::ready(Ok::<_, Infallible>(response))
        });
        tokio::spawn(async move {
            // A client that goes away is no error of the server.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
