//! Which commit an executable was built from, as `/version` tells it.
//!
//! A plane's build script (`runtime/build/commit.rs`) lets its main file include the log of HEAD, so that a new commit
//! costs one small compilation and a link.

use std::sync::OnceLock;

/// The name of a commit: 40 hexadecimal digits (SHA-1).
///
/// A copy: a slice of the log would take the whole log into the executable, with everybody's name and address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit([u8; 40]);

impl Commit {
    /// Where HEAD stands, from the text of `.git/logs/HEAD`: the second word of its last line (`git reflog`'s format:
    /// `OLD NEW NAME <MAIL> SECONDS ZONE<tab>WHY`). `None` of anything else, SHA-256 repositories included.
    #[must_use]
    pub const fn latest(log: &[u8]) -> Option<Self> {
        let mut start = log.len().saturating_sub(1);
        while start > 0 && log[start - 1] != b'\n' {
            start -= 1;
        }
        let mut digits = [0; 40];
        let begin = start + digits.len() + 1;
        let end = begin + digits.len();
        if log.len() <= end || log[begin - 1] != b' ' || log[end] != b' ' {
            return None;
        }
        let mut at = 0;
        while at < digits.len() {
            if !log[begin + at].is_ascii_hexdigit() {
                return None;
            }
            digits[at] = log[begin + at];
            at += 1;
        }
        Some(Self(digits))
    }

    /// Its digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hexadecimal digits are ASCII")
    }
}

static BUILT_FROM: OnceLock<Option<&'static str>> = OnceLock::new();

/// Says what this process was built from; for a main, before it serves. The first one counts.
pub fn built_from(commit: Option<&'static str>) {
    let _ = BUILT_FROM.set(commit);
}

/// The commit that this process was built from: `NEXUS_COMMIT` of the build, else HEAD of the checkout, else `None`.
/// Changes that were not committed don't show.
#[must_use]
pub fn of_this_process() -> Option<&'static str> {
    BUILT_FROM.get().copied().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "0000000000000000000000000000000000000000";
    const NEW: &str = "34d91cc5a1b0f6f0e9bb6d6f5f4b8e7a9c0d1e2f";

    #[test]
    fn the_last_line_of_the_log_names_the_commit() {
        let line = |old: &str, new: &str| format!("{old} {new} A <a@b> 1790000000 +0000\tcommit: x\n");
        let latest = |log: &str| Commit::latest(log.as_bytes()).map(|commit| commit.as_str().to_owned());
        assert_eq!(latest(&line(OLD, NEW)).as_deref(), Some(NEW));
        assert_eq!(latest(&(line(NEW, OLD) + &line(OLD, NEW))).as_deref(), Some(NEW));
        assert_eq!(latest(line(OLD, NEW).trim_end()).as_deref(), Some(NEW));
        for log in ["", "\n", NEW, "a b", &line(OLD, &NEW[1..]), &line(&OLD.repeat(2)[..64], &NEW.repeat(2)[..64])] {
            assert_eq!(latest(log), None, "{log:?}");
        }
    }
}
