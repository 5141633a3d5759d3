//! From answers, or their absence, to records.

use super::{InFlight, Pacer, SETTLE_PAUSE, SETTLE_PAUSE_MAX, Unsettled};
use crate::client::{Completion, Failure, Head};
use crate::document;
use crate::journal::{CommandRecord, Outcome, Phase};
use crate::workload::{BatchResult, Kind, Operation};

impl Pacer {
    /// Turns an answer, or its absence, into records.
    pub(super) fn complete(&mut self, completion: Completion<InFlight>, now: u64) {
        let Completion { slot, tag: flight, result } = completion;
        let verdict = match &result {
            Ok(head) => self.judge(slot, head, &flight),
            Err(Failure::TimedOut) => Verdict::Open(Outcome::TimedOut, 0),
            Err(Failure::Lost) => Verdict::Open(Outcome::Unknown, 0),
            Err(Failure::Garbled) => Verdict::Open(Outcome::Unknown, 0),
        };
        let settled = flight.attempt > 0;
        match verdict {
            Verdict::Open(outcome, status) => {
                if !settled {
                    for &operation in &flight.operations {
                        self.workload.unknown(operation);
                        let id = self.workload.id_of(operation).unwrap_or(0);
                        self.record(&flight, operation, Row { id, ..Row::empty(outcome, status) }, now);
                    }
                }
                if self.settings.idempotency {
                    let request = self.pool.request(slot).to_vec();
                    let pause = SETTLE_PAUSE << flight.attempt.min(8);
                    let not_before = now + pause.min(SETTLE_PAUSE_MAX);
                    let flight = InFlight { attempt: flight.attempt + 1, ..flight };
                    self.unsettled.push_back(Unsettled { request, flight, not_before });
                }
            }
            Verdict::Batch(results, status) => self.complete_batch(&flight, &results, status, now),
            Verdict::One { outcome, status, id, version, hash } => {
                let operation = flight.operations[0];
                let mut sampled = false;
                if let (Outcome::Accepted { changed: true }, Ok(head), Some(probes)) =
                    (outcome, &result, &mut self.probes)
                    && flight.phase == Phase::Measured
                {
                    let token = &self.pool.received(slot)[head.token.clone()];
                    let deleted = operation.kind == Kind::Delete;
                    sampled = probes.offer(&self.poller, id, version, deleted, flight.intended, token, now);
                }
                let row = Row { outcome, status, id, version, hash, sampled };
                // A batch that is turned away as a whole is all of its commands.
                for &operation in &flight.operations {
                    self.settle(&flight, operation, row, now);
                }
            }
        }
        self.pool.release(slot, now);
    }

    fn judge(&self, slot: usize, head: &Head, flight: &InFlight) -> Verdict {
        let body = self.pool.body(slot);
        let status = head.status;
        let no_change = |outcome| Verdict::One { outcome, status, id: 0, version: 0, hash: 0 };
        match status {
            200..=299 if flight.batch => match serde_json::from_slice::<BatchAnswer>(body) {
                Ok(answer) if answer.results.len() == flight.operations.len() => Verdict::Batch(answer.results, status),
                _ => Verdict::Batch(Vec::new(), status),
            },
            200..=299 => {
                let operation = flight.operations[0];
                if operation.kind == Kind::Delete {
                    let id = self.workload.id_of(operation).unwrap_or(0);
                    let version = head.version.or_else(|| self.workload.version_of_delete(operation)).unwrap_or(0);
                    let outcome = Outcome::Accepted { changed: true };
                    return Verdict::One { outcome, status, id, version, hash: 0 };
                }
                match document::parse(body, &self.settings.run) {
                    Some(document) => Verdict::One {
                        // A body of another operation means that this one left no trace of its own.
                        outcome: Outcome::Accepted { changed: document.op == Some(operation.op) },
                        status,
                        id: document.id,
                        version: head.version.unwrap_or(document.version),
                        hash: document.hash,
                    },
                    None => no_change(Outcome::Failed),
                }
            }
            // Still running under this key: ask again.
            409 if flight.attempt > 0 && contains(body, b"idempotency-in-progress") => {
                Verdict::Open(Outcome::Unknown, status)
            }
            503 if contains(body, b"outcome-unknown") => Verdict::Open(Outcome::Unknown, status),
            // A repetition that was turned away says nothing about the first attempt.
            500..=599 | 429 if flight.attempt > 0 => Verdict::Open(Outcome::Unknown, status),
            503 | 429 => no_change(Outcome::Refused),
            400..=499 => no_change(Outcome::Rejected),
            _ => no_change(Outcome::Failed),
        }
    }

    fn complete_batch(&mut self, flight: &InFlight, results: &[BatchResult], status: u16, now: u64) {
        for (i, &operation) in flight.operations.iter().enumerate() {
            let Some(result) = results.get(i) else {
                self.settle(flight, operation, Row::empty(Outcome::Failed, status), now);
                continue;
            };
            let id = result.uuid().or_else(|| self.workload.id_of(operation)).unwrap_or(0);
            let version = result.version.or_else(|| self.workload.version_of_delete(operation));
            let outcome = match result.status {
                200..=299 => Outcome::Accepted { changed: true },
                503 | 429 => Outcome::Refused,
                400..=499 => Outcome::Rejected,
                _ => Outcome::Failed,
            };
            let version = version.unwrap_or(0);
            let row = Row { outcome, status: result.status, id, version, hash: 0, sampled: false };
            self.settle(flight, operation, row, now);
        }
    }

    fn settle(&mut self, flight: &InFlight, operation: Operation, row: Row, now: u64) {
        match row.outcome {
            Outcome::Accepted { .. } => self.workload.accepted(operation, row.id, row.version),
            _ if row.status == 404 => self.workload.vanished(operation),
            _ => self.workload.refused(operation),
        }
        self.record(flight, operation, row, now);
    }

    fn record(&mut self, flight: &InFlight, operation: Operation, row: Row, now: u64) {
        self.records.push(CommandRecord {
            kind: operation.kind,
            phase: flight.phase,
            outcome: row.outcome,
            settled: flight.attempt > 0,
            sampled: row.sampled,
            status: row.status,
            op: operation.op,
            id: row.id,
            version: row.version,
            hash: row.hash,
            intended: flight.intended,
            sent: flight.sent,
            answered: now,
        });
        if self.records.len() >= 512 {
            self.report();
        }
    }
}

/// What one command's answer said.
#[derive(Clone, Copy)]
struct Row {
    outcome: Outcome,
    status: u16,
    id: u128,
    version: u32,
    hash: u64,
    sampled: bool,
}

impl Row {
    fn empty(outcome: Outcome, status: u16) -> Self {
        Self { outcome, status, id: 0, version: 0, hash: 0, sampled: false }
    }
}

#[derive(serde::Deserialize)]
struct BatchAnswer {
    results: Vec<BatchResult>,
}

enum Verdict {
    One { outcome: Outcome, status: u16, id: u128, version: u32, hash: u64 },
    Batch(Vec<BatchResult>, u16),
    Open(Outcome, u16),
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(text, part).is_some()
}
