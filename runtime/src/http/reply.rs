//! Answers that handlers make.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, VARY};
use http::{Response, StatusCode};

use super::body::Body;
use super::conditional::etag;
use super::failure::Failure;

/// `status` with `body` as `application/json`.
#[must_use]
pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    typed(status, "application/json", body)
}

/// `status` with `body` of the media type `media`.
#[must_use]
pub fn typed(status: StatusCode, media: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::Full(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

/// `status` without a body.
#[must_use]
pub fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status;
    response
}

/// 304 with the tag of the version that the caller has.
#[must_use]
pub fn not_modified(version: u64) -> Response<Body> {
    let mut response = empty(StatusCode::NOT_MODIFIED);
    response.headers_mut().insert(ETAG, etag(version));
    response
}

/// 200 with an event stream as its body; see [`Body::channel`].
#[must_use]
pub fn event_stream(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

/// 204 with `Allow`.
pub(crate) fn options(allow: HeaderValue) -> Response<Body> {
    let mut response = empty(StatusCode::NO_CONTENT);
    response.headers_mut().insert(ALLOW, allow);
    response
}

/// Marks the outcome of a read, a problem too: no cache may keep or share it unasked.
///
/// # Errors
/// The one that it is given.
pub fn mark_read(outcome: Result<Response<Body>, Failure>) -> Result<Response<Body>, Failure> {
    let cache_control = HeaderValue::from_static("private, no-cache");
    let vary = HeaderValue::from_static("Authorization, Accept");
    match outcome {
        Ok(mut response) => {
            response.headers_mut().insert(CACHE_CONTROL, cache_control);
            response.headers_mut().insert(VARY, vary);
            Ok(response)
        }
        Err(failure) => Err(failure.with_header(CACHE_CONTROL, cache_control).with_header(VARY, vary)),
    }
}
