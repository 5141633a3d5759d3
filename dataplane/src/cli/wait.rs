//! `wait`: until the view shows a version.

use std::time::{Duration, Instant};

use contract::query::Resource;
use http::StatusCode;
use tokio::time::timeout;

use super::args::WaitArgs;
use super::client::{Call, Client};
use super::error::CliError;
use super::output::Format;
use super::read::{columns, entity_path, show};
use super::terminal::note;

/// First and longest pause between two looks.
const PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));
/// What the look at the deadline may take, which is the only one of a very short wait.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// `wait`: writes the entity once the view shows the version or a later one. A deletion is a version too.
///
/// # Errors
/// [`CliError::NotYetConsistent`] when the time is over; a plane that refuses, at once.
pub async fn wait(client: &mut Client, format: Format, resource: Resource, args: &WaitArgs) -> Result<(), CliError> {
    let deadline = Instant::now() + args.timeout;
    let call = Call::get(entity_path(resource, &args.id));
    let url = client.url().to_owned();
    let late = |seen: &str| {
        CliError::NotYetConsistent(format!(
            "the view at {url} does not show version {} of {} after {} s: it shows {seen}; `nexus-cli lag` tells how far behind it is",
            args.version,
            args.id,
            args.timeout.as_secs_f64()
        ))
    };
    let mut pause = PAUSES.0;
    let mut seen = "nothing, for it does not answer".to_owned();
    loop {
        // A server that takes the request and says nothing must not outlast the deadline.
        let left = deadline.saturating_duration_since(Instant::now()).max(LAST_LOOK);
        let Ok(answer) = timeout(left, client.exchange(&call)).await else { return Err(late(&seen)) };
        let answer = answer?;
        let mut next = pause;
        seen = match answer.status {
            status if status.is_success() => {
                let version = answer.version();
                if version.is_some_and(|version| version >= args.version) {
                    return show(&answer.body, format, columns(resource));
                }
                version.map_or("it without a version".to_owned(), |version| format!("version {version}"))
            }
            status => {
                let error = client.refused(status, &answer.headers, &answer.body);
                let CliError::Problem(report) = &error else { return Err(error) };
                match status {
                    StatusCode::NOT_FOUND => match report.deleted_version {
                        Some(version) if version >= args.version => {
                            note(&format!("deleted {} by version {version}", args.id));
                            return Ok(());
                        }
                        Some(version) => format!("its deletion by version {version}"),
                        None => "nothing of it".to_owned(),
                    },
                    StatusCode::SERVICE_UNAVAILABLE => {
                        next = Duration::from_secs(report.retry_after.unwrap_or(1));
                        format!("a 503 ({})", report.code)
                    }
                    _ => return Err(error),
                }
            }
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(late(&seen));
        }
        // One last look at the deadline.
        tokio::time::sleep(next.min(left)).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}
