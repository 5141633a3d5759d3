//! Cross-origin calls from the browsers' pages that are listed, and no others.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderValue,
    ORIGIN, VARY,
};

const EXPOSED: &str = "ETag, Location, Link, Nexus-Token, X-Request-Id, Retry-After";
const ALLOWED: &str = "Authorization, Content-Type, Accept, Idempotency-Key, If-Match, If-None-Match, \
                       Last-Event-ID, Nexus-Token, Prefer, X-Request-Id";

/// Which origins may call.
#[derive(Debug, Clone, Default)]
pub struct Cors {
    origins: Vec<HeaderValue>,
    any: bool,
}

impl Cors {
    /// These origins (`https://host:port`, without a trailing slash; one is forgiven). `*` means any: no
    /// cookie is ever looked at, so it opens nothing to who has no key.
    #[must_use]
    pub fn new<I: AsRef<str>>(origins: &[I]) -> Self {
        let texts = || origins.iter().map(|origin| origin.as_ref().trim().trim_end_matches('/'));
        Self {
            any: texts().any(|origin| origin == "*"),
            origins: texts().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect(),
        }
    }

    /// The origin of a request, when it may call.
    #[must_use]
    pub fn origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(ORIGIN)?;
        (self.any || self.origins.contains(origin)).then(|| origin.clone())
    }

    /// Adds to an answer what lets the page at `origin` read it; `Vary: Origin` in any case, for caches.
    pub fn mark(&self, headers: &mut HeaderMap, origin: Option<HeaderValue>) {
        if self.origins.is_empty() {
            return;
        }
        headers.append(VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = origin {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        }
    }

    /// Adds to the answer of an `OPTIONS` what a preflight asks for; `allow` are the resource's methods.
    pub fn preflight(&self, request: &HeaderMap, answer: &mut HeaderMap, allow: &HeaderValue) {
        if !request.contains_key(ACCESS_CONTROL_REQUEST_METHOD) || self.origin(request).is_none() {
            return;
        }
        answer.insert(ACCESS_CONTROL_ALLOW_METHODS, allow.clone());
        answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(ALLOWED));
        answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::header_map;
    use super::*;

    #[test]
    fn only_listed_origins_are_let_in() {
        let cors = Cors::new(&["http://a:1/", "http://b"]);
        let origin = |value| cors.origin(&header_map(&[("origin", value)]));
        assert!(origin("http://a:1").is_some() && origin("http://b").is_some());
        assert!(origin("http://a").is_none() && origin("null").is_none());
        let mut answer = HeaderMap::new();
        cors.mark(&mut answer, origin("http://evil"));
        assert_eq!(answer[VARY], "Origin");
        assert!(!answer.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
        cors.mark(&mut answer, origin("http://b"));
        assert_eq!(answer[ACCESS_CONTROL_ALLOW_ORIGIN], "http://b");
    }
}
