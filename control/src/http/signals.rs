//! Commands on one signal.

use bytes::Bytes;
use contract::command::{CreateSignal, PatchSignal, SignalCommand};
use http::Response;
use hyper::body::Body as HttpBody;
use runtime::http::body::Body;
use runtime::http::failure::Failure;

use super::intake::{BodyRule, entity, precondition};
use super::{Api, Commands, Exchange};
use crate::auth::Permission;
use crate::reads::Reads;
use crate::request::Work;

/// `POST /v1/signals`
pub(super) async fn create<C: Commands, R: Reads, B: HttpBody<Data = Bytes> + Unpin>(
    api: &Api<C, R>,
    exchange: Exchange<'_, B>,
) -> Result<Response<Body>, Failure> {
    api.command(exchange, Permission::CommandSignals, BodyRule::JSON, |intake| {
        let signal = intake.parse(|json| CreateSignal::from_json(json, ""))?;
        Ok(Work::Signal(SignalCommand::Create(signal)))
    })
    .await
}

/// `PATCH /v1/signals/{id}`
pub(super) async fn update<C: Commands, R: Reads, B: HttpBody<Data = Bytes> + Unpin>(
    api: &Api<C, R>,
    exchange: Exchange<'_, B>,
    id: &str,
) -> Result<Response<Body>, Failure> {
    let head = exchange.head;
    api.command(exchange, Permission::CommandSignals, BodyRule::PATCH, |intake| {
        let precondition = precondition(&head.headers)?;
        let patch = intake.parse(|json| PatchSignal::from_json(json, ""))?;
        Ok(Work::Signal(SignalCommand::Update(entity("signal", id)?, patch, precondition)))
    })
    .await
}

/// `DELETE /v1/signals/{id}`
pub(super) async fn delete<C: Commands, R: Reads, B: HttpBody<Data = Bytes> + Unpin>(
    api: &Api<C, R>,
    exchange: Exchange<'_, B>,
    id: &str,
) -> Result<Response<Body>, Failure> {
    let head = exchange.head;
    api.command(exchange, Permission::CommandSignals, BodyRule::NONE, |_| {
        let precondition = precondition(&head.headers)?;
        Ok(Work::Signal(SignalCommand::Delete(entity("signal", id)?, precondition)))
    })
    .await
}
