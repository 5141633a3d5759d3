//! The watch and the sampled reads, compared sample by sample.
//!
//! A write became visible after the last read without it was sent, and before the answer of the first read with it
//! came; the width of that interval is what the reads can resolve.
//!
//! **A watch that shows a write too early would flatter, and nothing is allowed there.** A read that began after the watch
//! had shown the write, and missed it, is a breach (`regressed`, INCORRECT), however short. What is left for a watch to be
//! early unnoticed is less than the width of an interval.
//!
//! **A watch that shows a write after its interval is late**, for the write was visible at the interval's end at the
//! latest: latency to consistency is then measured too high, by that difference at least, never too low. That is in part
//! the way of a watch (the feed, the hub, the stream are behind it, nothing but Redis behind a read), and in part this
//! generator's observing thread waiting for a processor; from outside the two can't be told apart. So it is no matter of
//! yes or no but of size. The over-report is stated ([`CrossCheck::over_p50_ms`] and following), and watch and reads agree
//! while both hold:
//! - *typically within their resolution*: the median of the differences, sample by sample, is not above the reads' median
//!   width (1 ms at least: a scheduler's grain). Sample by sample, because the difference between two medians of a few
//!   hundred skewed values wanders by more than either can resolve;
//! - *not made of it*: all over-reports together are not above [`OVER_MAX`] of all the latency that the watch measured.
//!   Of 41 runs of this generator on two busy cores, 500 to 10,000 commands/s, most had 1 to 19 %, and 25 to
//!   29 % were seen where the machine was far beyond what it carries. It replaces a bound on the *share* of samples
//!   over 1 ms late: at 5,000 commands/s half of them are, with a resolution of 2 ms and an over-report of 8 %, while a
//!   fifth of them late by ten times the latency passed.
//!
//! A sample whose very first read showed the write has no interval: nobody knows how long it had been visible. It says
//! nothing of the resolution, and its share is reported. That the watch was late it shows all the same.

use std::collections::HashMap;
use std::io::Write;

use crate::clock::MILLISECOND;
use crate::document::uuid_text;
use crate::journal::Bracket;
use crate::keys::Pieces;
use crate::recorder::{histogram, to_ms};
use crate::summary::CrossCheck;

/// Share of the measured latency that may be the watch's own lateness, summed over the samples.
pub const OVER_MAX: f64 = 0.25;
/// Samples kept.
const SAMPLES_MAX: usize = 100_000;

/// What both sides have reported so far.
#[derive(Debug, Default)]
pub struct Samples {
    /// Samples that both saw, with the time of the watch.
    both: Pieces<(Bracket, u64)>,
    /// Samples that only one side has seen yet.
    brackets: HashMap<(u128, u32), Bracket>,
    watched: HashMap<(u128, u32), u64>,
}

impl Samples {
    /// What reads found.
    pub fn read(&mut self, bracket: Bracket) {
        let key = (bracket.id, bracket.version);
        match self.watched.remove(&key) {
            Some(at) => self.both.push((bracket, at)),
            None if self.has_room() => {
                self.brackets.insert(key, bracket);
            }
            None => {}
        }
    }

    /// When the watch showed a sampled write.
    pub fn watched(&mut self, id: u128, version: u32, at: u64) {
        match self.brackets.remove(&(id, version)) {
            Some(bracket) => self.both.push((bracket, at)),
            None if self.has_room() => {
                self.watched.insert((id, version), at);
            }
            None => {}
        }
    }

    fn has_room(&self) -> bool {
        self.both.len() + self.brackets.len() + self.watched.len() < SAMPLES_MAX
    }

    /// Compares them; `None` without samples.
    #[must_use]
    pub fn compare(&self) -> Option<CrossCheck> {
        let (mut widths, mut by_reads, mut by_watch, mut over) = (histogram(), histogram(), histogram(), histogram());
        let (mut contradictions, mut late, mut at_once) = (0, 0, 0_u64);
        let (mut over_sum, mut watch_sum) = (0.0, 0.0);
        let mut differences = Vec::new();
        for &(ref bracket, at) in self.both.iter() {
            match width(bracket) {
                Some(width) => widths.saturating_record(width),
                None => at_once += 1,
            }
            let watched = at.saturating_sub(bracket.intended);
            let over_report = at.saturating_sub(bracket.first_positive);
            by_reads.saturating_record(bracket.first_positive.saturating_sub(bracket.intended));
            by_watch.saturating_record(watched);
            over.saturating_record(over_report);
            over_sum += over_report as f64;
            watch_sum += watched as f64;
            contradictions += u64::from(bracket.last_negative > at);
            late += u64::from(over_report > MILLISECOND);
            differences.push(at as f64 / 1e6 - bracket.first_positive as f64 / 1e6);
        }
        if differences.is_empty() {
            return None;
        }
        let resolution = if widths.is_empty() { 0.0 } else { to_ms(widths.value_at_quantile(0.5)) };
        differences.sort_by(f64::total_cmp);
        let difference = differences[differences.len() / 2];
        let share = |count: u64| count as f64 / differences.len() as f64;
        let rounded = |value: f64| (value * 1_000.0).round() / 1_000.0;
        let over_share = if watch_sum > 0.0 { over_sum / watch_sum } else { 0.0 };
        // A histogram tells nothing below a microsecond.
        let of_over = |quantile: f64| if over_sum > 0.0 { to_ms(over.value_at_quantile(quantile)) } else { 0.0 };
        Some(CrossCheck {
            samples: differences.len() as u64,
            resolution_p50_ms: resolution,
            reads_p50_ms: to_ms(by_reads.value_at_quantile(0.5)),
            watch_p50_ms: to_ms(by_watch.value_at_quantile(0.5)),
            reads_p99_ms: to_ms(by_reads.value_at_quantile(0.99)),
            watch_p99_ms: to_ms(by_watch.value_at_quantile(0.99)),
            difference_p50_ms: rounded(difference),
            contradictions,
            late_share: rounded(share(late)),
            at_once_share: rounded(share(at_once)),
            over_p50_ms: of_over(0.5),
            over_p99_ms: of_over(0.99),
            over_max_ms: of_over(1.0),
            over_share: rounded(over_share),
            agree: contradictions == 0 && difference <= resolution.max(1.0) && over_share <= OVER_MAX,
        })
    }

    /// The samples as CSV, times in milliseconds after the intended send.
    ///
    /// # Errors
    /// It can't be written.
    pub fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        writeln!(out, "entity,version,intended_s,last_without_ms,first_with_ms,watch_ms")?;
        let mut samples: Vec<_> = self.both.iter().collect();
        samples.sort_by_key(|(bracket, _)| bracket.intended);
        for &(ref bracket, at) in samples {
            let ms = |time: u64| (time as f64 - bracket.intended as f64) / 1e6;
            writeln!(
                out,
                "{},{},{:.6},{:.3},{:.3},{:.3}",
                uuid_text(bracket.id),
                bracket.version,
                bracket.intended as f64 / 1e9,
                ms(bracket.last_negative.max(bracket.intended)),
                ms(bracket.first_positive),
                ms(at)
            )?;
        }
        Ok(())
    }
}

/// How finely the reads can tell; `None` where no read missed the write.
fn width(bracket: &Bracket) -> Option<u64> {
    (bracket.last_negative > 0).then(|| bracket.first_positive.saturating_sub(bracket.last_negative))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 samples with intervals of 2 ms, the watch `late_us` after their ends.
    fn compared(late_us: impl Fn(u64) -> i64) -> CrossCheck {
        let mut samples = Samples::default();
        for number in 0..100 {
            let intended = number * 10 * MILLISECOND;
            let (last_negative, first_positive) = (intended + 3 * MILLISECOND, intended + 5 * MILLISECOND);
            samples.read(Bracket { id: number.into(), version: 1, last_negative, first_positive, intended });
            samples.watched(number.into(), 1, first_positive.saturating_add_signed(late_us(number) * 1_000));
        }
        samples.compare().unwrap()
    }

    #[test]
    fn a_watch_that_is_late_as_a_rule_does_not_agree() {
        assert!(compared(|_| 300).agree);
        // Within the resolution of 2 ms, and stated with its size.
        let by_its_end = compared(|_| 1_500);
        assert_eq!((by_its_end.late_share, by_its_end.agree), (1.0, true));
        assert!((by_its_end.over_p50_ms - 1.5).abs() < 0.01 && (by_its_end.over_p99_ms - 1.5).abs() < 0.01);
        assert!((by_its_end.over_share - 0.231).abs() < 0.001, "1.5 of 6.5 ms: {}", by_its_end.over_share);
        assert!(!compared(|_| 2_500).agree, "above the resolution");
    }

    #[test]
    fn a_watch_that_is_late_now_and_then_does_not_agree_once_it_makes_up_a_quarter_of_what_is_measured() {
        let often_and_little = compared(|number| if number % 2 == 0 { 1_800 } else { -200 });
        assert!(often_and_little.agree && often_and_little.contradictions == 0, "{often_and_little:?}");
        let seldom_and_much = compared(|number| if number % 5 == 0 { 40_000 } else { -200 });
        assert!((seldom_and_much.over_share - 0.623).abs() < 0.001 && !seldom_and_much.agree, "{seldom_and_much:?}");
        assert!((seldom_and_much.over_p99_ms - 40.0).abs() < 0.1 && seldom_and_much.over_p50_ms < 0.002);
        let one_in_a_hundred = compared(|number| if number == 7 { 40_000 } else { -200 });
        assert!(one_in_a_hundred.agree, "a thread waited for a processor once: {one_in_a_hundred:?}");
    }

    #[test]
    fn a_watch_before_the_last_read_without_it_is_contradicted() {
        let check = compared(|number| if number == 7 { -2_001 } else { 0 });
        assert_eq!((check.contradictions, check.agree), (1, false));
        assert!(compared(|_| -1_900).agree, "within every interval");
    }

    #[test]
    fn a_sample_that_no_read_missed_says_nothing_of_the_resolution() {
        let mut samples = Samples::default();
        for number in 0..10 {
            let intended = 1_000 * MILLISECOND;
            let first_positive = intended + 40 * MILLISECOND;
            let last_negative = if number < 4 { first_positive - 2 * MILLISECOND } else { 0 };
            samples.read(Bracket { id: number, version: 1, last_negative, first_positive, intended });
            samples.watched(number, 1, first_positive + 2_500_000);
        }
        let check = samples.compare().unwrap();
        assert_eq!((check.samples, check.at_once_share, check.late_share), (10, 0.6, 1.0));
        assert!(check.resolution_p50_ms < 2.1 && !check.agree, "{check:?}");

        let mut without = Samples::default();
        for &(bracket, at) in samples.both.iter().filter(|(bracket, _)| bracket.last_negative == 0) {
            without.watched(bracket.id, bracket.version, at);
            without.read(bracket);
        }
        let samples = without;
        let check = samples.compare().unwrap();
        assert_eq!((check.samples, check.at_once_share, check.resolution_p50_ms), (6, 1.0, 0.0));
        assert!(!check.agree, "late behind the first read, whatever its resolution");
    }

    #[test]
    fn samples_are_written_with_times_after_the_intended_send() {
        let mut samples = Samples::default();
        let at = |ms: u64| ms * MILLISECOND;
        samples.read(Bracket { id: 1, version: 2, last_negative: 0, first_positive: at(12), intended: at(10) });
        samples.watched(1, 2, at(11));
        samples.watched(9, 1, at(11));
        let mut text = Vec::new();
        samples.write(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.lines().nth(1), Some("00000000-0000-0000-0000-000000000001,2,0.010000,0.000,2.000,1.000"));
        assert_eq!(text.lines().count(), 2);
    }
}
