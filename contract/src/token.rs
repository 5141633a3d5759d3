//! Tokens: what a command's answer gives and a read honours.
//!
//! A token names what must be visible: the last version that the command gave an entity in each
//! partition it touched, with the history and epoch it was written in and the time of issue. It is
//! exact and needs no heartbeat; a highest LSN or sequence would not be a completed prefix.
//!
//! Bytes, before base64url without padding: format (1), then LEB128 numbers: history, epoch, time
//! of issue (ms since 1970), flags (1: a server pair follows: timeline, start in µs); number of
//! entries, each topic letter, partition, id (16 bytes), version; last CRC-32C of all before, 4 bytes
//! big-endian.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

use crate::partition::{PARTITIONS_MAX, Partition, Topic};

/// Most tokens that one read may carry.
pub const TOKENS_MAX: usize = 64;
/// Most entries of a token: one for each partition, of which signals have at most [`PARTITIONS_MAX`].
pub const ENTRIES_MAX: usize = PARTITIONS_MAX as usize + 2;
/// Longest token, in characters.
pub const TOKEN_CHARS_MAX: usize = 1024;

/// A run of a Postgres server: what tells a restarted or swapped database from the one whose chain
/// of events was proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct ServerRun {
    /// The WAL's timeline.
    pub timeline: u32,
    /// `pg_postmaster_start_time()`, in microseconds since 1970.
    pub started: i64,
}

/// One thing that must be visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    /// Where the entity lives.
    pub partition: Partition,
    /// The entity.
    pub id: Uuid,
    /// The version it must have reached, or its deletion.
    pub version: u64,
}

/// What a read has to wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The history the command was written in.
    pub history: u64,
    /// The epoch the command was written in.
    pub epoch: u64,
    /// When it was issued, in milliseconds since 1970.
    pub issued_ms: u64,
    /// Set where the command was written on a server run not yet proven: readers wait for a
    /// watermark of that run or a later one.
    pub unproven: Option<ServerRun>,
    /// What must be visible.
    pub entries: Vec<Entry>,
}

/// A text that is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not base64url, cut short, with a wrong checksum, or longer than [`TOKEN_CHARS_MAX`].
    #[error("the token is malformed; send it exactly as the command's answer gave it")]
    Malformed,
    /// More than [`TOKENS_MAX`] of them.
    #[error("a read may carry at most {TOKENS_MAX} tokens")]
    TooMany,
}

const FORMAT: u8 = 1;
const FLAG_UNPROVEN: u64 = 1;

impl Token {
    /// The token as text: at most 128 characters for one entity, [`TOKEN_CHARS_MAX`] for a batch.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut out = Vec::with_capacity(48 + self.entries.len() * 24);
        out.push(FORMAT);
        push_number(&mut out, self.history);
        push_number(&mut out, self.epoch);
        push_number(&mut out, self.issued_ms);
        push_number(&mut out, if self.unproven.is_some() { FLAG_UNPROVEN } else { 0 });
        if let Some(run) = self.unproven {
            push_number(&mut out, u64::from(run.timeline));
            push_number(&mut out, u64::try_from(run.started).unwrap_or(0));
        }
        push_number(&mut out, self.entries.len() as u64);
        for entry in &self.entries {
            out.push(entry.partition.topic.letter());
            push_number(&mut out, u64::from(entry.partition.index));
            out.extend_from_slice(entry.id.as_bytes());
            push_number(&mut out, entry.version);
        }
        out.extend_from_slice(&crc32c::crc32c(&out).to_be_bytes());
        URL_SAFE_NO_PAD.encode(out)
    }

    /// Reads what [`Token::encode`] wrote.
    ///
    /// # Errors
    /// [`TokenError::Malformed`] for anything else.
    pub fn decode(text: &str) -> Result<Self, TokenError> {
        if text.len() > TOKEN_CHARS_MAX {
            return Err(TokenError::Malformed);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Malformed)?;
        Self::read(&bytes).ok_or(TokenError::Malformed)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (body, sum) = bytes.split_last_chunk::<4>()?;
        if crc32c::crc32c(body) != u32::from_be_bytes(*sum) {
            return None;
        }
        let (&format, mut rest) = body.split_first()?;
        if format != FORMAT {
            return None;
        }
        let rest = &mut rest;
        let (history, epoch, issued_ms) = (take_number(rest)?, take_number(rest)?, take_number(rest)?);
        let unproven = match take_number(rest)? {
            0 => None,
            FLAG_UNPROVEN => Some(ServerRun {
                timeline: u32::try_from(take_number(rest)?).ok()?,
                started: i64::try_from(take_number(rest)?).ok()?,
            }),
            _ => return None,
        };
        let count = usize::try_from(take_number(rest)?).ok()?;
        if count > ENTRIES_MAX {
            return None;
        }
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            let (&letter, tail) = rest.split_first()?;
            *rest = tail;
            let index = u16::try_from(take_number(rest)?).ok()?;
            let partition = Partition { topic: Topic::from_letter(letter)?, index };
            let (id, tail) = rest.split_first_chunk::<16>()?;
            *rest = tail;
            entries.push(Entry { partition, id: Uuid::from_bytes(*id), version: take_number(rest)? });
        }
        rest.is_empty().then_some(Self { history, epoch, issued_ms, unproven, entries })
    }

    /// Reads the values of the `Nexus-Token` header lines, each a list of tokens with commas between.
    ///
    /// # Errors
    /// [`TokenError`]; a line without any token is malformed.
    pub fn decode_list<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Vec<Self>, TokenError> {
        let mut tokens = Vec::new();
        for part in lines.into_iter().flat_map(|line| line.split(',')) {
            if tokens.len() == TOKENS_MAX {
                return Err(TokenError::TooMany);
            }
            tokens.push(Self::decode(part.trim_matches([' ', '\t']))?);
        }
        Ok(tokens)
    }
}

pub(crate) fn push_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(crate) fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            // One spelling for each number: no needless zero at the end.
            return (bits != 0 || shift == 0).then_some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entries(max: usize) -> impl Strategy<Value = Vec<Entry>> {
        proptest::collection::vec(
            (0..3_usize, 0..PARTITIONS_MAX, any::<u128>(), 0..1_u64 << 62).prop_map(|(topic, index, id, version)| {
                Entry { partition: Partition { topic: Topic::ALL[topic], index }, id: Uuid::from_u128(id), version }
            }),
            0..=max,
        )
    }

    fn tokens(max: usize) -> impl Strategy<Value = Token> {
        let run = (any::<u32>(), 0..i64::MAX).prop_map(|(timeline, started)| ServerRun { timeline, started });
        (0..1_u64 << 48, 0..1_u64 << 48, 0..1_u64 << 48, proptest::option::of(run), entries(max)).prop_map(
            |(history, epoch, issued_ms, unproven, entries)| Token { history, epoch, issued_ms, unproven, entries },
        )
    }

    proptest! {
        #[test]
        fn a_token_comes_back(token in tokens(24)) {
            prop_assert_eq!(Token::decode(&token.encode()), Ok(token));
        }

        #[test]
        fn one_changed_character_is_noticed(token in tokens(3), place: proptest::sample::Index, other in 0_u8..64) {
            let text = token.encode();
            let mut changed = text.clone().into_bytes();
            let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
            let i = place.index(changed.len());
            changed[i] = alphabet[usize::from(other)];
            let changed = String::from_utf8(changed).expect("ASCII");
            if changed != text {
                prop_assert_eq!(Token::decode(&changed), Err(TokenError::Malformed));
            }
        }

        #[test]
        fn decoding_never_panics(text in "\\PC{0,200}") {
            let _ = Token::decode(&text);
        }
    }

    #[test]
    fn tokens_fit_their_bounds() {
        let at =
            |index| Entry { partition: Partition { topic: Topic::Signals, index }, id: Uuid::max(), version: 1 << 62 };
        let mut token = Token {
            history: 4_000_000_000_000,
            epoch: 4_000_000_000_000,
            issued_ms: 4_000_000_000_000,
            unproven: Some(ServerRun { timeline: 1000, started: 4_000_000_000_000_000 }),
            entries: vec![at(23), at(22)],
        };
        assert!(token.encode().len() <= 128, "{}", token.encode().len());
        token.entries = (0..PARTITIONS_MAX + 2).map(at).collect();
        assert!(token.encode().len() <= TOKEN_CHARS_MAX, "{}", token.encode().len());
    }

    #[test]
    fn format_1_stays_readable_for_ever() {
        let token = Token {
            history: 0,
            epoch: 1_790_000_000_000,
            issued_ms: 1_790_000_000_001,
            unproven: None,
            entries: vec![Entry {
                partition: Partition { topic: Topic::Signals, index: 3 },
                id: Uuid::from_u64_pair(0x0192_3456_789a_7bcd, 0x8123_4567_89ab_cdef),
                version: 7,
            }],
        };
        let golden = include_str!("../golden/token-v1.txt").trim();
        assert_eq!(token.encode(), golden);
        assert_eq!(Token::decode(golden), Ok(token));
    }

    #[test]
    fn lists_are_bounded() {
        let one = Token { history: 0, epoch: 1, issued_ms: 1, unproven: None, entries: vec![] }.encode();
        let list = |n: usize| vec![one.as_str(); n].join(" , ");
        assert_eq!(Token::decode_list([list(60).as_str(), list(4).as_str()]).map(|t| t.len()), Ok(64));
        assert_eq!(Token::decode_list([list(65).as_str()]), Err(TokenError::TooMany));
        for bad in ["", ",", "x", &format!("{one},")] {
            assert_eq!(Token::decode_list([bad]), Err(TokenError::Malformed), "{bad:?}");
        }
    }
}
