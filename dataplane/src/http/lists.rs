//! Lists of signals and identities.

use contract::identity::Role;
use contract::partition::{Partition, Topic};
use contract::problem::{BAD_QUERY, Problem};
use contract::query::{Filter, ListQuery, Order, Resource};
use http::header::{HeaderMap, HeaderValue, LINK};
use http::{Response, StatusCode};
use runtime::http::body::Body;
use runtime::http::failure::Failure;
use runtime::http::front::Call;
use runtime::http::media::{Media, negotiate};
use runtime::http::query::Query;
use runtime::http::reply;
use uuid::Uuid;

use super::admission::{Admitted, mark_preference};
use super::{DataPlane, unreadable};
use crate::document::Document;
use crate::fetch::ReadError;
use crate::lists::Listing;
use crate::watch::scope::Scope;
use crate::watch::stream::{Needs, list_scope};

impl DataPlane {
    /// `GET /v1/signals`
    pub(super) async fn signals(&self, call: &Call) -> Result<Response<Body>, Failure> {
        let headers = call.request.headers();
        let admitted = self.admit(headers, None).await?;
        let media = negotiate(headers, &[Media::Json, Media::EventStream])?;
        let known = ["status", "priority", "order", "limit", "cursor", "from"];
        let parameters = Query::parse(call.request.uri().query(), &known)?;
        let orders = [Order::Created, Order::CreatedDescending, Order::Priority];
        let query = read(Resource::Signals, &parameters, &known, Order::Priority, &orders)?;
        if media == Media::EventStream {
            let from_now = watch_query(&query, &parameters)?;
            let scope = list_scope(Topic::Signals, query.filter);
            return self.watch(call, admitted, Topic::Signals, scope, Needs::Anyone, from_now).await;
        }
        list_query(&parameters)?;
        let listing = Listing { topic: Topic::Signals, filter: query.filter, order: query.order };
        self.list(call, &admitted, &query, listing).await
    }

    /// `GET /v1/identities`: an admin sees all, another one itself.
    pub(super) async fn identities(&self, call: &Call) -> Result<Response<Body>, Failure> {
        let headers = call.request.headers();
        let admitted = self.admit(headers, None).await?;
        let media = negotiate(headers, &[Media::Json, Media::EventStream])?;
        let known = ["order", "limit", "cursor", "from"];
        let parameters = Query::parse(call.request.uri().query(), &known)?;
        let orders = [Order::Created, Order::CreatedDescending];
        let query = read(Resource::Identities, &parameters, &known, Order::Created, &orders)?;
        let is_admin = admitted.caller.role == Role::Admin;
        if media == Media::EventStream {
            let from_now = watch_query(&query, &parameters)?;
            let me = admitted.caller.identity;
            let (scope, needs) = if is_admin {
                (list_scope(Topic::Identities, Filter::default()), Needs::Admin)
            } else {
                (Scope::One(me), Needs::Identity(me))
            };
            return self.watch(call, admitted, Topic::Identities, scope, needs, from_now).await;
        }
        list_query(&parameters)?;
        if is_admin {
            let listing = Listing { topic: Topic::Identities, filter: Filter::default(), order: query.order };
            return self.list(call, &admitted, &query, listing).await;
        }
        let applied = self.settle(&admitted, headers).await?;
        let me = admitted.caller.identity;
        let found = self.look((Partition { topic: Topic::Identities, index: 0 }, me)).await?;
        // A cursor of theirs can only stand behind the one item there is.
        let item = found.document.filter(|document| !document.is_tombstone() && query.after.is_none());
        let items: Vec<(Uuid, Document)> = item.map(|document| (me, document)).into_iter().collect();
        let mut response = reply::json(StatusCode::OK, page_json(&items, None));
        mark_preference(response.headers_mut(), applied);
        Ok(response)
    }

    async fn list(
        &self,
        call: &Call,
        admitted: &Admitted,
        query: &ListQuery,
        listing: Listing,
    ) -> Result<Response<Body>, Failure> {
        let headers: &HeaderMap = call.request.headers();
        let applied = self.settle(admitted, headers).await?;
        let _turn = self.lists.try_acquire().map_err(|_| unreadable(ReadError::Overloaded))?;
        let page = listing
            .page(&self.view, &self.links, self.partitions()?, query.limit, query.after)
            .await
            .map_err(unreadable)?;
        let next = page.last().filter(|_| page.more).map(|after| query.cursor(after));
        let mut response = reply::json(StatusCode::OK, page_json(&page.items, next.as_deref()));
        if let Some(cursor) = &next {
            let link = format!("<{}?{}>; rel=\"next\"", call.request.uri().path(), query.next_query(cursor));
            if let Ok(link) = HeaderValue::from_str(&link) {
                response.headers_mut().insert(LINK, link);
            }
        }
        mark_preference(response.headers_mut(), applied);
        Ok(response)
    }
}

/// The query, read by the rules that both planes share.
fn read(
    resource: Resource,
    parameters: &Query<'_>,
    known: &[&str],
    default: Order,
    orders: &[Order],
) -> Result<ListQuery, Problem> {
    let pairs = known.iter().filter_map(|name| Some((*name, parameters.get(name)?)));
    ListQuery::parse(resource, pairs, default, orders, &["from"])
}

/// Whether a watch leaves the first part out.
pub(super) fn from_now(parameters: &Query<'_>) -> Result<bool, Problem> {
    match parameters.get("from") {
        None => Ok(false),
        Some("now") => Ok(true),
        Some(_) => Err(Problem::new(&BAD_QUERY, "`from` can only be `now`")),
    }
}

fn watch_query(query: &ListQuery, parameters: &Query<'_>) -> Result<bool, Problem> {
    if query.paged {
        return Err(Problem::new(&BAD_QUERY, "`limit`, `order` and `cursor` do not go with a watch"));
    }
    from_now(parameters)
}

fn list_query(parameters: &Query<'_>) -> Result<(), Problem> {
    match parameters.get("from") {
        None => Ok(()),
        Some(_) => Err(Problem::new(&BAD_QUERY, "`from` goes with a watch only (Accept: text/event-stream)")),
    }
}

/// The documents' own bytes between brackets.
fn page_json(items: &[(Uuid, Document)], next: Option<&str>) -> Vec<u8> {
    let length: usize = items.iter().map(|(_, document)| document.json.len() + 1).sum();
    let mut out = Vec::with_capacity(length + 100);
    out.extend_from_slice(b"{\"items\":[");
    for (place, (_, document)) in items.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&document.json);
    }
    out.extend_from_slice(b"],\"next_cursor\":");
    match next {
        // base64url needs no escaping.
        Some(cursor) => {
            out.push(b'"');
            out.extend_from_slice(cursor.as_bytes());
            out.push(b'"');
        }
        None => out.extend_from_slice(b"null"),
    }
    out.push(b'}');
    out
}
