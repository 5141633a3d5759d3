//! `run.hlog` and `timeline.csv`, written while the run is on.

use std::io::{BufWriter, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::serialization::{Serializer as _, V2DeflateSerializer};

use super::{Measure, Row, Set};
use crate::clock::seconds;

pub(super) const ROW_HEADER: &str = "second,phase,offered_per_s,ended,accepted,not_accepted,visible,outstanding,backlog,command_p50_ms,command_p99_ms,command_max_ms,service_p99_ms,l2c_p50_ms,l2c_p99_ms,l2c_max_ms,reads,read_p99_ms,pacer_cpu,observer_cpu,violations";

pub(super) const LOG_HEADER: &str =
    "#[Histogram log format version 1.3]\n#[Values are nanoseconds; Interval_Max is in ms]\n";

/// Where `run.hlog` and `timeline.csv` go while the run is on.
pub(super) struct Files {
    pub(super) hlog: BufWriter<std::fs::File>,
    pub(super) timeline: BufWriter<std::fs::File>,
    pub(super) serializer: V2DeflateSerializer,
}

/// One line of an interval log for each measure that has values.
pub(super) fn write_set(
    log: &mut impl Write,
    serializer: &mut V2DeflateSerializer,
    set: &Set,
    start: f64,
    length: f64,
) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    for measure in Measure::ALL {
        let histogram = set.of(measure);
        if histogram.is_empty() {
            continue;
        }
        bytes.clear();
        serializer.serialize(histogram, &mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
        writeln!(
            log,
            "Tag={},{start:.3},{length:.3},{:.3},{}",
            measure.name(),
            histogram.max() as f64 / 1e6,
            STANDARD.encode(&bytes)
        )?;
    }
    Ok(())
}

impl Files {
    pub(super) fn write(&mut self, row: &Row, set: &Set, from: u64, to: u64, base: u64) -> std::io::Result<()> {
        let start = seconds(from.saturating_sub(base));
        let length = seconds(to.saturating_sub(from));
        write_set(&mut self.hlog, &mut self.serializer, set, start, length)?;
        writeln!(
            self.timeline,
            "{:.3},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{:.3},{:.3},{}",
            row.second,
            row.phase,
            row.offered_per_s,
            row.ended,
            row.accepted,
            row.not_accepted,
            row.visible,
            row.outstanding,
            row.backlog,
            row.command_p50_ms,
            row.command_p99_ms,
            row.command_max_ms,
            row.service_p99_ms,
            row.l2c_p50_ms,
            row.l2c_p99_ms,
            row.l2c_max_ms,
            row.reads,
            row.read_p99_ms,
            row.pacer_cpu,
            row.observer_cpu,
            row.violations
        )
    }
}
