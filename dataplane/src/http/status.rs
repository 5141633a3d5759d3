//! `/v1/status`: how far the view is behind the commands.

use contract::partition::Partition;
use contract::time::Timestamp;
use http::{Response, StatusCode};
use runtime::http::body::Body;
use runtime::http::failure::Failure;
use runtime::http::front::Call;
use runtime::http::media::{Media, negotiate};
use runtime::http::reply;
use serde::Serialize;

use super::DataPlane;
use super::one::no_query;
use crate::pulse::Pulse;
use crate::status::{PartitionStatus, ProjectorStatus};

/// Without a newer watermark for so long, freshness is a guess, and says so.
const SILENT_S: f64 = 3.0;

/// The answer.
#[derive(Debug, Serialize)]
struct StatusPage {
    ready: bool,
    reason: Option<String>,
    partitions: Vec<PartitionPage>,
    freshness: Option<Freshness>,
    watermark_l2c: Latency,
    dead_letters: DeadLetters,
    redis: RedisPage,
    projector: Option<ProjectorPage>,
}

#[derive(Debug, Serialize)]
struct PartitionPage {
    partition: Partition,
    ready: bool,
    generation: Option<u64>,
    epoch: Option<u64>,
    history: Option<u64>,
    checkpoint: Option<Checkpoint>,
    /// Known only where the projector of this partition runs in this process.
    log_end: Option<LogEnd>,
    lag_events: Option<u64>,
    parked: u64,
    state: Option<crate::status::State>,
    detail: Option<String>,
}

#[derive(Debug, Serialize)]
struct Checkpoint {
    seq: u64,
    offset: i64,
    applied_at: String,
}

#[derive(Debug, Serialize)]
struct LogEnd {
    seq: u64,
    offset: i64,
}

/// Age of the oldest committed event that is not applied.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Freshness {
    seconds: f64,
    silent: bool,
}

/// From a watermark's time in Postgres to its being applied.
#[derive(Debug, Default, Serialize)]
struct Latency {
    count: usize,
    last_ms: Option<f64>,
    p50_ms: Option<f64>,
    p90_ms: Option<f64>,
    p99_ms: Option<f64>,
    max_ms: Option<f64>,
}

#[derive(Debug, Serialize)]
struct DeadLetters {
    parked: u64,
    written: Option<u64>,
}

#[derive(Debug, Serialize)]
struct RedisPage {
    ok: bool,
    run_id: Option<String>,
}

#[derive(Debug, Serialize)]
struct ProjectorPage {
    ok: bool,
    detail: Option<String>,
}

impl DataPlane {
    /// `GET /v1/status`
    pub(super) async fn status(&self, call: &Call) -> Result<Response<Body>, Failure> {
        let headers = call.request.headers();
        self.admit(headers, None).await?;
        negotiate(headers, &[Media::Json])?;
        no_query(call)?;
        let pulse = self.pulse.borrow().clone();
        let projector = self.projector.as_ref().map(|projector| projector.borrow().clone());
        let page = page(&pulse, projector.as_ref(), Timestamp::now());
        let body = serde_json::to_vec(&page).map_err(Failure::internal)?;
        Ok(reply::json(StatusCode::OK, body))
    }
}

fn page(pulse: &Pulse, projector: Option<&ProjectorStatus>, now: Timestamp) -> StatusPage {
    let signals = pulse.partitions.or(projector.map(|p| p.signals).filter(|signals| *signals > 0));
    let partitions = signals.map(Partition::all).unwrap_or_default();
    let reason = pulse.unreadable();
    StatusPage {
        ready: reason.is_none(),
        reason,
        partitions: partitions
            .into_iter()
            .map(|partition| partition_page(partition, pulse, projector.and_then(|p| p.partitions.get(&partition))))
            .collect(),
        freshness: freshness(pulse, now),
        watermark_l2c: latency(pulse),
        dead_letters: DeadLetters {
            parked: pulse.parked.values().sum(),
            written: projector.map(|projector| projector.dead_letters),
        },
        redis: RedisPage { ok: pulse.run_id.is_some(), run_id: pulse.run_id.as_deref().map(str::to_owned) },
        projector: projector.map(|status| {
            let wrong = status.broker_error.as_ref().or(status.redis_error.as_ref()).or(status.waiting_for.as_ref());
            ProjectorPage { ok: wrong.is_none(), detail: wrong.cloned() }
        }),
    }
}

fn partition_page(partition: Partition, pulse: &Pulse, status: Option<&PartitionStatus>) -> PartitionPage {
    let header = pulse.headers.get(&partition);
    // A projector that runs elsewhere leaves numbers of no meaning here.
    let mine = status.filter(|status| status.state != crate::status::State::Elsewhere);
    PartitionPage {
        partition,
        ready: header.is_some_and(|header| pulse.run_id.as_deref().is_some_and(|run_id| header.serves_on(run_id))),
        generation: header.map(|header| header.generation),
        epoch: header.map(|header| header.epoch),
        history: header.map(|header| header.history),
        checkpoint: header.map(|header| Checkpoint {
            seq: header.seq,
            offset: header.offset,
            applied_at: Timestamp(i64::try_from(header.applied_ms).unwrap_or(0).saturating_mul(1000)).to_string(),
        }),
        log_end: mine
            .filter(|status| status.log_end >= 0)
            .map(|status| LogEnd { seq: status.seq_end, offset: status.log_end }),
        // As of the checkpoint that stands beside it, which may be a moment older than what the projector knows.
        lag_events: mine.map(|status| match header {
            Some(header) if header.epoch == status.epoch => status.seq_end.saturating_sub(header.seq),
            _ => status.lag,
        }),
        parked: pulse.parked.get(&partition).copied().unwrap_or(0),
        state: status.map(|status| status.state),
        detail: mine.and_then(|status| status.reason.clone()),
    }
}

/// 0 when the last watermark is applied and young; else the age of what is known to be applied.
#[allow(clippy::cast_precision_loss)]
fn freshness(pulse: &Pulse, now: Timestamp) -> Option<Freshness> {
    let newest = &pulse.watermark.as_ref()?.watermark;
    let age = |time: i64| (now.0.saturating_sub(time).max(0)) as f64 / 1e6;
    let silent = age(newest.time) >= SILENT_S;
    if !silent && pulse.applied_watermark == Some(newest.time) {
        return Some(Freshness { seconds: 0.0, silent: false });
    }
    let known = match pulse.applied_watermark {
        Some(applied) => applied.min(newest.time),
        None if silent => newest.time,
        // This server has not seen a watermark applied yet: how far the view lags is not known.
        None => return None,
    };
    Some(Freshness { seconds: age(known), silent })
}

fn latency(pulse: &Pulse) -> Latency {
    let mut sorted: Vec<f64> = pulse.latencies_ms.iter().copied().collect();
    sorted.sort_by(f64::total_cmp);
    let rank = |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied();
    Latency {
        count: sorted.len(),
        last_ms: pulse.latencies_ms.back().copied(),
        p50_ms: rank(50),
        p90_ms: rank(90),
        p99_ms: rank(99),
        max_ms: sorted.last().copied(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use contract::position::Watermark;
    use contract::token::ServerRun;

    use super::*;
    use crate::pulse::ReadWatermark;

    fn pulse(time: i64, applied: Option<i64>) -> Pulse {
        let run = ServerRun { timeline: 1, started: 1 };
        let watermark = Watermark { epoch: 1, history: 0, time, run, seqs: BTreeMap::new() };
        Pulse {
            watermark: Some(ReadWatermark { watermark, read_ms: 0 }),
            applied_watermark: applied,
            ..Pulse::default()
        }
    }

    #[test]
    fn freshness_is_zero_only_under_a_young_watermark_that_is_applied() {
        let at = |pulse: &Pulse| freshness(pulse, Timestamp(10_000_000)).expect("a watermark");
        assert_eq!(at(&pulse(9_000_000, Some(9_000_000))), Freshness { seconds: 0.0, silent: false });
        assert_eq!(at(&pulse(9_000_000, Some(4_000_000))), Freshness { seconds: 6.0, silent: false });
        assert_eq!(at(&pulse(6_000_000, Some(6_000_000))), Freshness { seconds: 4.0, silent: true });
        assert_eq!(freshness(&Pulse::default(), Timestamp(0)), None);
        assert_eq!(freshness(&pulse(9_000_000, None), Timestamp(10_000_000)), None);
    }
}
