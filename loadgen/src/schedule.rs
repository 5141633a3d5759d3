//! When each command is meant to be sent.
//!
//! The schedule is fixed before the run: arrival `i` of a constant schedule is `start + i / rate`,
//! whatever happened to the arrivals before it. An arrival that could not be sent in time is sent
//! late and timed from here; none is skipped, none is moved (the opposite is coordinated omission).

use crate::clock::{MILLISECOND, SECOND};
use crate::random::Random;

/// How long after the end of a schedule what was due before it may still be sent.
pub const GRACE: u64 = 250 * MILLISECOND;

/// How the arrivals are spaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Arrivals {
    /// Evenly: `start + i / rate`.
    Constant,
    /// Independently: exponential gaps with the same mean.
    Poisson,
}

/// An iterator over intended send times. Cloning it gives the same times again, which is how the
/// pacer looks ahead without storing what waits.
#[derive(Debug, Clone)]
pub struct Schedule {
    start: u64,
    end: u64,
    rate: f64,
    arrivals: Arrivals,
    random: Random,
    index: u64,
    elapsed: f64,
}

impl Schedule {
    /// Arrivals at `rate` per second from `start` on, before `end` (nanoseconds of the run's clock).
    #[must_use]
    pub fn new(arrivals: Arrivals, rate: f64, start: u64, end: u64, seed: u64) -> Self {
        let mut schedule = Self { start, end, rate, arrivals, random: Random::new(seed), index: 0, elapsed: 0.0 };
        if arrivals == Arrivals::Poisson {
            schedule.elapsed = schedule.random.exponential() * SECOND as f64 / rate;
        }
        schedule
    }

    /// The next intended time, or `None` when the schedule is over.
    #[must_use]
    pub fn peek(&self) -> Option<u64> {
        let offset = match self.arrivals {
            Arrivals::Constant => self.index as f64 * SECOND as f64 / self.rate,
            Arrivals::Poisson => self.elapsed,
        };
        let at = self.start + offset as u64;
        (at < self.end).then_some(at)
    }

    /// Moves on to the arrival after.
    pub fn advance(&mut self) {
        self.index += 1;
        if self.arrivals == Arrivals::Poisson {
            self.elapsed += self.random.exponential() * SECOND as f64 / self.rate;
        }
    }

    /// How many arrivals came before the next one.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// When the first arrival may be.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Before when the last arrival is.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Ends the schedule at `end` if that is sooner.
    pub fn cut(&mut self, end: u64) {
        self.end = self.end.min(end);
    }

    /// Ends the schedule now: how long each arrival from `from` on that is due and was not taken has waited.
    pub fn give_up(&mut self, now: u64, from: u64) -> Vec<u64> {
        let mut waits = Vec::new();
        // In a closed model (its rate is infinite) nothing is due before it is sent.
        while self.rate.is_finite()
            && let Some(due) = self.peek().filter(|&due| due <= now)
        {
            if due >= from {
                waits.push(now - due);
            }
            self.advance();
        }
        self.cut(0);
        waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_arrivals_do_not_drift_over_an_hour() {
        let mut schedule = Schedule::new(Arrivals::Constant, 7.0, 1_000, u64::MAX, 1);
        for _ in 0..7 * 3_600 {
            schedule.advance();
        }
        assert_eq!(schedule.peek(), Some(1_000 + 3_600 * SECOND));
    }

    #[test]
    fn a_schedule_holds_rate_times_duration_arrivals() {
        let mut schedule = Schedule::new(Arrivals::Constant, 500.0, 5, 5 + 2 * SECOND, 1);
        while schedule.peek().is_some() {
            schedule.advance();
        }
        assert_eq!(schedule.index(), 1_000);
    }

    #[test]
    fn what_is_given_up_has_waited_since_it_was_due() {
        // Due at 1, 2, 3, 4 and 5 s.
        let mut schedule = Schedule::new(Arrivals::Constant, 1.0, SECOND, 6 * SECOND, 1);
        schedule.advance();
        assert_eq!(schedule.give_up(4 * SECOND + 7, 3 * SECOND), [SECOND + 7, 7]);
        assert_eq!((schedule.peek(), schedule.give_up(9 * SECOND, 0)), (None, Vec::new()));
        let mut closed = Schedule::new(Arrivals::Constant, f64::INFINITY, SECOND, 6 * SECOND, 1);
        assert_eq!((closed.give_up(9 * SECOND, 0), closed.peek()), (Vec::new(), None));
    }

    #[test]
    fn poisson_arrivals_keep_the_rate_and_repeat_with_the_seed() {
        let mut schedule = Schedule::new(Arrivals::Poisson, 1_000.0, 0, 60 * SECOND, 9);
        let mut again = schedule.clone();
        let mut last = 0;
        while let Some(at) = schedule.peek() {
            assert!(at >= last);
            assert_eq!(again.peek(), Some(at));
            last = at;
            schedule.advance();
            again.advance();
        }
        let count = schedule.index();
        assert!((59_000..61_000).contains(&count), "{count} arrivals instead of about 60,000");
    }
}
