//! Resources and their methods. A plane declares each as a `static` and finds it by a plain `match` over
//! [`segments`].

use std::sync::OnceLock;

use http::{HeaderValue, Method};

use super::metrics::RouteMetrics;

/// A method that a resource may have. `HEAD` comes with `GET`, `OPTIONS` with every resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// `GET`, and `HEAD`.
    Get,
    /// `POST`
    Post,
    /// `PATCH`
    Patch,
    /// `DELETE`
    Delete,
}

impl Verb {
    pub(crate) const ALL: [Self; 4] = [Self::Get, Self::Post, Self::Patch, Self::Delete];

    /// The verb of a method; `HEAD` is served as `GET`.
    #[must_use]
    pub fn of(method: &Method) -> Option<Self> {
        match *method {
            Method::GET | Method::HEAD => Some(Self::Get),
            Method::POST => Some(Self::Post),
            Method::PATCH => Some(Self::Patch),
            Method::DELETE => Some(Self::Delete),
            _ => None,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// A resource: its path's template, which also names it in metrics, and its methods.
#[derive(Debug)]
pub struct Route {
    /// Such as `/v1/signals/{id}`.
    pub template: &'static str,
    /// Its methods.
    pub verbs: &'static [Verb],
    allow: OnceLock<HeaderValue>,
    metrics: OnceLock<Box<RouteMetrics>>,
}

impl Route {
    /// A resource. Templates are unique in a process.
    #[must_use]
    pub const fn new(template: &'static str, verbs: &'static [Verb]) -> Self {
        Self { template, verbs, allow: OnceLock::new(), metrics: OnceLock::new() }
    }

    /// The value of `Allow`.
    #[must_use]
    pub fn allow(&self) -> HeaderValue {
        let make = || {
            let mut names: Vec<&str> = Vec::new();
            for verb in self.verbs {
                names.push(verb.name());
                if *verb == Verb::Get {
                    names.push("HEAD");
                }
            }
            names.push("OPTIONS");
            HeaderValue::from_str(&names.join(", ")).expect("names of methods are a header value")
        };
        self.allow.get_or_init(make).clone()
    }

    pub(crate) fn metrics(&self) -> &RouteMetrics {
        self.metrics.get_or_init(|| Box::new(RouteMetrics::new(self.template)))
    }
}

/// The segments of a path: `/v1/signals/7` is `["v1", "signals", "7"]`, as many as fit into `N`. A
/// trailing slash leaves an empty last segment, so that it matches nothing; a path with more than `N`
/// segments gives none. Segments are not decoded: none of ours has a character that needs it.
#[must_use]
pub fn segments<const N: usize>(path: &str) -> Segments<'_, N> {
    let mut parts = [""; N];
    let mut len = 0;
    for part in path.strip_prefix('/').unwrap_or(path).split('/') {
        if len == N {
            return Segments { parts, len: 0 };
        }
        parts[len] = part;
        len += 1;
    }
    Segments { parts, len }
}

/// What [`segments`] found, without an allocation.
#[derive(Debug, Clone, Copy)]
pub struct Segments<'a, const N: usize> {
    parts: [&'a str; N],
    len: usize,
}

impl<'a, const N: usize> Segments<'a, N> {
    /// To `match` on.
    #[must_use]
    pub fn as_slice(&self) -> &[&'a str] {
        &self.parts[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allow_names_what_comes_along() {
        static ROUTE: Route = Route::new("/x", &[Verb::Get, Verb::Delete]);
        assert_eq!(ROUTE.allow(), "GET, HEAD, DELETE, OPTIONS");
    }

    #[test]
    fn a_trailing_slash_is_a_segment_and_too_many_are_none() {
        assert_eq!(segments::<3>("/v1/signals").as_slice(), ["v1", "signals"]);
        assert_eq!(segments::<3>("/v1/signals/").as_slice(), ["v1", "signals", ""]);
        assert_eq!(segments::<3>("//").as_slice(), ["", ""]);
        assert_eq!(segments::<3>("/").as_slice(), [""]);
        assert!(segments::<3>("/a/b/c/d").as_slice().is_empty());
    }
}
