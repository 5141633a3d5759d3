//! Many commands in one request.

use bytes::Bytes;
use contract::command::batch_from_json;
use http::Response;
use hyper::body::Body as HttpBody;
use runtime::http::body::Body;
use runtime::http::failure::Failure;

use super::intake::BodyRule;
use super::{Api, Commands, Exchange};
use crate::auth::Permission;
use crate::reads::Reads;
use crate::request::Work;

/// `POST /v1/signals:batch`. An entry that breaks a rule is rejected by itself; only a broken frame
/// refuses the whole.
pub(super) async fn apply<C: Commands, R: Reads, B: HttpBody<Data = Bytes> + Unpin>(
    api: &Api<C, R>,
    exchange: Exchange<'_, B>,
) -> Result<Response<Body>, Failure> {
    api.command(exchange, Permission::CommandSignals, BodyRule::BATCH, |intake| {
        intake.parse(batch_from_json).map(Work::Batch)
    })
    .await
}
