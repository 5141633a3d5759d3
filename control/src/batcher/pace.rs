//! When the next batch may begin. Pure but for the clock that callers pass in.

use std::time::{Duration, Instant};

/// How long few requests wait for the batch under way.
const PATIENCE: Duration = Duration::from_millis(10);
/// From the beginning of one batch to that of the next, at most, in times of what it took, and at all.
const REST: (u32, Duration) = (3, Duration::from_millis(5));
/// Requests of a batch from which on it had company.
const COMPANY: usize = 2;

/// The batches that are under way and the newest one that was.
///
/// Every batch costs each hop behind it a round trip, so that two of one command are dearer than one of two. So a batch waits
/// for the one under way. Behind one that had company it also waits until as many requests wait as that one had: clients
/// that wait for their answers are all back by then, and those that don't get [`REST`].
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Batches under way.
    running: usize,
    /// The newest: when it began, and of how many requests it was.
    newest: Option<(Instant, usize)>,
    /// How long the batch took that ended last.
    took: Duration,
}

impl Pace {
    /// A batch of `requests` begins.
    pub(super) fn begin(&mut self, now: Instant, requests: usize) {
        self.running += 1;
        self.newest = Some((now, requests));
    }

    /// A batch is over that took so long.
    pub(super) fn end(&mut self, took: Duration) {
        self.running = self.running.saturating_sub(1);
        self.took = took;
    }

    /// Until when the next batch waits for more than these `waiting` requests; `None`: it may begin.
    pub(super) fn earliest(&self, waiting: usize) -> Option<Instant> {
        let (begun, requests) = self.newest?;
        if self.running > 0 {
            // A batch that takes its time, waiting for another server's lock perhaps, holds nobody up for long.
            return Some(begun + PATIENCE);
        }
        (requests >= COMPANY && waiting < requests).then(|| begun + (self.took * REST.0).min(REST.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// The pace after one batch of `requests` that took `took`, and when that began.
    fn after(requests: usize, took: Duration) -> (Pace, Instant) {
        let (mut pace, begun) = (Pace::default(), Instant::now());
        pace.begin(begun, requests);
        pace.end(took);
        (pace, begun)
    }

    #[test]
    fn the_first_request_and_one_behind_a_lone_one_wait_for_nothing() {
        assert_eq!(Pace::default().earliest(1), None);
        assert_eq!(after(1, MS).0.earliest(1), None);
    }

    #[test]
    fn few_wait_for_the_batch_under_way_but_not_for_ever() {
        let (mut pace, begun) = (Pace::default(), Instant::now());
        pace.begin(begun, 1);
        assert_eq!(pace.earliest(1), Some(begun + PATIENCE));
        pace.begin(begun + MS, 1);
        pace.end(MS);
        assert_eq!(pace.earliest(1), Some(begun + MS + PATIENCE), "the other one is still under way");
    }

    #[test]
    fn behind_a_batch_with_company_as_many_are_waited_for() {
        let (pace, begun) = after(4, MS);
        assert_eq!(pace.earliest(3), Some(begun + 3 * MS));
        assert_eq!(pace.earliest(4), None);
        assert_eq!(pace.earliest(9), None);
    }

    #[test]
    fn nobody_is_waited_for_longer_than_5_ms_from_the_beginning() {
        let (pace, begun) = after(4, Duration::from_secs(2));
        assert_eq!(pace.earliest(1), Some(begun + 5 * MS), "long past when the batch is over");
    }
}
