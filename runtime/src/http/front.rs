//! What stands before and behind every handler of a plane.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use contract::problem::{INTERNAL, METHOD_NOT_ALLOWED, NOT_FOUND, Problem};
use futures_util::FutureExt;
use http::header::{ALLOW, CONTENT_LENGTH, HeaderMap, HeaderValue};
use http::{Method, Request, Response};
use hyper::body::Incoming;
use tokio::net::TcpListener;

use super::body::Body;
use super::cors::Cors;
use super::failure::Failure;
use super::host;
use super::reply;
use super::request_id::{RequestId, X_REQUEST_ID};
use super::route::{Route, Verb};
use super::wellknown::{self, About};
use crate::serve::{self, Limits};
use crate::shutdown::Shutdown;

/// One request, with what the front found out about it. Its method is one of its route's; `HEAD` has
/// become `GET`.
#[derive(Debug)]
pub struct Call {
    /// The request.
    pub request: Request<Incoming>,
    /// What [`Plane::resolve`] gave for its path.
    pub route: &'static Route,
    /// The same as [`Call::route`]'s method.
    pub verb: Verb,
    /// Its id.
    pub id: RequestId,
}

/// The part of a server that is a plane's own.
pub trait Plane: Send + Sync + 'static {
    /// The resource at `path`, if it is one of the plane's; a plain `match` over
    /// [`segments`](super::route::segments).
    fn resolve(&self, path: &str) -> Option<&'static Route>;

    /// The answer. A client that goes away drops the future.
    fn handle(&self, call: Call) -> impl Future<Output = Result<Response<Body>, Failure>> + Send;
}

/// A plane with everything around it.
#[derive(Debug)]
pub struct Front<P> {
    plane: P,
    about: About,
    cors: Cors,
}

/// Counts what is nobody's.
static UNKNOWN: Route = Route::new("unknown", &[]);

impl<P: Plane> Front<P> {
    /// `plane` with its surroundings.
    #[must_use]
    pub fn new(plane: P, about: About, cors: Cors) -> Self {
        Self { plane, about, cors }
    }

    /// Serves `listener` until `shutdown` has begun and requests in flight are answered.
    pub async fn serve(self, listener: TcpListener, limits: Limits, shutdown: Shutdown) {
        let front = Arc::new(self);
        serve::serve(listener, limits, shutdown, move |request| {
            let front = Arc::clone(&front);
            async move { front.answer(request).await }
        })
        .await;
    }

    /// The answer to one request: always one, a panic of the handler included.
    pub async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let started = Instant::now();
        let id = RequestId::of(request.headers());
        let origin = self.cors.origin(request.headers());
        let is_head = request.method() == Method::HEAD;
        let verb = Verb::of(request.method());

        let path = request.uri().path();
        let own = self.plane.resolve(path);
        let route = own.or_else(|| wellknown::resolve(path));
        let outcome = match (host::check(&request), route, verb) {
            // No HTTP as it should be, whatever it asks for; nor is what follows on this connection to be trusted.
            (Err(problem), ..) => Err(Failure::from(problem).closing()),
            (_, None, _) => Err(Problem::new(&NOT_FOUND, "there is no such route").into()),
            (_, Some(route), _) if request.method() == Method::OPTIONS => Ok(self.options(route, request.headers())),
            (_, Some(route), Some(verb)) if route.verbs.contains(&verb) => {
                if own.is_some() {
                    self.handle(request, route, verb, &id).await
                } else {
                    wellknown::get(&self.about, path, request.headers())
                }
            }
            (_, Some(route), _) => {
                let detail = format!("{} is not a method of {}", request.method(), route.template);
                Err(Failure::from(Problem::new(&METHOD_NOT_ALLOWED, detail)).with_header(ALLOW, route.allow()))
            }
        };

        let mut response = outcome.unwrap_or_else(|failure| failure.into_response(&id));
        if is_head {
            behead(&mut response);
        }
        response.headers_mut().insert(&X_REQUEST_ID, id.value());
        self.cors.mark(response.headers_mut(), origin);
        route.unwrap_or(&UNKNOWN).metrics().count(verb, response.status(), started.elapsed());
        response
    }

    async fn handle(
        &self,
        mut request: Request<Incoming>,
        route: &'static Route,
        verb: Verb,
        id: &RequestId,
    ) -> Result<Response<Body>, Failure> {
        if request.method() == Method::HEAD {
            *request.method_mut() = Method::GET;
        }
        let call = Call { request, route, verb, id: id.clone() };
        // A handler's state is either immutable or behind locks that a panic poisons.
        match AssertUnwindSafe(self.plane.handle(call)).catch_unwind().await {
            Ok(outcome) => outcome,
            Err(panic) => {
                let text = panic.downcast_ref::<&str>().copied();
                let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text");
                tracing::error!(request_id = id.as_str(), route = route.template, panic = text, "handler panicked");
                Err(Problem::new(&INTERNAL, INTERNAL.help).into())
            }
        }
    }

    fn options(&self, route: &Route, headers: &HeaderMap) -> Response<Body> {
        let allow = route.allow();
        let mut response = reply::options(allow.clone());
        self.cors.preflight(headers, response.headers_mut(), &allow);
        response
    }
}

/// Drops the body, keeping the length that a `GET` would have had.
fn behead(response: &mut Response<Body>) {
    let body = std::mem::take(response.body_mut());
    if let Some(length @ 1..) = body.len() {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}
