//! Names of the view's keys in Redis: the one place that spells them (docs/view-layout.md).

use contract::partition::Partition;
use contract::signal::{Priority, Status};
use uuid::Uuid;

/// Code of identities and keys, which have one index.
pub const CODE_PLAIN: u8 = b'.';
/// Code of a tombstone, and of "was not there".
pub const CODE_NONE: u8 = b'-';
/// Bytes in front of a document's JSON: 16 hexadecimal digits of the version, one code.
pub const DOCUMENT_HEAD: usize = 17;

/// The index code of a signal: `a` (low, pending) to `p` (critical, cancelled).
#[must_use]
pub fn signal_code(priority: Priority, status: Status) -> u8 {
    b'a' + 4 * priority.rank() + status.rank()
}

/// Priority and status that [`signal_code`] put into a code.
#[must_use]
pub fn parse_signal_code(code: u8) -> Option<(Priority, Status)> {
    let number = code.checked_sub(b'a').filter(|number| *number < 16)?;
    Some((Priority::ALL[usize::from(number / 4)], Status::ALL[usize::from(number % 4)]))
}

/// Version and code of a stored document, and its JSON (empty for a tombstone).
#[must_use]
pub fn parse_document(stored: &[u8]) -> Option<(u64, u8, &[u8])> {
    let (head, json) = stored.split_at_checked(DOCUMENT_HEAD)?;
    let digits = std::str::from_utf8(&head[..16]).ok()?;
    Some((u64::from_str_radix(digits, 16).ok()?, head[16], json))
}

/// Appends what stands in front of a document's JSON.
pub fn push_document_head(out: &mut Vec<u8>, version: u64, code: u8) {
    out.extend_from_slice(&hex16(version));
    out.push(code);
}

/// Sixteen lower-case hexadecimal digits: they sort as the numbers do.
#[must_use]
pub fn hex16(number: u64) -> [u8; 16] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = [0; 16];
    for (place, digit) in out.iter_mut().enumerate() {
        *digit = DIGITS[(number >> (60 - 4 * place) & 15) as usize];
    }
    out
}

/// The names below one prefix (`NEXUS_REDIS_PREFIX`).
#[derive(Debug, Clone)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// The names below `prefix`.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// `P{s3}:`, with which every key of a partition begins.
    #[must_use]
    pub fn partition(&self, partition: Partition) -> String {
        format!("{}{{{partition}}}:", self.prefix)
    }

    /// The header of a partition.
    #[must_use]
    pub fn header(&self, partition: Partition) -> String {
        format!("{}{{{partition}}}:header", self.prefix)
    }

    /// The header of a generation that is being filled beside the serving one.
    #[must_use]
    pub fn side_header(&self, partition: Partition, generation: u64) -> String {
        format!("{}{{{partition}}}:{generation}:header", self.prefix)
    }

    /// `P{s3}:g:`, with which every key of a generation begins.
    #[must_use]
    pub fn generation(&self, partition: Partition, generation: u64) -> String {
        format!("{}{{{partition}}}:{generation}:", self.prefix)
    }

    /// A document.
    #[must_use]
    pub fn document(&self, partition: Partition, generation: u64, id: Uuid) -> String {
        format!("{}{{{partition}}}:{generation}:d:{}", self.prefix, id.hyphenated())
    }

    /// The sorted set of ids with an index code.
    #[must_use]
    pub fn index(&self, partition: Partition, generation: u64, code: u8) -> String {
        format!("{}{{{partition}}}:{generation}:x:{}", self.prefix, char::from(code))
    }

    /// The hash of ids whose last event could not be applied.
    #[must_use]
    pub fn poison(&self, partition: Partition, generation: u64) -> String {
        format!("{}{{{partition}}}:{generation}:poison", self.prefix)
    }

    /// The change feed.
    #[must_use]
    pub fn feed(&self, partition: Partition) -> String {
        format!("{}{{{partition}}}:feed", self.prefix)
    }

    /// The hash of the partition's generations: number → unix ms when it was retired, 0 while it is not.
    #[must_use]
    pub fn generations(&self, partition: Partition) -> String {
        format!("{}{{{partition}}}:generations", self.prefix)
    }

    /// Set for a moment by who flips: batches are held while it exists.
    #[must_use]
    pub fn hold(&self, partition: Partition) -> String {
        format!("{}{{{partition}}}:hold", self.prefix)
    }

    /// Format and number of partitions of the view.
    #[must_use]
    pub fn layout(&self) -> String {
        format!("{}{{meta}}:layout", self.prefix)
    }

    /// The newest watermark.
    #[must_use]
    pub fn watermark(&self) -> String {
        format!("{}{{meta}}:watermark", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_layout() {
        let keys = Keys::new("nexus:");
        let s3 = "s3".parse().expect("a partition");
        let id = Uuid::from_u64_pair(1, 2);
        assert_eq!(keys.header(s3), "nexus:{s3}:header");
        assert_eq!(keys.side_header(s3, 7), "nexus:{s3}:7:header");
        assert_eq!(keys.document(s3, 7, id), "nexus:{s3}:7:d:00000000-0000-0001-0000-000000000002");
        assert_eq!(keys.index(s3, 7, b'p'), "nexus:{s3}:7:x:p");
        assert_eq!(keys.poison(s3, 7), "nexus:{s3}:7:poison");
        assert_eq!(keys.feed(s3), "nexus:{s3}:feed");
        assert_eq!(keys.layout(), "nexus:{meta}:layout");
        assert_eq!(keys.watermark(), "nexus:{meta}:watermark");
        assert!(keys.side_header(s3, 7).starts_with(&keys.generation(s3, 7)));
        assert!(keys.generation(s3, 7).starts_with(&keys.partition(s3)));
    }

    #[test]
    fn every_code_comes_back() {
        let mut seen = Vec::new();
        for priority in Priority::ALL {
            for status in Status::ALL {
                let code = signal_code(*priority, *status);
                assert_eq!(parse_signal_code(code), Some((*priority, *status)));
                seen.push(code);
            }
        }
        assert_eq!(seen, (b'a'..=b'p').collect::<Vec<u8>>());
        assert_eq!(parse_signal_code(CODE_PLAIN).or(parse_signal_code(CODE_NONE)).or(parse_signal_code(b'q')), None);
    }

    #[test]
    fn a_document_comes_back() {
        let mut stored = Vec::new();
        push_document_head(&mut stored, 0xfedc_ba98_7654_3210, b'c');
        assert_eq!(stored, b"fedcba9876543210c");
        stored.extend_from_slice(b"{}");
        assert_eq!(parse_document(&stored), Some((0xfedc_ba98_7654_3210, b'c', &b"{}"[..])));
        assert_eq!(parse_document(b"00"), None);
    }
}
