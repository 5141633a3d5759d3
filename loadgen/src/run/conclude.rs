//! After the drain: the last checks, the summary, the verdict.

use super::{RunError, Running};
use crate::checker::Violations;
use crate::client::Exchange;
use crate::clock::seconds;
use crate::cross_check::OVER_MAX;
use crate::keys::{Keyed, PackedId, Record};
use crate::recorder::{Measure, Surroundings};
use crate::summary::{Latency, Summary, Verdict, ViewLatency};
use crate::verify;
use crate::views::Left;

/// An entity as the walk found it.
struct Seen {
    id: PackedId,
    version: u32,
}

impl Record for Seen {
    fn id(&self) -> u128 {
        self.id.into()
    }
}

/// How the comparison of the planes at the end went.
struct Compared {
    /// In words, for `view_compared`.
    said: String,
    /// It was due, and could not be done: that the planes agree is not known.
    failed: bool,
}

impl Compared {
    /// There was none, and was to be none.
    fn not_due(why: &str) -> Self {
        Self { said: why.to_owned(), failed: false }
    }

    /// What was found of each view server, or why nothing was.
    fn of(outcomes: &[(String, Result<String, String>)]) -> Self {
        let in_words = |outcome: &Result<String, String>| match outcome {
            Ok(found) => format!("yes: {found}"),
            Err(why) => format!("no: {why}"),
        };
        let said = match outcomes {
            [(_, outcome)] => in_words(outcome),
            all => {
                all.iter().map(|(at, outcome)| format!("{at}: {}", in_words(outcome))).collect::<Vec<_>>().join("; ")
            }
        };
        Self { said, failed: outcomes.iter().any(|(_, outcome)| outcome.is_err()) }
    }
}

impl Running {
    /// The summary, but for the objectives.
    pub(super) fn conclude(&mut self, ended: u64, drain_s: f64, lost: bool) -> Result<Summary, RunError> {
        let now = self.clock.now();
        // What is outstanding counts at the end of its patience.
        let left = {
            let recorder = &self.judge.recorder;
            let entities = recorder.open_entities();
            // What was not told to the checker explains what it can't.
            let overrun = self.shared.overrun();
            let unsure =
                |op: Option<u64>, id| overrun || op.is_some_and(|op| recorder.is_open(op)) || entities.contains(&id);
            self.judge.checker.finish(lost, &unsure)
        };
        for write in &left.writes {
            self.judge.recorder.l2c(now.saturating_sub(write.intended), write.phase);
        }
        for (view, writes) in left.by_view.iter().enumerate() {
            for write in writes {
                self.judge.l2c_on(view, now.saturating_sub(write.intended), write.phase);
            }
        }
        let l2c_by_view = self.l2c_by_view(&left);
        let (late, left) = (left.late, left.writes);
        let lost = left.len() as u64 > late;
        let around = Surroundings {
            phase: "drain",
            outstanding: left.len() as u64,
            violations: self.judge.violations().total(),
            ..Surroundings::default()
        };
        self.judge.recorder.tick(now, &around).map_err(RunError::io("timeline.csv can't be written"))?;

        let cross_check = self.judge.samples.compare();
        let Compared { said: view_compared, failed: not_compared } = self.compare_planes(late, lost);
        let counts = self.judge.recorder.counts();
        let heard = &self.judge.heard;
        let set = self.judge.recorder.total();
        let latency = |measure| Latency::of(set.of(measure));
        let measured_s = seconds(ended.saturating_sub(self.measure_from));
        let closed = self.options.load.closed;
        let mut achieved = if measured_s > 0.0 { counts.accepted as f64 / measured_s } else { 0.0 };
        achieved = (achieved * 1_000.0).round() / 1_000.0;
        let interrupted = self.interrupted() && self.aborted.is_none() && !self.shared.overrun();
        let slope = self.lag.slope(self.measure_from, ended);
        let offered = if closed { achieved } else { self.options.rate };
        let unsent = self.judge.recorder.unsent_count();
        let mut summary = Summary {
            verdict: Verdict::Pass,
            reasons: Vec::new(),
            interrupted,
            mode: if closed { "closed (hides stalls)".into() } else { "open".into() },
            offered_per_s: offered,
            achieved_per_s: achieved,
            sent: counts.sent,
            accepted: counts.accepted,
            refused: counts.refused,
            rejected: counts.rejected,
            failed: counts.failed,
            timed_out: counts.timed_out,
            unknown: counts.unknown,
            settled: counts.settled,
            unchanged: counts.accepted.saturating_sub(counts.changed),
            unsent,
            preloaded: heard.preloaded,
            warmup_s: self.options.load.warmup.as_secs_f64(),
            measured_s,
            drain_s,
            command: latency(Measure::Command),
            service: latency(Measure::Service),
            read: latency(Measure::Read),
            reads_failed: self.judge.recorder.reads().1,
            reads_unsent: self.judge.recorder.reads_unsent(),
            l2c: latency(Measure::L2c),
            l2c_by_view,
            send_delay: latency(Measure::SendDelay),
            own_delay: latency(Measure::OwnDelay),
            outstanding: left.len() as u64,
            lag_slope_per_s: (slope * 1_000.0).round() / 1_000.0,
            flat_lag: slope <= 0.005 * offered && drain_s <= 2.0,
            violations: Violations::default(),
            examples: Vec::new(),
            cross_check,
            view_compared,
            slo: Vec::new(),
            cpu: self.cpu_shares.map(|share| (share * 1_000.0).round() / 1_000.0),
            stages: Vec::new(),
            usage: Vec::new(),
            rss_mib: self.memory.ended(),
            watch_interruptions: heard.interruptions,
            watch_resets: heard.resets,
            foreign_events: self.judge.checker.foreign(),
        };
        if let Some(check) = cross_check {
            for _ in 0..check.contradictions {
                let text = "a read by id that began after the watch had shown a version missed it";
                self.judge.checker.breach(crate::journal::Breach::Regressed(text.to_owned()));
            }
        }
        summary.violations = self.judge.violations();
        summary.examples = self.judge.checker.examples();
        if summary.violations.lost > 0 {
            self.look_for(&left, &mut summary.examples);
        }
        self.give_verdict(&mut summary, late, not_compared);
        Ok(summary)
    }

    /// The percentiles of each view server, where there are several.
    fn l2c_by_view(&self, left: &Left) -> Vec<ViewLatency> {
        let names = self.judge.checker.names();
        if names.len() < 2 {
            return Vec::new();
        }
        let views = names.iter().zip(self.judge.l2c_by_view()).zip(&left.by_view);
        let of = |((name, histogram), left): ((&String, _), &Vec<_>)| ViewLatency {
            view: name.clone(),
            l2c: Latency::of(histogram),
            outstanding: left.len() as u64,
        };
        views.map(of).collect()
    }

    /// Adds to the examples of lost writes what a read by id shows of them: lost on the way, or
    /// merely never told by the watch.
    fn look_for(&self, left: &[crate::checker::Write], examples: &mut [String]) {
        let targets = &self.options.targets;
        let Some(view) = targets.views().ok().and_then(|views| views.into_iter().next()) else { return };
        let mut exchange = Exchange::new(view, &targets.api_key);
        for write in left.iter().take(examples.len()) {
            let id = crate::document::uuid_text(write.id);
            let Ok(reply) = exchange.get(&format!("/v1/signals/{id}")) else { return };
            let shown = match (reply.version, crate::probe::deleted_version(&reply.body)) {
                (Some(version), _) if reply.status == 200 => format!("version {version}"),
                (_, Some(version)) if reply.status == 404 => format!("its deletion at version {version}"),
                _ => format!("nothing ({})", reply.status),
            };
            for example in examples.iter_mut().filter(|example| example.starts_with(&format!("lost: {id}"))) {
                if !example.contains("a read by id") {
                    example.push_str(&format!("; a read by id shows {shown}"));
                }
            }
        }
    }

    fn give_verdict(&self, summary: &mut Summary, late: u64, not_compared: bool) {
        let violations = summary.violations;
        if violations.total() > 0 {
            let named = violations.named();
            let found: Vec<_> = named.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{name} {n}")).collect();
            summary.object(Verdict::Incorrect, format!("promises were broken: {}", found.join(", ")));
        }
        let own = summary.own_delay.map_or(0.0, |delay| delay.p99_ms);
        let limit = summary.l2c.map_or(1.0, |l2c| (l2c.p99_ms / 10.0).max(1.0));
        let mut own_fault = false;
        if own > limit {
            own_fault = true;
            summary.object(
                Verdict::Invalid,
                format!("the generator itself sent late: {own:.3} ms at the 99th percentile, {limit:.3} ms allowed"),
            );
        }
        for (name, share) in ["pacing", "observing", "judging"].iter().zip(summary.cpu) {
            if share > 0.8 {
                own_fault = true;
                let reason = format!("the generator's {name} thread used {:.0} % of a core", share * 100.0);
                summary.object(Verdict::Invalid, reason);
            }
        }
        if self.shared.overrun() {
            let reason = format!(
                "the checker could not keep up at this rate: {} batches of what the other threads saw waited for it; the run was ended, and what came after them is neither counted nor checked",
                2 * self.options.queue_batches
            );
            summary.object(Verdict::Invalid, reason);
            // What is outstanding, or was not accepted, may be what was not counted.
            return;
        }
        if let Some(check) = summary.cross_check
            && check.samples >= 20
            // A contradiction is a breach, and has been counted as one.
            && check.contradictions == 0
            && !check.agree
        {
            summary.object(
                Verdict::Invalid,
                format!(
                    "the watch shows writes {:.3} ms after the sampled reads, whose resolution is {:.3} ms (medians of {} samples); that is {:.0} % of the latency that it measured, where {:.0} % are allowed",
                    check.difference_p50_ms,
                    check.resolution_p50_ms,
                    check.samples,
                    check.over_share * 100.0,
                    OVER_MAX * 100.0
                ),
            );
        }
        if not_compared {
            // What a comparison would have found is a breach: without it nobody knows.
            let reason = format!("Postgres and the view could not be compared ({})", summary.view_compared);
            summary.object(Verdict::SloFailed, reason);
        }
        if let Some(why) = &self.aborted {
            summary.object(Verdict::SloFailed, why.clone());
        }
        let closed = self.options.load.closed;
        let due = summary.sent + summary.unsent;
        let slow = summary.achieved_per_s < 0.99 * summary.offered_per_s;
        if !closed && summary.measured_s > 0.0 && slow && falls_short(summary.accepted, due) {
            let busiest = summary.service.map_or(0.0, |service| service.p50_ms);
            let reason = format!(
                "unsustainable at this rate: {:.0} accepted per second of {:.0} offered (median service time {busiest:.3} ms, {} connections, {} refused, {} unsent)",
                summary.achieved_per_s,
                summary.offered_per_s,
                self.options.load.connections,
                summary.refused,
                summary.unsent
            );
            let verdict = if own_fault { Verdict::Invalid } else { Verdict::SloFailed };
            summary.object(verdict, reason);
        } else if !closed && summary.lag_slope_per_s > 0.005 * summary.offered_per_s && summary.drain_s > 2.0 {
            let reason = format!(
                "unsustainable at this rate: writes become visible more slowly than they are accepted (outstanding grew by {:.0}/s, {:.1} s to drain)",
                summary.lag_slope_per_s, summary.drain_s
            );
            summary.object(Verdict::SloFailed, reason);
        }
        if late > 0 {
            let reason = format!("{late} accepted writes were not visible by the end of the drain");
            summary.object(Verdict::SloFailed, reason);
        }
        let (reads, unsent, failed) = (self.judge.recorder.reads().0, summary.reads_unsent, summary.reads_failed);
        if reads_fall_short(reads, unsent, failed) {
            let due = reads + unsent;
            let reason =
                format!("unsustainable at this rate: of {due} reads, {failed} failed and {unsent} were never sent");
            let verdict = if own_fault { Verdict::Invalid } else { Verdict::SloFailed };
            summary.object(verdict, reason);
        }
    }

    /// Walks both planes, unless told not to or while the view is known to be behind.
    fn compare_planes(&mut self, late: u64, lost: bool) -> Compared {
        if self.options.load.no_verify {
            return Compared::not_due("not asked for");
        }
        if self.shared.overrun() {
            return Compared::not_due("no: the checker has not heard of every command");
        }
        if late > 0 {
            return Compared::not_due("no: the view was still behind at the end of the drain");
        }
        self.live.say("comparing Postgres with the view");
        let targets = &self.options.targets;
        let (Ok(control), Ok(views)) = (targets.control(), targets.views()) else {
            return Compared { said: "no: a name no longer resolves".to_owned(), failed: true };
        };
        let mut control = Exchange::new(control, &targets.api_key);
        let mut outcomes = Vec::new();
        for view in views {
            let at = view.authority.clone();
            let outcome =
                self.compare_with(&mut control, &mut Exchange::new(view, &self.options.targets.api_key), lost);
            outcomes.push((at, outcome));
        }
        Compared::of(&outcomes)
    }

    /// Walks the control plane and one view server; what that found.
    fn compare_with(&mut self, control: &mut Exchange, view: &mut Exchange, lost: bool) -> Result<String, String> {
        let checker = &self.judge.checker;
        let mut behind = Vec::new();
        let mut seen = Keyed::default();
        let outcome = verify::compare(control, view, &mut |id, version| {
            seen.put(Seen { id: id.into(), version });
        });
        let unsure = self.judge.recorder.open_entities();
        for (id, expected) in checker.expectations().filter(|(id, _)| !unsure.contains(id)) {
            let there = seen.get(id).map(|seen| seen.version);
            let right = if expected.deleted { there.is_none() } else { there >= Some(expected.version) };
            if !right {
                behind.push(format!(
                    "{}: the view shows {there:?} where version {}{} was accepted",
                    crate::document::uuid_text(id),
                    expected.version,
                    if expected.deleted { " (a deletion)" } else { "" }
                ));
            }
        }
        match outcome {
            Ok(comparison) => {
                self.judge.checker.mismatch(comparison.different, &comparison.examples);
                // Lost from both planes alike: the comparison can't see it, the checker can.
                if comparison.different == 0 && !lost && !behind.is_empty() {
                    self.judge.checker.mismatch(behind.len() as u64, &behind);
                }
                Ok(format!("{} entities, {} differ", comparison.entities, comparison.different))
            }
            // The walk may have ended anywhere: what it has not shown is not behind.
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Whether less was accepted than was due. Of Poisson arrivals, and of a mix with batches, the number that is due in a time
/// is chance: that it was less than the rate says is nobody's fault.
fn falls_short(accepted: u64, due: u64) -> bool {
    (accepted as f64) < 0.99 * due as f64
}

/// Whether too many reads failed or were not sent for the others to stand for all: a 503 is a fast answer.
fn reads_fall_short(sent: u64, unsent: u64, failed: u64) -> bool {
    falls_short(sent - failed, sent + unsent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_arrivals_than_the_rate_says_are_no_fault_of_the_servers() {
        assert!(!falls_short(1_737, 1_737), "1,800 were to be expected of Poisson arrivals");
        assert!(falls_short(1_700, 1_737), "refused, failed or never sent");
    }

    #[test]
    fn reads_that_failed_or_were_not_sent_are_no_fast_reads() {
        assert!(!reads_fall_short(0, 0, 0), "none were asked for");
        assert!(!reads_fall_short(1_000, 0, 10));
        assert!(reads_fall_short(1_000, 0, 11) && reads_fall_short(980, 20, 0) && reads_fall_short(990, 10, 5));
    }

    #[test]
    fn a_comparison_that_could_not_be_done_on_one_view_server_has_failed() {
        let found = || Ok("3 entities, 0 differ".to_owned());
        let compared = Compared::of(&[("a:1".to_owned(), found())]);
        assert_eq!((compared.said.as_str(), compared.failed), ("yes: 3 entities, 0 differ", false));
        let compared = Compared::of(&[("a:1".to_owned(), found()), ("b:1".to_owned(), Err("500".to_owned()))]);
        assert_eq!((compared.said.as_str(), compared.failed), ("a:1: yes: 3 entities, 0 differ; b:1: no: 500", true));
        assert!(!Compared::not_due("not asked for").failed);
    }
}
