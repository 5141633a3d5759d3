//! What both planes serve to everyone: probes, metrics, version, API description, problem pages, index.

use std::collections::BTreeMap;
use std::fmt::Write;

use contract::problem::{KINDS, Kind, NOT_FOUND, Problem, kind};
use http::header::{CACHE_CONTROL, HeaderMap, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use serde::Serialize;

use super::body::Body;
use super::failure::Failure;
use super::media::{Media, negotiate};
use super::reply;
use super::route::{Route, Verb};
use crate::{commit, telemetry};

/// How ready a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Everything is there.
    Ready,
    /// It serves, but something is missing. 200.
    Degraded,
    /// It can't serve. 503.
    Unavailable,
}

/// One thing that readiness depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Whether it is there.
    pub ok: bool,
    /// The reason, in words.
    pub detail: String,
}

/// What `/readyz` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// The whole.
    pub status: Status,
    /// The parts, by name.
    pub checks: BTreeMap<&'static str, Check>,
}

/// What one process says of itself.
pub struct About {
    /// Its name, such as `nexus-control`.
    pub name: &'static str,
    /// Its version: `env!("CARGO_PKG_VERSION")`.
    pub version: &'static str,
    /// The text of `/openapi.json`.
    pub openapi: &'static str,
    /// Asked for at every `/readyz`: it must not wait for anything.
    pub readiness: Box<dyn Fn() -> Readiness + Send + Sync>,
}

impl std::fmt::Debug for About {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("About").field("name", &self.name).field("version", &self.version).finish_non_exhaustive()
    }
}

/// `release` or `debug`.
pub const PROFILE: &str = if cfg!(debug_assertions) { "debug" } else { "release" };

static INDEX: Route = Route::new("/", &[Verb::Get]);
static LIVEZ: Route = Route::new("/livez", &[Verb::Get]);
static READYZ: Route = Route::new("/readyz", &[Verb::Get]);
static METRICS: Route = Route::new("/metrics", &[Verb::Get]);
static VERSION: Route = Route::new("/version", &[Verb::Get]);
static OPENAPI: Route = Route::new("/openapi.json", &[Verb::Get]);
static PROBLEMS: Route = Route::new("/problems/", &[Verb::Get]);
static PROBLEM: Route = Route::new("/problems/{code}", &[Verb::Get]);

/// The well-known resource at `path`, if there is one.
pub(crate) fn resolve(path: &str) -> Option<&'static Route> {
    Some(match path {
        "/" => &INDEX,
        "/livez" => &LIVEZ,
        "/readyz" => &READYZ,
        "/metrics" => &METRICS,
        "/version" => &VERSION,
        "/openapi.json" => &OPENAPI,
        "/problems/" | "/problems" => &PROBLEMS,
        _ if path.strip_prefix("/problems/").is_some_and(|code| kind(code).is_some()) => &PROBLEM,
        _ => return None,
    })
}

/// The answer to a `GET` of a path that [`resolve`] knows.
pub(crate) fn get(about: &About, path: &str, headers: &HeaderMap) -> Result<Response<Body>, Failure> {
    // Probes and scrapers send what they like as Accept: only the pages look at it.
    Ok(match path {
        "/livez" => fresh(reply::json(StatusCode::OK, r#"{"status":"alive"}"#)),
        "/readyz" => ready((about.readiness)())?,
        "/metrics" => {
            fresh(reply::typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", telemetry::render()))
        }
        "/version" => reply::json(StatusCode::OK, version(about)?),
        "/openapi.json" => reply::json(StatusCode::OK, about.openapi.as_bytes()),
        "/" => match page_media(headers) {
            Media::Html => html(about.name, &index_html(about)),
            _ => reply::json(StatusCode::OK, encode(&serde_json::json!({ "name": about.name, "links": LINKS }))?),
        },
        "/problems/" | "/problems" => match page_media(headers) {
            Media::Html => html("Problems", &problems_html()),
            _ => reply::json(StatusCode::OK, encode(&KINDS.iter().map(|kind| Page::of(kind)).collect::<Vec<_>>())?),
        },
        _ => {
            let kind = path.strip_prefix("/problems/").and_then(kind);
            let kind = kind.ok_or_else(|| Problem::new(&NOT_FOUND, "there is no such page"))?;
            match page_media(headers) {
                Media::Html => html(kind.title, &problem_html(kind)),
                _ => reply::json(StatusCode::OK, encode(&Page::of(kind))?),
            }
        }
    })
}

const LINKS: &[&str] = &["/livez", "/readyz", "/metrics", "/version", "/openapi.json", "/problems/"];

fn page_media(headers: &HeaderMap) -> Media {
    negotiate(headers, &[Media::Html, Media::Json]).unwrap_or(Media::Html)
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(value).map_err(Failure::internal)
}

fn fresh(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn ready(readiness: Readiness) -> Result<Response<Body>, Failure> {
    let body = encode(&readiness)?;
    if readiness.status == Status::Unavailable {
        let mut response = fresh(reply::json(StatusCode::SERVICE_UNAVAILABLE, body));
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        return Ok(response);
    }
    Ok(fresh(reply::json(StatusCode::OK, body)))
}

fn version(about: &About) -> Result<Vec<u8>, Failure> {
    let mut version = serde_json::json!({
        "name": about.name, "version": about.version, "commit": commit::of_this_process(), "profile": PROFILE,
    });
    if let Some(armed) = crate::sabotage::armed() {
        version["sabotage"] = armed.into();
    }
    encode(&version)
}

#[derive(Serialize)]
struct Page {
    r#type: String,
    code: &'static str,
    status: u16,
    title: &'static str,
    help: &'static str,
}

impl Page {
    fn of(kind: &'static Kind) -> Self {
        let Kind { code, status, title, help } = *kind;
        Self { r#type: format!("/problems/{code}"), code, status, title, help }
    }
}

fn html(title: &str, main: &str) -> Response<Body> {
    let title = escape(title);
    let page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{title}</title>\n\
         <style>body{{font:16px/1.5 system-ui;max-width:44em;margin:3em auto;padding:0 1em}}</style>\n\
         <h1>{title}</h1>\n{main}\n</html>\n"
    );
    reply::typed(StatusCode::OK, "text/html; charset=utf-8", page)
}

fn index_html(about: &About) -> String {
    let mut text = format!("<p>Version {}, {PROFILE} build.</p>\n<ul>\n", escape(about.version));
    for link in LINKS {
        let _ = writeln!(text, "<li><a href=\"{link}\">{link}</a></li>");
    }
    text + "</ul>"
}

fn problems_html() -> String {
    let mut text = String::from(
        "<p>Every error that this API answers, each with a problem document. Only what can't be read as a request of \
         HTTP (400, 431) is answered without a body.</p>\n<ul>\n",
    );
    for Kind { code, status, title, .. } in KINDS {
        let _ =
            writeln!(text, "<li>{status} <a href=\"/problems/{code}\"><code>{code}</code></a>: {}</li>", escape(title));
    }
    text + "</ul>"
}

fn problem_html(kind: &Kind) -> String {
    format!(
        "<p><code>{}</code>, status {}</p>\n<p>{}</p>\n<p><a href=\"/problems/\">All problems</a></p>",
        kind.code,
        kind.status,
        escape(kind.help)
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::header_map;
    use super::*;

    fn about(status: Status) -> About {
        let checks = || BTreeMap::from([("redis", Check { ok: false, detail: "away".to_owned() })]);
        let readiness = Box::new(move || Readiness { status, checks: checks() });
        About { name: "test", version: "1", openapi: "{}", readiness }
    }

    fn fetch(path: &str, accept: &'static str, status: Status) -> (StatusCode, String) {
        let response = get(&about(status), path, &header_map(&[("accept", accept)])).expect("known");
        let code = response.status();
        let Body::Full(body) = response.into_body() else { panic!("a page has a body") };
        (code, String::from_utf8(body.to_vec()).expect("UTF-8"))
    }

    #[test]
    fn every_problem_has_a_page_in_html_and_json() {
        for kind in KINDS {
            let path = format!("/problems/{}", kind.code);
            assert!(resolve(&path).is_some());
            assert!(fetch(&path, "*/*", Status::Ready).1.contains("<h1>"));
            assert!(fetch(&path, "application/json", Status::Ready).1.contains(&format!("\"code\":\"{}\"", kind.code)));
        }
        assert!(resolve("/problems/no-such").is_none());
        assert!(!fetch("/problems/not-yet-consistent", "*/*", Status::Ready).1.contains("<seconds>"));
    }

    #[test]
    fn readiness_is_503_only_when_unavailable_and_always_with_reasons() {
        let (code, body) = fetch("/readyz", "*/*", Status::Degraded);
        assert_eq!(code, StatusCode::OK);
        assert_eq!(body, r#"{"status":"degraded","checks":{"redis":{"ok":false,"detail":"away"}}}"#);
        assert_eq!(fetch("/readyz", "*/*", Status::Unavailable).0, StatusCode::SERVICE_UNAVAILABLE);
    }
}
