//! What all commands share before they are commands: caller, body, idempotency, trace.

use bytes::Bytes;
use contract::command::Precondition;
use contract::json::{Json, JsonError};
use contract::problem::{BAD_JSON, FieldError, NOT_FOUND, Problem};
use http::Response;
use http::header::{HeaderMap, IF_MATCH};
use http::request::Parts;
use hyper::body::Body as HttpBody;
use runtime::http::body::{self, Body};
use runtime::http::conditional::IfMatch;
use runtime::http::failure::Failure;
use runtime::http::headers;
use runtime::http::media::{self, Media};
use runtime::http::query::Query;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Api, Commands, Exchange};
use crate::auth::Permission;
use crate::reads::Reads;
use crate::request::{Caller, Idempotency, Request, Work};

/// What the queue is charged for a request besides its body: the structures around it.
const OVERHEAD_BYTES: usize = 512;

/// What a command's body may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyRule {
    /// Media types; none: any body, which is not looked at.
    types: &'static [&'static str],
    limit_bytes: usize,
}

impl BodyRule {
    pub(super) const JSON: Self = Self { types: media::JSON_BODY, limit_bytes: body::BODY_LIMIT };
    pub(super) const PATCH: Self = Self { types: media::PATCH_BODY, limit_bytes: body::BODY_LIMIT };
    pub(super) const BATCH: Self = Self { types: media::JSON_BODY, limit_bytes: body::BATCH_BODY_LIMIT };
    pub(super) const NONE: Self = Self { types: &[], limit_bytes: body::BODY_LIMIT };
}

/// A command's request, admitted and whole, but not yet understood.
#[derive(Debug)]
pub(super) struct Intake {
    pub(super) body: Bytes,
    caller: Caller,
    request_id: String,
    traceparent: String,
    idempotency: Option<Idempotency>,
}

impl<C: Commands, R: Reads> Api<C, R> {
    /// The way of every command: taken in, read as work by `read`, carried out, answered.
    pub(super) async fn command<B: HttpBody<Data = Bytes> + Unpin>(
        &self,
        exchange: Exchange<'_, B>,
        permission: Permission,
        rule: BodyRule,
        read: impl FnOnce(&Intake) -> Result<Work, Problem>,
    ) -> Result<Response<Body>, Failure> {
        let intake = Intake::take(self, exchange, permission, rule).await?;
        let work = read(&intake);
        self.perform(intake, work).await
    }
}

impl Intake {
    /// Takes the request in: 401, 403, 406, 415, 413, then the 400s of query and headers.
    async fn take<C, R, B>(
        api: &Api<C, R>,
        exchange: Exchange<'_, B>,
        permission: Permission,
        rule: BodyRule,
    ) -> Result<Self, Failure>
    where
        C: Commands,
        R: Reads,
        B: HttpBody<Data = Bytes> + Unpin,
    {
        let Exchange { head, body: incoming, id } = exchange;
        let caller = api.admit(head, permission).await?;
        media::negotiate(&head.headers, &[Media::Json])?;
        if !rule.types.is_empty() {
            media::require_content_type(&head.headers, rule.types)?;
        }
        let body = body::collect(incoming, &head.headers, rule.limit_bytes, api.deadlines.body).await?;
        Query::parse(head.uri.query(), &[])?;
        let idempotency = headers::idempotency_key(&head.headers)?
            .map(|key| Idempotency { key: key.to_owned(), fingerprint: fingerprint(head, &body) });
        Ok(Self {
            body,
            caller,
            request_id: id.as_str().to_owned(),
            traceparent: traceparent(&head.headers).unwrap_or_default().to_owned(),
            idempotency,
        })
    }

    /// Whether an `Idempotency-Key` came with it.
    pub(super) fn is_idempotent(&self) -> bool {
        self.idempotency.is_some()
    }

    /// The request for the batcher.
    pub(super) fn request(self, work: Work) -> Request {
        Request {
            caller: self.caller,
            request_id: self.request_id,
            traceparent: self.traceparent,
            idempotency: self.idempotency,
            work,
            bytes: self.body.len() + OVERHEAD_BYTES,
        }
    }

    /// Reads the body as JSON, and that by `read`.
    ///
    /// # Errors
    /// 400 for what is no JSON, 422 for what `read` refuses.
    pub(super) fn parse<T>(&self, read: impl FnOnce(&Json<'_>) -> Result<T, Vec<FieldError>>) -> Result<T, Problem> {
        let json = Json::parse(&self.body).map_err(|error| match error {
            JsonError::Syntax { .. } => Problem::new(&BAD_JSON, error.to_string()),
            JsonError::TooDeep => Problem::validation(vec![FieldError::new("", error.to_string())]),
        })?;
        read(&json).map_err(Problem::validation)
    }
}

/// What `If-Match` asks of the entity's version.
pub(super) fn precondition(headers: &HeaderMap) -> Result<Precondition, Problem> {
    Ok(match IfMatch::parse(headers)? {
        None => Precondition::None,
        Some(IfMatch::Any) => Precondition::Exists,
        Some(IfMatch::Versions(versions)) => Precondition::AnyOf(versions),
    })
}

/// The id that a path's segment spells.
///
/// # Errors
/// 404: what is no UUID names nothing that exists.
pub(super) fn entity(noun: &str, segment: &str) -> Result<Uuid, Problem> {
    let refuse = || Problem::new(&NOT_FOUND, format!("no {noun} has the id {}", contract::id::excerpt(segment)));
    contract::id::parse(segment).ok_or_else(refuse)
}

/// What makes two requests the same: method, path, `If-Match` and body. Each part is preceded by its
/// length, so that nothing can move from one to the next.
fn fingerprint(head: &Parts, body: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(head.method.as_str().as_bytes());
    part(head.uri.path().as_bytes());
    let mut if_match = Vec::new();
    for value in head.headers.get_all(IF_MATCH) {
        if_match.extend_from_slice(value.as_bytes());
        if_match.push(b',');
    }
    part(&if_match);
    part(body);
    hash.finalize().into()
}

/// The trace context (W3C Trace Context, version 00 of `traceparent`), where it is there, once and
/// well-formed; any other is passed over, as the recommendation asks.
fn traceparent(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all("traceparent").iter();
    let text = values.next()?.to_str().ok()?;
    let is_hex = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let is_set = |part: &str| part.bytes().any(|b| b != b'0');
    let mut parts = text.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let lengths = version == "00" && trace.len() == 32 && parent.len() == 16 && flags.len() == 2;
    let whole = parts.next().is_none() && values.next().is_none();
    let digits = is_hex(trace) && is_hex(parent) && is_hex(flags) && is_set(trace) && is_set(parent);
    (lengths && whole && digits).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn only_a_well_formed_trace_context_is_passed_on() {
        let read = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", HeaderValue::from_static(text));
            traceparent(&headers).map(str::to_owned)
        };
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(read(good).as_deref(), Some(good));
        for bad in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_fingerprint_tells_requests_apart() {
        let of = |method: &str, path: &str, if_match: Option<&'static str>, body: &str| {
            let mut builder = http::Request::builder().method(method).uri(path);
            if let Some(value) = if_match {
                builder = builder.header(IF_MATCH, value);
            }
            let (head, ()) = builder.body(()).expect("a request").into_parts();
            fingerprint(&head, body.as_bytes())
        };
        let first = of("PATCH", "/v1/signals/a", Some("\"1\""), "{}");
        assert_eq!(first, of("PATCH", "/v1/signals/a", Some("\"1\""), "{}"));
        for other in [
            of("DELETE", "/v1/signals/a", Some("\"1\""), "{}"),
            of("PATCH", "/v1/signals/b", Some("\"1\""), "{}"),
            of("PATCH", "/v1/signals/a", Some("\"2\""), "{}"),
            of("PATCH", "/v1/signals/a", None, "{}"),
            of("PATCH", "/v1/signals/a", Some("\"1\""), "{ }"),
        ] {
            assert_ne!(first, other);
        }
    }
}
