//! What can be wrong with the stub.

#![allow(missing_docs, reason = "a stub of the tests")]

use std::time::Duration;

/// What goes wrong on purpose.
#[derive(Debug, Default, Clone)]
pub struct Faults {
    /// Every n-th event never reaches the view.
    pub lose_every: Option<u64>,
    /// The whole server stands still once, this long, when so many commands have come.
    pub stall: Option<(u64, Duration)>,
    /// Every n-th event is shown with another document.
    pub forge_every: Option<u64>,
    /// Every n-th update is applied, and the version before it once more after it.
    pub regress_every: Option<u64>,
    /// Every n-th deletion is followed by the signal itself.
    pub resurrect_every: Option<u64>,
    /// Tokens are ignored.
    pub ignore_tokens: bool,
    /// Every n-th event is told by the watch so much later than reads show it; with 1, every event.
    pub watch_late: Option<(u64, Duration)>,
    /// Reads show everything so much later than the watch tells it.
    pub reads_late: Duration,
    /// The watch of the second view server never tells every n-th event.
    pub second_loses_every: Option<u64>,
    /// The watch of the second view server tells everything so much later than the first one's.
    pub second_late: Duration,
    /// Every n-th command is applied, and its connection closed instead of an answer.
    pub cut_every: Option<u64>,
    /// Every command is answered 503 `overloaded`.
    pub overloaded: bool,
    /// Every n-th document differs between the planes at the end, without an event.
    pub corrupt_every: Option<u64>,
    /// Every n-th update is answered with the version of the one before it.
    pub same_version_every: Option<u64>,
    /// Every n-th command, if it is an update, is accepted and changes nothing: the answer is the version before it.
    pub ineffective_every: Option<u64>,
    /// Each page of the second view server's lists is without its first signal.
    pub second_lists_less: bool,
    /// The view answers 500 where its lists are walked.
    pub lists_fail: bool,
    /// Metrics are answered so much later: the generator's judge waits for them.
    pub metrics_late: Duration,
    /// Time per command; the stub serves one at a time.
    pub service: Duration,
}

#[derive(Debug, Clone)]
pub struct Settings {
    /// From the answer to visible.
    pub delay: Duration,
    pub faults: Faults,
}

impl Default for Settings {
    fn default() -> Self {
        Self { delay: Duration::from_millis(2), faults: Faults::default() }
    }
}
