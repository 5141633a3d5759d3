//! The watch and the sampled reads, compared sample by sample.
//!
//! A write became visible after the last read without it was sent, and before the answer of the first read with it
//! came. A watch that showed it before the former is contradicted by that read: a breach, however short. A watch that
//! showed it after the latter told late: the latency to consistency is then measured too high, never too low.

use std::collections::HashMap;
use std::io::Write;

use crate::clock::MILLISECOND;
use crate::document::uuid_text;
use crate::journal::Bracket;
use crate::recorder::histogram;
use crate::summary::CrossCheck;

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
        let (mut contradictions, mut late) = (0, 0);
        let mut differences = Vec::new();
        for (bracket, at) in self.both() {
            let width = width(bracket);
            widths.saturating_record(width);
            by_reads.saturating_record(bracket.first_positive.saturating_sub(bracket.intended));
            by_watch.saturating_record(at.saturating_sub(bracket.intended));
            contradictions += u64::from(bracket.last_negative > at);
            late += u64::from(at > bracket.first_positive + width.max(MILLISECOND));
            differences.push(at as f64 / 1e6 - bracket.first_positive as f64 / 1e6);
        }
        if widths.is_empty() {
            return None;
        }
        let ms = |nanos: u64| nanos as f64 / 1e6;
        let (resolution, watch) = (ms(widths.value_at_quantile(0.5)), ms(by_watch.value_at_quantile(0.5)));
        differences.sort_by(f64::total_cmp);
        let difference = differences[differences.len() / 2];
        let _ = late;
        Some(CrossCheck {
            samples: widths.len(),
            resolution_p50_ms: resolution,
            reads_p50_ms: ms(by_reads.value_at_quantile(0.5)),
            watch_p50_ms: watch,
            difference_p50_ms: (difference * 1_000.0).round() / 1_000.0,
            contradictions,
            agree: difference.abs() <= resolution.max(1.0).max(watch / 10.0),
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

/// How finely the reads can tell.
fn width(bracket: &Bracket) -> u64 {
    bracket.first_positive.saturating_sub(bracket.last_negative.max(bracket.intended))
}
