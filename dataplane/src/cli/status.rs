//! `status`: are both planes ready, which versions are they, how far is the view behind?

use std::io;

use contract::json::write_string;

use super::client::{Call, Client};
use super::error::CliError;
use super::lag::Lag;
use super::output::{Format, Items, parse, table};
use super::probe;
use super::write::Planes;

/// One line of `status` or `doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// `ok`, `warn` or `fail`.
    pub result: &'static str,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    pub advice: Option<String>,
}

impl Check {
    /// All is well.
    pub fn ok(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { name: name.into(), result: "ok", detail: detail.into(), advice: None }
    }

    /// It works, but something should be done.
    pub fn warn(name: impl Into<String>, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name: name.into(), result: "warn", detail: detail.into(), advice: Some(advice.into()) }
    }

    /// It does not work.
    pub fn fail(name: impl Into<String>, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name: name.into(), result: "fail", detail: detail.into(), advice: Some(advice.into()) }
    }

    fn json(&self, in_one_line: bool) -> String {
        let mut detail = self.detail.clone();
        let advice = self.advice.as_ref().filter(|advice| !advice.is_empty());
        if let (true, Some(advice)) = (in_one_line, advice) {
            detail = format!("{detail} → {advice}");
        }
        let mut out = String::from("{");
        let mut members = vec![("check", &self.name), ("detail", &detail)];
        if let (false, Some(advice)) = (in_one_line, advice) {
            members.push(("advice", advice));
        }
        for (name, value) in members {
            out.push_str(&format!("\"{name}\":"));
            write_string(&mut out, value);
            out.push(',');
        }
        out.push_str(&format!("\"result\":\"{}\"}}", self.result));
        out
    }
}

/// Writes checks; the error is exit 1 where one of them failed.
///
/// # Errors
/// [`CliError::Told`] with 1 when a check failed.
pub fn report(checks: &[Check], format: Format) -> Result<(), CliError> {
    if format == Format::Name {
        let failed = checks.iter().filter(|check| check.result == "fail");
        for check in failed {
            use std::io::Write as _;
            writeln!(io::stdout(), "{}", check.name)?;
        }
    } else {
        let mut items = Items::list(io::stdout().lock(), format, table::CHECKS);
        for check in checks {
            items.push(&parse(check.json(matches!(format, Format::Table | Format::Wide)).as_bytes())?)?;
        }
        items.finish()?;
    }
    if checks.iter().any(|check| check.result == "fail") { Err(CliError::Told(1)) } else { Ok(()) }
}

/// The state of one plane.
async fn plane(client: &mut Client) -> Check {
    let name = client.plane().title();
    let (readiness, _) = match probe::readiness(client).await {
        Ok(readiness) => readiness,
        Err(error) => return Check::fail(name, error.to_string(), ""),
    };
    let version = probe::version(client).await.map_or_else(|_| "version unknown".to_owned(), |(_, version)| version);
    let detail = format!("{}, {version}, {}; {}", readiness.status, client.url(), readiness.reasons());
    match readiness.status.as_str() {
        "ready" => Check::ok(name, detail),
        "degraded" => Check::warn(name, detail, ""),
        _ => Check::fail(name, detail, "`nexus-cli doctor` says what to do"),
    }
}

/// `status`
///
/// # Errors
/// [`CliError::Told`] with 1 when something does not work.
pub async fn status(planes: &mut Planes, format: Format) -> Result<(), CliError> {
    let mut checks = vec![plane(&mut planes.control).await, plane(&mut planes.data).await];
    if checks[1].result != "fail" {
        checks.push(view(&mut planes.data).await);
    }
    report(&checks, format)
}

/// How far the view is behind.
pub async fn view(client: &mut Client) -> Check {
    const NAME: &str = "view";
    let behind = async { Lag::of(&client.call(&Call::get("/v1/status")).await?.body) };
    match behind.await {
        Err(error) => Check::fail(NAME, error.to_string(), ""),
        Ok(lag) if lag.unreadable().is_some() => {
            Check::fail(NAME, lag.summary(), "wait while it is filled: `nexus-cli lag --watch` shows how far it is")
        }
        Ok(lag) if lag.is_silent() => Check::warn(
            NAME,
            lag.summary(),
            "no relay brings events: is a control plane running, and is the broker there?",
        ),
        Ok(lag) if lag.parked() > 0 => Check::warn(
            NAME,
            lag.summary(),
            "look into the topic nexus.dead-letters: every record there says why it was parked",
        ),
        Ok(lag) => Check::ok(NAME, lag.summary()),
    }
}
