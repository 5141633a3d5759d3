//! Reads: one entity, a page, the keys of an identity, the caller itself.

use bytes::Bytes;
use contract::problem::{BAD_QUERY, NOT_FOUND, Problem, UNAUTHORIZED};
use contract::query::{ListQuery, Order, Resource};
use http::header::{ETAG, HeaderMap, HeaderValue, LINK};
use http::request::Parts;
use http::{Response, StatusCode};
use runtime::http::body::Body;
use runtime::http::conditional::{IfNoneMatch, etag};
use runtime::http::failure::Failure;
use runtime::http::media::{self, Media};
use runtime::http::query::Query;
use runtime::http::reply;

use super::intake::entity;
use super::{Api, Commands, unread};
use crate::auth::Permission;
use crate::reads::Reads;
use crate::request::Caller;
use crate::store::{Lookup, Page};

/// The orders that lists have here, the default first.
const ORDERS: [Order; 2] = [Order::Created, Order::CreatedDescending];

/// `GET /v1/signals/{id}`
pub(super) async fn signal<C: Commands, R: Reads>(
    api: &Api<C, R>,
    head: &Parts,
    id: &str,
) -> Result<Response<Body>, Failure> {
    admit(api, head, Permission::ReadSignals).await?;
    Query::parse(head.uri.query(), &[])?;
    let found = api.reads.signal(entity("signal", id)?).await.map_err(unread)?;
    document("signal", id, found, &head.headers)
}

/// `GET /v1/identities/{id}`
pub(super) async fn identity<C: Commands, R: Reads>(
    api: &Api<C, R>,
    head: &Parts,
    id: &str,
) -> Result<Response<Body>, Failure> {
    admit(api, head, Permission::Identities).await?;
    Query::parse(head.uri.query(), &[])?;
    let found = api.reads.identity(entity("identity", id)?).await.map_err(unread)?;
    document("identity", id, found, &head.headers)
}

/// `GET /v1/me`: the caller's identity.
pub(super) async fn me<C: Commands, R: Reads>(api: &Api<C, R>, head: &Parts) -> Result<Response<Body>, Failure> {
    let caller = admit(api, head, Permission::KnowItself).await?;
    Query::parse(head.uri.query(), &[])?;
    match api.reads.identity(caller.identity).await.map_err(unread)? {
        found @ Lookup::Found { .. } => document("identity", "", found, &head.headers),
        // Deleted a moment ago, and its keys with it.
        Lookup::Deleted { .. } | Lookup::Missing => {
            Err(Problem::new(&UNAUTHORIZED, "the caller's identity was deleted").into())
        }
    }
}

/// `GET /v1/signals`
pub(super) async fn signals<C: Commands, R: Reads>(api: &Api<C, R>, head: &Parts) -> Result<Response<Body>, Failure> {
    const KNOWN: [&str; 5] = ["status", "priority", "order", "limit", "cursor"];
    admit(api, head, Permission::ReadSignals).await?;
    list(api, head, Resource::Signals, &KNOWN).await
}

/// `GET /v1/identities`
pub(super) async fn identities<C: Commands, R: Reads>(
    api: &Api<C, R>,
    head: &Parts,
) -> Result<Response<Body>, Failure> {
    const KNOWN: [&str; 3] = ["order", "limit", "cursor"];
    admit(api, head, Permission::Identities).await?;
    list(api, head, Resource::Identities, &KNOWN).await
}

/// `GET /v1/identities/{id}/keys`: all of them, on one page.
pub(super) async fn keys<C: Commands, R: Reads>(
    api: &Api<C, R>,
    head: &Parts,
    identity: &str,
) -> Result<Response<Body>, Failure> {
    admit(api, head, Permission::Identities).await?;
    Query::parse(head.uri.query(), &[])?;
    let found = api.reads.keys(entity("identity", identity)?).await.map_err(unread)?;
    let keys = found.ok_or_else(|| missing("identity", identity))?;
    Ok(reply::json(StatusCode::OK, items(&Page { items: keys, next_cursor: None })))
}

async fn admit<C: Commands, R: Reads>(
    api: &Api<C, R>,
    head: &Parts,
    permission: Permission,
) -> Result<Caller, Failure> {
    let caller = api.admit(head, permission).await?;
    media::negotiate(&head.headers, &[Media::Json])?;
    Ok(caller)
}

fn missing(noun: &str, id: &str) -> Problem {
    Problem::new(&NOT_FOUND, format!("no {noun} has the id {id:?}"))
}

fn document(noun: &str, id: &str, found: Lookup, headers: &HeaderMap) -> Result<Response<Body>, Failure> {
    match found {
        Lookup::Found { version, .. } if IfNoneMatch::parse(headers).is_some_and(|known| known.has(version)) => {
            Ok(reply::not_modified(version))
        }
        Lookup::Found { body, version } => {
            let mut response = reply::json(StatusCode::OK, body);
            response.headers_mut().insert(ETAG, etag(version));
            Ok(response)
        }
        Lookup::Deleted { version } => {
            let detail = format!("the {noun} {id:?} was deleted");
            Err(Problem::new(&NOT_FOUND, detail).with_deleted_version(version).into())
        }
        Lookup::Missing => Err(missing(noun, id).into()),
    }
}

async fn list<C: Commands, R: Reads>(
    api: &Api<C, R>,
    head: &Parts,
    resource: Resource,
    known: &[&str],
) -> Result<Response<Body>, Failure> {
    let parameters = Query::parse(head.uri.query(), known)?;
    if resource == Resource::Signals && parameters.get("order") == Some(Order::Priority.as_str()) {
        let detail = "lists of the control plane are in the order created or -created; the data plane has priority";
        return Err(Problem::new(&BAD_QUERY, detail).into());
    }
    let pairs = known.iter().filter_map(|name| Some((*name, parameters.get(name)?)));
    let query = ListQuery::parse(resource, pairs, ORDERS[0], &ORDERS, &[])?;
    let page = api.reads.list(query.clone()).await.map_err(unread)?;
    let mut response = reply::json(StatusCode::OK, items(&page));
    if let Some(cursor) = &page.next_cursor {
        let link = format!("<{}?{}>; rel=\"next\"", head.uri.path(), query.next_query(cursor));
        response.headers_mut().insert(LINK, HeaderValue::try_from(link).map_err(Failure::internal)?);
    }
    Ok(response)
}

/// `{"items":[…],"next_cursor":…}`
fn items(page: &Page) -> Bytes {
    let length: usize = page.items.iter().map(|item| item.len() + 1).sum();
    let mut body = Vec::with_capacity(length + 80);
    body.extend_from_slice(b"{\"items\":[");
    for (i, item) in page.items.iter().enumerate() {
        if i > 0 {
            body.push(b',');
        }
        body.extend_from_slice(item);
    }
    body.extend_from_slice(b"],\"next_cursor\":");
    match &page.next_cursor {
        Some(cursor) => {
            // A cursor is base64url: nothing in it needs escaping.
            body.push(b'"');
            body.extend_from_slice(cursor.as_bytes());
            body.push(b'"');
        }
        None => body.extend_from_slice(b"null"),
    }
    body.push(b'}');
    body.into()
}
