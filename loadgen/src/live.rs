//! What is shown while a run is on: lines on standard error.

use std::time::SystemTime;

use crate::journal::Shared;
use crate::judge::Judge;
use crate::options::RunOptions;
use crate::recorder::Row;

/// The live output of a run.
pub struct Live {
    quiet: bool,
}

impl Live {
    /// Output as the options ask for.
    #[must_use]
    pub fn new(options: &RunOptions) -> Self {
        Self { quiet: options.quiet }
    }

    /// A line about what happens now.
    pub fn say(&mut self, text: &str) {
        if !self.quiet {
            eprintln!("{text}");
        }
    }

    /// The measured phase begins: said even when quiet, because scripts wait for it.
    pub fn measuring(&mut self, at: SystemTime) {
        eprintln!("measuring {}", time_of_day(at));
    }

    /// A second has passed.
    pub fn row(&mut self, row: &Row) {
        if self.quiet {
            return;
        }
        eprintln!(
            "{:>5.0} s  {:<7} {:>7}/s  command p50 {:.2} p99 {:.2} ms  l2c p50 {:.2} p99 {:.2} max {:.2} ms  outstanding {}  violations {}",
            row.second,
            row.phase,
            row.accepted,
            row.command_p50_ms,
            row.command_p99_ms,
            row.l2c_p50_ms,
            row.l2c_p99_ms,
            row.l2c_max_ms,
            row.outstanding,
            row.violations
        );
    }

    /// A tenth of a second has passed.
    pub fn draw(&mut self, _judge: &Judge, _shared: &Shared, _now: u64, _from: u64, _to: u64) {}

    /// The run is over.
    pub fn end(&mut self) {}
}

/// `14:03:22.123456Z`.
#[must_use]
pub fn time_of_day(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).map(|time| time.strftime("%H:%M:%S.%6fZ").to_string()).unwrap_or_default()
}
