//! Planes that break their promises on purpose, so that a test can say that the load generator's checker notices.
//!
//! Behind the cargo feature `sabotage`, which no release can have: it does not compile without debug assertions.
//! Without the feature [`on`] and [`every`] are constants, and what depends on them is compiled to nothing.
//!
//! `NEXUS_SABOTAGE=<name>[=<n>],…` arms some of [`Sabotage::ALL`]; those that strike now and then do so every `n`th
//! time. There are two kinds: a *fault* is something that the planes must survive, and do; taking a *guard* away alone,
//! or together with the fault that it is there for, breaks a promise.

#[cfg(all(feature = "sabotage", not(debug_assertions)))]
compile_error!("the feature `sabotage` is for tests: no release may have it");

use bytes::Bytes;

/// What can be armed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Sabotage {
    // Faults
    /// The relay publishes an old event once more, as a new record: a relay that was thawed would.
    OldEventsAgain,
    /// The relay publishes an event some places too late.
    ReorderEvents,
    /// The script that applies a batch fails between its index and its documents: Redis out of memory would.
    FailMidway,
    // Guards taken away
    /// The relay leaves events out.
    LoseEvent,
    /// The relay confirms to the slot what is not published, and asks for no proof when it takes over.
    ConfirmBeforePublish,
    /// A command is answered with success whether or not its transaction commits; every `n`th does not.
    AnswerBeforeCommit,
    /// A document is written whatever version is there.
    DropVersionFence,
    /// The checkpoint is written before the documents.
    CheckpointFirst,
    /// A deletion leaves no tombstone, so that a replay brings the entity back.
    ResurrectOnReplay,
    /// A deletion is applied without its version.
    DeleteWithoutVersion,
    /// A document is changed on its way into the view.
    CorruptValue,
    /// A document is written in the place of another one.
    WrongDocument,
    /// A document is written and not indexed.
    SkipIndex,
    /// A read waits for no token.
    IgnoreToken,
    /// The view server keeps what it has read once.
    StaleCache,
}

impl Sabotage {
    /// All of them, in the order of their numbers.
    pub const ALL: [Sabotage; 15] = [
        Sabotage::OldEventsAgain,
        Sabotage::ReorderEvents,
        Sabotage::FailMidway,
        Sabotage::LoseEvent,
        Sabotage::ConfirmBeforePublish,
        Sabotage::AnswerBeforeCommit,
        Sabotage::DropVersionFence,
        Sabotage::CheckpointFirst,
        Sabotage::ResurrectOnReplay,
        Sabotage::DeleteWithoutVersion,
        Sabotage::CorruptValue,
        Sabotage::WrongDocument,
        Sabotage::SkipIndex,
        Sabotage::IgnoreToken,
        Sabotage::StaleCache,
    ];

    /// Its name in `NEXUS_SABOTAGE`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Sabotage::OldEventsAgain => "old-events-again",
            Sabotage::ReorderEvents => "reorder-events",
            Sabotage::FailMidway => "fail-midway",
            Sabotage::LoseEvent => "lose-event",
            Sabotage::ConfirmBeforePublish => "confirm-before-publish",
            Sabotage::AnswerBeforeCommit => "answer-before-commit",
            Sabotage::DropVersionFence => "drop-version-fence",
            Sabotage::CheckpointFirst => "checkpoint-first",
            Sabotage::ResurrectOnReplay => "resurrect-on-replay",
            Sabotage::DeleteWithoutVersion => "delete-without-version",
            Sabotage::CorruptValue => "corrupt-value",
            Sabotage::WrongDocument => "wrong-document",
            Sabotage::SkipIndex => "skip-index",
            Sabotage::IgnoreToken => "ignore-token",
            Sabotage::StaleCache => "stale-cache",
        }
    }

    /// How often it strikes that strikes now and then, unless `NEXUS_SABOTAGE` says so.
    #[must_use]
    pub fn default_every(self) -> u64 {
        match self {
            Sabotage::OldEventsAgain | Sabotage::ReorderEvents => 5,
            // Batches are few where the machine is slow.
            Sabotage::FailMidway => 7,
            // One in 100,000 is what should be found in a long run; a short one gives its own number.
            Sabotage::LoseEvent => 100_000,
            Sabotage::AnswerBeforeCommit => 25,
            _ => 20,
        }
    }
}

#[cfg(not(feature = "sabotage"))]
mod off {
    use super::{Bytes, Sabotage};

    /// Whether a sabotage is armed: never.
    #[inline(always)]
    #[must_use]
    pub const fn on(_: Sabotage) -> bool {
        false
    }

    /// Whether a sabotage strikes this time: never.
    #[inline(always)]
    #[must_use]
    pub const fn every(_: Sabotage) -> bool {
        false
    }

    /// How often a sabotage strikes, where it is armed: it is not.
    #[must_use]
    pub const fn period(_: Sabotage) -> Option<u64> {
        None
    }

    /// The events that leave in the place of `event`: itself. `None` is a pause, in which none leaves.
    #[inline(always)]
    pub fn outgoing(event: Option<Bytes>) -> impl Iterator<Item = Bytes> {
        event.into_iter()
    }

    /// What is armed, in words; `None` in a build that can't be sabotaged.
    #[must_use]
    pub const fn armed() -> Option<&'static str> {
        None
    }

    /// Says in the log that this build can be sabotaged: it can't.
    pub const fn announce() {}
}

#[cfg(feature = "sabotage")]
mod armed {
    use std::collections::VecDeque;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{LazyLock, Mutex, PoisonError};

    use super::{Bytes, Sabotage};

    const COUNT: usize = Sabotage::ALL.len();
    /// Old events that are kept to be published again.
    const OLD_EVENTS: usize = 200;
    /// Events that overtake one that is held back.
    const OVERTAKING: usize = 40;

    static TEXT: LazyLock<String> = LazyLock::new(|| std::env::var("NEXUS_SABOTAGE").unwrap_or_default());
    static PERIODS: LazyLock<[Option<u64>; COUNT]> = LazyLock::new(|| {
        read(&TEXT).unwrap_or_else(|error| {
            eprintln!("error: NEXUS_SABOTAGE: {error}");
            std::process::exit(2)
        })
    });
    static TIMES: [AtomicU64; COUNT] = [const { AtomicU64::new(0) }; COUNT];

    fn read(text: &str) -> Result<[Option<u64>; COUNT], String> {
        let mut periods = [None; COUNT];
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, number) = part.split_once('=').map_or((part, None), |(name, number)| (name, Some(number)));
            let sabotage = Sabotage::ALL.into_iter().find(|sabotage| sabotage.name() == name);
            let sabotage = sabotage.ok_or_else(|| format!("there is no sabotage {name:?}"))?;
            let period = number.map_or(Ok(sabotage.default_every()), str::parse).ok().filter(|period| *period > 0);
            periods[sabotage as usize] = Some(period.ok_or_else(|| format!("{part:?}: not a number above 0"))?);
        }
        Ok(periods)
    }

    /// Whether a sabotage is armed.
    #[must_use]
    pub fn on(sabotage: Sabotage) -> bool {
        PERIODS[sabotage as usize].is_some()
    }

    /// Whether a sabotage strikes this time: every `n`th where it is armed.
    #[must_use]
    pub fn every(sabotage: Sabotage) -> bool {
        PERIODS[sabotage as usize]
            .is_some_and(|period| (TIMES[sabotage as usize].fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(period))
    }

    /// How often a sabotage strikes, where it is armed.
    #[must_use]
    pub fn period(sabotage: Sabotage) -> Option<u64> {
        PERIODS[sabotage as usize]
    }

    #[derive(Default)]
    struct Kept {
        old: VecDeque<Bytes>,
        held: VecDeque<(Bytes, usize)>,
    }

    static KEPT: Mutex<Kept> = Mutex::new(Kept { old: VecDeque::new(), held: VecDeque::new() });

    /// The events that leave in the place of `event`: mostly itself. In a pause (`None`), those that were held back.
    #[must_use]
    pub fn outgoing(event: Option<Bytes>) -> Vec<Bytes> {
        let Some(event) = event else {
            let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
            return kept.held.drain(..).map(|(held, _)| held).collect();
        };
        if every(Sabotage::LoseEvent) {
            return Vec::new();
        }
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        let mut leaving = Vec::new();
        if every(Sabotage::ReorderEvents) {
            kept.held.push_back((event, OVERTAKING));
            return leaving;
        }
        leaving.push(event.clone());
        for (_, left) in &mut kept.held {
            *left -= 1;
        }
        while let Some((held, _)) = kept.held.pop_front_if(|(_, left)| *left == 0) {
            leaving.push(held);
        }
        if on(Sabotage::OldEventsAgain) {
            if every(Sabotage::OldEventsAgain) {
                leaving.extend(kept.old.front().cloned());
            }
            kept.old.push_back(event);
            if kept.old.len() > OLD_EVENTS {
                kept.old.pop_front();
            }
        }
        leaving
    }

    /// What is armed, in words; `None` in a build that can't be sabotaged.
    #[must_use]
    pub fn armed() -> Option<&'static str> {
        Some(if TEXT.is_empty() { "none" } else { &TEXT })
    }

    /// Says in the log that this build can be sabotaged, and what is armed. An unknown name ends the process (2).
    pub fn announce() {
        LazyLock::force(&PERIODS);
        tracing::warn!(
            armed = armed(),
            "THIS BUILD CAN BREAK ITS PROMISES ON PURPOSE (feature `sabotage`): for tests of the checker only"
        );
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn names_and_numbers_are_read_and_others_refused() {
            for (number, sabotage) in Sabotage::ALL.into_iter().enumerate() {
                assert_eq!(sabotage as usize, number);
                let periods = read(sabotage.name()).expect("known");
                assert_eq!(periods[number], Some(sabotage.default_every()));
                assert_eq!(periods.iter().flatten().count(), 1);
            }
            let periods = read("stale-cache, lose-event=7").expect("known");
            assert_eq!(periods[Sabotage::LoseEvent as usize], Some(7));
            for wrong in ["lose-events", "lose-event=0", "lose-event=x", "lose-event="] {
                assert!(read(wrong).is_err(), "{wrong}");
            }
            assert_eq!(read(""), Ok([None; COUNT]));
        }
    }
}

#[cfg(feature = "sabotage")]
pub use armed::{announce, armed, every, on, outgoing, period};
#[cfg(not(feature = "sabotage"))]
pub use off::{announce, armed, every, on, outgoing, period};
