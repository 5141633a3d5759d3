//! Commands on identities.

use bytes::Bytes;
use contract::command::{CreateIdentity, PatchIdentity};
use http::Response;
use hyper::body::Body as HttpBody;
use runtime::http::body::Body;
use runtime::http::failure::Failure;

use super::intake::{BodyRule, entity, precondition};
use super::{Api, Commands, Exchange};
use crate::auth::Permission;
use crate::reads::Reads;
use crate::request::Work;

/// `POST /v1/identities`
pub(super) async fn create<C: Commands, R: Reads, B: HttpBody<Data = Bytes> + Unpin>(
    api: &Api<C, R>,
    exchange: Exchange<'_, B>,
) -> Result<Response<Body>, Failure> {
    api.command(exchange, Permission::Identities, BodyRule::JSON, |intake| {
        intake.parse(CreateIdentity::from_json).map(Work::CreateIdentity)
    })
    .await
}

/// `PATCH /v1/identities/{id}`
pub(super) async fn update<C: Commands, R: Reads, B: HttpBody<Data = Bytes> + Unpin>(
    api: &Api<C, R>,
    exchange: Exchange<'_, B>,
    id: &str,
) -> Result<Response<Body>, Failure> {
    let head = exchange.head;
    api.command(exchange, Permission::Identities, BodyRule::PATCH, |intake| {
        let precondition = precondition(&head.headers)?;
        let patch = intake.parse(PatchIdentity::from_json)?;
        Ok(Work::UpdateIdentity(entity("identity", id)?, patch, precondition))
    })
    .await
}

/// `DELETE /v1/identities/{id}`
pub(super) async fn delete<C: Commands, R: Reads, B: HttpBody<Data = Bytes> + Unpin>(
    api: &Api<C, R>,
    exchange: Exchange<'_, B>,
    id: &str,
) -> Result<Response<Body>, Failure> {
    let head = exchange.head;
    api.command(exchange, Permission::Identities, BodyRule::NONE, |_| {
        let precondition = precondition(&head.headers)?;
        Ok(Work::DeleteIdentity(entity("identity", id)?, precondition))
    })
    .await
}
