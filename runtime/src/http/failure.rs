//! What a handler answers when it can't do what was asked: a problem, and what its response needs besides.

use std::error::Error;

use bytes::Bytes;
use contract::problem::{INTERNAL, Problem};
use http::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};

use super::body::Body;
use super::request_id::RequestId;

/// The header that tells which types a PATCH may have (RFC 5789).
pub static ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");

/// A problem with its response's headers. Small, so that a `Result` with it is cheap to return.
#[derive(Debug)]
pub struct Failure(Box<Inner>);

#[derive(Debug)]
struct Inner {
    problem: Problem,
    headers: Vec<(HeaderName, HeaderValue)>,
    cause: Option<Box<dyn Error + Send + Sync>>,
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self(Box::new(Inner { problem, headers: Vec::new(), cause: None }))
    }
}

impl Failure {
    /// A 500 whose cause goes to the log under the request's id, and never to the caller.
    #[must_use]
    pub fn internal(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::from(Problem::new(&INTERNAL, INTERNAL.help)).caused_by(cause)
    }

    /// The same, with a cause for the log.
    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// The same, with one more response header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    /// The same, with `Retry-After` in seconds.
    #[must_use]
    pub fn retry_after(self, seconds: u32) -> Self {
        self.with_header(RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// The same, closing the connection after the answer.
    #[must_use]
    pub fn closing(self) -> Self {
        self.with_header(CONNECTION, HeaderValue::from_static("close"))
    }

    /// The problem.
    #[must_use]
    pub fn problem(&self) -> &Problem {
        &self.0.problem
    }

    /// The status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.0.problem.kind.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The response: the problem document with the request's id, 401 with `WWW-Authenticate`, 503 with
    /// `Retry-After` (1 s unless set). Logs the cause, once.
    #[must_use]
    pub fn into_response(self, id: &RequestId) -> Response<Body> {
        let status = self.status();
        let Inner { problem, headers, cause } = *self.0;
        if let Some(cause) = cause {
            let cause = chain(&*cause);
            tracing::error!(request_id = id.as_str(), code = problem.kind.code, cause, "request failed");
        }
        let mut response = Response::new(Body::Full(Bytes::from(problem.to_json(Some(id.as_str())))));
        *response.status_mut() = status;
        let map = response.headers_mut();
        map.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match status {
            StatusCode::UNAUTHORIZED => {
                map.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                map.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        for (name, value) in headers {
            map.insert(name, value);
        }
        response
    }
}

/// An error and all its sources, for one log line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::problem::{UNAUTHORIZED, UNAVAILABLE};

    #[test]
    fn a_503_says_when_to_come_back_and_a_401_how_to_come_in() {
        let id = RequestId::make();
        let response = Failure::from(Problem::new(&UNAVAILABLE, "x")).into_response(&id);
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        let response = Failure::from(Problem::new(&UNAVAILABLE, "x")).retry_after(5).into_response(&id);
        assert_eq!(response.headers()[RETRY_AFTER], "5");
        let response = Failure::from(Problem::new(&UNAUTHORIZED, "x")).into_response(&id);
        assert_eq!(response.headers()[WWW_AUTHENTICATE], "Bearer");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
    }

    #[test]
    fn the_cause_of_a_500_is_not_shown() {
        let response = Failure::internal("password=hunter2").into_response(&RequestId::make());
        let Body::Full(body) = response.into_body() else { panic!("a problem has a body") };
        assert!(!String::from_utf8_lossy(&body).contains("hunter2"));
    }
}
