//! One signal, one identity, the caller itself.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use contract::partition::{Partition, Topic};
use contract::problem::{BAD_QUERY, NOT_FOUND, NOT_YET_CONSISTENT, Problem, UNAUTHORIZED};
use http::header::{ETAG, HeaderMap};
use http::{Response, StatusCode};
use runtime::http::body::Body;
use runtime::http::conditional::{IfNoneMatch, etag};
use runtime::http::failure::Failure;
use runtime::http::front::Call;
use runtime::http::media::{Media, negotiate};
use runtime::http::reply;
use runtime::sabotage::{self, Sabotage};
use uuid::Uuid;

use super::admission::{Admitted, mark_preference};
use super::{DataPlane, unreadable};
use crate::document::Document;
use crate::fetch::{Found, ReadError};
use crate::watch::stream::Needs;

impl DataPlane {
    /// `GET /v1/signals/{id}`
    pub(super) async fn signal(&self, call: &Call, id: &str) -> Result<Response<Body>, Failure> {
        let headers = call.request.headers();
        let id = contract::id::parse(id);
        let place = match (id, self.view.signals()) {
            (Some(id), Some(signals)) => Some((Partition::of(Topic::Signals, id, signals), id)),
            _ => None,
        };
        let mut admitted = self.admit(headers, place).await?;
        if negotiate(headers, &[Media::Json, Media::EventStream])? == Media::EventStream {
            return Box::pin(self.watch_one(call, admitted, Topic::Signals, id, Needs::Anyone)).await;
        }
        no_query(call)?;
        self.answer_one(headers, &mut admitted, place, id).await
    }

    /// `GET /v1/identities/{id}`
    pub(super) async fn identity(&self, call: &Call, id: &str) -> Result<Response<Body>, Failure> {
        let headers = call.request.headers();
        let id = contract::id::parse(id);
        let place = id.map(|id| (Partition { topic: Topic::Identities, index: 0 }, id));
        let mut admitted = self.admit(headers, place).await?;
        // Whether there is such an identity is an admin's to know.
        admitted.caller.may_see_identity(id.unwrap_or_default())?;
        if negotiate(headers, &[Media::Json, Media::EventStream])? == Media::EventStream {
            let needs = Needs::Identity(id.unwrap_or_default());
            return self.watch_one(call, admitted, Topic::Identities, id, needs).await;
        }
        no_query(call)?;
        self.answer_one(headers, &mut admitted, place, id).await
    }

    /// `GET /v1/me`
    pub(super) async fn me(&self, call: &Call) -> Result<Response<Body>, Failure> {
        let headers = call.request.headers();
        let admitted = self.admit(headers, None).await?;
        negotiate(headers, &[Media::Json])?;
        no_query(call)?;
        let applied = self.settle(&admitted, headers).await?;
        let place = (Partition { topic: Topic::Identities, index: 0 }, admitted.caller.identity);
        let found = self.look(place).await?;
        match found.document {
            Some(document) if !document.is_tombstone() => {
                let mut response = representation(headers, document);
                mark_preference(response.headers_mut(), applied);
                Ok(response)
            }
            // The revocation of its keys is on its way in another partition.
            Some(_) => Err(Problem::new(&UNAUTHORIZED, "the key's identity is deleted").into()),
            // The key came by another partition, and before its identity.
            None => Err(Problem::new(&NOT_YET_CONSISTENT, "the view does not show the key's identity yet").into()),
        }
    }

    async fn answer_one(
        &self,
        headers: &HeaderMap,
        admitted: &mut Admitted,
        place: Option<(Partition, Uuid)>,
        id: Option<Uuid>,
    ) -> Result<Response<Body>, Failure> {
        let applied = self.settle(admitted, headers).await?;
        let Some(id) = id else { return Err(not_found(None)) };
        let Some(place) = place else {
            // The view's shape was not known yet, but its keys are.
            return Err(unreadable(ReadError::NotReady));
        };
        let found = match admitted.beside.take() {
            Some(found) => found.map_err(unreadable)?,
            None => self.look(place).await?,
        };
        let document = if sabotage::on(Sabotage::StaleCache) { cached(id, found.document) } else { found.document };
        match document {
            Some(document) if !document.is_tombstone() => {
                let mut response = representation(headers, document);
                mark_preference(response.headers_mut(), applied);
                Ok(response)
            }
            deleted => Err(not_found(Some((id, deleted)))),
        }
    }

    /// What the view holds of one entity.
    pub(super) async fn look(&self, place: (Partition, Uuid)) -> Result<Found, Failure> {
        let answer = self.reader().read(None, vec![place]).await.map_err(unreadable)?;
        answer.entities.into_iter().next().unwrap_or(Err(ReadError::NotReady)).map_err(unreadable)
    }
}

/// [`Sabotage::StaleCache`]: what the first read of an entity found, for ever.
fn cached(id: Uuid, found: Option<Document>) -> Option<Document> {
    static CACHE: LazyLock<Mutex<HashMap<Uuid, Option<Document>>>> = LazyLock::new(Mutex::default);
    CACHE.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_insert(found).clone()
}

/// 200 with the document, or 304 where the caller has it.
fn representation(headers: &HeaderMap, document: Document) -> Response<Body> {
    let Document { version, json, .. } = document;
    if IfNoneMatch::parse(headers).is_some_and(|known| known.has(version)) {
        return reply::not_modified(version);
    }
    let mut response = reply::json(StatusCode::OK, json);
    response.headers_mut().insert(ETAG, etag(version));
    response
}

/// 404, naming the deletion where its tombstone lives.
pub(super) fn not_found(what: Option<(Uuid, Option<Document>)>) -> Failure {
    match what {
        None => Problem::new(&NOT_FOUND, "the id is no UUID").into(),
        Some((id, None)) => Problem::new(&NOT_FOUND, format!("there is nothing with the id {id}")).into(),
        Some((id, Some(tombstone))) => {
            Problem::new(&NOT_FOUND, format!("{id} was deleted")).with_deleted_version(tombstone.version).into()
        }
    }
}

/// 400 for any query parameter.
pub(super) fn no_query(call: &Call) -> Result<(), Problem> {
    match call.request.uri().query() {
        None | Some("") => Ok(()),
        Some(_) => Err(Problem::new(&BAD_QUERY, "no query parameter is known here")),
    }
}
