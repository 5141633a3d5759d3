//! Watches: the answer's head, and the task that streams its body.

use std::sync::Arc;

use contract::partition::{Partition, Topic};
use contract::problem::{BAD_REQUEST, OVERLOADED, Problem};
use http::Response;
use http::header::HeaderMap;
use runtime::http::body::Body;
use runtime::http::failure::Failure;
use runtime::http::front::Call;
use runtime::http::headers::{self, LAST_EVENT_ID};
use runtime::http::query::Query;
use runtime::http::reply;
use uuid::Uuid;

use super::admission::{Admitted, mark_preference};
use super::lists::from_now;
use super::one::not_found;
use super::{DataPlane, unreadable};
use crate::fetch::ReadError;
use crate::watch::position::Position;
use crate::watch::scope::Scope;
use crate::watch::stream::{Needs, PIECES, Watch};

impl DataPlane {
    /// A watch of one entity, which must be there, or have been there for who resumes.
    pub(super) async fn watch_one(
        &self,
        call: &Call,
        admitted: Admitted,
        topic: Topic,
        id: Option<Uuid>,
        needs: Needs,
    ) -> Result<Response<Body>, Failure> {
        let headers = call.request.headers();
        let parameters = Query::parse(call.request.uri().query(), &["from"])?;
        let from_now = from_now(&parameters)?;
        let resumes = resume(headers)?.is_some();
        let applied = self.settle(&admitted, headers).await?;
        let Some(id) = id else { return Err(not_found(None)) };
        let found = self.look((Partition::of(topic, id, self.partitions()?), id)).await?;
        let there = found.document.as_ref().is_some_and(|document| resumes || !document.is_tombstone());
        if !there {
            return Err(not_found(Some((id, found.document))));
        }
        let mut response = self.watch(call, admitted, topic, Scope::One(id), needs, from_now).await?;
        mark_preference(response.headers_mut(), applied);
        Ok(response)
    }

    /// A watch of a scope.
    pub(super) async fn watch(
        &self,
        call: &Call,
        admitted: Admitted,
        topic: Topic,
        scope: Scope,
        needs: Needs,
        from_now: bool,
    ) -> Result<Response<Body>, Failure> {
        let headers = call.request.headers();
        let resume = resume(headers)?;
        let applied = self.settle(&admitted, headers).await?;
        let signals = self.partitions()?;
        let hub = if topic == Topic::Signals { &self.signals } else { &self.identities };
        if !hub.is_fed() {
            return Err(unreadable(ReadError::NotReady));
        }
        let turn = Arc::clone(&self.watches)
            .try_acquire_owned()
            .map_err(|_| Problem::new(&OVERLOADED, "too many watches are open on this server"))?;
        let (pieces, body) = Body::channel(PIECES);
        let watch = Watch {
            hub: hub.clone(),
            view: Arc::clone(&self.view),
            links: self.links.clone(),
            waiters: self.waiters.clone(),
            reader: self.reader().clone(),
            presented: admitted.presented,
            needs,
            scope,
            signals,
            from_now,
            pieces,
        };
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            watch.run(resume, shutdown).await;
            drop(turn);
        });
        let mut response = reply::event_stream(body);
        mark_preference(response.headers_mut(), applied);
        Ok(response)
    }
}

/// Where the client was. An id that no view server made is as good as one whose history is gone.
fn resume(headers: &HeaderMap) -> Result<Option<Position>, Problem> {
    match headers::single(headers, &LAST_EVENT_ID)? {
        None | Some("") => Ok(None),
        Some(text) if text.len() <= 2048 => {
            Ok(Some(Position::decode(text).unwrap_or(Position { partial: true, ..Position::default() })))
        }
        Some(_) => Err(Problem::new(&BAD_REQUEST, "the header Last-Event-ID is too long")),
    }
}
