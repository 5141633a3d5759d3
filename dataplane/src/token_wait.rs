//! Tokens: what a read has to see before it answers, and the wait for it.

use std::sync::Arc;
use std::sync::LazyLock;
use std::time::Duration;

use contract::partition::{Partition, Topic};
use contract::problem::{BAD_TOKEN, NOT_YET_CONSISTENT, Problem, TOKEN_EXPIRED};
use contract::token::{Entry, ServerRun, Token};
use prometheus::{Histogram, IntCounterVec};
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use crate::feed::Waiters;
use crate::fetch::{Found, ReadError};
use crate::pulse::{INTERVAL, Pulse};
use crate::reader::Reader;

/// How long a read waits that does not say.
pub const WAIT_DEFAULT_S: u64 = 1;
/// The longest wait.
pub const WAIT_MAX_S: u64 = 30;

static WAITS: LazyLock<Histogram> = LazyLock::new(|| {
    prometheus::register_histogram_with_registry!(
        "nexus_view_token_wait_seconds",
        "How long reads with a token waited for it",
        vec![0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0],
        runtime::telemetry::registry()
    )
    .expect("registered once")
});
static OUTCOMES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    prometheus::register_int_counter_vec_with_registry!(
        "nexus_view_token_reads_total",
        "Reads with a token, by how it went: met at once, met after a wait, late",
        &["outcome"],
        runtime::telemetry::registry()
    )
    .expect("registered once")
});

/// Why a token is not met. Turned into an answer in one place ([`crate::http`]).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// It can't be met any more, or is no token: a 400.
    #[error(transparent)]
    Refused(#[from] Problem),
    /// The view does not show these entities yet; none where only the server's run is not proven yet.
    #[error("the view does not show it yet")]
    Late(Vec<(Partition, Uuid)>),
    /// The view can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// One entry, with what its token says of its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted {
    entry: Entry,
    history: u64,
    epoch: u64,
}

/// What some tokens ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Demand {
    wanted: Vec<Wanted>,
    run: Option<ServerRun>,
}

impl Demand {
    /// What `tokens` ask for together, in a view with `signals` partitions of signals.
    ///
    /// # Errors
    /// 400 `bad-token` for a partition that there isn't, `token-expired` for one issued longer than
    /// `lifetime` before `now_ms`: tombstones may be gone by which it would be checked.
    pub fn of(tokens: &[Token], signals: u16, now_ms: u64, lifetime: Duration) -> Result<Self, Problem> {
        let mut demand = Self::default();
        for token in tokens {
            if u128::from(now_ms.saturating_sub(token.issued_ms)) > lifetime.as_millis() {
                return Err(expired("the token is older than the view remembers deletions"));
            }
            demand.run = demand.run.max(token.unproven);
            for entry in &token.entries {
                let Partition { topic, index } = entry.partition;
                if index >= topic.partitions(signals) {
                    return Err(Problem::new(&BAD_TOKEN, format!("the token names the partition {}", entry.partition)));
                }
                demand.wanted.push(Wanted { entry: *entry, history: token.history, epoch: token.epoch });
            }
        }
        Ok(demand)
    }

    /// The part of it that concerns API keys; `None` where there is none.
    #[must_use]
    pub fn of_keys(&self) -> Option<Self> {
        let keys = self.wanted.iter().filter(|wanted| wanted.entry.partition.topic == Topic::Keys);
        let wanted: Vec<Wanted> = keys.copied().collect();
        if wanted.is_empty() { None } else { Some(Self { wanted, run: None }) }
    }
}

impl Wanted {
    /// Whether the view shows it.
    fn is_met(&self, found: &Found) -> Result<bool, Problem> {
        let header = &found.header;
        if self.history < header.history {
            return Err(expired("the database was set back after the token was issued"));
        }
        // What was written after the database was set back to where this generation does not know it yet.
        if self.history > header.history {
            return Ok(false);
        }
        // What a generation of a later epoch has no row of was deleted. The epoch that counts is the one
        // it was filled from: an older generation that goes on into a new epoch proves nothing.
        let reached = found.document.as_ref().is_some_and(|document| document.version >= self.entry.version);
        Ok(reached || header.base > self.epoch)
    }
}

fn entities(wanted: &[Wanted]) -> Vec<(Partition, Uuid)> {
    wanted.iter().map(|wanted| (wanted.entry.partition, wanted.entry.id)).collect()
}

fn expired(detail: &str) -> Problem {
    Problem::new(&TOKEN_EXPIRED, detail)
}

/// The answer to a token that is not met in time.
#[must_use]
pub fn late() -> Problem {
    Problem::new(&NOT_YET_CONSISTENT, "the view does not show the token's command yet")
}

/// What waiting needs.
#[derive(Debug, Clone)]
pub struct TokenWait {
    /// Where entities are looked up.
    pub reader: Reader,
    /// Where changes are heard of.
    pub waiters: Waiters,
    /// Where watermarks are seen.
    pub pulse: watch::Receiver<Arc<Pulse>>,
}

impl TokenWait {
    /// Returns once the view shows all that is asked for.
    ///
    /// # Errors
    /// [`WaitError`]; `Late` after a last look at the deadline.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn met(&self, demand: &Demand, deadline: Instant) -> Result<(), WaitError> {
        let begun = Instant::now();
        let mut waited = false;
        let mut open = demand.wanted.clone();
        let mut proven = demand.run.is_none();
        // Registered before the first look: what is applied after it wakes.
        let waiting = self.waiters.register(open.iter().map(|wanted| wanted.entry.id).collect());
        let outcome = loop {
            let last = Instant::now() >= deadline;
            match self.look(&mut open).await {
                Ok(()) => {}
                Err(error) => break Err(error),
            }
            proven = proven || self.is_proven(demand.run);
            if open.is_empty() && proven {
                break Ok(());
            }
            if last {
                break Err(WaitError::Late(entities(&open)));
            }
            waited = true;
            // Watermarks wake nobody.
            let until = if proven { deadline } else { deadline.min(Instant::now() + INTERVAL / 4) };
            let _ = tokio::time::timeout_at(until, waiting.woken()).await;
        };
        WAITS.observe(begun.elapsed().as_secs_f64());
        let outcome_name = match (&outcome, waited) {
            (Ok(()), false) => "at-once",
            (Ok(()), true) => "after-wait",
            (Err(WaitError::Late(_)), _) => "late",
            (Err(_), _) => "refused",
        };
        OUTCOMES.with_label_values(&[outcome_name]).inc();
        outcome
    }

    /// Leaves in `open` what the view does not show.
    async fn look(&self, open: &mut Vec<Wanted>) -> Result<(), WaitError> {
        if open.is_empty() {
            return Ok(());
        }
        let found = self.reader.read(None, entities(open)).await?.entities;
        let mut left = Vec::new();
        for (wanted, found) in open.iter().zip(found) {
            if !wanted.is_met(&found?)? {
                left.push(*wanted);
            }
        }
        *open = left;
        Ok(())
    }

    /// Whether the chain of events was proven on this server run or a later one, and is applied up to there.
    fn is_proven(&self, run: Option<ServerRun>) -> bool {
        let pulse = self.pulse.borrow();
        let newest = pulse.watermark.as_ref().map(|read| &read.watermark);
        newest.is_some_and(|newest| run.is_none_or(|run| newest.run >= run) && pulse.has_applied(newest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Document;
    use crate::view::header::Header;

    const LIFETIME: Duration = Duration::from_secs(12 * 3600);

    fn token(index: u16) -> Token {
        let partition = Partition { topic: Topic::Signals, index };
        let entries = vec![Entry { partition, id: Uuid::from_u128(1), version: 3 }];
        Token { history: 5, epoch: 7, issued_ms: 1000, unproven: None, entries }
    }

    fn found(history: u64, base: u64, version: Option<u64>) -> Found {
        let header = Header {
            generation: 1,
            epoch: 9,
            history,
            seq: 1,
            offset: 1,
            run_id: "x".into(),
            ready: true,
            partitions: 4,
            applied_ms: 1,
            base,
        };
        let document = version.map(|version| Document { version, code: b'a', json: "{}".into() });
        Found { document, header: Arc::new(header) }
    }

    #[test]
    fn a_token_is_met_by_version_or_by_a_generation_of_a_later_epoch() {
        let demand = Demand::of(&[token(0)], 4, 1000, LIFETIME).expect("a demand");
        let met = |found: Found| demand.wanted[0].is_met(&found).map_err(|problem| problem.kind.code);
        assert_eq!(met(found(5, 7, None)), Ok(false));
        assert_eq!(met(found(5, 7, Some(2))), Ok(false));
        assert_eq!(met(found(5, 7, Some(3))), Ok(true));
        assert_eq!(met(found(5, 6, Some(4))), Ok(true));
        assert_eq!(met(found(5, 8, None)), Ok(true));
        assert_eq!(met(found(4, 8, Some(9))), Ok(false));
        assert_eq!(met(found(6, 7, Some(9))), Err("token-expired"));
    }

    #[test]
    fn tokens_of_no_partition_and_old_ones_are_refused() {
        let of = |index, now_ms| Demand::of(&[token(index)], 4, now_ms, LIFETIME).map_err(|problem| problem.kind.code);
        assert_eq!(of(4, 1000).err(), Some("bad-token"));
        assert!(of(3, 1000 + 12 * 3_600_000).is_ok());
        assert_eq!(of(3, 1001 + 12 * 3_600_000).err(), Some("token-expired"));
        assert!(of(3, 0).is_ok());
        assert_eq!(of(3, 1000).ok().and_then(|demand| demand.of_keys()), None);
    }
}
