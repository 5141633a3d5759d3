//! Problem documents (RFC 9457): every error that an API answers, in one table.
//!
//! A handler names a [`Kind`] and gives a detail; status, title and the page at `/problems/<code>`
//! follow from the table, so the two planes cannot disagree.

use serde::Serialize;

/// One kind of problem: what never changes between two of its occurrences.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// Machine-readable name, the last segment of `type`.
    pub code: &'static str,
    /// HTTP status.
    pub status: u16,
    /// Short human-readable summary.
    pub title: &'static str,
    /// What the page says: what happened and what to do about it.
    pub help: &'static str,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $status:literal $code:literal $title:literal $help:literal;)*) => {
        $(
            #[doc = concat!($title, ": `", $code, "`, status ", stringify!($status), ".")]
            pub static $name: Kind = Kind { code: $code, status: $status, title: $title, help: $help };
        )*
        /// Every kind, in the order of the problem index page.
        pub static KINDS: &[&Kind] = &[$(&$name),*];
    };
}

kinds! {
    BAD_REQUEST = 400 "bad-request" "The request is malformed"
        "A header or the request line could not be understood. Nothing was applied. The detail names what to mend.";
    BAD_JSON = 400 "bad-json" "The body is not valid JSON"
        "The body must be one JSON value in UTF-8, with no member twice in an object. Nothing was applied.";
    BAD_QUERY = 400 "bad-query" "The query string is not acceptable"
        "A query parameter is unknown, repeated, or has a value out of its range. The detail names it and what it may be.";
    BAD_CURSOR = 400 "bad-cursor" "The cursor does not belong to this list"
        "A cursor is only good for the filters and the order it came with, on the same path. Start the walk over without one.";
    BAD_TOKEN = 400 "bad-token" "The Nexus-Token is malformed"
        "Send tokens exactly as a command's answer gave them, at most 64 in one read, separated by commas.";
    TOKEN_EXPIRED = 400 "token-expired" "The Nexus-Token is too old"
        "The token is older than the view remembers deletions, or comes from before the database was set back. Read without it.";
    UNAUTHORIZED = 401 "unauthorized" "A valid API key is needed"
        "Send `Authorization: Bearer nxs_…` with a key that is not revoked and not expired.";
    FORBIDDEN = 403 "forbidden" "The caller may not do this"
        "The key is good, but its identity's role does not allow this request, or the identity is inactive.";
    NOT_FOUND = 404 "not-found" "There is nothing here"
        "No such route, or no entity with this id. When the problem carries `deleted_version`, the entity was deleted by that version.";
    METHOD_NOT_ALLOWED = 405 "method-not-allowed" "The method is not allowed here"
        "The `Allow` header lists the methods of this resource.";
    NOT_ACCEPTABLE = 406 "not-acceptable" "No representation fits the Accept header"
        "This resource can be had as `application/json`; watches also as `text/event-stream`.";
    REQUEST_TIMEOUT = 408 "request-timeout" "The request did not arrive in time"
        "The connection was too slow in sending its request. Nothing was applied.";
    CONFLICT = 409 "conflict" "The command contradicts the current state"
        "The entity is in a state that does not allow this change. The detail says which rule it breaks.";
    FINAL_STATUS = 409 "final-status" "The signal's status is final"
        "`completed` and `cancelled` are final: the status of such a signal can't change any more.";
    NAME_TAKEN = 409 "name-taken" "The name belongs to another identity"
        "Identity names are unique. Choose another one.";
    LAST_ADMIN = 409 "last-admin" "The last active admin must stay"
        "The last active admin can't be deleted, demoted or deactivated. Make another admin first.";
    KEY_IN_USE = 409 "idempotency-in-progress" "A request with this Idempotency-Key is still running"
        "Wait and repeat the same request: it will get the first answer.";
    PRECONDITION_FAILED = 412 "precondition-failed" "The entity has another version"
        "`If-Match` (or `if_match`) names a version that is not the current one. Read it again, decide again, and send the new version.";
    PAYLOAD_TOO_LARGE = 413 "payload-too-large" "The body is too large"
        "A body may have 1 MiB, that of `:batch` 8 MiB. Nothing was applied.";
    UNSUPPORTED_MEDIA_TYPE = 415 "unsupported-media-type" "The body's media type is not supported"
        "Send `Content-Type: application/json`; for a PATCH also `application/merge-patch+json`.";
    VALIDATION = 422 "validation" "The request breaks a rule"
        "`errors` lists each broken rule (of one entity the first 32) with a JSON pointer to its place in the body. Nothing was applied.";
    KEY_REUSED = 422 "idempotency-key-reused" "The Idempotency-Key belongs to another request"
        "A key stands for one request: same method, path, If-Match and body. Use a new key for a new request.";
    HEADERS_TOO_LARGE = 431 "headers-too-large" "The header is too large"
        "The request's header may have 16 KiB. This answer has no body, as has the 400 of what is no HTTP at all.";
    INTERNAL = 500 "internal" "Something broke on our side"
        "The cause is in the server's log under this `request_id`. If it was a command, it was not applied.";
    UNAVAILABLE = 503 "unavailable" "A server this request needs is away"
        "Nothing was applied. Try again after `Retry-After` seconds; `/readyz` says what is missing.";
    OVERLOADED = 503 "overloaded" "The queue is full"
        "Nothing was applied. Try again after `Retry-After` seconds.";
    OUTCOME_UNKNOWN = 503 "outcome-unknown" "The command may or may not have been applied"
        "The database was lost while it committed. Repeat the request with the same `Idempotency-Key` to learn the outcome, or read the entity.";
    NOT_YET_CONSISTENT = 503 "not-yet-consistent" "The view does not show the token's command yet"
        "The view lags behind the command. Read again after `Retry-After`, or wait longer with `Prefer: wait=<seconds>`.";
    VIEW_NOT_READY = 503 "view-not-ready" "The view is being filled"
        "Redis is empty, was set back, or is being rebuilt from the topics. Read again after `Retry-After`; `/v1/status` shows the progress.";
}

/// The kind with this code, if there is one.
#[must_use]
pub fn kind(code: &str) -> Option<&'static Kind> {
    KINDS.iter().copied().find(|kind| kind.code == code)
}

/// Most broken rules that one answer lists, of one entity: a body of a million of them must not become an answer of a
/// hundred million bytes.
pub const ERRORS_MAX: usize = 32;
/// Most bytes of a pointer that is shown; of a longer one the beginning.
const POINTER_BYTES_MAX: usize = 512;

/// One broken rule in a body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// JSON pointer (RFC 6901) into the request's body; one of more than 512 bytes ends there with `…`.
    pub pointer: String,
    /// What the rule asks for.
    pub detail: String,
}

impl FieldError {
    /// A broken rule at `pointer`.
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        let mut pointer = pointer.into();
        if pointer.len() > POINTER_BYTES_MAX {
            pointer.truncate(pointer.floor_char_boundary(POINTER_BYTES_MAX));
            pointer.push('…');
        }
        Self { pointer, detail: detail.into() }
    }
}

/// One occurrence of a [`Kind`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What kind it is.
    pub kind: &'static Kind,
    /// What happened this time and what to do; shown to the caller.
    pub detail: String,
    /// Broken rules, for [`VALIDATION`].
    pub errors: Vec<FieldError>,
    /// The version of the deletion, on a 404 of a deleted entity.
    pub deleted_version: Option<u64>,
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted_version: Option<u64>,
}

impl Problem {
    /// An occurrence of `kind`.
    pub fn new(kind: &'static Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new(), deleted_version: None }
    }

    /// A 422 with its broken rules.
    #[must_use]
    pub fn validation(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [one] if one.pointer.is_empty() => one.detail.clone(),
            [one] => format!("{}: {}", one.pointer, one.detail),
            many => format!("{} rules are broken; see errors", many.len()),
        };
        Self { kind: &VALIDATION, detail, errors, deleted_version: None }
    }

    /// The same, naming the version of the entity's deletion.
    #[must_use]
    pub fn with_deleted_version(mut self, version: u64) -> Self {
        self.deleted_version = Some(version);
        self
    }

    /// The `application/problem+json` document. `request_id` is left out where there is none (a
    /// problem inside a batch's results).
    #[must_use]
    pub fn to_json(&self, request_id: Option<&str>) -> Vec<u8> {
        let document = Document {
            r#type: format!("/problems/{}", self.kind.code),
            title: self.kind.title,
            status: self.kind.status,
            detail: &self.detail,
            code: self.kind.code,
            request_id,
            errors: &self.errors,
            deleted_version: self.deleted_version,
        };
        serde_json::to_vec(&document).expect("strings and integers always serialise")
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): {}", self.kind.title, self.kind.code, self.detail)
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_statuses_are_errors() {
        for (i, kind) in KINDS.iter().enumerate() {
            assert!(kind.status >= 400, "{}", kind.code);
            assert!(KINDS[..i].iter().all(|other| other.code != kind.code), "{} twice", kind.code);
        }
    }

    #[test]
    fn a_document_names_its_pointers_and_request() {
        let problem = Problem::validation(vec![FieldError::new("/title", "must not be blank")]);
        assert_eq!(
            String::from_utf8(problem.to_json(Some("r1"))).expect("UTF-8"),
            r#"{"type":"/problems/validation","title":"The request breaks a rule","status":422,"detail":"/title: must not be blank","code":"validation","request_id":"r1","errors":[{"pointer":"/title","detail":"must not be blank"}]}"#
        );
    }
}
