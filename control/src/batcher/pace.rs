//! When few commands may begin a batch of their own.
//!
//! Every batch costs each hop behind it a wake-up and a round trip, so that two of one command are dearer than one of two:
//! on two processors that carry everything it is what the tail of latency comes from. So few commands wait for the batch under
//! way, and behind its end until [`Pace::interval`] after its beginning, *where that brings company*: who is alone with the server
//! sends the next command when the last is answered, and waiting would bring nobody. It is learned: a wait in which nobody
//! came is one of [`HOPE`] until none is made any more, and one commands in [`PROBE`] tries again.

use std::time::{Duration, Instant};

/// Longest that few commands wait for the batch under way: one may be waiting for another server's lock.
const PATIENCE: Duration = Duration::from_millis(10);
/// Waits in a row without company until there are no more.
const HOPE: u32 = 16;
/// Batches close behind another until a wait is tried again.
const PROBE: u32 = 64;

#[derive(Debug)]
pub(super) struct Pace {
    /// Least time from one beginning to the next.
    interval: Duration,
    /// Batches under way.
    running: usize,
    /// When the newest of them was begun.
    begun: Option<Instant>,
    /// When the last of them ended.
    ended: Option<Instant>,
    /// Waits that are still worth it.
    hope: u32,
    /// Batches close behind another since the last try.
    close: u32,
}

impl Pace {
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, running: 0, begun: None, ended: None, hope: 0, close: 0 }
    }

    /// When the next batch of few commands may begin; `None`: at any time.
    pub(super) fn earliest(&self) -> Option<Instant> {
        let begun = self.begun?;
        if self.running > 0 {
            return Some(begun + PATIENCE);
        }
        (self.hope > 0).then(|| begun + self.interval)
    }

    /// A batch begins, whose requests came between `oldest` and `newest`.
    pub(super) fn begin(&mut self, now: Instant, oldest: Instant, newest: Instant) {
        if self.begun.is_some_and(|begun| oldest < begun + self.interval) {
            // It would have begun with the first request, or when nothing was under way any more.
            let unheld = self.ended.map_or(oldest, |ended| oldest.max(ended));
            if newest > unheld {
                self.hope = HOPE;
            } else if self.hope > 0 {
                self.hope -= 1;
            } else {
                self.close += 1;
                if self.close >= PROBE {
                    (self.close, self.hope) = (0, 1);
                }
            }
        }
        self.running += 1;
        self.begun = Some(now);
    }

    /// A batch is over.
    pub(super) fn end(&mut self, now: Instant) {
        self.running = self.running.saturating_sub(1);
        if self.running == 0 {
            self.ended = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_micros(2000);
    const BATCH: Duration = Duration::from_micros(700);

    /// Runs batches over `arrivals`; how many began, and the longest wait behind a batch's end.
    fn run(arrivals: impl Iterator<Item = Instant>, pace: &mut Pace) -> (u32, Duration) {
        let mut arrivals = arrivals.peekable();
        let (mut batches, mut waited) = (0, Duration::ZERO);
        let mut free: Option<Instant> = None;
        while let Some(first) = arrivals.next() {
            let unheld = free.map_or(first, |free| first.max(free));
            let begins = pace.earliest().map_or(unheld, |at| unheld.max(at));
            let mut newest = first;
            while let Some(next) = arrivals.next_if(|next| *next <= begins) {
                newest = next;
            }
            pace.begin(begins, first, newest);
            pace.end(begins + BATCH);
            free = Some(begins + BATCH);
            waited = waited.max(begins - unheld);
            batches += 1;
        }
        (batches, waited)
    }

    fn every(micros: u64, count: u32) -> impl Iterator<Item = Instant> {
        from(Instant::now(), micros, count)
    }

    fn from(start: Instant, micros: u64, count: u32) -> impl Iterator<Item = Instant> {
        (0..count).map(move |n| start + Duration::from_micros(micros) * n)
    }

    #[test]
    fn a_thousand_a_second_go_two_by_two() {
        let (batches, waited) = run(every(1000, 2000), &mut Pace::new(INTERVAL));
        assert!((1000..1150).contains(&batches), "{batches}");
        assert!(waited <= INTERVAL - BATCH, "{waited:?}");
    }

    #[test]
    fn a_few_hundred_a_second_never_wait() {
        let (batches, waited) = run(every(2100, 1000), &mut Pace::new(INTERVAL));
        assert_eq!((batches, waited), (1000, Duration::ZERO));
    }

    #[test]
    fn a_delay_is_made_up_for_at_a_rate_of_one_an_interval() {
        let mut pace = Pace::new(INTERVAL);
        let start = Instant::now();
        run(from(start, 1000, 500), &mut pace);
        // Late from then on, and alone again and again: the hope is used up.
        let late = start + Duration::from_micros(499_500);
        assert!(run(from(late, 2000, 200), &mut pace).1 > Duration::ZERO);
        assert_eq!(run(from(late + INTERVAL * 200, 2000, 50), &mut pace).1, Duration::ZERO);
    }

    #[test]
    fn who_is_alone_with_the_server_waits_one_time_in_sixty_four() {
        let mut pace = Pace::new(INTERVAL);
        let mut now = Instant::now();
        let mut waits = 0;
        for _ in 0..64 * 10 {
            let begins = pace.earliest().map_or(now, |at| at.max(now));
            waits += u32::from(begins > now);
            pace.begin(begins, now, now);
            pace.end(begins + BATCH);
            // The answer is there; the next command comes.
            now = begins + BATCH + Duration::from_micros(300);
        }
        assert!((5..=10).contains(&waits), "{waits}");
    }

    #[test]
    fn a_batch_under_way_is_waited_for_but_not_for_long() {
        let mut pace = Pace::new(Duration::ZERO);
        let now = Instant::now();
        assert_eq!(pace.earliest(), None);
        pace.begin(now, now, now);
        assert_eq!(pace.earliest(), Some(now + PATIENCE));
        pace.end(now + BATCH);
        assert_eq!(pace.earliest(), None);
    }
}
