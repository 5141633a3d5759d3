//! One transaction from BEGIN to a known outcome, and what is run again.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime::sabotage::{self, Sabotage};
use sqlx::{Executor, PgConnection};

use super::failure::Failure;
use super::fold::Surroundings;
use super::opening::Opening;
use super::session::Session;
use super::write::Changes;
use super::{Inner, administration, outcome, random, signals};
use crate::request::{Answer, Refusal, Request};

/// How often a transaction that lost against others is run again.
const CONFLICTS_MAX: u32 = 8;
/// Least time that a batch is given, however long its requests waited.
const TRY_MIN: Duration = Duration::from_millis(250);
/// Between two tries on a Postgres that is away.
const AWAY_PAUSE: Duration = Duration::from_millis(50);

impl Inner {
    /// One result for each request.
    pub(super) async fn execute(
        self: &Arc<Self>,
        requests: &[Request],
        oldest: Instant,
    ) -> Vec<Result<Answer, Refusal>> {
        let all: Vec<&Request> = requests.iter().collect();
        match self.transact(&all, oldest).await {
            Ok(answers) => answers.into_iter().map(Ok).collect(),
            Err(Failure::Data(_)) if all.len() > 1 => {
                // One of them is at fault: alone, each shows which, and the others are not harmed.
                let mut results = Vec::with_capacity(all.len());
                for request in all {
                    results.push(match self.transact(&[request], Instant::now()).await {
                        Ok(mut answers) => answers.pop().ok_or(Refusal::Internal),
                        Err(failure) => Err(refusal(&failure)),
                    });
                }
                results
            }
            Err(failure) => {
                let refusal = refusal(&failure);
                requests.iter().map(|_| Err(refusal.clone())).collect()
            }
        }
    }

    /// The requests in one transaction, run again as long as that is safe and may help.
    async fn transact(self: &Arc<Self>, requests: &[&Request], oldest: Instant) -> Result<Vec<Answer>, Failure> {
        let began = Instant::now();
        let deadline = (oldest + self.settings.away_after).max(began + TRY_MIN);
        let (mut reconnect, mut conflicts) = (false, 0);
        loop {
            let failure = match self.attempt(requests, deadline, reconnect).await {
                Ok(answers) => return Ok(answers),
                Err(failure) => failure,
            };
            self.metrics.reruns.with_label_values(&[failure.reason()]).inc();
            match failure {
                // Quick ones are worth many tries; waits for somebody's lock use up the time.
                Failure::Conflict(_) | Failure::KeyTaken
                    if conflicts < CONFLICTS_MAX && began.elapsed() < self.settings.statement_timeout =>
                {
                    conflicts += 1;
                    tokio::time::sleep(Duration::from_millis(1 << conflicts.min(6))).await;
                }
                Failure::Away(_) if Instant::now() + AWAY_PAUSE < deadline => {
                    // The first failure may be an idle connection's that died long ago: no pause before a new one.
                    if reconnect {
                        tokio::time::sleep(AWAY_PAUSE).await;
                    }
                    reconnect = true;
                }
                failure => return Err(failure),
            }
        }
    }

    async fn attempt(
        self: &Arc<Self>,
        requests: &[&Request],
        deadline: Instant,
        reconnect: bool,
    ) -> Result<Vec<Answer>, Failure> {
        let mut session =
            if reconnect { self.sessions.open_new(deadline).await? } else { self.sessions.open(deadline).await? };
        let connection = session.connection();
        let (opening, answers, mut changes) = self.within(self.prepare(connection, requests)).await?;
        if changes.is_empty() {
            self.within(async { connection.execute("ROLLBACK").await.map_err(Failure::of) }).await?;
            session.keep();
            return Ok(answers);
        }
        let batch = random::id();
        self.within(changes.write(connection, batch)).await?;
        self.commit(session, &opening, batch, answers).await
    }

    async fn prepare(
        &self,
        connection: &mut PgConnection,
        requests: &[&Request],
    ) -> Result<(Opening, Vec<Answer>, Changes), Failure> {
        connection.execute("BEGIN").await.map_err(Failure::of)?;
        let administers = requests.iter().any(|request| request.work.is_administration());
        if administers {
            administration::lock(connection).await.map_err(Failure::of)?;
        }
        let targets = signals::targets(requests);
        let opening = Opening::read(connection, requests, &targets).await.map_err(Failure::of)?;
        let opening = opening.ok_or(Failure::Unmigrated(None))?;
        let around = Surroundings {
            stamp: &opening.stamp,
            identities: &opening.identities,
            partitions: self.settings.partitions,
            clock: &self.clock,
        };
        let (answers, changes) = if administers {
            administration::prepare(connection, &opening, around, requests).await.map_err(Failure::of)?
        } else {
            signals::prepare(connection, &opening, around, requests).await.map_err(Failure::of)?
        };
        Ok((opening, answers, changes))
    }

    /// Commits, and finds out whether it did.
    async fn commit(
        self: &Arc<Self>,
        mut session: Session,
        opening: &Opening,
        batch: uuid::Uuid,
        answers: Vec<Answer>,
    ) -> Result<Vec<Answer>, Failure> {
        if sabotage::every(Sabotage::AnswerBeforeCommit) {
            return Ok(answers); // the session is dropped, and rolled back
        }
        let sent = Instant::now();
        // The rest of the time is for asking: Postgres may be gone for good on this connection alone.
        let patience = self.settings.outcome_deadline / 2;
        let committed = tokio::time::timeout(patience, session.connection().execute("COMMIT")).await;
        match committed {
            Ok(Ok(_)) => {
                self.metrics.commit_seconds.observe(sent.elapsed().as_secs_f64());
                session.keep();
                return Ok(answers);
            }
            Ok(Err(error)) if Failure::proves_rollback(&error) => return Err(Failure::of(error)),
            Ok(Err(error)) => tracing::warn!(%error, xid = opening.xid, "connection lost at COMMIT"),
            Err(_) => tracing::warn!(xid = opening.xid, "no answer to COMMIT"),
        }
        drop(session);
        self.metrics.reruns.with_label_values(&["commit-lost"]).inc();
        let deadline = sent + self.settings.outcome_deadline;
        let outcome = outcome::learn(&self.sessions, &opening.xid, batch, deadline).await;
        tracing::warn!(xid = opening.xid, committed = ?outcome, "outcome of the lost COMMIT");
        match outcome {
            Some(true) => Ok(answers),
            Some(false) => Err(Failure::Away(None)),
            None => Err(Failure::Unknown),
        }
    }

    /// A step that must be over soon: a little more than Postgres' own time-outs, for a server that is
    /// frozen or cut off. The session is of no use after it failed.
    async fn within<T>(&self, step: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let limit = self.settings.statement_timeout + Duration::from_secs(1);
        tokio::time::timeout(limit, step).await.unwrap_or(Err(Failure::Away(None)))
    }
}

/// What callers are told, logged once with its cause.
fn refusal(failure: &Failure) -> Refusal {
    let away = |detail: &str| Refusal::Unavailable { detail: detail.to_owned() };
    match failure {
        Failure::Away(cause) => {
            tracing::warn!(cause = cause.as_ref().map(tracing::field::display), "Postgres is away, commands refused");
            away("Postgres is away")
        }
        Failure::Conflict(cause) => {
            tracing::warn!(%cause, "commands refused after repeated conflicts");
            away("Postgres is busy with other changes of the same entities")
        }
        Failure::KeyTaken => away("another server is at work on the same Idempotency-Key"),
        Failure::Unmigrated(cause) => {
            let cause = cause.as_ref().map(tracing::field::display);
            tracing::error!(cause, "the database is not migrated: run nexus-control migrate");
            away("the database is not migrated yet")
        }
        Failure::Unknown => Refusal::OutcomeUnknown,
        Failure::Data(_) | Failure::Fault(_) | Failure::Mismatch => {
            tracing::error!(error = failure as &dyn std::error::Error, "a command could not be applied");
            Refusal::Internal
        }
    }
}
