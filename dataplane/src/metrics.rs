//! The projector's metrics.

use std::sync::LazyLock;

use prometheus::{
    Histogram, IntCounter, IntGaugeVec, histogram_opts, register_histogram_with_registry,
    register_int_counter_with_registry, register_int_gauge_vec_with_registry,
};
use runtime::telemetry::registry;

const UNIQUE: &str = "each metric is registered once";

fn counter(name: &str, help: &str) -> IntCounter {
    register_int_counter_with_registry!(name, help, registry()).expect(UNIQUE)
}

/// Batches applied.
pub static BATCHES: LazyLock<IntCounter> =
    LazyLock::new(|| counter("nexus_projector_batches_total", "Batches applied to the view"));
/// Events applied, coalesced ones too.
pub static EVENTS: LazyLock<IntCounter> =
    LazyLock::new(|| counter("nexus_projector_events_total", "Events applied to the view, coalesced ones included"));
/// Dead letters.
pub static DEAD_LETTERS: LazyLock<IntCounter> =
    LazyLock::new(|| counter("nexus_projector_dead_letters_total", "Events parked in the dead-letter topic"));
/// Generations begun.
pub static FILLS: LazyLock<IntCounter> =
    LazyLock::new(|| counter("nexus_projector_fills_total", "Generations of the view whose filling was begun"));
/// Flips.
pub static FLIPS: LazyLock<IntCounter> =
    LazyLock::new(|| counter("nexus_projector_flips_total", "Generations that replaced a serving one"));
/// Holes that no compaction explains.
pub static HOLES: LazyLock<IntCounter> =
    LazyLock::new(|| counter("nexus_projector_holes_total", "Missing numbers that compaction does not explain"));
/// Script calls repeated.
pub static REPEATS: LazyLock<IntCounter> =
    LazyLock::new(|| counter("nexus_projector_reconnects_total", "Times a partition began again at its checkpoint"));

/// Seconds of one script call.
pub static BATCH_SECONDS: LazyLock<Histogram> = LazyLock::new(|| {
    let buckets = vec![0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.25, 1.0];
    let options = histogram_opts!("nexus_projector_batch_seconds", "Time of one script call", buckets);
    register_histogram_with_registry!(options, registry()).expect(UNIQUE)
});

/// Seconds from the broker's client of the relay to the projector, in whole milliseconds; only where the clocks of both
/// agree.
pub static TRANSIT_SECONDS: LazyLock<Histogram> = LazyLock::new(|| {
    let buckets = vec![0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 4.0];
    let help = "From handing a record to the relay's client until the projector has it, in whole milliseconds";
    let options = histogram_opts!("nexus_projector_transit_seconds", help, buckets);
    register_histogram_with_registry!(options, registry()).expect(UNIQUE)
});

/// Events in the log that are not applied.
pub static LAG: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Events in the log that are not applied yet";
    register_int_gauge_vec_with_registry!("nexus_projector_lag_events", help, &["partition"], registry()).expect(UNIQUE)
});
/// Whether reads may be served.
pub static READY: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "1 while reads of the partition may be served";
    register_int_gauge_vec_with_registry!("nexus_projector_ready", help, &["partition"], registry()).expect(UNIQUE)
});
