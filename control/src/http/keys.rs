//! Commands on the API keys of an identity.

use bytes::Bytes;
use contract::command::CreateKey;
use contract::time::Timestamp;
use http::Response;
use hyper::body::Body as HttpBody;
use runtime::http::body::Body;
use runtime::http::failure::Failure;

use super::intake::{BodyRule, entity};
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
    api.command(exchange, Permission::Identities, BodyRule::JSON, |intake| {
        let key = intake.parse(|json| CreateKey::from_json(json, Timestamp::now()))?;
        Ok(Work::CreateKey(entity("identity", identity)?, key))
    })
    .await
}

/// `DELETE /v1/identities/{id}/keys/{key_id}`
pub(super) async fn revoke<C: Commands, R: Reads, B: HttpBody<Data = Bytes> + Unpin>(
    api: &Api<C, R>,
    exchange: Exchange<'_, B>,
    identity: &str,
    key: &str,
) -> Result<Response<Body>, Failure> {
    api.command(exchange, Permission::Identities, BodyRule::NONE, |_| {
        Ok(Work::RevokeKey(entity("identity", identity)?, entity("key", key)?))
    })
    .await
}
