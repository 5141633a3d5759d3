//! One transaction from its first statement to a known outcome, and what is run again.
//!
//! Signals are tried [`Mode::Hopeful`] first: what the commands name is read without locks, and one statement, a
//! transaction by itself, writes the outcome if everything it was decided on still stands. That is one round trip for
//! creations, two for changes. Where something no longer stands, nothing happened, and the same commands run again
//! [`Mode::Careful`]: idempotency keys looked up, rows locked.

use std::future::Future;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use runtime::sabotage::{self, Sabotage};
use sqlx::Executor;
use uuid::Uuid;

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

/// How a transaction makes sure that what its commands were decided on still stands when it commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// By looking again in the one statement that writes.
    Hopeful,
    /// By locks.
    Careful,
}

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
        let administers = requests.iter().any(|request| request.work.is_administration());
        let mut mode = if administers { Mode::Careful } else { Mode::Hopeful };
        let (mut reconnect, mut conflicts) = (false, 0);
        loop {
            let failure = match self.attempt(requests, mode, deadline, reconnect).await {
                Ok(answers) => return Ok(answers),
                Err(failure) => failure,
            };
            self.metrics.reruns.with_label_values(&[failure.reason()]).inc();
            match failure {
                Failure::Stale if mode == Mode::Hopeful => mode = Mode::Careful,
                // Quick ones are worth many tries; waits for somebody's lock use up the time.
                Failure::Conflict(_) | Failure::Stale
                    if conflicts < CONFLICTS_MAX && began.elapsed() < self.settings.statement_timeout =>
                {
                    conflicts += 1;
                    // Its locks are taken in one order.
                    mode = Mode::Careful;
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
        mode: Mode,
        deadline: Instant,
        reconnect: bool,
    ) -> Result<Vec<Answer>, Failure> {
        let mut session =
            if reconnect { self.sessions.open_new(deadline).await? } else { self.sessions.open(deadline).await? };
        let prepared = self.within(self.prepare(&mut session, requests, mode)).await;
        let (opening, answers, mut changes) = match prepared {
            // It was in no transaction, and what it looked for it found.
            Err(Failure::Stale) if mode == Mode::Hopeful => {
                session.keep();
                return Err(Failure::Stale);
            }
            prepared => prepared?,
        };
        if changes.is_empty() {
            // Nothing written, nothing proven: a token must not carry an epoch that was only remembered.
            if mode == Mode::Hopeful && opening.is_remembered() && answers.iter().any(|answer| answer.token.is_some()) {
                session.keep();
                return Err(Failure::Stale);
            }
            if mode == Mode::Careful {
                self.within(async { session.connection().execute("ROLLBACK").await.map_err(Failure::of) }).await?;
            }
            session.keep();
            return Ok(answers);
        }
        if sabotage::every(Sabotage::AnswerBeforeCommit) {
            return Ok(answers); // what was written goes with the session
        }
        let (batch, backend) = (random::id(), session.backend());
        match mode {
            Mode::Hopeful => {
                // The rest of the time is for asking: Postgres may be gone for good on this connection alone.
                let patience = self.settings.outcome_deadline / 2;
                let sent = Instant::now();
                let written =
                    tokio::time::timeout(patience, changes.write(session.connection(), &opening.stamp, backend, batch));
                let written = written.await.ok();
                self.committed(session, written, sent, batch, answers).await
            }
            Mode::Careful => {
                let written = self.within(async {
                    let written = changes.write(session.connection(), &opening.stamp, backend, batch).await;
                    written.map_err(Failure::of)
                });
                written.await?;
                let patience = self.settings.outcome_deadline / 2;
                let sent = Instant::now();
                let committed = tokio::time::timeout(patience, session.connection().execute("COMMIT"));
                let committed = committed.await.ok().map(|answer| answer.map(drop));
                self.committed(session, committed, sent, batch, answers).await
            }
        }
    }

    async fn prepare(
        &self,
        session: &mut Session,
        requests: &[&Request],
        mode: Mode,
    ) -> Result<(Opening, Vec<Answer>, Changes), Failure> {
        if mode == Mode::Careful {
            session.connection().execute("BEGIN").await.map_err(Failure::of)?;
        }
        let administers = requests.iter().any(|request| request.work.is_administration());
        if administers {
            administration::lock(session.connection()).await.map_err(Failure::of)?;
        }
        let opening = self.open(session, requests, mode).await?;
        let connection = session.connection();
        let around = Surroundings {
            stamp: &opening.stamp,
            identities: &opening.identities,
            partitions: self.settings.partitions,
            clock: &self.clock,
        };
        let (answers, changes) = if administers {
            administration::prepare(connection, &opening, around, requests).await.map_err(Failure::of)?
        } else {
            signals::prepare(connection, &opening, around, requests, mode).await.map_err(Failure::of)?
        };
        // A request with a key that was used before shows as a key that can't be written; one whose answer is not to
        // be kept writes none, so its key has to be looked for.
        let keyed = requests.iter().filter(|request| request.idempotency.is_some()).count();
        if mode == Mode::Hopeful && changes.kept.len() < keyed {
            return Err(Failure::Stale);
        }
        Ok((opening, answers, changes))
    }

    /// What the commands' decisions depend on; without a look where the last one will do, because the statement that
    /// writes them proves that it still stands.
    async fn open(&self, session: &mut Session, requests: &[&Request], mode: Mode) -> Result<Opening, Failure> {
        let targets = signals::targets(requests);
        if mode == Mode::Hopeful
            && session.is_fresh()
            && targets.is_empty()
            && let Some(stamp) = *self.stamp.lock().unwrap_or_else(PoisonError::into_inner)
        {
            return Ok(Opening::known(stamp));
        }
        let keyed = if mode == Mode::Careful { requests } else { &[] };
        let opening = Opening::read(session.connection(), keyed, &targets).await.map_err(Failure::of)?;
        let opening = opening.ok_or(Failure::Unmigrated(None))?;
        *self.stamp.lock().unwrap_or_else(PoisonError::into_inner) = Some(opening.stamp);
        Ok(opening)
    }

    /// The answers, if the statement that commits says that it did, or it is found out that it did; `None` is its
    /// silence.
    async fn committed(
        self: &Arc<Self>,
        session: Session,
        answered: Option<Result<(), sqlx::Error>>,
        sent: Instant,
        batch: Uuid,
        answers: Vec<Answer>,
    ) -> Result<Vec<Answer>, Failure> {
        let backend = session.backend();
        match answered {
            Some(Ok(())) => {
                self.metrics.commit_seconds.observe(sent.elapsed().as_secs_f64());
                session.keep();
                return Ok(answers);
            }
            Some(Err(error)) if Failure::proves_rollback(&error) => {
                let failure = Failure::of(error);
                if matches!(failure, Failure::Stale) {
                    session.keep();
                }
                return Err(failure);
            }
            Some(Err(error)) => tracing::warn!(%error, %backend, "connection lost at the commit"),
            None => tracing::warn!(%backend, "no answer to the commit"),
        }
        drop(session);
        self.metrics.reruns.with_label_values(&["commit-lost"]).inc();
        let deadline = sent + self.settings.outcome_deadline;
        let outcome = outcome::learn(&self.sessions, backend, batch, deadline).await;
        tracing::warn!(%backend, committed = ?outcome, "outcome of the lost commit");
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
        Failure::Stale => away("another server is at work on the same entities, or with the same Idempotency-Key"),
        Failure::Unmigrated(cause) => {
            let cause = cause.as_ref().map(tracing::field::display);
            tracing::error!(cause, "the database is not migrated: run nexus-control migrate");
            away("the database is not migrated yet")
        }
        Failure::Unknown => Refusal::OutcomeUnknown,
        Failure::Data(_) | Failure::Fault(_) => {
            tracing::error!(error = failure as &dyn std::error::Error, "a command could not be applied");
            Refusal::Internal
        }
    }
}
