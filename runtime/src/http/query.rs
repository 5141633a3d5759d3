//! Query strings: only known parameters, each once.

use std::borrow::Cow;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use contract::problem::{BAD_QUERY, Problem};

/// The parameters of a query string, decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query<'a> {
    pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> Query<'a> {
    /// The parameters of `raw` (what stands behind `?`), in which `+` is a space.
    ///
    /// # Errors
    /// 400 `bad-query` when one is not in `known`, stands twice, or is malformed.
    pub fn parse(raw: Option<&'a str>, known: &[&str]) -> Result<Self, Problem> {
        let mut pairs: Vec<(Cow<'a, str>, Cow<'a, str>)> = Vec::new();
        for pair in raw.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name)?;
            if !known.contains(&&*name) {
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(refuse(format!("the parameter `{name}` is not known here; known are: {known}")));
            }
            if pairs.iter().any(|(other, _)| *other == name) {
                return Err(refuse(format!("the parameter `{name}` stands more than once")));
            }
            pairs.push((name, decode(value)?));
        }
        Ok(Self { pairs })
    }

    /// The value of a parameter, which may be empty.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(other, _)| other == name).map(|(_, value)| &**value)
    }

    /// The number that a parameter gives, or `default` without it.
    ///
    /// # Errors
    /// 400 `bad-query` when it is no decimal number within `range`.
    pub fn number<N>(&self, name: &str, range: RangeInclusive<N>, default: N) -> Result<N, Problem>
    where
        N: FromStr + PartialOrd + Display,
    {
        let Some(text) = self.get(name) else {
            return Ok(default);
        };
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse::<N>() {
            Ok(number) if digits && range.contains(&number) => Ok(number),
            _ => Err(refuse(format!("`{name}` is a whole number from {} to {}", range.start(), range.end()))),
        }
    }

    /// The members of a comma list, `None` without the parameter.
    ///
    /// # Errors
    /// 400 `bad-query` when a member is empty.
    pub fn list(&self, name: &str) -> Result<Option<Vec<&str>>, Problem> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let members: Vec<&str> = text.split(',').collect();
        if members.iter().any(|member| member.is_empty()) {
            return Err(refuse(format!("`{name}` is a comma list without empty members")));
        }
        Ok(Some(members))
    }
}

fn refuse(detail: String) -> Problem {
    Problem::new(&BAD_QUERY, detail)
}

/// Decodes percent-encoding and `+`. Borrows when there is none of either.
fn decode(text: &str) -> Result<Cow<'_, str>, Problem> {
    if !text.bytes().any(|b| b == b'%' || b == b'+' || !b.is_ascii()) {
        return Ok(Cow::Borrowed(text));
    }
    let malformed = || refuse("the query string's percent-encoding is malformed".to_owned());
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16)).ok_or_else(malformed);
                let (high, low) = (digit()?, digit()?);
                u8::try_from(high * 16 + low).map_err(|_| malformed())?
            }
            other => other,
        });
    }
    String::from_utf8(decoded).map(Cow::Owned).map_err(|_| malformed())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["status", "limit", "q"];

    fn code(raw: &str) -> Option<&'static str> {
        Query::parse(Some(raw), KNOWN).err().map(|problem| problem.kind.code)
    }

    #[test]
    fn values_are_decoded() {
        let query = Query::parse(Some("status=a%2Cb&q=caf%C3%A9+au+lait&limit="), KNOWN).expect("fine");
        assert_eq!(query.get("q"), Some("café au lait"));
        assert_eq!(query.list("status"), Ok(Some(vec!["a", "b"])));
        assert_eq!(query.get("limit"), Some(""));
        assert_eq!(query.get("other"), None);
        assert_eq!(Query::parse(None, KNOWN), Ok(Query::default()));
        assert_eq!(code(""), None);
    }

    #[test]
    fn unknown_repeated_and_malformed_parameters_are_refused() {
        for bad in ["x=1", "limit=1&limit=1", "limit=1&%6cimit=2", "q=%", "q=%4", "q=%zz", "q=%ff", "%=1", "=1"] {
            assert_eq!(code(bad), Some("bad-query"), "{bad}");
        }
    }

    #[test]
    fn numbers_keep_their_range() {
        let number = |raw| Query::parse(Some(raw), KNOWN).expect("known").number("limit", 1..=500_u32, 50).ok();
        assert_eq!(number(""), Some(50));
        assert_eq!(number("limit=500"), Some(500));
        for bad in
            ["limit=0", "limit=501", "limit=", "limit=%2B5", "limit=-1", "limit=1e2", "limit=99999999999999999999"]
        {
            assert_eq!(number(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_list_has_no_empty_members() {
        let query = Query::parse(Some("status=a,,b"), KNOWN).expect("known");
        assert!(query.list("status").is_err());
    }
}
