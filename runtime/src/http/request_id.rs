//! The id that ties an answer to its log lines.

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher, RandomState};

use http::{HeaderMap, HeaderName, HeaderValue};

/// `X-Request-Id`.
pub static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of one request: the caller's, or one made here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(Id);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Id {
    Given(HeaderValue),
    /// Digits. No value of a header yet: clones of such a one share, and so allocate.
    Made([u8; 16]),
}

impl RequestId {
    /// The request's own `X-Request-Id` when it is one value of 1 to 128 printable ASCII characters,
    /// else a new one.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(&X_REQUEST_ID).iter();
        match (values.next(), values.next()) {
            (Some(value), None)
                if (1..=128).contains(&value.len()) && value.as_bytes().iter().all(|b| (0x20..=0x7e).contains(b)) =>
            {
                Self(Id::Given(value.clone()))
            }
            _ => Self::make(),
        }
    }

    /// A new one: 16 hexadecimal digits. Unique enough to find log lines, no secret.
    #[must_use]
    pub fn make() -> Self {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let random = random();
        Self(Id::Made(std::array::from_fn(|i| HEX[(random >> (60 - 4 * i)) as usize & 15])))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let bytes = match &self.0 {
            Id::Given(value) => value.as_bytes(),
            Id::Made(digits) => digits,
        };
        std::str::from_utf8(bytes).expect("checked to be printable ASCII")
    }

    /// As a header's value.
    #[must_use]
    pub fn value(&self) -> HeaderValue {
        match &self.0 {
            Id::Given(value) => value.clone(),
            Id::Made(digits) => HeaderValue::from_bytes(digits).expect("hexadecimal digits are a header value"),
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014), seeded per thread from the standard library's random hash keys.
fn random() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(RandomState::new().build_hasher().finish());
    }
    let state = STATE.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    STATE.set(state);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::super::header_map;
    use super::*;

    #[test]
    fn a_printable_id_is_echoed_and_any_other_replaced() {
        assert_eq!(RequestId::of(&header_map(&[("x-request-id", "abc 1")])).as_str(), "abc 1");
        for lines in [&[][..], &[("x-request-id", "")], &[("x-request-id", "a"), ("x-request-id", "b")]] {
            assert_eq!(RequestId::of(&header_map(lines)).as_str().len(), 16);
        }
        let mut headers = HeaderMap::new();
        headers.insert(&X_REQUEST_ID, HeaderValue::from_str(&"x".repeat(129)).expect("a value"));
        assert_eq!(RequestId::of(&headers).as_str().len(), 16);
        headers.insert(&X_REQUEST_ID, HeaderValue::from_bytes(b"caf\xc3\xa9").expect("a value"));
        assert_eq!(RequestId::of(&headers).as_str().len(), 16);
    }

    #[test]
    fn made_ids_differ() {
        assert_ne!(RequestId::make(), RequestId::make());
    }
}
