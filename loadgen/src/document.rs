//! What the generator reads out of a signal: id, version, the operation that wrote it, a hash.
//!
//! Signals are rendered with `id` and `title` first and `version` last, so that three looks at
//! fixed places do; a document of another shape takes the slow way through a JSON parser. The hash
//! covers every byte: a command's answer and the event that follows must have the same.

use std::hash::Hasher;

/// Eight hexadecimal digits that mark the signals of one run.
pub type RunTag = [u8; 8];

/// Hashes ids: they are random enough that one multiplication spreads them.
#[derive(Debug, Clone, Copy, Default)]
pub struct IdHasher;

impl std::hash::BuildHasher for IdHasher {
    type Hasher = IdHash;

    fn build_hasher(&self) -> IdHash {
        IdHash(0)
    }
}

/// The state of an [`IdHasher`].
#[derive(Debug)]
pub struct IdHash(u64);

impl Hasher for IdHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = crate::random::mix(self.0 ^ value);
    }

    fn write_u128(&mut self, value: u128) {
        self.write_u64((value >> 64) as u64 ^ (value as u64).rotate_left(17));
    }
}

/// What a signal's document (or a deletion's) says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Document {
    /// The entity.
    pub id: u128,
    /// Its version.
    pub version: u32,
    /// The operation of this run that wrote it; `None` for what others wrote, and for deletions.
    pub op: Option<u64>,
    /// Hash of all bytes.
    pub hash: u64,
}

/// Parses a UUID in its hyphenated form.
#[must_use]
pub fn parse_uuid(text: &[u8]) -> Option<u128> {
    if text.len() != 36 {
        return None;
    }
    let mut value: u128 = 0;
    for (i, &byte) in text.iter().enumerate() {
        if matches!(i, 8 | 13 | 18 | 23) {
            if byte != b'-' {
                return None;
            }
            continue;
        }
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            _ => return None,
        };
        value = value << 4 | u128::from(digit);
    }
    Some(value)
}

/// The hyphenated form of a UUID.
#[must_use]
pub fn format_uuid(id: u128) -> [u8; 36] {
    let mut text = [b'-'; 36];
    let mut shift = 128;
    for (i, place) in text.iter_mut().enumerate() {
        if !matches!(i, 8 | 13 | 18 | 23) {
            shift -= 4;
            *place = b"0123456789abcdef"[(id >> shift) as usize & 15];
        }
    }
    text
}

/// The same as text, for messages.
#[must_use]
pub fn uuid_text(id: u128) -> String {
    format_uuid(id).iter().map(|&byte| char::from(byte)).collect()
}

/// Hash of a document's bytes (SipHash-1-3 with fixed keys).
#[must_use]
pub fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = std::collections::hash_map::DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// Reads a signal or a deletion; `None` when it is neither.
#[must_use]
pub fn parse(bytes: &[u8], run: &RunTag) -> Option<Document> {
    let (id, version, op) = fast(bytes, run).or_else(|| slow(bytes, run))?;
    Some(Document { id, version, op, hash: hash(bytes) })
}

fn fast(bytes: &[u8], run: &RunTag) -> Option<(u128, u32, Option<u64>)> {
    let rest = bytes.strip_prefix(br#"{"id":""#)?;
    let (id, rest) = rest.split_at_checked(36)?;
    let id = parse_uuid(id)?;
    let rest = rest.strip_prefix(br#"","#)?;
    let head = bytes.strip_suffix(b"}")?;
    let digits = head.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (head, number) = head.split_at(head.len() - digits);
    if !head.ends_with(br#""version":"#) {
        return None;
    }
    let version = decimal(number)?;
    let op = match rest.strip_prefix(br#""title":""#) {
        Some(title) => op_of_title(title, run),
        None if rest.starts_with(b"\"version\":") => None,
        None => return None,
    };
    Some((id, u32::try_from(version).ok()?, op))
}

fn slow(bytes: &[u8], run: &RunTag) -> Option<(u128, u32, Option<u64>)> {
    #[derive(serde::Deserialize)]
    struct Loose<'a> {
        #[serde(borrow)]
        id: std::borrow::Cow<'a, str>,
        version: u32,
        title: Option<String>,
    }
    let loose: Loose<'_> = serde_json::from_slice(bytes).ok()?;
    let op = loose.title.map(|title| title + "\"").and_then(|title| op_of_title(title.as_bytes(), run));
    Some((parse_uuid(loose.id.as_bytes())?, loose.version, op))
}

/// `lg-<run>-<op>"` → op.
fn op_of_title(title: &[u8], run: &RunTag) -> Option<u64> {
    let rest = title.strip_prefix(b"lg-")?.strip_prefix(run)?.strip_prefix(b"-")?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (rest.get(digits) == Some(&b'"')).then(|| decimal(&rest[..digits]))?
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    digits.iter().try_fold(0u64, |value, &digit| {
        digit.is_ascii_digit().then(|| value.checked_mul(10)?.checked_add(u64::from(digit - b'0')))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &RunTag = b"00c0ffee";
    const ID: &str = "01912f5e-0b7c-7cc3-98c4-dc0c0c07398f";

    #[test]
    fn uuids_survive_the_round_trip() {
        let id = parse_uuid(ID.as_bytes()).unwrap();
        assert_eq!(format_uuid(id), ID.as_bytes());
        assert_eq!(parse_uuid(b"01912f5e-0b7c-7cc3-98c4-dc0c0c07398"), None);
        assert_eq!(parse_uuid(b"01912f5e_0b7c-7cc3-98c4-dc0c0c07398f"), None);
    }

    #[test]
    fn the_fast_and_the_slow_way_agree() {
        let document = format!(r#"{{"id":"{ID}","title":"lg-00c0ffee-42","payload":{{"version":7}},"version":3}}"#);
        let spaced = format!(r#"{{ "version":3, "id":"{ID}", "title":"lg-00c0ffee-42" }}"#);
        let id = parse_uuid(ID.as_bytes()).unwrap();
        for text in [&document, &spaced] {
            let read = parse(text.as_bytes(), RUN).unwrap();
            assert_eq!((read.id, read.version, read.op), (id, 3, Some(42)), "{text}");
        }
    }

    #[test]
    fn foreign_and_deleted_documents_have_no_op() {
        let foreign = format!(r#"{{"id":"{ID}","title":"lg-deadbeef-42","version":3}}"#);
        assert_eq!(parse(foreign.as_bytes(), RUN).unwrap().op, None);
        let deleted = format!(r#"{{"id":"{ID}","version":9}}"#);
        let read = parse(deleted.as_bytes(), RUN).unwrap();
        assert_eq!((read.version, read.op), (9, None));
        assert_eq!(parse(b"{}", RUN), None);
    }
}
