//! Request headers with one value, and what they mean.

use contract::problem::{BAD_REQUEST, Problem, UNAUTHORIZED};
use http::header::{AUTHORIZATION, HeaderMap, HeaderName};

/// `Idempotency-Key`.
pub static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// `Nexus-Token`.
pub static NEXUS_TOKEN: HeaderName = HeaderName::from_static("nexus-token");
/// `Prefer` (RFC 7240).
pub static PREFER: HeaderName = HeaderName::from_static("prefer");
/// `Preference-Applied` (RFC 7240).
pub static PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// `Last-Event-ID`.
pub static LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The value of a header that may stand once, without the space around it.
///
/// # Errors
/// 400 when it stands more than once or is not visible ASCII.
pub fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Problem::new(&BAD_REQUEST, format!("the header {name} stands more than once")));
    }
    match value.to_str() {
        Ok(text) => Ok(Some(text.trim_matches([' ', '\t']))),
        Err(_) => Err(Problem::new(&BAD_REQUEST, format!("the header {name} holds characters that are not ASCII"))),
    }
}

/// All values of a header that is a comma list, over all its lines, without empty members.
///
/// # Errors
/// 400 when one is not visible ASCII.
pub fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Vec<&'a str>, Problem> {
    let mut members = Vec::new();
    for value in headers.get_all(name) {
        let Ok(text) = value.to_str() else {
            return Err(Problem::new(&BAD_REQUEST, format!("the header {name} holds characters that are not ASCII")));
        };
        members.extend(text.split(',').map(|member| member.trim_matches([' ', '\t'])).filter(|m| !m.is_empty()));
    }
    Ok(members)
}

/// The credentials of `Authorization: Bearer …` (RFC 6750).
///
/// # Errors
/// 401 when the header is absent, repeated, of another scheme or malformed: whatever is wrong with it,
/// the caller has not shown who they are, and 401 comes before 400.
pub fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let refuse = |detail: &str| Problem::new(&UNAUTHORIZED, detail);
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or_else(|| refuse("send `Authorization: Bearer nxs_…`"))?;
    if values.next().is_some() {
        return Err(refuse("the header Authorization stands more than once"));
    }
    let malformed = || refuse("the header Authorization is not `Bearer nxs_…`");
    let (scheme, key) = value.as_bytes().split_at_checked(SCHEME.len()).ok_or_else(malformed)?;
    let key = key.trim_ascii();
    if !scheme.eq_ignore_ascii_case(SCHEME) || key.is_empty() || !key.iter().all(|b| TOKEN68[usize::from(*b)]) {
        return Err(malformed());
    }
    std::str::from_utf8(key).map_err(|_| malformed())
}

const SCHEME: &[u8] = b"bearer ";

/// Which bytes stand in a token68 (RFC 9110, section 11.2).
static TOKEN68: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < table.len() {
        let it = byte as u8;
        table[byte] = it.is_ascii_alphanumeric() || matches!(it, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=');
        byte += 1;
    }
    table
};

/// The `Idempotency-Key`: 1 to 128 printable ASCII characters.
///
/// # Errors
/// 400 when it is repeated, empty, too long or not printable.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(key) = single(headers, &IDEMPOTENCY_KEY)? else {
        return Ok(None);
    };
    if (1..=128).contains(&key.len()) && key.bytes().all(|b| (0x20..=0x7e).contains(&b)) {
        Ok(Some(key))
    } else {
        Err(Problem::new(&BAD_REQUEST, "an Idempotency-Key has 1 to 128 printable ASCII characters"))
    }
}

/// The seconds of `Prefer: wait=<seconds>` (RFC 7240), however large; `None` when there is no such
/// preference. Of repeated ones the first counts; other preferences are ignored, as the RFC asks.
///
/// # Errors
/// 400 when `wait` is no number of seconds.
pub fn prefer_wait(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    if !headers.contains_key(&PREFER) {
        return Ok(None);
    }
    for preference in list(headers, &PREFER)? {
        let preference = preference.split(';').next().unwrap_or_default();
        let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
        if !name.trim().eq_ignore_ascii_case("wait") {
            continue;
        }
        let value = value.trim();
        let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
        if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Problem::new(&BAD_REQUEST, "`Prefer: wait=` takes a whole number of seconds"));
        }
        return Ok(Some(value.parse().unwrap_or(u64::MAX)));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::header_map;
    use super::*;

    #[test]
    fn only_a_well_formed_bearer_passes() {
        for good in ["Bearer nxs_a", "bearer  nxs_a", "BEARER nxs_a"] {
            assert_eq!(bearer(&header_map(&[("authorization", good)])).ok(), Some("nxs_a"), "{good}");
        }
        for bad in ["", "Bearer", "Bearer ", "Basic nxs_a", "nxs_a", "Bearer a b", "Bearer a,b"] {
            let refused = bearer(&header_map(&[("authorization", bad)])).expect_err(bad);
            assert_eq!(refused.kind.status, 401);
        }
        assert_eq!(bearer(&HeaderMap::new()).map_err(|p| p.kind.status), Err(401));
        let twice = header_map(&[("authorization", "Bearer a"), ("authorization", "Bearer a")]);
        assert_eq!(bearer(&twice).map_err(|p| p.kind.status), Err(401));
    }

    #[test]
    fn an_idempotency_key_has_1_to_128_printable_characters() {
        assert_eq!(idempotency_key(&header_map(&[("idempotency-key", "a b")])), Ok(Some("a b")));
        assert_eq!(idempotency_key(&HeaderMap::new()), Ok(None));
        let long: &'static str = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
                                  xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
        for bad in ["", long, "a\tb"] {
            let refused = idempotency_key(&header_map(&[("idempotency-key", bad)])).expect_err(bad);
            assert_eq!(refused.kind.status, 400);
        }
        let twice = header_map(&[("idempotency-key", "a"), ("idempotency-key", "a")]);
        assert!(idempotency_key(&twice).is_err());
    }

    #[test]
    fn wait_is_found_among_other_preferences() {
        let wait = |value| prefer_wait(&header_map(&[("prefer", value)])).map_err(|p| p.kind.status);
        assert_eq!(wait("wait=5"), Ok(Some(5)));
        assert_eq!(wait("respond-async, Wait = \"7\"; x=1"), Ok(Some(7)));
        assert_eq!(wait("wait=0"), Ok(Some(0)));
        assert_eq!(wait("wait=99999999999999999999999"), Ok(Some(u64::MAX)));
        assert_eq!(wait("return=minimal"), Ok(None));
        assert_eq!(wait("wait=1, wait=2"), Ok(Some(1)));
        for bad in ["wait", "wait=", "wait=-1", "wait=1.5", "wait=x"] {
            assert_eq!(wait(bad), Err(400), "{bad}");
        }
    }
}
