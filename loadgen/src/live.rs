//! What is shown while a run is on: a panel on a terminal, lines elsewhere.

use std::io::IsTerminal as _;
use std::time::SystemTime;

use crate::journal::Shared;
use crate::judge::Judge;
use crate::options::RunOptions;
use crate::recorder::Row;

mod panel;

use panel::Panel;
pub use panel::{is_open, leave};

/// What is said after Ctrl-C.
pub const ENDING: &str = "ending early; once more to stop at once";

/// The live output of a run, on standard error.
pub struct Live {
    quiet: bool,
    panel: Option<Panel>,
    measuring: Option<String>,
}

impl Live {
    /// Output as the options ask for.
    #[must_use]
    pub fn new(options: &RunOptions) -> Self {
        let panel = (options.panel && std::io::stderr().is_terminal()).then(|| Panel::open(options)).flatten();
        Self { quiet: options.quiet, panel, measuring: None }
    }

    /// A line about what happens now.
    pub fn say(&mut self, text: &str) {
        match &mut self.panel {
            Some(panel) => panel.say(text),
            None if !self.quiet => eprintln!("{text}"),
            None => {}
        }
    }

    /// The measured phase begins: said even when quiet, because scripts wait for it.
    pub fn measuring(&mut self, at: SystemTime) {
        let line = format!("measuring {}", time_of_day(at));
        match &mut self.panel {
            Some(panel) => {
                panel.say(&line);
                self.measuring = Some(line);
            }
            None => eprintln!("{line}"),
        }
    }

    /// A second has passed.
    pub fn row(&mut self, row: &Row) {
        if let Some(panel) = &mut self.panel {
            panel.row(row);
        } else if !self.quiet {
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
    }

    /// A tenth of a second has passed; `from` and `to` are the bounds of the measured phase.
    pub fn draw(&mut self, judge: &Judge, shared: &Shared, now: u64, from: u64, to: u64) {
        if let Some(panel) = &mut self.panel {
            panel.draw(judge, shared, now, from, to);
        }
    }

    /// The run is over: the terminal is as it was.
    pub fn end(&mut self) {
        if self.panel.take().is_some()
            && let Some(line) = self.measuring.take()
        {
            eprintln!("{line}");
        }
    }
}

/// `14:03:22.123456Z`.
#[must_use]
pub fn time_of_day(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).map(|time| time.strftime("%H:%M:%S.%6fZ").to_string()).unwrap_or_default()
}
