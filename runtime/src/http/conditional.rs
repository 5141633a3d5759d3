//! `ETag`, `If-Match`, `If-None-Match` (RFC 9110, sections 8.8.3 and 13.1) over versions.
//!
//! A strong tag is `"<version>"`: decimal, no leading zeros. A well-formed tag of any other text is the
//! tag of no version of ours, and so matches nothing.

use contract::problem::{BAD_REQUEST, Problem};
use http::header::{HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};

/// The strong tag of a version.
#[must_use]
pub fn etag(version: u64) -> HeaderValue {
    // As many digits as a u64 has at the most, and the quotes; every read has one.
    let mut tag = [b'"'; 22];
    let (mut at, mut rest) = (tag.len() - 1, version);
    loop {
        at -= 1;
        tag[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    HeaderValue::from_bytes(&tag[at - 1..]).expect("digits and quotes are a header value")
}

/// What an `If-Match` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfMatch {
    /// `*`: any version, as long as the entity exists.
    Any,
    /// One of these versions.
    Versions(Vec<u64>),
}

impl IfMatch {
    /// The request's `If-Match`, over all its lines.
    ///
    /// # Errors
    /// 400 when it is malformed, empty, mixes `*` with tags, or holds a weak tag (which could never match).
    pub fn parse(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let Some(text) = joined(headers, &IF_MATCH) else {
            return Ok(None);
        };
        let refuse = || Problem::new(&BAD_REQUEST, "If-Match is `*` or a list of strong tags like `\"3\"`");
        let text = text.ok_or_else(refuse)?;
        if text.trim() == "*" {
            return Ok(Some(Self::Any));
        }
        let tags = tags(&text).ok_or_else(refuse)?;
        if tags.is_empty() || tags.iter().any(|tag| tag.weak) {
            return Err(refuse());
        }
        Ok(Some(Self::Versions(tags.iter().filter_map(Tag::version).collect())))
    }

    /// Whether an existing entity of this version meets it.
    #[must_use]
    pub fn allows(&self, version: u64) -> bool {
        match self {
            Self::Any => true,
            Self::Versions(versions) => versions.contains(&version),
        }
    }
}

/// What an `If-None-Match` knows already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfNoneMatch {
    /// `*`: any version.
    Any,
    /// One of these versions.
    Versions(Vec<u64>),
}

impl IfNoneMatch {
    /// The request's `If-None-Match`. A malformed one is as good as none: the whole answer is never wrong.
    #[must_use]
    pub fn parse(headers: &HeaderMap) -> Option<Self> {
        let text = joined(headers, &IF_NONE_MATCH)??;
        if text.trim() == "*" {
            return Some(Self::Any);
        }
        Some(Self::Versions(tags(&text)?.iter().filter_map(Tag::version).collect()))
    }

    /// Whether the caller has this version (weak comparison), so that a read is a 304.
    #[must_use]
    pub fn has(&self, version: u64) -> bool {
        match self {
            Self::Any => true,
            Self::Versions(versions) => versions.contains(&version),
        }
    }
}

/// All lines of a header as one list; the inner `None` when one is not visible ASCII.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<Option<String>> {
    let mut values = headers.get_all(name).iter();
    let mut text = match values.next()?.to_str() {
        Ok(first) => first.to_owned(),
        Err(_) => return Some(None),
    };
    for value in values {
        let Ok(value) = value.to_str() else {
            return Some(None);
        };
        text.push(',');
        text.push_str(value);
    }
    Some(Some(text))
}

struct Tag<'a> {
    weak: bool,
    text: &'a str,
}

impl Tag<'_> {
    fn version(&self) -> Option<u64> {
        let canonical = self.text.bytes().all(|b| b.is_ascii_digit()) && !self.text.starts_with('0');
        if canonical { self.text.parse().ok() } else { None }
    }
}

/// The tags of a list, or `None` when it is malformed. Empty members are allowed (RFC 9110, 5.6.1).
fn tags(mut text: &str) -> Option<Vec<Tag<'_>>> {
    let mut tags = Vec::new();
    loop {
        text = text.trim_start_matches([' ', '\t', ',']);
        if text.is_empty() {
            return Some(tags);
        }
        let (weak, rest) = text.strip_prefix("W/").map_or((false, text), |rest| (true, rest));
        let (tag, rest) = rest.strip_prefix('"')?.split_once('"')?;
        // etagc (RFC 9110, 8.8.3) has no space.
        if tag.contains([' ', '\t']) {
            return None;
        }
        tags.push(Tag { weak, text: tag });
        text = rest.trim_start_matches([' ', '\t']);
        if !text.is_empty() && !text.starts_with(',') {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::header_map;
    use super::*;

    fn if_match(value: &'static str) -> Result<Option<IfMatch>, u16> {
        IfMatch::parse(&header_map(&[("if-match", value)])).map_err(|problem| problem.kind.status)
    }

    #[test]
    fn if_match_is_a_star_or_a_list_of_strong_tags() {
        assert_eq!(IfMatch::parse(&HeaderMap::new()), Ok(None));
        assert_eq!(if_match("*"), Ok(Some(IfMatch::Any)));
        assert_eq!(if_match("\"3\""), Ok(Some(IfMatch::Versions(vec![3]))));
        assert_eq!(if_match("\"3\" , ,\"4\","), Ok(Some(IfMatch::Versions(vec![3, 4]))));
        let two_lines = header_map(&[("if-match", "\"1\""), ("if-match", "\"2\"")]);
        assert_eq!(IfMatch::parse(&two_lines), Ok(Some(IfMatch::Versions(vec![1, 2]))));
        for bad in ["", ",", "3", "\"3", "W/\"3\"", "\"3\" \"4\"", "*, \"3\"", "\"3\", *", "\"a b\"", "w/\"3\""] {
            assert_eq!(if_match(bad), Err(400), "{bad}");
        }
    }

    #[test]
    fn a_foreign_tag_is_well_formed_and_matches_nothing() {
        for foreign in ["\"abc\"", "\"03\"", "\"0\"", "\"\"", "\"+3\"", "\"99999999999999999999\"", "\"a,b\""] {
            let parsed = if_match(foreign).expect(foreign).expect("present");
            assert!(!parsed.allows(3), "{foreign}");
        }
    }

    #[test]
    fn if_none_match_compares_weakly_and_forgives() {
        let has =
            |value| IfNoneMatch::parse(&header_map(&[("if-none-match", value)])).is_some_and(|known| known.has(3));
        assert!(has("*") && has("\"3\"") && has("W/\"3\"") && has("\"1\", W/\"3\""));
        assert!(!has("\"4\"") && !has("3") && !has("") && !has("\"3"));
    }

    #[test]
    fn a_tag_round_trips() {
        let mut headers = HeaderMap::new();
        headers.insert(IF_MATCH, etag(u64::MAX));
        assert_eq!([etag(0), etag(10), etag(u64::MAX)], ["\"0\"", "\"10\"", "\"18446744073709551615\""]);
        assert!(IfMatch::parse(&headers).expect("well-formed").expect("present").allows(u64::MAX));
    }
}
