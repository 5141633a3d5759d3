//! Puts what the threads report together: counts, checks, records.

use crate::checker::{Checker, Violations, Visible, Write};
use crate::cross_check::Samples;
use crate::journal::{CommandRecord, Message, Outcome, Phase};
use crate::recorder::Recorder;
use crate::workload::Kind;

/// What the judge has heard that the run's control flow waits for.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// The watch has been opened.
    pub watch_ready: bool,
    /// Why the watch is not open.
    pub watch_lost: Option<String>,
    /// Creates ordered last have all been answered.
    pub order_done: bool,
    /// Nothing is left to send or to settle.
    pub commands_idle: bool,
    /// The run can't go on.
    pub fatal: Option<String>,
    /// Preloaded creates that were accepted.
    pub preloaded: u64,
    /// A create of the preload that was not accepted: its status.
    pub preload_refused: Option<u16>,
    /// Times the watch was lost.
    pub interruptions: u64,
    /// Times it had to start over.
    pub resets: u64,
}

/// The judging side of a run.
pub struct Judge {
    /// The checker.
    pub checker: Checker,
    /// The recorder.
    pub recorder: Recorder,
    /// What was heard.
    pub heard: Heard,
    /// What cross-checks the watch.
    pub samples: Samples,
    last_visible: u64,
}

impl Judge {
    /// A judge that writes through `recorder`.
    #[must_use]
    pub fn new(recorder: Recorder) -> Self {
        Self {
            checker: Checker::new(),
            recorder,
            heard: Heard::default(),
            samples: Samples::default(),
            last_visible: 0,
        }
    }

    /// When the last write became visible.
    #[must_use]
    pub fn last_visible(&self) -> u64 {
        self.last_visible
    }

    /// Violations so far.
    #[must_use]
    pub fn violations(&self) -> Violations {
        self.checker.violations()
    }

    /// Takes a message in; `now` is the time of a `ready`.
    pub fn hear(&mut self, message: Message, now: u64) {
        match message {
            Message::Commands(records) => {
                for record in &records {
                    self.command(record);
                }
            }
            Message::OwnDelays(delays) => {
                for nanos in delays {
                    self.recorder.own_delay(nanos, true);
                }
            }
            Message::Unsent(waits) => {
                for waited in waits {
                    self.recorder.unsent(waited);
                }
            }
            Message::Seen(sightings) => {
                for sighting in sightings {
                    self.checker.seen(sighting);
                }
            }
            Message::Reads(reads) => {
                for read in &reads {
                    self.recorder.read(read);
                }
            }
            Message::Brackets(brackets) => {
                for bracket in brackets {
                    self.samples.read(bracket);
                }
            }
            Message::Breach(breach) => self.checker.breach(breach),
            Message::WatchReady => {
                self.heard.watch_ready = true;
                self.heard.watch_lost = None;
                self.checker.ready(now);
            }
            Message::WatchReset => {
                self.heard.resets += 1;
                self.checker.reset();
            }
            Message::WatchLost(why) => {
                if self.heard.watch_ready && self.heard.watch_lost.is_none() {
                    self.heard.interruptions += 1;
                }
                self.heard.watch_lost = Some(why);
            }
            Message::OrderDone => self.heard.order_done = true,
            Message::CommandsIdle => self.heard.commands_idle = true,
            Message::Fatal(why) => self.heard.fatal = Some(why),
        }
        for visible in self.checker.take_visible() {
            self.visible(&visible);
        }
    }

    fn command(&mut self, record: &CommandRecord) {
        self.recorder.command(record);
        if record.phase == Phase::Preload {
            match record.outcome {
                Outcome::Accepted { .. } => self.heard.preloaded += 1,
                outcome if outcome.is_open() => {}
                _ => self.heard.preload_refused = Some(record.status),
            }
        }
        if record.outcome == (Outcome::Accepted { changed: true }) {
            self.checker.accepted(Write {
                id: record.id,
                version: record.version,
                op: record.op,
                hash: record.hash,
                delete: record.kind == Kind::Delete,
                intended: record.intended,
                phase: record.phase,
                sampled: record.sampled,
            });
        }
    }

    fn visible(&mut self, visible: &Visible) {
        let Visible { write, at } = *visible;
        self.last_visible = self.last_visible.max(at);
        self.recorder.l2c(at.saturating_sub(write.intended), write.phase);
        if write.sampled {
            self.samples.watched(write.id, write.version, at);
        }
    }
}
