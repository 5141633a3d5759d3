//! The header of a partition: which generation serves, how far it is, and whether it may be read.

use std::fmt;
use std::str::FromStr;

/// One partition's header, a single string in Redis with one space between its fields.
///
/// Fields are only ever added at the end; a reader ignores those it does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The generation that serves.
    pub generation: u64,
    /// The epoch of `seq`.
    pub epoch: u64,
    /// The history that the generation was filled in.
    pub history: u64,
    /// The last applied number in the epoch; 0 for none.
    pub seq: u64,
    /// Where the record with that number lies; -1: start at the epoch's beginning.
    pub offset: i64,
    /// The run of the Redis server that the projector wrote this to; another run may have forgotten
    /// what came after it.
    pub run_id: String,
    /// Whether it may be read; else 503.
    pub ready: bool,
    /// The number of partitions of signals.
    pub partitions: u16,
    /// When the last batch was applied, in ms since 1970.
    pub applied_ms: u64,
    /// The epoch from whose beginning the generation was filled. When a flip changes it, watches are
    /// reset; while it is older than `epoch`, a fill is due.
    pub base: u64,
}

/// A string that is no header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no header of a partition")]
pub struct NotAHeader(String);

const FORMAT: &str = "1";

impl Header {
    /// Reads the bytes that Redis answered.
    ///
    /// # Errors
    /// [`NotAHeader`] for anything that no projector wrote.
    pub fn parse(bytes: &[u8]) -> Result<Self, NotAHeader> {
        let bad = || NotAHeader(String::from_utf8_lossy(bytes).into_owned());
        std::str::from_utf8(bytes).ok().and_then(read).ok_or_else(bad)
    }

    /// Whether reads of this header's generation are true on a server with this run id.
    #[must_use]
    pub fn serves_on(&self, run_id: &str) -> bool {
        self.ready && self.run_id == run_id
    }
}

fn read(text: &str) -> Option<Header> {
    let mut fields = text.split(' ');
    if fields.next()? != FORMAT {
        return None;
    }
    Some(Header {
        generation: fields.next()?.parse().ok()?,
        epoch: fields.next()?.parse().ok()?,
        history: fields.next()?.parse().ok()?,
        seq: fields.next()?.parse().ok()?,
        offset: fields.next()?.parse().ok()?,
        run_id: fields.next().filter(|run_id| !run_id.is_empty())?.to_owned(),
        ready: match fields.next()? {
            "0" => false,
            "1" => true,
            _ => return None,
        },
        partitions: fields.next()?.parse().ok()?,
        applied_ms: fields.next()?.parse().ok()?,
        base: fields.next()?.parse().ok()?,
    })
}

impl FromStr for Header {
    type Err = NotAHeader;

    fn from_str(text: &str) -> Result<Self, NotAHeader> {
        Self::parse(text.as_bytes())
    }
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Header { generation, epoch, history, seq, offset, run_id, ready, partitions, applied_ms, base } = self;
        let ready = u8::from(*ready);
        write!(
            f,
            "{FORMAT} {generation} {epoch} {history} {seq} {offset} {run_id} {ready} {partitions} {applied_ms} {base}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_header_comes_back(
            generation: u64, epoch: u64, history: u64, seq: u64, offset in -1..i64::MAX,
            run_id in "[0-9a-f]{40}", ready: bool, partitions: u16, applied_ms: u64, base: u64, later in "( [a-z0-9]{1,9}){0,3}",
        ) {
            let header = Header { generation, epoch, history, seq, offset, run_id, ready, partitions, applied_ms, base };
            prop_assert_eq!(format!("{header}{later}").parse(), Ok(header));
        }

        #[test]
        fn reading_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = Header::parse(&bytes);
        }
    }

    #[test]
    fn a_header_is_spelled_as_the_layout_says() {
        let text = "1 1790000000000 1789 0 42 57 abc 1 4 1790000000001 1789";
        let header: Header = text.parse().expect("a header");
        assert_eq!(header.to_string(), text);
        assert!(header.serves_on("abc") && !header.serves_on("abd"));
        for bad in
            ["", "1", "2 1 1 0 1 1 a 1 4 1 1", "1 1 1 0 1 1  1 4 1 1", "1 1 1 0 1 1 a 2 4 1 1", "1 1 1 0 1 1 a 1 4 1"]
        {
            assert!(bad.parse::<Header>().is_err(), "{bad:?}");
        }
    }
}
