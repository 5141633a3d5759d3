//! Commands on one signal.

use bytes::Bytes;
use contract::command::{CreateSignal, PatchSignal, SignalCommand};
use http::Response;
use hyper::body::Body as HttpBody;
use runtime::http::body::Body;
use runtime::http::failure::Failure;

use super::intake::{BodyRule, Intake, entity, precondition};
use super::{Api, Commands, Exchange};
use crate::auth::Permission;
use crate::reads::Reads;
use crate::request::Work;

/// `POST /v1/signals`
pub(super) async fn create<C: Commands, R: Reads, B: HttpBody<Data = Bytes> + Unpin>(
    api: &Api<C, R>,
    exchange: Exchange<'_, B>,
) -> Result<Response<Body>, Failure> {
    let intake = Intake::take(api, exchange, Permission::CommandSignals, BodyRule::JSON).await?;
    let work = intake.parse(|json| CreateSignal::from_json(json, "")).map(SignalCommand::Create).map(Work::Signal);
    api.perform(intake, work).await
}

/// `PATCH /v1/signals/{id}`
pub(super) async fn update<C: Commands, R: Reads, B: HttpBody<Data = Bytes> + Unpin>(
    api: &Api<C, R>,
    exchange: Exchange<'_, B>,
    id: &str,
) -> Result<Response<Body>, Failure> {
    let head = exchange.head;
    let intake = Intake::take(api, exchange, Permission::CommandSignals, BodyRule::PATCH).await?;
    let precondition = precondition(&head.headers)?;
    let work = intake
        .parse(|json| PatchSignal::from_json(json, ""))
        .and_then(|patch| Ok(Work::Signal(SignalCommand::Update(entity("signal", id)?, patch, precondition))));
    api.perform(intake, work).await
}

/// `DELETE /v1/signals/{id}`
pub(super) async fn delete<C: Commands, R: Reads, B: HttpBody<Data = Bytes> + Unpin>(
    api: &Api<C, R>,
    exchange: Exchange<'_, B>,
    id: &str,
) -> Result<Response<Body>, Failure> {
    let head = exchange.head;
    let intake = Intake::take(api, exchange, Permission::CommandSignals, BodyRule::NONE).await?;
    let precondition = precondition(&head.headers)?;
    let work = entity("signal", id).map(|id| Work::Signal(SignalCommand::Delete(id, precondition)));
    api.perform(intake, work).await
}
