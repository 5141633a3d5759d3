//! How many writes were outstanding over the run, for the slope that says whether the lag was flat.

use crate::clock::seconds;

/// Points kept; beyond, every two become one, so that a run of any length holds as much.
const POINTS_MAX: usize = 4096;

/// Averages of the number of outstanding writes, at equal distances.
#[derive(Debug)]
pub(super) struct Lag {
    points: Vec<(u64, f64)>,
    /// Steps that make a point.
    every: u32,
    steps: u32,
    sum: u64,
    looks: u64,
}

impl Default for Lag {
    fn default() -> Self {
        Self { points: Vec::new(), every: 1, steps: 0, sum: 0, looks: 0 }
    }
}

impl Lag {
    /// Takes note of how many are outstanding.
    pub(super) fn look(&mut self, outstanding: u64) {
        self.sum += outstanding;
        self.looks += 1;
    }

    /// A step of time has passed; the looks since count, if it is `of_run`.
    pub(super) fn step(&mut self, now: u64, of_run: bool) {
        self.steps += 1;
        if of_run && self.steps < self.every {
            return;
        }
        if of_run && self.looks > 0 {
            self.points.push((now, self.sum as f64 / self.looks as f64));
        }
        (self.steps, self.sum, self.looks) = (0, 0, 0);
        if self.points.len() >= POINTS_MAX {
            // Each stands for the same time, so that the later ones weigh no more.
            let pairs = self.points.chunks_exact(2);
            self.points = pairs.map(|pair| (pair[1].0, f64::midpoint(pair[0].1, pair[1].1))).collect();
            self.every *= 2;
        }
    }

    /// Least-squares slope of the outstanding writes over the second half of the measured phase, per
    /// second.
    pub(super) fn slope(&self, from: u64, to: u64) -> f64 {
        let middle = from.saturating_add(to) / 2;
        let second_half = self.points.iter().filter(|(at, _)| *at >= middle && *at <= to);
        let points: Vec<(f64, f64)> = second_half.map(|&(at, n)| (seconds(at - middle), n)).collect();
        let count = points.len() as f64;
        if points.len() < 3 {
            return 0.0;
        }
        let mean = |f: fn(&(f64, f64)) -> f64| points.iter().map(f).sum::<f64>() / count;
        let (x, y) = (mean(|p| p.0), mean(|p| p.1));
        let covariance: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
        let variance: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
        if variance > 0.0 { covariance / variance } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SECOND;

    /// Looks ten times a second for `tenths`.
    fn looked(tenths: u64, outstanding: impl Fn(u64) -> u64) -> Lag {
        let mut lag = Lag::default();
        for i in 0..tenths {
            lag.look(outstanding(i));
            lag.step(i * SECOND / 10, true);
        }
        lag
    }

    #[test]
    fn the_slope_is_that_of_the_second_half() {
        let lag = looked(100, |i| if i < 50 { 1_000 - i } else { 100 + i * 2 });
        let slope = lag.slope(0, 10 * SECOND);
        assert!((slope - 20.0).abs() < 0.1, "{slope}");
    }

    #[test]
    fn a_run_of_any_length_holds_as_many_points_and_has_the_same_slope() {
        let lag = looked(100_000, |i| if i < 50_000 { 100_000 - i } else { 100 + i * 2 });
        assert!(lag.points.len() < POINTS_MAX && lag.points.capacity() <= POINTS_MAX, "{}", lag.points.len());
        let slope = lag.slope(0, 10_000 * SECOND);
        assert!((slope - 20.0).abs() < 0.1, "{slope}");
    }
}
