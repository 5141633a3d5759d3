//! Times as every plane spells them: RFC 3339 in UTC with microseconds.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// A moment, in microseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The system clock's time.
    #[must_use]
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    /// Reads RFC 3339 with any offset; digits below the microsecond are cut off.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        // jiff also takes forms without an offset or with a bracketed zone, which RFC 3339 does not.
        if text.len() < 20 || !text.is_ascii() || text.contains('[') {
            return None;
        }
        let time: jiff::Timestamp = text.parse().ok()?;
        Some(Self(time.as_microsecond()))
    }

    /// Whole milliseconds since 1970, rounded down.
    #[must_use]
    pub fn millis(self) -> i64 {
        self.0.div_euclid(1000)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Days to a date by Howard Hinnant's `civil_from_days` (chrono-compatible low-level date algorithms).
        let (days, micros) = (self.0.div_euclid(86_400_000_000), self.0.rem_euclid(86_400_000_000));
        let z = days + 719_468;
        let era = z.div_euclid(146_097);
        let doe = z.rem_euclid(146_097);
        let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let day = doy - (153 * mp + 2) / 5 + 1;
        let month = if mp < 10 { mp + 3 } else { mp - 9 };
        let year = yoe + era * 400 + i64::from(month <= 2);
        let seconds = micros / 1_000_000;
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60,
            micros % 1_000_000
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_offsets_and_refuses_what_is_no_rfc_3339() {
        assert_eq!(Timestamp::parse("1970-01-01T01:00:00.000001+01:00"), Some(Timestamp(1)));
        for text in
            ["", "2026-01-01", "2026-01-01T00:00:00", "now", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00Z[UTC]"]
        {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn display_agrees_with_jiff(micros in -62_000_000_000_000_000_i64..250_000_000_000_000_000) {
            let ours = Timestamp(micros).to_string();
            let theirs = jiff::Timestamp::from_microsecond(micros).expect("in range");
            prop_assert_eq!(&ours, &format!("{theirs:.6}"));
            prop_assert_eq!(Timestamp::parse(&ours), Some(Timestamp(micros)));
        }
    }
}
