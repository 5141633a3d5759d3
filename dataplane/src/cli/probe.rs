//! What a plane says of itself to everyone: ready or not, and why; its version; its clock.

use contract::json::Json;
use http::header::DATE;
use serde::Deserialize;

use super::client::{Answer, Call, Client};
use super::error::CliError;

/// What `/readyz` says.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Readiness {
    /// `ready`, `degraded` or `unavailable`.
    pub status: String,
    checks: std::collections::BTreeMap<String, Part>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Part {
    ok: bool,
    detail: String,
}

impl Readiness {
    /// What is not there, or all of it where everything is.
    #[must_use]
    pub fn reasons(&self) -> String {
        let wrong: Vec<_> = self.checks.iter().filter(|(_, part)| !part.ok).collect();
        let shown = if wrong.is_empty() { self.checks.iter().collect() } else { wrong };
        shown.iter().map(|(name, part)| format!("{name}: {}", part.detail)).collect::<Vec<_>>().join("; ")
    }

    /// The parts that are not there.
    pub fn missing(&self) -> impl Iterator<Item = &str> {
        self.checks.iter().filter(|(_, part)| !part.ok).map(|(name, _)| name.as_str())
    }
}

/// Asks a plane whether it is ready.
///
/// # Errors
/// Nothing answers, or nothing that can be understood.
pub async fn readiness(client: &mut Client) -> Result<(Readiness, Answer), CliError> {
    let answer = client.exchange(&Call::get("/readyz")).await?;
    match serde_json::from_slice::<Readiness>(&answer.body) {
        Ok(readiness) if !readiness.status.is_empty() => Ok((readiness, answer)),
        _ => Err(CliError::Failed(format!(
            "what answers at {} is not the {}: its /readyz has status {}",
            client.url(),
            client.plane().title(),
            answer.status.as_u16()
        ))),
    }
}

/// Asks a plane for its name and version.
///
/// # Errors
/// Nothing answers, or it refuses.
pub async fn version(client: &mut Client) -> Result<(String, String), CliError> {
    let answer = client.call(&Call::get("/version")).await?;
    let json = super::output::parse(&answer.body)?;
    let text = |name: &str| json.get(name).map(super::output::scalar).filter(|text| !text.is_empty());
    let mut version = text("version").unwrap_or_else(|| "unknown".to_owned());
    if let Some(Json::String(commit)) = json.get("commit") {
        version.push_str(&format!(" ({})", commit.value.chars().take(12).collect::<String>()));
    }
    Ok((text("name").unwrap_or_default(), version))
}

/// The time in an answer's `Date` (RFC 9110, 5.6.7, the fixed form), in seconds since 1970.
#[must_use]
pub fn date(answer: &Answer) -> Option<i64> {
    imf_fixdate(answer.headers.get(DATE)?.to_str().ok()?)
}

fn imf_fixdate(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut parts = text.split_once(", ")?.1.split(' ');
    let day: u32 = parts.next()?.parse().ok()?;
    let month = parts.next()?;
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    let year: u32 = parts.next()?.parse().ok()?;
    let time = parts.next()?;
    let time = contract::time::Timestamp::parse(&format!("{year:04}-{month:02}-{day:02}T{time}Z"))?;
    Some(time.0.div_euclid(1_000_000))
}

#[cfg(test)]
mod tests {
    use super::imf_fixdate;

    #[test]
    fn a_date_header_is_read() {
        assert_eq!(imf_fixdate("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(imf_fixdate("yesterday"), None);
    }
}
