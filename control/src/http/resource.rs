//! Which resources there are.

use runtime::http::route::{Route, Verb, segments};

/// What a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource<'p> {
    /// `/v1/signals`
    Signals,
    /// `/v1/signals/{id}`
    Signal(&'p str),
    /// `/v1/signals:batch`
    SignalBatch,
    /// `/v1/identities`
    Identities,
    /// `/v1/identities/{id}`
    Identity(&'p str),
    /// `/v1/identities/{id}/keys`
    Keys(&'p str),
    /// `/v1/identities/{id}/keys/{key_id}`
    Key(&'p str, &'p str),
    /// `/v1/me`
    Me,
}

static SIGNALS: Route = Route::new("/v1/signals", &[Verb::Get, Verb::Post]);
static SIGNAL: Route = Route::new("/v1/signals/{id}", &[Verb::Get, Verb::Patch, Verb::Delete]);
static SIGNAL_BATCH: Route = Route::new("/v1/signals:batch", &[Verb::Post]);
static IDENTITIES: Route = Route::new("/v1/identities", &[Verb::Get, Verb::Post]);
static IDENTITY: Route = Route::new("/v1/identities/{id}", &[Verb::Get, Verb::Patch, Verb::Delete]);
static KEYS: Route = Route::new("/v1/identities/{id}/keys", &[Verb::Get, Verb::Post]);
static KEY: Route = Route::new("/v1/identities/{id}/keys/{key_id}", &[Verb::Delete]);
static ME: Route = Route::new("/v1/me", &[Verb::Get]);

/// Every route of the command side; the API description lists the same ones.
pub static ROUTES: &[&Route] = &[&SIGNALS, &SIGNAL, &SIGNAL_BATCH, &IDENTITIES, &IDENTITY, &KEYS, &KEY, &ME];

impl<'p> Resource<'p> {
    /// What `path` names, if anything. An empty segment names nothing, so a trailing slash is no resource.
    #[must_use]
    pub fn find(path: &'p str) -> Option<Self> {
        Some(match segments::<5>(path).as_slice() {
            ["v1", "signals"] => Self::Signals,
            ["v1", "signals", id] if !id.is_empty() => Self::Signal(id),
            ["v1", "signals:batch"] => Self::SignalBatch,
            ["v1", "identities"] => Self::Identities,
            ["v1", "identities", id] if !id.is_empty() => Self::Identity(id),
            ["v1", "identities", id, "keys"] if !id.is_empty() => Self::Keys(id),
            ["v1", "identities", id, "keys", key] if !id.is_empty() && !key.is_empty() => Self::Key(id, key),
            ["v1", "me"] => Self::Me,
            _ => return None,
        })
    }

    /// Its route.
    #[must_use]
    pub fn route(self) -> &'static Route {
        match self {
            Self::Signals => &SIGNALS,
            Self::Signal(_) => &SIGNAL,
            Self::SignalBatch => &SIGNAL_BATCH,
            Self::Identities => &IDENTITIES,
            Self::Identity(_) => &IDENTITY,
            Self::Keys(_) => &KEYS,
            Self::Key(..) => &KEY,
            Self::Me => &ME,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_found_by_its_template() {
        for route in ROUTES {
            let found = Resource::find(route.template).map(Resource::route).map(|found| found.template);
            assert_eq!(found, Some(route.template));
        }
    }

    #[test]
    fn nothing_else_is_a_resource() {
        for path in [
            "",
            "/",
            "/v1",
            "/v1/",
            "/v1/signals/",
            "/v1/signals/a/",
            "/v1/signals/a/b",
            "/v1/signal",
            "/v2/signals",
            "/v1/identities//keys",
            "/v1/identities/a/keys/",
            "/v1/identities/a/keys/b/c",
            "/v1/me/",
            "/v1/signals:batch/",
            "/v1//signals",
            "//v1/signals",
            "/V1/signals",
            "/v1/signals%2Fa",
        ] {
            assert_eq!(Resource::find(path), None, "{path}");
        }
    }
}
