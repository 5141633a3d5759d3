//! Media types: what the caller takes (`Accept`, RFC 9110, 12.5.1) and what it sends (`Content-Type`).

use contract::problem::{NOT_ACCEPTABLE, Problem, UNSUPPORTED_MEDIA_TYPE};
use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};

use super::failure::{ACCEPT_PATCH, Failure};
use super::headers;

/// A representation that a resource may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// `application/json`
    Json,
    /// `text/event-stream`
    EventStream,
    /// `text/html`
    Html,
}

impl Media {
    /// Its name, in lower case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::EventStream => "text/event-stream",
            Self::Html => "text/html",
        }
    }
}

/// The one of `offered` that the caller likes best; the first of those liked equally, and the first of
/// all without an `Accept`.
///
/// # Errors
/// 406 when it takes none of them.
pub fn negotiate(headers: &HeaderMap, offered: &[Media]) -> Result<Media, Problem> {
    let first = offered.first().copied().unwrap_or(Media::Json);
    match headers.get(ACCEPT).map(HeaderValue::as_bytes) {
        None | Some(b"*/*") => return Ok(first),
        Some(one) if one == first.name().as_bytes() && headers.get_all(ACCEPT).iter().nth(1).is_none() => {
            return Ok(first);
        }
        Some(_) => {}
    }
    let lines: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let ranges: Vec<Range<'_>> = lines.iter().flat_map(|line| line.split(',')).filter_map(Range::parse).collect();
    if ranges.is_empty() {
        return Ok(first);
    }
    let mut best: Option<(u16, Media)> = None;
    for &media in offered {
        let quality = quality(&ranges, media);
        if quality > best.map_or(0, |(quality, _)| quality) {
            best = Some((quality, media));
        }
    }
    best.map(|(_, media)| media).ok_or_else(|| {
        let names: Vec<_> = offered.iter().map(|media| media.name()).collect();
        Problem::new(&NOT_ACCEPTABLE, format!("this resource can be had as {}", names.join(" or ")))
    })
}

/// How much the most specific range that covers `media` likes it, in thousandths.
fn quality(ranges: &[Range<'_>], media: Media) -> u16 {
    let (kind, sub) = media.name().split_once('/').unwrap_or_default();
    let specific = |range: &Range<'_>| match (range.kind, range.sub) {
        ("*", "*") => Some(0),
        (k, "*") if k.eq_ignore_ascii_case(kind) => Some(1),
        (k, s) if k.eq_ignore_ascii_case(kind) && s.eq_ignore_ascii_case(sub) => Some(2),
        _ => None,
    };
    let covering = ranges.iter().filter_map(|range| Some((specific(range)?, range.quality)));
    covering.max().map_or(0, |(_, quality)| quality)
}

struct Range<'a> {
    kind: &'a str,
    sub: &'a str,
    quality: u16,
}

impl<'a> Range<'a> {
    /// `None` for what is no media range: such a member is passed over.
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let (kind, sub) = parts.next()?.split_once('/')?;
        let quality = parts
            .find_map(|parameter| parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q=")))
            .map_or(Some(1000), thousandths)?;
        Some(Self { kind, sub, quality })
    }
}

/// A quality value: 0 to 1 with up to three digits.
fn thousandths(text: &str) -> Option<u16> {
    let quality: f32 = text.parse().ok()?;
    if !(0.0..=1.0).contains(&quality) {
        return None;
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Some((quality * 1000.0).round() as u16)
}

/// What a command's body may be: `application/json`.
pub const JSON_BODY: &[&str] = &["application/json"];
/// What a patch's body may be.
pub const PATCH_BODY: &[&str] = &["application/merge-patch+json", "application/json"];

/// Checks that the request's body is of one of the types `allowed`, in UTF-8 and not compressed.
///
/// # Errors
/// 415 when it isn't, or has no type, with `Accept-Patch` where `allowed` is [`PATCH_BODY`]; 400 when
/// the header stands twice.
pub fn require_content_type(headers: &HeaderMap, allowed: &[&str]) -> Result<(), Failure> {
    let refuse = |detail: String| {
        let failure = Failure::from(Problem::new(&UNSUPPORTED_MEDIA_TYPE, detail));
        if allowed == PATCH_BODY {
            let value = HeaderValue::from_static("application/merge-patch+json, application/json");
            return failure.with_header(ACCEPT_PATCH.clone(), value);
        }
        failure
    };
    let text = headers::single(headers, &CONTENT_TYPE)?;
    let text = text.ok_or_else(|| refuse(format!("send `Content-Type: {}`", allowed.join("` or `"))))?;
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default();
    if !allowed.iter().any(|one| one.eq_ignore_ascii_case(name)) {
        return Err(refuse(format!("the body is `{name}`, not `{}`", allowed.join("` or `"))));
    }
    for parameter in parts {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if key.eq_ignore_ascii_case("charset") && !value.trim_matches('"').eq_ignore_ascii_case("utf-8") {
            return Err(refuse(format!("the body's charset is {value}, not utf-8")));
        }
    }
    match headers.get(CONTENT_ENCODING) {
        Some(coding) if !coding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            Err(refuse("a compressed body is not understood".to_owned()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::header_map;
    use super::*;

    fn pick(accept: &'static str) -> Option<Media> {
        negotiate(&header_map(&[("accept", accept)]), &[Media::Json, Media::EventStream]).ok()
    }

    #[test]
    fn the_best_liked_representation_wins() {
        assert_eq!(negotiate(&HeaderMap::new(), &[Media::Json]).ok(), Some(Media::Json));
        assert_eq!(pick("*/*"), Some(Media::Json));
        assert_eq!(pick("text/event-stream"), Some(Media::EventStream));
        assert_eq!(pick("Text/Event-Stream, */*;q=0.1"), Some(Media::EventStream));
        assert_eq!(pick("application/json;q=0.5, text/*"), Some(Media::EventStream));
        assert_eq!(pick("text/html, application/*;q=0.8"), Some(Media::Json));
        assert_eq!(pick("*/*, application/json;q=0"), Some(Media::EventStream));
        assert_eq!(pick("text/event-stream, application/json"), Some(Media::Json));
        assert_eq!(pick(""), Some(Media::Json));
    }

    #[test]
    fn what_can_not_be_met_is_406() {
        for accept in ["text/html", "application/json;q=0", "application/xml, text/csv"] {
            assert_eq!(pick(accept), None, "{accept}");
        }
    }

    #[test]
    fn a_body_of_another_type_is_415() {
        let check = |value, allowed| require_content_type(&header_map(&[("content-type", value)]), allowed);
        assert!(check("application/json", JSON_BODY).is_ok());
        assert!(check("Application/JSON; charset=UTF-8", JSON_BODY).is_ok());
        assert!(check("application/merge-patch+json", PATCH_BODY).is_ok());
        for bad in ["text/plain", "application/merge-patch+json", "application/json; charset=latin1", ""] {
            assert_eq!(check(bad, JSON_BODY).map_err(|f| f.status().as_u16()), Err(415), "{bad}");
        }
        assert!(require_content_type(&HeaderMap::new(), JSON_BODY).is_err());
        let gzip = header_map(&[("content-type", "application/json"), ("content-encoding", "gzip")]);
        assert!(require_content_type(&gzip, JSON_BODY).is_err());
    }

    #[test]
    fn a_patch_of_another_type_hears_which_ones_there_are() {
        let refused = require_content_type(&header_map(&[("content-type", "text/plain")]), PATCH_BODY);
        let response = refused.expect_err("not a patch").into_response(&super::super::request_id::RequestId::make());
        assert_eq!(response.headers()["accept-patch"], "application/merge-patch+json, application/json");
    }
}
