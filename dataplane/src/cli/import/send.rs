//! One batch: sent, and sent again while the server is away, until its outcome is known.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use serde::Deserialize;

use super::lines::{Batch, Refused};
use crate::cli::client::{Answer, Call, Client, IDEMPOTENCY_KEY};
use crate::cli::error::{CliError, Document};

/// First and longest pause before a batch is sent again, where the server names none.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// What became of one batch.
#[derive(Debug)]
pub struct Outcome {
    /// The ids of what was created, in the order of their lines.
    pub ids: Vec<String>,
    /// The lines that were rejected, here or by the server, in their order.
    pub rejected: Vec<Refused>,
    /// The server repeated the answer of an earlier run.
    pub replayed: bool,
    /// How many lines of the file are dealt with.
    pub lines_read: u64,
    /// How many bytes of the file are dealt with.
    pub bytes_read: u64,
}

#[derive(Deserialize)]
struct BatchAnswer {
    results: Vec<BatchResult>,
}

#[derive(Deserialize)]
struct BatchResult {
    status: u16,
    id: Option<String>,
    error: Option<Document>,
}

/// The connections that batches are sent over.
#[derive(Debug)]
pub struct Connections {
    idle: Mutex<Vec<Client>>,
    answered: AtomicBool,
    retry_for: Duration,
}

impl Connections {
    /// So many connections; as many batches may be under way.
    #[must_use]
    pub fn new(clients: Vec<Client>, retry_for: Duration) -> Self {
        Self { idle: Mutex::new(clients), answered: AtomicBool::new(false), retry_for }
    }

    /// Sends `batch` until its outcome is known. `tell` hears of pauses.
    ///
    /// # Errors
    /// The server refuses the batch as a whole, or stays away for longer than it is waited for, or was
    /// never there.
    pub async fn send(&self, batch: Batch, tell: impl Fn(&str)) -> Result<Outcome, CliError> {
        if batch.lines.is_empty() {
            return outcome(batch, None);
        }
        let client = self.idle.lock().ok().and_then(|mut idle| idle.pop());
        let mut client = client.ok_or_else(|| CliError::Failed("no connection is free".to_owned()))?;
        let answer = self.until_known(&mut client, &batch, tell).await;
        if let Ok(mut idle) = self.idle.lock() {
            idle.push(client);
        }
        let answer = answer.map_err(|error| match (error, batch.lines.first(), batch.lines.last()) {
            (CliError::Problem(report), Some(first), Some(last)) => {
                CliError::Failed(format!("the batch of lines {first} to {last} was refused: {report}"))
            }
            (error, ..) => error,
        })?;
        outcome(batch, Some(&answer))
    }

    async fn until_known(&self, client: &mut Client, batch: &Batch, tell: impl Fn(&str)) -> Result<Answer, CliError> {
        let call =
            Call::new(Method::POST, "/v1/signals:batch").json(batch.body.clone()).with(&IDEMPOTENCY_KEY, &batch.key)?;
        let mut deadline = None;
        let mut pause = PAUSES.0;
        loop {
            let (error, asked) = match client.call(&call).await {
                Ok(answer) => {
                    self.answered.store(true, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(CliError::Problem(report)) => {
                    let again = matches!(report.status.as_u16(), 429 | 503) || report.code == "idempotency-in-progress";
                    if !again {
                        return Err(CliError::Problem(report));
                    }
                    let asked = report.retry_after.map(Duration::from_secs);
                    (CliError::Problem(report), asked)
                }
                // The key makes it harmless to send a batch twice.
                Err(error @ CliError::Unreachable { .. }) if self.answered.load(Ordering::Relaxed) => (error, None),
                Err(error) => return Err(error),
            };
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + self.retry_for);
            let wait = asked.unwrap_or(pause).min(Duration::from_secs(30));
            if Instant::now() + wait > deadline {
                return Err(error);
            }
            if wait >= Duration::from_secs(1) {
                tell(&format!("{error}; trying again in {:.1} s", wait.as_secs_f64()));
            }
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}

fn outcome(batch: Batch, answer: Option<&Answer>) -> Result<Outcome, CliError> {
    let mut rejected = batch.refused;
    let mut ids = Vec::new();
    if let Some(answer) = answer {
        let read: BatchAnswer = serde_json::from_slice(&answer.body)
            .map_err(|error| CliError::Failed(format!("the answer of a batch can't be read: {error}")))?;
        if read.results.len() != batch.lines.len() {
            return Err(CliError::Failed(format!(
                "the answer of a batch has {} results for {} commands",
                read.results.len(),
                batch.lines.len()
            )));
        }
        let mut texts = batch.texts.into_iter();
        for (i, (result, line)) in read.results.into_iter().zip(batch.lines).enumerate() {
            let text = texts.next().unwrap_or_default();
            if (200..300).contains(&result.status) {
                ids.extend(result.id);
                continue;
            }
            let reason = match result.error {
                Some(problem) => {
                    format!(
                        "{} ({} {})",
                        problem.reason(&format!("/commands/{i}/signal")),
                        result.status,
                        problem.code()
                    )
                }
                None => format!("was answered {}", result.status),
            };
            rejected.push(Refused { line, reason, text });
        }
        rejected.sort_by_key(|one| one.line);
    }
    Ok(Outcome {
        ids,
        rejected,
        replayed: answer.is_some_and(Answer::replayed),
        lines_read: batch.lines_read,
        bytes_read: batch.bytes_read,
    })
}
