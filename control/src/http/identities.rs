//! Commands on identities.

use bytes::Bytes;
use contract::command::{CreateIdentity, PatchIdentity};
use http::Response;
use hyper::body::Body as HttpBody;
use runtime::http::body::Body;
use runtime::http::failure::Failure;

use super::intake::{BodyRule, Intake, entity, precondition};
use super::{Api, Commands, Exchange};
use crate::auth::Permission;
use crate::reads::Reads;
use crate::request::Work;

/// `POST /v1/identities`
pub(super) async fn create<C: Commands, R: Reads, B: HttpBody<Data = Bytes> + Unpin>(
    api: &Api<C, R>,
    exchange: Exchange<'_, B>,
) -> Result<Response<Body>, Failure> {
    let intake = Intake::take(api, exchange, Permission::Identities, BodyRule::JSON).await?;
    let work = intake.parse(CreateIdentity::from_json).map(Work::CreateIdentity);
    api.perform(intake, work).await
}

/// `PATCH /v1/identities/{id}`
pub(super) async fn update<C: Commands, R: Reads, B: HttpBody<Data = Bytes> + Unpin>(
    api: &Api<C, R>,
    exchange: Exchange<'_, B>,
    id: &str,
) -> Result<Response<Body>, Failure> {
    let head = exchange.head;
    let intake = Intake::take(api, exchange, Permission::Identities, BodyRule::PATCH).await?;
    let precondition = precondition(&head.headers)?;
    let work = intake
        .parse(PatchIdentity::from_json)
        .and_then(|patch| Ok(Work::UpdateIdentity(entity("identity", id)?, patch, precondition)));
    api.perform(intake, work).await
}

/// `DELETE /v1/identities/{id}`
pub(super) async fn delete<C: Commands, R: Reads, B: HttpBody<Data = Bytes> + Unpin>(
    api: &Api<C, R>,
    exchange: Exchange<'_, B>,
    id: &str,
) -> Result<Response<Body>, Failure> {
    let head = exchange.head;
    let intake = Intake::take(api, exchange, Permission::Identities, BodyRule::NONE).await?;
    let precondition = precondition(&head.headers)?;
    let work = entity("identity", id).map(|id| Work::DeleteIdentity(id, precondition));
    api.perform(intake, work).await
}
