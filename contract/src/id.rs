//! Entity ids: UUIDv7 whose order is exactly the order of creation times.

use std::sync::atomic::{AtomicI64, Ordering};

pub use uuid::Uuid;

use crate::time::Timestamp;

/// Reads an id as the API spells it: 36 characters with hyphens, either case.
#[must_use]
pub fn parse(text: &str) -> Option<Uuid> {
    if text.len() == 36 { Uuid::try_parse(text).ok() } else { None }
}

/// What a refusal shows of a text that is no id: enough to recognise it, and in quotes; it may have millions of
/// characters.
#[must_use]
pub fn excerpt(text: &str) -> String {
    match text.char_indices().nth(64) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Makes an id for an entity created at `time`, with 62 random bits.
///
/// Bits 48 to 59 hold the microsecond within the millisecond (RFC 9562, section 6.2, method 3, at
/// 1/4096 ms), so ids sort as `created_at` does, and equal times by the random rest.
#[must_use]
pub fn v7(time: Timestamp, random: u64) -> Uuid {
    let millis = u64::try_from(time.millis()).unwrap_or(0);
    let micros = u64::try_from(time.0.rem_euclid(1000)).unwrap_or(0);
    let high = (millis << 16) | 0x7000 | (micros * 4096).div_ceil(1000);
    let low = (random & 0x3fff_ffff_ffff_ffff) | 0x8000_0000_0000_0000;
    Uuid::from_u64_pair(high, low)
}

/// The creation time that [`v7`] put into an id.
#[must_use]
pub fn created_at(id: Uuid) -> Timestamp {
    let (high, _) = id.as_u64_pair();
    let millis = i64::try_from(high >> 16).unwrap_or(0);
    let micros = i64::try_from((high & 0xfff) * 1000 / 4096).unwrap_or(0);
    Timestamp(millis * 1000 + micros)
}

/// A clock whose readings rise, so that ids made by one process are in the order they were made.
#[derive(Debug, Default)]
pub struct RisingClock(AtomicI64);

impl RisingClock {
    /// The system's time, or one microsecond past the last reading where that is later.
    pub fn now(&self) -> Timestamp {
        let now = Timestamp::now().0;
        let last =
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last + 1))).unwrap_or(now);
        Timestamp(now.max(last + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn of_a_long_text_the_beginning_is_shown() {
        assert_eq!(excerpt("no id"), "\"no id\"");
        assert_eq!(excerpt(&"ü".repeat(1_000)), format!("\"{}\"…", "ü".repeat(64)));
    }

    proptest! {
        #[test]
        fn ids_sort_as_their_times_and_give_them_back(a in 0_i64..4_000_000_000_000_000, d in 1_i64..5000, r: u64, s: u64) {
            let (first, second) = (v7(Timestamp(a), r), v7(Timestamp(a + d), s));
            prop_assert!(first < second);
            prop_assert!(first.to_string() < second.to_string());
            prop_assert_eq!(created_at(first), Timestamp(a));
            prop_assert_eq!(first.get_version_num(), 7);
        }
    }

    #[test]
    fn a_rising_clock_never_repeats() {
        let clock = RisingClock::default();
        let mut last = clock.now();
        for _ in 0..10_000 {
            let now = clock.now();
            assert!(now > last);
            last = now;
        }
    }
}
