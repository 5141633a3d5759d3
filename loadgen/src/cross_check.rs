//! The watch and the sampled reads, compared sample by sample.
//!
//! A write became visible after the last read without it was sent, and before the answer of the first read with it
//! came; the width of that interval is what the reads can resolve. A watch that showed the write before the interval
//! is contradicted by a read that began later and missed it: a breach, however short. A watch that showed it after the
//! interval told late, for the write was visible at its end at the latest: the latency to consistency is then measured
//! too high, never too low. One sample may be late because a thread, here or in the view server, waited for a
//! processor, and as many others are early within their intervals; what a watch may not do is to be late as a rule. So
//! the median of the differences, sample by sample, must not exceed the reads' median resolution (1 ms at least: a
//! scheduler's grain), and no more than [`LATE_MAX`] of the samples may come more than 1 ms after the interval's end.
//!
//! A sample whose very first read showed the write has no interval: nobody knows how long it had been visible. It says
//! nothing of the resolution, and its share is reported. That the watch was late it shows all the same.
//!
//! Sample by sample, because the difference between two medians of a few hundred skewed values wanders by more than
//! either can resolve: it is what made runs INVALID whose watch was 0.3 ms behind the reads.

use std::collections::HashMap;
use std::io::Write;

use crate::clock::MILLISECOND;
use crate::document::uuid_text;
use crate::journal::Bracket;
use crate::recorder::histogram;
use crate::summary::CrossCheck;

/// Share of late samples above which watch and reads do not agree.
pub const LATE_MAX: f64 = 0.25;
/// Samples kept.
const SAMPLES_MAX: usize = 100_000;

/// What both sides have reported so far.
#[derive(Debug, Default)]
pub struct Samples {
    brackets: HashMap<(u128, u32), Bracket>,
    watched: HashMap<(u128, u32), u64>,
}

impl Samples {
    /// What reads found.
    pub fn read(&mut self, bracket: Bracket) {
        if self.brackets.len() < SAMPLES_MAX {
            self.brackets.insert((bracket.id, bracket.version), bracket);
        }
    }

    /// When the watch showed a sampled write.
    pub fn watched(&mut self, id: u128, version: u32, at: u64) {
        if self.watched.len() < SAMPLES_MAX {
            self.watched.insert((id, version), at);
        }
    }

    /// Every sample that both saw, with the time of the watch.
    fn both(&self) -> impl Iterator<Item = (&Bracket, u64)> {
        self.brackets.iter().filter_map(|(key, bracket)| Some((bracket, *self.watched.get(key)?)))
    }

    /// Compares them; `None` without samples.
    #[must_use]
    pub fn compare(&self) -> Option<CrossCheck> {
        let (mut widths, mut by_reads, mut by_watch) = (histogram(), histogram(), histogram());
        let (mut contradictions, mut late, mut at_once) = (0, 0, 0_u64);
        let mut differences = Vec::new();
        for (bracket, at) in self.both() {
            match width(bracket) {
                Some(width) => widths.saturating_record(width),
                None => at_once += 1,
            }
            by_reads.saturating_record(bracket.first_positive.saturating_sub(bracket.intended));
            by_watch.saturating_record(at.saturating_sub(bracket.intended));
            contradictions += u64::from(bracket.last_negative > at);
            late += u64::from(at > bracket.first_positive + MILLISECOND);
            differences.push(at as f64 / 1e6 - bracket.first_positive as f64 / 1e6);
        }
        if differences.is_empty() {
            return None;
        }
        let ms = |nanos: u64| nanos as f64 / 1e6;
        let resolution = if widths.is_empty() { 0.0 } else { ms(widths.value_at_quantile(0.5)) };
        differences.sort_by(f64::total_cmp);
        let difference = differences[differences.len() / 2];
        let share = |count: u64| count as f64 / differences.len() as f64;
        let rounded = |value: f64| (value * 1_000.0).round() / 1_000.0;
        Some(CrossCheck {
            samples: differences.len() as u64,
            resolution_p50_ms: resolution,
            reads_p50_ms: ms(by_reads.value_at_quantile(0.5)),
            watch_p50_ms: ms(by_watch.value_at_quantile(0.5)),
            difference_p50_ms: rounded(difference),
            contradictions,
            late_share: rounded(share(late)),
            at_once_share: rounded(share(at_once)),
            agree: difference <= resolution.max(1.0) && share(late) <= LATE_MAX,
        })
    }

    /// The samples as CSV, times in milliseconds after the intended send.
    ///
    /// # Errors
    /// It can't be written.
    pub fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        writeln!(out, "entity,version,intended_s,last_without_ms,first_with_ms,watch_ms")?;
        let mut samples: Vec<_> = self.both().collect();
        samples.sort_by_key(|(bracket, _)| bracket.intended);
        for (bracket, at) in samples {
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
        assert!(!compared(|_| 2_500).agree);
        // Within the interval's width of its end, and late all the same: it was visible by then.
        let by_its_end = compared(|_| 1_500);
        assert_eq!((by_its_end.late_share, by_its_end.agree), (1.0, false));
        let now_and_then = compared(|number| if number % 5 == 0 { 40_000 } else { -200 });
        assert!(now_and_then.agree && now_and_then.contradictions == 0);
        assert!(!compared(|number| if number % 3 == 0 { 40_000 } else { -200 }).agree);
        assert_eq!((now_and_then.samples, now_and_then.late_share), (100, 0.2));
    }

    #[test]
    fn a_watch_before_the_last_read_without_it_is_contradicted() {
        assert_eq!(compared(|number| if number == 7 { -2_001 } else { 0 }).contradictions, 1);
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

        samples.brackets.retain(|_, bracket| bracket.last_negative == 0);
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
