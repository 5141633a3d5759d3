//! The conventions of HTTP that both planes keep.
//!
//! [`front::Front`] does what comes before and after a handler: request id, CORS, well-known pages, 404
//! and 405 of the route, `OPTIONS`, `HEAD`, panics, problem documents, metrics. A handler calls the rest
//! in the order in which errors take precedence:
//!
//! | status | piece |
//! |---|---|
//! | 400 (no `Host`) | the front, by [`host::check`] |
//! | 404, 405 (route) | the front, by [`front::Plane::resolve`] |
//! | 401 | [`headers::bearer`], then the plane's keys |
//! | 403 | the plane's roles |
//! | 406 | [`media::negotiate`] |
//! | 413, 415 | [`media::require_content_type`], [`body::collect`] |
//! | 400 | [`query::Query::parse`], [`conditional::IfMatch::parse`], [`headers`], then the body's JSON |
//! | 409, 422 (idempotency), 422, 404 (entity), 412, 409, 503 | the plane |

pub mod body;
pub mod conditional;
pub mod cors;
pub mod failure;
pub mod front;
pub mod headers;
pub mod host;
pub mod media;
mod metrics;
pub mod query;
pub mod reply;
pub mod request_id;
pub mod route;
pub mod wellknown;

#[cfg(test)]
pub(crate) fn header_map(lines: &[(&'static str, &'static str)]) -> ::http::HeaderMap {
    lines
        .iter()
        .map(|(name, value)| (::http::HeaderName::from_static(name), ::http::HeaderValue::from_static(value)))
        .collect()
}
