//! Topics and their partitions, and which partition an entity lives in.
//!
//! Source of the choice: FNV-1a, 64 bits, over the id's 36 lower-case characters, its halves folded by
//! XOR, modulo the number of partitions. Any client can compute it in a few lines.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// Most partitions that `nexus.signals` may have: a batch's token must fit into 1 KiB.
pub const PARTITIONS_MAX: u16 = 24;

/// A topic of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// Signals, in `NEXUS_PARTITIONS` partitions.
    Signals,
    /// Identities, in one partition.
    Identities,
    /// API keys, in one partition.
    Keys,
}

impl Topic {
    /// Every topic of events.
    pub const ALL: [Topic; 3] = [Topic::Signals, Topic::Identities, Topic::Keys];

    /// The topic's name without the prefix.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Topic::Signals => "signals",
            Topic::Identities => "identities",
            Topic::Keys => "keys",
        }
    }

    /// The letter that stands for the topic in tags, tokens and messages.
    #[must_use]
    pub fn letter(self) -> u8 {
        match self {
            Topic::Signals => b's',
            Topic::Identities => b'i',
            Topic::Keys => b'k',
        }
    }

    /// The topic with this letter.
    #[must_use]
    pub fn from_letter(letter: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|topic| topic.letter() == letter)
    }

    /// How many partitions it has where signals have `signals`.
    #[must_use]
    pub fn partitions(self, signals: u16) -> u16 {
        match self {
            Topic::Signals => signals,
            Topic::Identities | Topic::Keys => 1,
        }
    }
}

/// One partition of one topic: the unit of order, of checkpoints and of Redis hash tags.
/// Spelled `s3`, `i0`, `k0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// The topic.
    pub topic: Topic,
    /// The partition's number in the topic.
    pub index: u16,
}

impl Partition {
    /// The partition that holds the entity `id` of `topic`, where signals have `signals` partitions.
    #[must_use]
    pub fn of(topic: Topic, id: Uuid, signals: u16) -> Self {
        let count = topic.partitions(signals);
        if count <= 1 {
            return Self { topic, index: 0 };
        }
        let mut text = [0; 36];
        let hash = fnv1a(id.hyphenated().encode_lower(&mut text).as_bytes());
        let folded = (hash >> 32) ^ (hash & 0xffff_ffff);
        Self { topic, index: u16::try_from(folded % u64::from(count)).unwrap_or(0) }
    }

    /// All partitions, topic by topic, where signals have `signals` of them.
    #[must_use]
    pub fn all(signals: u16) -> Vec<Self> {
        Topic::ALL
            .into_iter()
            .flat_map(|topic| (0..topic.partitions(signals)).map(move |index| Self { topic, index }))
            .collect()
    }

    /// Its place in [`Partition::all`].
    #[must_use]
    pub fn ordinal(self, signals: u16) -> usize {
        usize::from(match self.topic {
            Topic::Signals => self.index,
            Topic::Identities => signals,
            Topic::Keys => signals + 1,
        })
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", char::from(self.topic.letter()), self.index)
    }
}

/// A text that is no partition's tag.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no partition")]
pub struct NotAPartition(String);

impl FromStr for Partition {
    type Err = NotAPartition;

    fn from_str(text: &str) -> Result<Self, NotAPartition> {
        let bad = || NotAPartition(text.to_owned());
        let topic = text.bytes().next().and_then(Topic::from_letter).ok_or_else(bad)?;
        let index = text[1..].parse().map_err(|_| bad())?;
        Ok(Self { topic, index })
    }
}

impl serde::Serialize for Partition {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Partition {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// FNV-1a, 64 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>).
#[must_use]
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_of_the_partition_never_changes() {
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
        let id = Uuid::from_u64_pair(0x0192_3456_789a_7bcd, 0x8123_4567_89ab_cdef);
        let chosen: Vec<u16> = [1, 2, 4, 7, 32].map(|n| Partition::of(Topic::Signals, id, n).index).to_vec();
        assert_eq!(chosen, GOLDEN);
    }
    const GOLDEN: [u16; 5] = [0, 1, 1, 0, 1];

    #[test]
    fn partitions_are_even_and_spelled_back() {
        let mut counts = [0; 4];
        for i in 0..10_000_u64 {
            let id = crate::id::v7(crate::time::Timestamp(1_790_000_000_000_000 + i as i64 * 37), i * 0x9e37_79b9);
            counts[usize::from(Partition::of(Topic::Signals, id, 4).index)] += 1;
        }
        assert!(counts.iter().all(|n| (2300..2700).contains(n)), "{counts:?}");
        for (i, partition) in Partition::all(5).into_iter().enumerate() {
            assert_eq!(partition.to_string().parse(), Ok(partition));
            assert_eq!(partition.ordinal(5), i);
        }
        assert!(
            "".parse::<Partition>().is_err() && "x1".parse::<Partition>().is_err() && "s".parse::<Partition>().is_err()
        );
    }
}
