//! Puts what the threads report together: counts, checks, records.

use hdrhistogram::Histogram;

use crate::checker::{Violations, Visible, Write};
use crate::cross_check::Samples;
use crate::document::uuid_text;
use crate::journal::{Breach, CommandRecord, Message, Outcome, Phase};
use crate::recorder::{Recorder, histogram};
use crate::views::Views;
use crate::workload::Kind;

/// What the judge has heard that the run's control flow waits for.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// All watches have been opened.
    pub watch_ready: bool,
    /// Why a watch is not open, by view server.
    pub watch_lost: Vec<Option<String>>,
    /// Creates ordered last have all been answered.
    pub order_done: bool,
    /// The last order of which nothing was left to send or to settle, counted from 1.
    pub commands_idle: u64,
    /// Reads were ordered, and some are left to send or to wait for.
    pub reads_open: bool,
    /// The run can't go on.
    pub fatal: Option<String>,
    /// Preloaded creates that were accepted.
    pub preloaded: u64,
    /// A create of the preload that was not accepted: its status.
    pub preload_refused: Option<u16>,
    /// Times a watch was lost.
    pub interruptions: u64,
    /// Times one had to start over.
    pub resets: u64,
}

/// The judging side of a run.
pub struct Judge {
    /// The checkers.
    pub checker: Views,
    /// The recorder.
    pub recorder: Recorder,
    /// What was heard.
    pub heard: Heard,
    /// What cross-checks the watch.
    pub samples: Samples,
    /// Latency to consistency of the measured phase on each view server; the recorder has that on all.
    l2c_by_view: Vec<Histogram<u64>>,
    opened: Vec<bool>,
    last_visible: u64,
    canaries_seen: u64,
}

impl Judge {
    /// A judge of these view servers that writes through `recorder`.
    #[must_use]
    pub fn new(recorder: Recorder, views: Vec<String>) -> Self {
        let count = views.len();
        Self {
            checker: Views::new(views),
            recorder,
            heard: Heard { watch_lost: vec![None; count], ..Heard::default() },
            samples: Samples::default(),
            l2c_by_view: (0..count).map(|_| histogram()).collect(),
            opened: vec![false; count],
            last_visible: 0,
            canaries_seen: 0,
        }
    }

    /// Latency to consistency on one view server, in the measured phase.
    #[must_use]
    pub fn l2c_by_view(&self) -> &[Histogram<u64>] {
        &self.l2c_by_view
    }

    /// Takes note of a write of the measured phase on one view server, after so many nanoseconds.
    pub fn l2c_on(&mut self, view: usize, nanos: u64, phase: Phase) {
        if phase == Phase::Measured
            && let Some(histogram) = self.l2c_by_view.get_mut(view)
        {
            histogram.saturating_record(nanos);
        }
    }

    /// When the last write became visible.
    #[must_use]
    pub fn last_visible(&self) -> u64 {
        self.last_visible
    }

    /// Canaries that were accepted and are visible.
    #[must_use]
    pub fn canaries_seen(&self) -> u64 {
        self.canaries_seen
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
            Message::ReadsUnsent(waits) => {
                for waited in waits {
                    self.recorder.read_unsent(waited);
                }
            }
            Message::ReadsIdle => self.heard.reads_open = false,
            Message::Brackets(brackets) => {
                for bracket in brackets {
                    self.samples.read(bracket);
                }
            }
            Message::Breach(breach) => self.checker.breach(breach),
            Message::WatchReady(view) => {
                self.opened[usize::from(view)] = true;
                self.heard.watch_ready = self.opened.iter().all(|opened| *opened);
                self.heard.watch_lost[usize::from(view)] = None;
                self.checker.ready(view, now);
            }
            Message::WatchReset(view) => {
                self.heard.resets += 1;
                self.checker.reset(view);
            }
            Message::WatchLost(view, why) => {
                let index = usize::from(view);
                if self.opened[index] && self.heard.watch_lost[index].is_none() {
                    self.heard.interruptions += 1;
                }
                self.heard.watch_lost[index] = Some(why);
            }
            Message::OrderDone => self.heard.order_done = true,
            Message::CommandsIdle(order) => self.heard.commands_idle = order,
            Message::Fatal(why) => self.heard.fatal = Some(why),
        }
        for (view, visible) in self.checker.take_shown() {
            self.shown(view, &visible);
        }
        for Visible { write, at } in self.checker.take_visible() {
            self.last_visible = self.last_visible.max(at);
            self.canaries_seen += u64::from(write.phase == Phase::Canary);
            self.recorder.l2c(at.saturating_sub(write.intended), write.phase);
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
        match record.outcome {
            Outcome::Accepted { changed: true } => self.checker.accepted(Write {
                id: record.id,
                version: record.version,
                op: record.op,
                hash: record.hash,
                delete: record.kind == Kind::Delete,
                intended: record.intended,
                phase: record.phase,
                sampled: record.sampled,
            }),
            // Each of our commands is a change.
            Outcome::Accepted { changed: false } => self.checker.breach(Breach::Lost(format!(
                "{}: operation {} was accepted, and version {} in its answer is another one's",
                uuid_text(record.id),
                record.op,
                record.version
            ))),
            _ => {}
        }
    }

    fn shown(&mut self, view: usize, visible: &Visible) {
        let Visible { write, at } = *visible;
        self.l2c_on(view, at.saturating_sub(write.intended), write.phase);
        // Samples are read on the first view server.
        if write.sampled && view == 0 {
            self.samples.watched(write.id, write.version, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accepted_command_without_effect_is_lost() {
        let mut judge = Judge::new(Recorder::default(), vec!["a".to_owned()]);
        let record = |op, changed| CommandRecord {
            kind: Kind::Update,
            phase: Phase::Measured,
            outcome: Outcome::Accepted { changed },
            settled: false,
            sampled: false,
            status: 200,
            op,
            id: 7,
            version: 1,
            hash: 0,
            intended: 1_000,
            sent: 1_000,
            answered: 2_000,
        };
        judge.hear(Message::Commands(vec![record(1, true), record(2, false)]), 3_000);
        assert_eq!((judge.violations().lost, judge.violations().total(), judge.checker.outstanding()), (1, 1, 1));
        assert!(judge.checker.examples()[0].contains("operation 2 was accepted"), "{:?}", judge.checker.examples());
    }
}
