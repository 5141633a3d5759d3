//! Histograms of everything, whole and per second.
//!
//! Every histogram holds 1 µs to 10 min at three digits, in nanoseconds; what is longer counts as
//! 10 min. The totals hold the measured phase, by intended time; the intervals hold what ended in
//! that second, whatever phase it was meant for.

use std::io::Write;
use std::path::Path;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;

use crate::clock::{SECOND, seconds};
use crate::journal::{CommandRecord, Outcome, Phase, ReadRecord};

mod files;

use files::{Files, LOG_HEADER, ROW_HEADER, write_set};

/// Highest value, nanoseconds: ten minutes.
const HIGHEST: u64 = 600 * SECOND;

/// A histogram of 1 µs to 10 min at three digits.
#[must_use]
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, HIGHEST, 3).expect("the bounds are valid")
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Intended to answered.
    Command,
    /// Sent to answered.
    Service,
    /// Intended to sent.
    SendDelay,
    /// Of the send delay, what was the generator's own fault.
    OwnDelay,
    /// Intended to first seen in the view.
    L2c,
    /// Reads: intended to answered.
    Read,
}

impl Measure {
    /// All measures, in the order of [`Set`].
    pub const ALL: [Self; 6] = [Self::Command, Self::Service, Self::SendDelay, Self::OwnDelay, Self::L2c, Self::Read];

    /// As in `summary.json`, `run.hlog` and `--slo`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Service => "service",
            Self::SendDelay => "send_delay",
            Self::OwnDelay => "own_delay",
            Self::L2c => "l2c",
            Self::Read => "read",
        }
    }
}

/// One histogram of each measure.
#[derive(Debug, Clone)]
pub struct Set {
    histograms: [Histogram<u64>; 6],
}

impl Default for Set {
    fn default() -> Self {
        Self { histograms: std::array::from_fn(|_| histogram()) }
    }
}

impl Set {
    /// The histogram of `measure`.
    #[must_use]
    pub fn of(&self, measure: Measure) -> &Histogram<u64> {
        &self.histograms[measure as usize]
    }

    /// Counts `nanos`.
    pub fn record(&mut self, measure: Measure, nanos: u64) {
        self.histograms[measure as usize].saturating_record(nanos);
    }

    fn clear(&mut self) {
        for histogram in &mut self.histograms {
            histogram.reset();
        }
    }
}

/// How the commands of a phase ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sent at least once.
    pub sent: u64,
    /// Accepted.
    pub accepted: u64,
    /// Accepted, and made a new version.
    pub changed: u64,
    /// 503 or 429.
    pub refused: u64,
    /// Other 4xx.
    pub rejected: u64,
    /// Other 5xx.
    pub failed: u64,
    /// No answer in time, and never settled.
    pub timed_out: u64,
    /// Connection lost or `outcome-unknown`, and never settled.
    pub unknown: u64,
    /// Open at first, and settled by a repetition.
    pub settled: u64,
}

impl Counts {
    fn slot(&mut self, outcome: Outcome) -> &mut u64 {
        match outcome {
            Outcome::Accepted { .. } => &mut self.accepted,
            Outcome::Refused => &mut self.refused,
            Outcome::Rejected => &mut self.rejected,
            Outcome::Failed => &mut self.failed,
            Outcome::TimedOut => &mut self.timed_out,
            Outcome::Unknown => &mut self.unknown,
        }
    }

    fn add(&mut self, record: &CommandRecord, opened_as: Option<Outcome>) {
        if let Some(before) = opened_as {
            let slot = self.slot(before);
            *slot = slot.saturating_sub(1);
            self.settled += 1;
        } else {
            self.sent += 1;
        }
        *self.slot(record.outcome) += 1;
        if record.outcome == (Outcome::Accepted { changed: true }) {
            self.changed += 1;
        }
    }
}

/// One second of the run.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Row {
    /// End of the second, seconds since the schedule began (warm-up included).
    pub second: f64,
    /// `warmup`, `measure` or `drain`.
    pub phase: String,
    /// Commands meant to be sent per second.
    pub offered_per_s: f64,
    /// Commands answered (or given up) in this second.
    pub ended: u64,
    /// Of these, accepted.
    pub accepted: u64,
    /// Of these, anything else.
    pub not_accepted: u64,
    /// Writes that became visible.
    pub visible: u64,
    /// Accepted and not visible at the end of the second.
    pub outstanding: u64,
    /// Due and not sent at the end of the second.
    pub backlog: u64,
    /// Response time of commands, median, ms.
    pub command_p50_ms: f64,
    /// Its 99th percentile.
    pub command_p99_ms: f64,
    /// Its maximum.
    pub command_max_ms: f64,
    /// Service time of commands, 99th percentile, ms.
    pub service_p99_ms: f64,
    /// Latency to consistency, median, ms.
    pub l2c_p50_ms: f64,
    /// Its 99th percentile.
    pub l2c_p99_ms: f64,
    /// Its maximum.
    pub l2c_max_ms: f64,
    /// Reads that ended.
    pub reads: u64,
    /// Their 99th percentile, ms.
    pub read_p99_ms: f64,
    /// Share of a core that the pacing thread used.
    pub pacer_cpu: f64,
    /// Share of a core that the observing thread used.
    pub observer_cpu: f64,
    /// Violations so far.
    pub violations: u64,
}

/// What the recorder can't know and puts into a row.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// `warmup`, `measure` or `drain`.
    pub phase: &'static str,
    /// Offered rate.
    pub offered_per_s: f64,
    /// Accepted and not visible.
    pub outstanding: u64,
    /// Due and not sent.
    pub backlog: u64,
    /// Shares of a core in this second.
    pub cpu: (f64, f64),
    /// Violations so far.
    pub violations: u64,
}

/// Collects a run's figures.
#[derive(Default)]
pub struct Recorder {
    total: Set,
    interval: Set,
    counts: Counts,
    interval_ended: u64,
    interval_accepted: u64,
    reads: u64,
    reads_failed: u64,
    reads_unsent: u64,
    /// Commands whose outcome is unknown: as what they were counted, and the entity (0: a create).
    open: std::collections::HashMap<u64, (Outcome, u128)>,
    unsent: u64,
    rows: Vec<Row>,
    files: Option<Files>,
    schedule_start: u64,
    interval_start: u64,
}

impl Recorder {
    /// A recorder that also writes `run.hlog` and `timeline.csv` in `folder`.
    ///
    /// # Errors
    /// The files can't be written.
    pub fn in_folder(folder: &Path) -> std::io::Result<Self> {
        let create = |name| Ok::<_, std::io::Error>(std::io::BufWriter::new(std::fs::File::create(folder.join(name))?));
        let mut files = Files {
            hlog: create("run.hlog")?,
            timeline: create("timeline.csv")?,
            serializer: V2DeflateSerializer::new(),
        };
        writeln!(files.timeline, "{}", ROW_HEADER)?;
        Ok(Self { files: Some(files), ..Self::default() })
    }

    /// The schedule begins: intervals count from here on.
    ///
    /// # Errors
    /// The log can't be written.
    pub fn begin(&mut self, start: u64, wall: std::time::SystemTime) -> std::io::Result<()> {
        self.schedule_start = start;
        self.interval_start = start;
        self.interval.clear();
        (self.interval_ended, self.interval_accepted) = (0, 0);
        let Some(files) = &mut self.files else {
            return Ok(());
        };
        let since_epoch = wall.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        write!(
            files.hlog,
            "{LOG_HEADER}#[StartTime: {since_epoch:.3} (seconds since epoch)]\n#[BaseTime: {since_epoch:.3} (seconds since epoch)]\n\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n"
        )
    }

    /// Counts a command.
    pub fn command(&mut self, record: &CommandRecord) {
        let measured = record.phase == Phase::Measured;
        let opened = if record.settled { self.open.remove(&record.op) } else { None };
        if record.outcome.is_open() {
            self.open.insert(record.op, (record.outcome, record.id));
        }
        if measured {
            self.counts.add(record, opened.map(|(outcome, _)| outcome));
        }
        if record.settled {
            // Its times were counted when it was given up.
            return;
        }
        self.interval_ended += 1;
        self.interval_accepted += u64::from(matches!(record.outcome, Outcome::Accepted { .. }));
        if record.phase == Phase::Preload || record.phase == Phase::Canary {
            return;
        }
        let times = [
            (Measure::Command, record.answered.saturating_sub(record.intended)),
            (Measure::Service, record.answered.saturating_sub(record.sent)),
            (Measure::SendDelay, record.sent.saturating_sub(record.intended)),
        ];
        for (measure, nanos) in times {
            self.interval.record(measure, nanos);
            if measured {
                self.total.record(measure, nanos);
            }
        }
    }

    /// Counts how late the generator itself was with a command.
    pub fn own_delay(&mut self, nanos: u64, measured: bool) {
        self.interval.record(Measure::OwnDelay, nanos);
        if measured {
            self.total.record(Measure::OwnDelay, nanos);
        }
    }

    /// Counts the latency to consistency of one write.
    pub fn l2c(&mut self, nanos: u64, phase: Phase) {
        if phase == Phase::Preload || phase == Phase::Canary {
            return;
        }
        self.interval.record(Measure::L2c, nanos);
        if phase == Phase::Measured {
            self.total.record(Measure::L2c, nanos);
        }
    }

    /// Counts a read.
    pub fn read(&mut self, record: &ReadRecord) {
        let nanos = record.answered.saturating_sub(record.intended);
        self.interval.record(Measure::Read, nanos);
        if record.measured {
            self.total.record(Measure::Read, nanos);
            self.reads += 1;
            self.reads_failed += u64::from(!matches!(record.status, 200 | 304 | 404));
        }
    }

    /// Counts a read of the measured phase that was due and never sent: its response time is at
    /// least its wait.
    pub fn read_unsent(&mut self, waited: u64) {
        self.reads_unsent += 1;
        self.total.record(Measure::Read, waited);
        self.interval.record(Measure::Read, waited);
    }

    /// Ends an interval at `now`: a row, and its histograms in the log.
    ///
    /// # Errors
    /// The files can't be written.
    pub fn tick(&mut self, now: u64, around: &Surroundings) -> std::io::Result<&Row> {
        let ms = |measure, quantile: f64| {
            let histogram: &Histogram<u64> = self.interval.of(measure);
            if histogram.is_empty() { 0.0 } else { to_ms(histogram.value_at_quantile(quantile)) }
        };
        let row = Row {
            second: seconds(now.saturating_sub(self.schedule_start)),
            phase: around.phase.to_owned(),
            offered_per_s: around.offered_per_s,
            ended: self.interval_ended,
            accepted: self.interval_accepted,
            not_accepted: self.interval_ended - self.interval_accepted,
            visible: self.interval.of(Measure::L2c).len(),
            outstanding: around.outstanding,
            backlog: around.backlog,
            command_p50_ms: ms(Measure::Command, 0.5),
            command_p99_ms: ms(Measure::Command, 0.99),
            command_max_ms: ms(Measure::Command, 1.0),
            service_p99_ms: ms(Measure::Service, 0.99),
            l2c_p50_ms: ms(Measure::L2c, 0.5),
            l2c_p99_ms: ms(Measure::L2c, 0.99),
            l2c_max_ms: ms(Measure::L2c, 1.0),
            reads: self.interval.of(Measure::Read).len(),
            read_p99_ms: ms(Measure::Read, 0.99),
            pacer_cpu: around.cpu.0,
            observer_cpu: around.cpu.1,
            violations: around.violations,
        };
        if let Some(files) = &mut self.files {
            files.write(&row, &self.interval, self.interval_start, now, self.schedule_start)?;
        }
        self.interval.clear();
        (self.interval_ended, self.interval_accepted) = (0, 0);
        self.interval_start = now;
        self.rows.push(row);
        Ok(self.rows.last().expect("just pushed"))
    }

    /// Writes the measured phase as one interval per measure to `total.hlog` in `folder`.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write_totals(&self, folder: &Path, measured_s: f64) -> std::io::Result<()> {
        let mut file = std::io::BufWriter::new(std::fs::File::create(folder.join("total.hlog"))?);
        writeln!(
            file,
            "{LOG_HEADER}\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\""
        )?;
        write_set(&mut file, &mut V2DeflateSerializer::new(), &self.total, 0.0, measured_s)?;
        file.flush()
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// The files can't be written.
    pub fn flush(&mut self) -> std::io::Result<()> {
        if let Some(files) = &mut self.files {
            files.hlog.flush()?;
            files.timeline.flush()?;
        }
        Ok(())
    }

    /// The measured phase.
    #[must_use]
    pub fn total(&self) -> &Set {
        &self.total
    }

    /// The current interval.
    #[must_use]
    pub fn interval(&self) -> &Set {
        &self.interval
    }

    /// How the commands of the measured phase ended.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Reads of the measured phase that were sent, and how many of them failed.
    #[must_use]
    pub fn reads(&self) -> (u64, u64) {
        (self.reads, self.reads_failed)
    }

    /// Reads of the measured phase that were due and never sent.
    #[must_use]
    pub fn reads_unsent(&self) -> u64 {
        self.reads_unsent
    }

    /// Counts a command of the measured phase that was due and never sent: its response time is
    /// at least its wait.
    pub fn unsent(&mut self, waited: u64) {
        self.unsent += 1;
        self.total.record(Measure::Command, waited);
        self.interval.record(Measure::Command, waited);
    }

    /// Commands of the measured phase that were due and never sent.
    #[must_use]
    pub fn unsent_count(&self) -> u64 {
        self.unsent
    }

    /// The outcome of this operation is unknown.
    #[must_use]
    pub fn is_open(&self, op: u64) -> bool {
        self.open.contains_key(&op)
    }

    /// The entities on which an outcome is unknown.
    #[must_use]
    pub fn open_entities(&self) -> std::collections::HashSet<u128> {
        self.open.values().map(|(_, id)| *id).collect()
    }

    /// All intervals so far.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }
}

/// Nanoseconds as milliseconds, to the microsecond.
#[must_use]
pub fn to_ms(nanos: u64) -> f64 {
    (nanos as f64 / 1_000.0).round() / 1_000.0
}
