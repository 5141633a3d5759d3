//! What all watched view servers together have shown: one checker for each, and a write is visible when the last of them
//! has shown it.
//!
//! Each view server keeps its own promises: a version may not go back on *its* watch, whatever another shows. One that is
//! slower than the others breaks nothing; it makes the latency to consistency, which is that of the slowest for every
//! write, and has its own percentiles beside it.

use std::collections::{HashMap, HashSet};

use crate::checker::{Checker, Expected, Violations, Visible, Write};
use crate::journal::{Breach, Sighting};

/// Breaches of which the text is kept, of all view servers.
const EXAMPLES_MAX: usize = 20;

/// A write that not all have shown yet.
#[derive(Debug, Clone, Copy)]
struct Missing {
    /// How many have not.
    views: usize,
    /// When the last of those that have did.
    last: u64,
}

/// What is left open at the end.
#[derive(Debug, Default)]
pub struct Left {
    /// Writes that some view server has not shown.
    pub writes: Vec<Write>,
    /// How many of these are late, for all that is known: the others are lost.
    pub late: u64,
    /// By view server.
    pub by_view: Vec<Vec<Write>>,
}

/// The checkers of all watched view servers.
#[derive(Debug)]
pub struct Views {
    names: Vec<String>,
    checkers: Vec<Checker>,
    /// By operation; empty where one view server is watched, whose checker knows.
    missing: HashMap<u64, Missing>,
    /// By view server.
    shown: Vec<(usize, Visible)>,
    visible: Vec<Visible>,
    /// Writes that are lost on at least one.
    lost: u64,
    /// What is none's alone: breaches that reads proved, and differences between the planes.
    others: Checker,
}

impl Views {
    /// Checkers for view servers of these names.
    #[must_use]
    pub fn new(names: Vec<String>) -> Self {
        Self {
            checkers: names.iter().map(|_| Checker::new()).collect(),
            names,
            missing: HashMap::new(),
            shown: Vec::new(),
            visible: Vec::new(),
            lost: 0,
            others: Checker::new(),
        }
    }

    /// The view servers' names.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    fn several(&self) -> bool {
        self.checkers.len() > 1
    }

    /// Takes note of an accepted write.
    pub fn accepted(&mut self, write: Write) {
        if self.several() {
            self.missing.insert(write.op, Missing { views: self.checkers.len(), last: 0 });
        }
        for view in 0..self.checkers.len() {
            self.checkers[view].accepted(write);
            self.gather(view);
        }
    }

    /// Takes note of what a watch showed.
    pub fn seen(&mut self, sighting: Sighting) {
        let view = usize::from(sighting.view);
        if let Some(checker) = self.checkers.get_mut(view) {
            checker.seen(sighting);
            self.gather(view);
        }
    }

    /// A view server's watch starts over.
    pub fn reset(&mut self, view: u16) {
        if let Some(checker) = self.checkers.get_mut(usize::from(view)) {
            checker.reset();
        }
    }

    /// A view server's snapshot is complete.
    pub fn ready(&mut self, view: u16, at: u64) {
        if let Some(checker) = self.checkers.get_mut(usize::from(view)) {
            checker.ready(at);
            self.gather(usize::from(view));
        }
    }

    fn gather(&mut self, view: usize) {
        for visible in self.checkers[view].take_visible() {
            self.shown.push((view, visible));
            let Some(missing) = self.missing.get_mut(&visible.write.op) else {
                self.visible.push(visible);
                continue;
            };
            missing.views -= 1;
            // Of two streams, the later event may be heard of first.
            missing.last = missing.last.max(visible.at);
            if missing.views == 0 {
                self.visible.push(Visible { at: missing.last, ..visible });
                self.missing.remove(&visible.write.op);
            }
        }
    }

    /// What each view server has shown since the last call.
    pub fn take_shown(&mut self) -> Vec<(usize, Visible)> {
        std::mem::take(&mut self.shown)
    }

    /// The writes that have become visible on all of them since the last call, and when the last one showed them.
    pub fn take_visible(&mut self) -> Vec<Visible> {
        std::mem::take(&mut self.visible)
    }

    /// Accepted writes that are not visible everywhere yet.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        if self.several() { self.missing.len() as u64 } else { self.checkers.iter().map(Checker::outstanding).sum() }
    }

    /// Whether something is outstanding, and all of it is lost ([`Checker::overtaken`]): there is nothing to wait for.
    #[must_use]
    pub fn all_overtaken(&self) -> bool {
        let lost = |checker: &Checker| checker.overtaken().len() as u64 == checker.outstanding();
        self.outstanding() > 0 && self.checkers.iter().all(lost)
    }

    /// Sightings of what other writers wrote.
    #[must_use]
    pub fn foreign(&self) -> u64 {
        self.checkers.iter().map(Checker::foreign).sum()
    }

    /// What was broken so far, on any view server; a write that several have lost is lost once.
    #[must_use]
    pub fn violations(&self) -> Violations {
        let mut sum = self.others.violations();
        for checker in &self.checkers {
            let of = checker.violations();
            sum.regressed += of.regressed;
            sum.resurrected += of.resurrected;
            sum.phantom += of.phantom;
            sum.stale_with_token += of.stale_with_token;
            sum.view_mismatch += of.view_mismatch;
        }
        sum.lost += self.lost;
        // A promise of the control plane: all checkers find the same.
        sum.same_version += self.checkers.first().map_or(0, |checker| checker.violations().same_version);
        sum
    }

    /// The first breaches in words; with the view server's name where there are several.
    #[must_use]
    pub fn examples(&self) -> Vec<String> {
        let named = |(name, checker): (&String, &Checker)| -> Vec<String> {
            let several = self.several();
            let with_name = |text: &String| if several { format!("{text} ({name})") } else { text.clone() };
            checker.examples().iter().map(with_name).collect()
        };
        let of_views = self.names.iter().zip(&self.checkers).flat_map(named);
        of_views.chain(self.others.examples().iter().cloned()).take(EXAMPLES_MAX).collect()
    }

    /// Counts a breach that a reader proved.
    pub fn breach(&mut self, breach: Breach) {
        self.others.breach(breach);
    }

    /// Counts entities that differ between the planes.
    pub fn mismatch(&mut self, count: u64, examples: &[String]) {
        self.others.mismatch(count, examples);
    }

    /// The last word of every checker ([`Checker::finish`]).
    pub fn finish(&mut self, lost: bool, unsure: &dyn Fn(Option<u64>, u128) -> bool) -> Left {
        let overtaken = self.checkers.iter().filter(|_| lost).flat_map(Checker::overtaken);
        self.lost = overtaken.map(|write| write.op).collect::<HashSet<u64>>().len() as u64;
        let by_view: Vec<_> = self.checkers.iter_mut().map(|checker| checker.finish(lost, unsure)).collect();
        let mut writes: Vec<Write> = by_view.iter().flatten().copied().collect();
        writes.sort_by_key(|write| (write.intended, write.op));
        writes.dedup_by_key(|write| write.op);
        Left { late: writes.len() as u64 - self.lost, writes, by_view }
    }

    /// All keys of this run and what the planes should show of them; the same for every view server.
    pub fn expectations(&self) -> impl Iterator<Item = (u128, Expected)> + '_ {
        self.checkers.iter().take(1).flat_map(Checker::expectations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Phase, Sight};

    fn write(op: u64, phase: Phase) -> Write {
        Write { id: op.into(), version: 1, op, hash: 0, delete: false, intended: 1_000, phase, sampled: false }
    }

    fn sighting(view: u16, op: u64, at: u64) -> Sighting {
        Sighting { sight: Sight::Present, view, id: op.into(), version: 1, op: Some(op), hash: 7, at }
    }

    fn views() -> Views {
        Views::new(vec!["a".to_owned(), "b".to_owned()])
    }

    fn times(views: &mut Views) -> (Vec<(usize, u64)>, Vec<u64>) {
        let shown = views.take_shown().iter().map(|(view, visible)| (*view, visible.at)).collect();
        (shown, views.take_visible().iter().map(|visible| visible.at).collect())
    }

    #[test]
    fn a_write_is_visible_when_the_last_view_server_shows_it() {
        let mut views = views();
        views.accepted(write(1, Phase::Measured));
        views.seen(sighting(0, 1, 5_000));
        assert_eq!((times(&mut views), views.outstanding()), ((vec![(0, 5_000)], vec![]), 1));
        views.seen(sighting(1, 1, 9_000));
        assert_eq!((times(&mut views), views.outstanding()), ((vec![(1, 9_000)], vec![9_000]), 0));
        // The slower one is heard of first, and both before the answer.
        views.seen(sighting(1, 2, 8_000));
        views.seen(sighting(0, 2, 6_000));
        views.accepted(write(2, Phase::Canary));
        assert_eq!(times(&mut views), (vec![(0, 6_000), (1, 8_000)], vec![8_000]));
        assert_eq!(views.outstanding(), 0);
    }

    #[test]
    fn a_write_that_one_view_server_never_shows_is_lost_once_and_named_with_it() {
        let mut views = views();
        for op in 1..=3 {
            views.accepted(write(op, Phase::Measured));
        }
        views.seen(sighting(0, 1, 5_000));
        views.seen(sighting(1, 1, 5_000));
        views.seen(sighting(0, 2, 5_000));
        assert!(!views.all_overtaken(), "they may be late");
        for op in 1_000..1_512 {
            views.accepted(write(op, Phase::Canary));
            views.seen(sighting(0, op, 9_000));
            views.seen(sighting(1, op, 9_000));
        }
        assert!(views.all_overtaken());
        let left = views.finish(true, &|_, _| false);
        assert_eq!((left.writes.len(), left.by_view[0].len(), left.by_view[1].len()), (2, 1, 2));
        assert_eq!(left.late, 0);
        assert_eq!(views.violations().lost, 2);
        assert!(views.examples().iter().all(|text| text.ends_with("(a)") || text.ends_with("(b)")));
    }

    #[test]
    fn a_version_that_two_writes_were_given_counts_once_for_all_view_servers() {
        let mut views = views();
        views.accepted(write(1, Phase::Measured));
        views.accepted(Write { op: 2, ..write(1, Phase::Measured) });
        assert_eq!((views.violations().same_version, views.violations().total()), (1, 1));
        views.seen(sighting(0, 1, 5_000));
        views.seen(sighting(1, 1, 6_000));
        assert_eq!(views.outstanding(), 0);
    }

    #[test]
    fn a_version_goes_back_on_one_view_server_only_by_what_that_one_showed() {
        let mut views = views();
        let second = |view, at| Sighting { version: 2, ..sighting(view, 1, at) };
        views.seen(second(0, 5_000));
        views.seen(sighting(1, 1, 6_000));
        assert_eq!(views.violations().total(), 0, "the other is slower");
        views.seen(second(1, 7_000));
        views.seen(sighting(1, 1, 8_000));
        assert_eq!(views.violations().regressed, 1);
    }
}
