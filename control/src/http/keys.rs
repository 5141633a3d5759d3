//! Commands on the API keys of an identity.

use bytes::Bytes;
use contract::command::CreateKey;
use contract::time::Timestamp;
use http::Response;
use hyper::body::Body as HttpBody;
use runtime::http::body::Body;
use runtime::http::failure::Failure;

use super::intake::{BodyRule, Intake, entity};
use super::{Api, Commands, Exchange};
use crate::auth::Permission;
use crate::reads::Reads;
use crate::request::Work;

/// `POST /v1/identities/{id}/keys`
pub(super) async fn create<C: Commands, R: Reads, B: HttpBody<Data = Bytes> + Unpin>(
    api: &Api<C, R>,
    exchange: Exchange<'_, B>,
    identity: &str,
) -> Result<Response<Body>, Failure> {
    let intake = Intake::take(api, exchange, Permission::Identities, BodyRule::JSON).await?;
    let work = intake
        .parse(|json| CreateKey::from_json(json, Timestamp::now()))
        .and_then(|key| Ok(Work::CreateKey(entity("identity", identity)?, key)));
    api.perform(intake, work).await
}

/// `DELETE /v1/identities/{id}/keys/{key_id}`
pub(super) async fn revoke<C: Commands, R: Reads, B: HttpBody<Data = Bytes> + Unpin>(
    api: &Api<C, R>,
    exchange: Exchange<'_, B>,
    identity: &str,
    key: &str,
) -> Result<Response<Body>, Failure> {
    let intake = Intake::take(api, exchange, Permission::Identities, BodyRule::NONE).await?;
    let work = entity("identity", identity).and_then(|identity| Ok(Work::RevokeKey(identity, entity("key", key)?)));
    api.perform(intake, work).await
}
