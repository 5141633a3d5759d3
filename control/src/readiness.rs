//! What `/readyz` answers: ready when Postgres is there, degraded where events do not get through.
//!
//! *Input*: a ping of Postgres every [`PING_EVERY`], the relay's status. *Output*: a [`Readiness`] at any
//! moment, without waiting. *Bound*: one ping at a time. *On shutdown*: dropped, the pings stop.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use runtime::http::wellknown::{Check, Readiness, Status};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::relay_status::{RelayState, RelayStatus};
use crate::store::{Store, StoreError};

/// Between two pings of Postgres.
const PING_EVERY: Duration = Duration::from_millis(500);
/// How long a ping may take before Postgres counts as away.
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// A relay that streams but has not published a watermark for so long does not get through to the broker.
const WATERMARK_LATE_MS: i64 = 3_000;

/// Watches what readiness depends on. It stops when it is dropped.
#[derive(Debug)]
pub struct ReadinessWatch {
    postgres: watch::Receiver<Check>,
    relay: watch::Receiver<RelayStatus>,
    /// Since when the relay has been in its state.
    relay_since: watch::Receiver<(RelayState, Instant)>,
    tasks: [JoinHandle<()>; 2],
}

impl ReadinessWatch {
    /// Begins to watch. Must be called within a runtime.
    #[must_use]
    pub fn start(store: Store, relay: watch::Receiver<RelayStatus>) -> Self {
        let (sender, postgres) = watch::channel(Check { ok: false, detail: "not asked yet".to_owned() });
        let pings = tokio::spawn(async move {
            loop {
                sender.send_replace(ping(&store).await);
                tokio::time::sleep(PING_EVERY).await;
            }
        });
        let mut of_relay = relay.clone();
        let (since, relay_since) = watch::channel((of_relay.borrow().state, Instant::now()));
        let states = tokio::spawn(async move {
            while of_relay.changed().await.is_ok() {
                let state = of_relay.borrow_and_update().state;
                since.send_if_modified(|since| {
                    let is_new = since.0 != state;
                    if is_new {
                        *since = (state, Instant::now());
                    }
                    is_new
                });
            }
        });
        Self { postgres, relay, relay_since, tasks: [pings, states] }
    }

    /// Readiness now.
    #[must_use]
    pub fn now(&self) -> Readiness {
        let since = self.relay_since.borrow().1;
        combine(self.postgres.borrow().clone(), &self.relay.borrow(), since.elapsed())
    }
}

impl Drop for ReadinessWatch {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn ping(store: &Store) -> Check {
    // In a task of its own: a statement must not be dropped midway when it is late.
    let store = store.clone();
    let answer = tokio::spawn(async move { store.ping().await });
    let detail = match tokio::time::timeout(PING_TIMEOUT, answer).await {
        Ok(Ok(Ok(()))) => return Check { ok: true, detail: "answers".to_owned() },
        Ok(Ok(Err(StoreError::Away(error)))) => format!("away: {error}"),
        Ok(Ok(Err(StoreError::Unmigrated))) => "there, but not migrated: run `nexus-control migrate`".to_owned(),
        Ok(Ok(Err(StoreError::Fault(error)))) => format!("there, but not usable: {error}"),
        Ok(Err(_)) => "the ping broke".to_owned(),
        Err(_) => format!("no answer within {} ms", PING_TIMEOUT.as_millis()),
    };
    Check { ok: false, detail }
}

fn combine(postgres: Check, relay: &RelayStatus, in_state: Duration) -> Readiness {
    let relay = relay_check(relay, in_state, postgres.ok);
    let status = match (postgres.ok, relay.ok) {
        (true, true) => Status::Ready,
        (true, false) => Status::Degraded,
        (false, _) => Status::Unavailable,
    };
    Readiness { status, checks: BTreeMap::from([("postgres", postgres), ("relay", relay)]) }
}

fn relay_check(relay: &RelayStatus, in_state: Duration, takes_commands: bool) -> Check {
    // A broker that went before the first watermark leaves none to be old.
    let silence_ms = relay.watermark_age_ms().unwrap_or(i64::try_from(in_state.as_millis()).unwrap_or(i64::MAX));
    let late = Some(silence_ms).filter(|age| relay.state == RelayState::Streaming && *age > WATERMARK_LATE_MS);
    let mut detail = match relay.state {
        RelayState::Standby => "standby: another process relays".to_owned(),
        RelayState::Streaming => "streaming".to_owned(),
        state if takes_commands => format!("{state}: commands are accepted, their events wait"),
        state => state.to_string(),
    };
    if !relay.detail.is_empty() {
        detail = format!("{detail}; {}", relay.detail);
    }
    if let Some(age) = late {
        detail = format!(
            "{detail}; no watermark for {age} ms: the broker does not acknowledge, or Postgres' stream stands still"
        );
    }
    Check { ok: relay.state.is_fine() && late.is_none(), detail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::time::Timestamp;

    fn postgres(ok: bool) -> Check {
        Check { ok, detail: String::new() }
    }

    fn relay(state: RelayState, age_ms: i64) -> RelayStatus {
        let watermark = Some(Timestamp(Timestamp::now().0 - age_ms * 1000));
        RelayStatus { state, watermark, detail: "why".to_owned(), ..RelayStatus::starting() }
    }

    #[test]
    fn only_postgres_makes_it_unavailable_and_a_relay_that_does_not_get_through_degrades() {
        for (ok, state, age_ms, expected) in [
            (true, RelayState::Streaming, 0, Status::Ready),
            (true, RelayState::Standby, 60_000, Status::Ready),
            (true, RelayState::Streaming, 60_000, Status::Degraded),
            (true, RelayState::Retrying, 0, Status::Degraded),
            (true, RelayState::Broken, 0, Status::Degraded),
            (true, RelayState::Starting, 0, Status::Degraded),
            (false, RelayState::Streaming, 0, Status::Unavailable),
        ] {
            let status = combine(postgres(ok), &relay(state, age_ms), Duration::ZERO).status;
            assert_eq!(status, expected, "{ok} {state} {age_ms}");
        }
    }

    #[test]
    fn a_relay_that_never_published_a_watermark_degrades_as_well() {
        let relay = RelayStatus { state: RelayState::Streaming, ..RelayStatus::starting() };
        assert_eq!(combine(postgres(true), &relay, Duration::from_secs(1)).status, Status::Ready);
        assert_eq!(combine(postgres(true), &relay, Duration::from_secs(4)).status, Status::Degraded);
    }

    #[test]
    fn a_broken_relay_says_why() {
        let readiness = combine(postgres(true), &relay(RelayState::Broken, 0), Duration::ZERO);
        let check = &readiness.checks["relay"];
        assert!(check.detail.contains("broken") && check.detail.contains("why"), "{}", check.detail);
    }
}
