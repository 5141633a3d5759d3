//! The way back: a command's outcome → a response.

use std::future::Future;

use contract::problem::{INTERNAL, OUTCOME_UNKNOWN, Problem};
use http::header::{CONTENT_TYPE, ETAG, HeaderName, HeaderValue, LOCATION};
use http::{Response, StatusCode};
use runtime::http::body::Body;
use runtime::http::conditional::etag;
use runtime::http::failure::Failure;
use runtime::http::headers::NEXUS_TOKEN;
use tokio::sync::oneshot;

use super::intake::Intake;
use super::{Api, Commands};
use crate::reads::Reads;
use crate::request::{Answer, Refusal, Work};

static IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

impl<C: Commands, R: Reads> Api<C, R> {
    /// Has the work done, where the request could be understood, and answers with its outcome.
    pub(super) async fn perform(&self, intake: Intake, work: Result<Work, Problem>) -> Result<Response<Body>, Failure> {
        let work = match work {
            Ok(work) => work,
            // What its key stands for comes before the rules that the request breaks, not before its form.
            Err(problem) if intake.is_idempotent() && problem.kind.status != 400 => Work::Invalid(problem),
            Err(problem) => return Err(problem.into()),
        };
        let administers = work.is_administration();
        let receipt = self.commands.submit(intake.request(work)).map_err(refuse)?;
        let outcome = if administers {
            // In a task of its own: what was changed by a caller that hung up must be forgotten as well.
            let authority = self.authority.clone();
            let task = tokio::spawn(async move {
                let outcome = received(receipt).await;
                if let Ok(answer) = &outcome {
                    authority.forget(&answer.invalidates);
                }
                outcome
            });
            self.in_time(async { task.await.unwrap_or(Err(Refusal::OutcomeUnknown)) }).await
        } else {
            self.in_time(received(receipt)).await
        };
        respond(outcome.map_err(refuse)?)
    }

    /// What `receipt` gives before the deadline.
    async fn in_time(&self, receipt: impl Future<Output = Result<Answer, Refusal>>) -> Result<Answer, Refusal> {
        let leaving = async {
            self.shutdown.begun().await;
            tokio::time::sleep(self.deadlines.receipt_in_shutdown).await;
        };
        tokio::select! {
            biased;
            outcome = receipt => outcome,
            () = tokio::time::sleep(self.deadlines.receipt) => Err(Refusal::OutcomeUnknown),
            () = leaving => Err(Refusal::OutcomeUnknown),
        }
    }
}

/// The outcome. A batch that broke has dropped its end of the channel: nobody knows what became of it.
async fn received(receipt: oneshot::Receiver<Result<Answer, Refusal>>) -> Result<Answer, Refusal> {
    receipt.await.unwrap_or(Err(Refusal::OutcomeUnknown))
}

/// The problem of a command that has no answer; its cause was logged where it happened.
fn refuse(refusal: Refusal) -> Failure {
    match refusal {
        Refusal::OutcomeUnknown => {
            Problem::new(&OUTCOME_UNKNOWN, "no answer came in time; the command may still be applied").into()
        }
        Refusal::Internal => Problem::new(&INTERNAL, INTERNAL.help).into(),
        Refusal::Overloaded | Refusal::Unavailable { .. } => refusal.problem().into(),
    }
}

fn respond(answer: Answer) -> Result<Response<Body>, Failure> {
    let status = StatusCode::from_u16(answer.status).map_err(Failure::internal)?;
    let mut response = Response::new(if answer.body.is_empty() { Body::Empty } else { Body::Full(answer.body) });
    *response.status_mut() = status;
    let is_empty = response.body().is_empty();
    let headers = response.headers_mut();
    if !is_empty {
        let is_problem = status.is_client_error() || status.is_server_error();
        let media = if is_problem { "application/problem+json" } else { "application/json" };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    }
    if let Some(version) = answer.etag {
        headers.insert(ETAG, etag(version));
    }
    for (name, value) in [(LOCATION, answer.location), (NEXUS_TOKEN.clone(), answer.token)] {
        if let Some(value) = value {
            headers.insert(name, HeaderValue::try_from(value).map_err(Failure::internal)?);
        }
    }
    if answer.replayed {
        headers.insert(IDEMPOTENCY_REPLAYED.clone(), HeaderValue::from_static("true"));
    }
    Ok(response)
}
