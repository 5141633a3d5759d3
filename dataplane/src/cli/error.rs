//! Why a command of the command line failed, which exit code that is, and how it is told: in one line.

use std::fmt;
use std::io;

use contract::problem::kind;
use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use super::client::Plane;
use super::output::clean;

/// Why a command failed.
#[derive(Debug)]
pub enum CliError {
    /// It was asked for in a way that can't be: exit 2.
    Usage(String),
    /// A plane answered with a problem: exit 4, 5 or 1, by its kind.
    Problem(Box<Report>),
    /// Nothing answered: exit 1.
    Unreachable {
        /// Whom it was meant for.
        plane: Plane,
        /// Where it should be.
        url: String,
        /// What happened.
        cause: String,
        /// The request may have reached the server.
        sent: bool,
    },
    /// What was waited for is not visible yet: exit 5.
    NotYetConsistent(String),
    /// Anything else, in words: exit 1.
    Failed(String),
    /// All has been said already.
    Told(u8),
    /// Whoever read our output went away: quiet, exit 0.
    BrokenPipe,
}

impl CliError {
    /// The exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::BrokenPipe => 0,
            Self::Usage(_) => 2,
            Self::NotYetConsistent(_) => 5,
            Self::Problem(report) if report.code == "not-yet-consistent" => 5,
            Self::Problem(report) if report.status == StatusCode::NOT_FOUND => 4,
            Self::Told(code) => *code,
            Self::Problem(_) | Self::Unreachable { .. } | Self::Failed(_) => 1,
        }
    }

    /// An error of reading `what`.
    pub fn reading(what: &str, error: &io::Error) -> Self {
        Self::Failed(format!("{what} can't be read: {error}"))
    }
}

impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::Failed(format!("the output can't be written: {error}")),
        }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::NotYetConsistent(text) | Self::Failed(text) => f.write_str(text),
            Self::Problem(report) => report.fmt(f),
            Self::Unreachable { plane, url, cause, sent } => {
                write!(f, "no answer from the {} at {url}: {cause}. ", plane.title())?;
                if *sent {
                    f.write_str("The request may have been applied all the same: look before you repeat it. ")?;
                }
                write!(
                    f,
                    "Is it running there? The address is {} (or --{}); `make up` starts both planes",
                    plane.setting(),
                    plane.flag()
                )
            }
            Self::Told(_) | Self::BrokenPipe => Ok(()),
        }
    }
}

impl std::error::Error for CliError {}

/// A problem document, as far as it could be understood.
#[derive(Debug, Clone)]
pub struct Report {
    /// Who answered.
    pub plane: Plane,
    /// With which status.
    pub status: StatusCode,
    /// The kind's name; empty where the answer was no problem document.
    pub code: String,
    /// The version of the deletion, on a 404 of a deleted entity.
    pub deleted_version: Option<u64>,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<u64>,
    /// Whether the request carried a key.
    pub with_key: bool,
    document: Document,
}

/// What of a problem document is shown.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Document {
    title: String,
    detail: String,
    code: String,
    request_id: Option<String>,
    errors: Vec<FieldError>,
    deleted_version: Option<u64>,
}

#[derive(Debug, Clone, Deserialize)]
struct FieldError {
    #[serde(default)]
    pointer: String,
    #[serde(default)]
    detail: String,
}

impl Document {
    /// The document, if `text` is one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// What is wrong, in one line: the broken rules with their pointers, or the detail. `prefix` is
    /// taken off the pointers, for a command that rode in a batch.
    #[must_use]
    pub fn reason(&self, prefix: &str) -> String {
        if self.errors.is_empty() {
            let text = if self.detail.is_empty() { &self.title } else { &self.detail };
            return clean(text);
        }
        let rules = self.errors.iter().map(|error| {
            let pointer = error.pointer.strip_prefix(prefix).unwrap_or(&error.pointer);
            if pointer.is_empty() { clean(&error.detail) } else { clean(&format!("{pointer} {}", error.detail)) }
        });
        rules.collect::<Vec<_>>().join("; ")
    }

    /// The kind's name.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }
}

impl Report {
    /// The report of an answer that is no success.
    #[must_use]
    pub fn new(plane: Plane, status: StatusCode, headers: &HeaderMap, body: &[u8], with_key: bool) -> Self {
        let text = String::from_utf8_lossy(body);
        let document = Document::parse(&text).unwrap_or_else(|| Document {
            title: status.canonical_reason().unwrap_or("an unknown status").to_owned(),
            detail: text.chars().take(200).collect(),
            ..Document::default()
        });
        let retry_after = headers.get(RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
        Self {
            plane,
            status,
            code: document.code.clone(),
            deleted_version: document.deleted_version,
            retry_after,
            with_key,
            document,
        }
    }

    /// What to do about it, from here.
    fn advice(&self) -> String {
        let text = match self.code.as_str() {
            "unauthorized" if !self.with_key => "No key was sent: set NEXUS_API_KEY or --api-key",
            "unauthorized" => "The key in NEXUS_API_KEY (or --api-key) is unknown here, revoked or expired",
            "forbidden" => {
                "Use the key of an active identity whose role allows it; `nexus-cli doctor` shows whose yours is"
            }
            "not-found" if self.deleted_version.is_some() => "",
            "not-found" if self.plane == Plane::Control || self.document.detail.ends_with("no UUID") => "",
            "not-found" => "If it was created just now, the view may not show it yet: give its --token",
            "precondition-failed" => {
                "Read it again (`nexus-cli get`), decide again, and give its version to --if-match"
            }
            "validation" => "Nothing was applied: mend what is named and send it again",
            "bad-cursor" => "Start over without --cursor, or give the filters and the order it came with",
            "not-yet-consistent" => "Read again in a moment, or wait longer with --wait",
            "overloaded" | "unavailable" | "view-not-ready" => "`nexus-cli doctor` says what is missing",
            "outcome-unknown" => "Repeat it with the same --idempotency-key to learn the outcome",
            "last-admin" | "name-taken" | "final-status" | "conflict" => "",
            code => kind(code).map_or("", |kind| kind.help),
        };
        match (self.status.as_u16(), self.retry_after) {
            (429 | 503, Some(seconds)) => format!("Try again after {seconds} s. {text}"),
            _ => text.to_owned(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = clean(&self.document.title);
        let reason = self.document.reason("");
        f.write_str(&title)?;
        if !reason.is_empty() && reason != title {
            write!(f, ": {reason}")?;
        }
        if let Some(version) = self.deleted_version {
            write!(f, " (deleted by version {version})")?;
        }
        let advice = self.advice();
        let advice = advice.trim().trim_end_matches('.');
        if !advice.is_empty() {
            write!(f, ". {advice}")?;
        }
        write!(f, " [{} {}", self.plane.title(), self.status.as_u16())?;
        if !self.code.is_empty() {
            write!(f, " {}", clean(&self.code))?;
        }
        if let Some(id) = &self.document.request_id {
            write!(f, ", request {}", clean(id))?;
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(status: u16, body: &str) -> CliError {
        let status = StatusCode::from_u16(status).expect("a status");
        CliError::Problem(Box::new(Report::new(Plane::Control, status, &HeaderMap::new(), body.as_bytes(), true)))
    }

    #[test]
    fn a_problem_is_one_line_with_its_pointers_and_what_to_do() {
        let error = report(
            422,
            r#"{"title":"The request breaks a rule","detail":"2 rules are broken; see errors","code":"validation","request_id":"r1",
            "errors":[{"pointer":"/title","detail":"must not be blank"},{"pointer":"/payload/a","detail":"is\u001b[2J odd"}]}"#,
        );
        assert_eq!(
            error.to_string(),
            "The request breaks a rule: /title must not be blank; /payload/a is\u{fffd}[2J odd. Nothing was applied: \
             mend what is named and send it again [control plane 422 validation, request r1]"
        );
        assert_eq!(error.exit_code(), 1);
    }

    #[test]
    fn kinds_have_their_exit_codes() {
        assert_eq!(report(404, r#"{"code":"not-found","title":"There is nothing here"}"#).exit_code(), 4);
        assert_eq!(report(503, r#"{"code":"not-yet-consistent"}"#).exit_code(), 5);
        assert_eq!(report(503, r#"{"code":"view-not-ready"}"#).exit_code(), 1);
        assert_eq!(
            report(502, "<html>bad\ngateway</html>").to_string(),
            "Bad Gateway: <html>bad\u{fffd}gateway</html> [control plane 502]"
        );
    }
}
