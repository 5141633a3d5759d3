//! Requests by route, method and status, and their durations. Every counter is resolved once and then
//! reached by an index: the hot path looks up no label.

use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use http::StatusCode;
use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, register_histogram_vec_with_registry,
    register_int_counter_vec_with_registry,
};

use super::route::Verb;
use crate::telemetry::registry;

static REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec_with_registry!(
        "nexus_http_requests_total",
        "Requests answered, by route template, method and status",
        &["route", "method", "status"],
        registry()
    )
    .expect("registered once")
});

static DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    register_histogram_vec_with_registry!(
        "nexus_http_request_duration_seconds",
        "From the end of a request's header to the answer's first byte handed over, by route template",
        &["route"],
        vec![
            0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
            30.0
        ],
        registry()
    )
    .expect("registered once")
});

/// The statuses that have a counter of their own; the last one stands for all others.
const STATUSES: [&str; 20] = [
    "200", "201", "204", "304", "400", "401", "403", "404", "405", "406", "408", "409", "412", "413", "415", "422",
    "431", "500", "503", "other",
];

fn index(status: StatusCode) -> usize {
    let status = status.as_str();
    STATUSES.iter().position(|known| *known == status).unwrap_or(STATUSES.len() - 1)
}

/// Methods, and one for all others.
const METHODS: usize = Verb::ALL.len() + 1;

#[derive(Debug)]
pub(crate) struct RouteMetrics {
    template: &'static str,
    counters: [[OnceLock<IntCounter>; STATUSES.len()]; METHODS],
    duration: Histogram,
}

impl RouteMetrics {
    pub(crate) fn new(template: &'static str) -> Self {
        Self {
            template,
            counters: [const { [const { OnceLock::new() }; STATUSES.len()] }; METHODS],
            duration: DURATION.with_label_values(&[template]),
        }
    }

    pub(crate) fn count(&self, verb: Option<Verb>, status: StatusCode, took: Duration) {
        let (method, status) = (verb.map_or(METHODS - 1, |verb| verb as usize), index(status));
        self.counters[method][status]
            .get_or_init(|| {
                let name = verb.map_or("other", Verb::name);
                REQUESTS.with_label_values(&[self.template, name, STATUSES[status]])
            })
            .inc();
        self.duration.observe(took.as_secs_f64());
    }
}
