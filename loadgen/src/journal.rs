//! What the threads that talk to the servers tell the thread that judges.
//!
//! They only take times and pass them on, in batches, through one bounded channel; a batch that
//! finds it full waits in the sender, which goes on with its sockets. When as many wait there as may, the record of the
//! run ends: the sender says so in [`Shared::overrun`], keeps nothing more, and the run is `INVALID`.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, OnceLock};

use crate::workload::Kind;

/// Batches that the channel holds, and that may wait beside it in each of the two threads: a thread makes one to three of
/// them in 5 ms, so that a judge that stands still for ten seconds has missed nothing.
pub const CHANNEL_BATCHES: usize = 4096;

/// Which part of the run a command belongs to, by its intended time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Fills the view before the clock runs.
    Preload,
    /// At the offered rate, and discarded.
    Warmup,
    /// What the figures are about.
    Measured,
    /// After the measurement: shows whether the view still moves.
    Canary,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Durable, says the control plane; `changed` when it made a new version.
    Accepted {
        /// False for a command that changed nothing.
        changed: bool,
    },
    /// 503 or 429, nothing happened.
    Refused,
    /// Another 4xx.
    Rejected,
    /// Another 5xx, or no HTTP.
    Failed,
    /// No answer in time; may have been applied.
    TimedOut,
    /// Connection lost, or 503 `outcome-unknown`; may have been applied.
    Unknown,
}

impl Outcome {
    /// True when the command may have been applied all the same.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::TimedOut | Self::Unknown)
    }
}

/// One command and its outcome. Times are nanoseconds of the run's clock.
#[derive(Debug, Clone, Copy)]
pub struct CommandRecord {
    /// What it does.
    pub kind: Kind,
    /// Where in the run.
    pub phase: Phase,
    /// How it ended.
    pub outcome: Outcome,
    /// This is the answer to a repetition: the command was reported before, as open.
    pub settled: bool,
    /// Reads by id cross-check when this one became visible.
    pub sampled: bool,
    /// Status of the answer; 0 without one.
    pub status: u16,
    /// Number of the operation.
    pub op: u64,
    /// The entity; 0 when there is none.
    pub id: u128,
    /// Its version; 0 when unknown.
    pub version: u32,
    /// Hash of the document in the answer; 0 when there was none.
    pub hash: u64,
    /// When it was meant to be sent.
    pub intended: u64,
    /// When it was sent.
    pub sent: u64,
    /// When the answer was read, or given up.
    pub answered: u64,
}

/// What a look at the view showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// The signal, at its version.
    Present,
    /// The deletion.
    Deleted,
}

/// One entity as the watch showed it.
#[derive(Debug, Clone, Copy)]
pub struct Sighting {
    /// What was seen.
    pub sight: Sight,
    /// On which view server's watch.
    pub view: u16,
    /// The entity.
    pub id: u128,
    /// Its version.
    pub version: u32,
    /// Who wrote it, if this run did.
    pub op: Option<u64>,
    /// Hash of the document.
    pub hash: u64,
    /// When it was read.
    pub at: u64,
}

/// One read by id.
#[derive(Debug, Clone, Copy)]
pub struct ReadRecord {
    /// When it was meant to be sent.
    pub intended: u64,
    /// When it was sent.
    pub sent: u64,
    /// When the answer was read, or given up.
    pub answered: u64,
    /// Status; 0 without an answer.
    pub status: u16,
    /// In the measured phase.
    pub measured: bool,
}

/// A breach that one answer proves by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Breach {
    /// A command was accepted, and its answer shows that it changed nothing.
    Lost(String),
    /// A read that began later showed less.
    Regressed(String),
    /// A deleted entity was there again.
    Resurrected(String),
    /// Something that nobody wrote.
    Phantom(String),
    /// A read with a token showed less than the token's command.
    StaleWithToken(String),
}

/// How one sampled write became visible to reads by id, beside the watch.
#[derive(Debug, Clone, Copy)]
pub struct Bracket {
    /// The entity.
    pub id: u128,
    /// The version that was waited for.
    pub version: u32,
    /// When the last read without it was sent; 0 when the first read showed it.
    pub last_negative: u64,
    /// When the answer that showed it was read.
    pub first_positive: u64,
    /// When the command was meant to be sent.
    pub intended: u64,
}

/// Everything that is said.
#[derive(Debug)]
pub enum Message {
    /// Commands that ended.
    Commands(Vec<CommandRecord>),
    /// Commands that were due: how late the pacer noticed and sent them, in nanoseconds.
    OwnDelays(Vec<u64>),
    /// Commands of the measured phase that were due and will not be sent: how long they had waited.
    Unsent(Vec<u64>),
    /// What the watch showed.
    Seen(Vec<Sighting>),
    /// Reads that ended.
    Reads(Vec<ReadRecord>),
    /// Reads of the measured phase that were due and will not be sent: how long they had waited.
    ReadsUnsent(Vec<u64>),
    /// No read is left to send or to wait for.
    ReadsIdle,
    /// Samples that were settled.
    Brackets(Vec<Bracket>),
    /// A breach of the promises.
    Breach(Breach),
    /// The watch of this view server is open, or open again.
    WatchReady(u16),
    /// It starts over: history is gone.
    WatchReset(u16),
    /// It was lost, and why; it will be opened again.
    WatchLost(u16, String),
    /// The preload or canary commands have all been answered.
    OrderDone,
    /// Nothing is left to send, to wait for or to settle of the orders up to this one, the first of which is number 1.
    CommandsIdle(u64),
    /// The run can't go on.
    Fatal(String),
}

/// The sending side, with what waits for room.
#[derive(Debug)]
pub struct Reporter {
    channel: SyncSender<Message>,
    shared: Arc<Shared>,
    waiting: VecDeque<Message>,
    /// Batches that may wait.
    most: usize,
}

impl Reporter {
    /// A reporter into `channel`, with at most so many batches beside it.
    #[must_use]
    pub fn new(channel: SyncSender<Message>, most: usize, shared: Arc<Shared>) -> Self {
        Self { channel, shared, waiting: VecDeque::new(), most }
    }

    /// Sends `message`, or keeps it until there is room; never blocks. Where there is no room left either, nothing more
    /// goes into the record, of either thread: what the judge heard of is whole up to one moment of each, and it is told
    /// that there was more. That ends the run, like an interruption.
    pub fn send(&mut self, message: Message) {
        self.push();
        if self.shared.overrun() {
            return;
        }
        if self.waiting.len() >= self.most {
            self.shared.overrun.store(true, Ordering::Relaxed);
            self.shared.interrupted.store(true, Ordering::Relaxed);
            return;
        }
        self.waiting.push_back(message);
        self.push();
    }

    /// Sends what waits for room, in order.
    pub fn push(&mut self) {
        while let Some(message) = self.waiting.pop_front() {
            match self.channel.try_send(message) {
                Ok(()) => {}
                Err(TrySendError::Full(message)) => {
                    self.waiting.push_front(message);
                    return;
                }
                // The judge is gone, and with it the run.
                Err(TrySendError::Disconnected(_)) => return,
            }
        }
    }

    /// Sends everything, waiting for room.
    pub fn drain(&mut self) {
        while let Some(message) = self.waiting.pop_front() {
            if self.channel.send(message).is_err() {
                return;
            }
        }
    }
}

/// What the threads share without messages.
#[derive(Debug, Default)]
pub struct Shared {
    /// Everything ends now.
    pub stop: AtomicBool,
    /// Ctrl-C: no new commands.
    pub interrupted: AtomicBool,
    /// The judge is so far behind that something is missing in what it will hear: the run ends, and is not valid.
    pub overrun: AtomicBool,
    /// CPU time of the pacing thread, nanoseconds.
    pub pacer_cpu: AtomicU64,
    /// CPU time of the observing thread, nanoseconds.
    pub observer_cpu: AtomicU64,
    /// Arrivals of the schedule that are due but not sent.
    pub backlog: AtomicU64,
    /// The priority that the pacing thread got.
    pub pacer_priority: OnceLock<String>,
}

impl Shared {
    /// True once the threads have to end.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// True once something could not be told to the judge.
    #[must_use]
    pub fn overrun(&self) -> bool {
        self.overrun.load(Ordering::Relaxed)
    }
}

/// CPU time of the calling thread in nanoseconds.
#[must_use]
pub fn thread_cpu() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * crate::clock::SECOND + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_judge_that_does_not_listen_blocks_nobody_and_what_waits_for_it_is_bounded() {
        let (sender, receiver) = std::sync::mpsc::sync_channel(4);
        let shared = Arc::new(Shared::default());
        let mut reporter = Reporter::new(sender, 8, Arc::clone(&shared));
        let said = |n: u64| Message::OwnDelays(vec![n]);
        for n in 0..12 {
            reporter.send(said(n));
        }
        assert!(!shared.overrun(), "there is room for 4 and 8");
        for n in 12..1_000 {
            reporter.send(said(n));
            assert!(reporter.waiting.len() <= 8);
        }
        assert!(shared.overrun() && shared.interrupted.load(Ordering::Relaxed));
        // It wakes up: what it hears has no gap, and nothing comes after the one that was left out.
        let mut heard = Vec::new();
        for n in 0..20 {
            heard.extend(receiver.try_iter());
            reporter.send(said(n));
        }
        let heard: Vec<u64> = heard
            .iter()
            .flat_map(|message| match message {
                Message::OwnDelays(delays) => delays.clone(),
                _ => Vec::new(),
            })
            .collect();
        assert!(heard.iter().copied().eq(0..12), "{heard:?}");
    }

    #[test]
    fn what_waited_for_room_is_heard_in_its_order() {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let mut reporter = Reporter::new(sender, 2, Arc::new(Shared::default()));
        for n in 0..3 {
            reporter.send(Message::WatchReady(n));
        }
        let mut heard = Vec::new();
        for _ in 0..3 {
            heard.extend(receiver.try_iter());
            reporter.push();
        }
        let in_order =
            heard.iter().zip(0..).all(|(message, n)| matches!(message, Message::WatchReady(said) if *said == n));
        assert!(in_order && heard.len() == 3, "{heard:?}");
    }
}
