//! What the relay counts.

use std::sync::LazyLock;

use prometheus::{
    Histogram, IntCounter, IntCounterVec, IntGauge, register_histogram_with_registry,
    register_int_counter_vec_with_registry, register_int_counter_with_registry, register_int_gauge_with_registry,
};

/// The relay's metrics, one set for the process.
pub struct Metrics {
    /// Events published, markers included.
    pub events: IntCounter,
    /// Bytes of their values.
    pub bytes: IntCounter,
    /// Messages that went out as markers.
    pub poison: IntCounter,
    /// Broker transactions committed.
    pub transactions: IntCounter,
    /// How long the line stood still for a commit: last acknowledgements, position, commit.
    pub commit: Histogram,
    /// From Postgres' commit to the client's hands, per event.
    pub taken: Histogram,
    /// From the client's hands to the broker's acknowledgement, per record; the client stamps whole milliseconds.
    pub acknowledged: Histogram,
    /// Times that the line was started again after an error.
    pub restarts: IntCounter,
    /// Producers made, by the `acks` that they were given.
    pub producers: IntCounterVec,
    /// 1 while this process relays.
    pub streaming: IntGauge,
    /// 1 while the chain of events is broken.
    pub broken: IntGauge,
    /// The time of the last published watermark, in seconds since 1970.
    pub watermark: IntGauge,
    /// WAL that the server has sent and that is not published, in bytes.
    pub lag: IntGauge,
}

fn stage_buckets() -> Vec<f64> {
    vec![0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 4.0]
}

static METRICS: LazyLock<Metrics> = LazyLock::new(|| {
    let registry = runtime::telemetry::registry();
    let once = "each name is registered once";
    let counter = |name, help| register_int_counter_with_registry!(name, help, registry).expect(once);
    let gauge = |name, help| register_int_gauge_with_registry!(name, help, registry).expect(once);
    Metrics {
        events: counter("nexus_relay_events_total", "Events published to the broker"),
        bytes: counter("nexus_relay_event_bytes_total", "Bytes of the published events' values"),
        poison: counter("nexus_relay_poison_total", "Messages published as markers because they can't be events"),
        transactions: counter("nexus_relay_transactions_total", "Broker transactions committed"),
        commit: register_histogram_with_registry!(
            "nexus_relay_commit_seconds",
            "How long the relay stood still for a broker transaction's commit",
            vec![0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0],
            registry
        )
        .expect(once),
        taken: register_histogram_with_registry!(
            "nexus_relay_taken_seconds",
            "From the commit of an event's transaction until the relay hands the event to the broker's client",
            stage_buckets(),
            registry
        )
        .expect(once),
        acknowledged: register_histogram_with_registry!(
            "nexus_relay_acknowledged_seconds",
            "From handing a record to the broker's client until the broker's acknowledgement, in whole milliseconds",
            stage_buckets(),
            registry
        )
        .expect(once),
        restarts: counter("nexus_relay_restarts_total", "Times that the relay started again from the slot"),
        producers: register_int_counter_vec_with_registry!(
            "nexus_relay_producers_total",
            "Producers made, by what their records wait for",
            &["acks"],
            registry
        )
        .expect(once),
        streaming: gauge("nexus_relay_streaming", "1 while this process relays"),
        broken: gauge("nexus_relay_broken", "1 while the chain of events is broken: an operator is needed"),
        watermark: gauge("nexus_relay_watermark_timestamp_seconds", "Time of the last published watermark"),
        lag: gauge("nexus_relay_lag_bytes", "WAL sent by the server and not published"),
    }
});

/// The relay's metrics.
pub fn metrics() -> &'static Metrics {
    &METRICS
}
