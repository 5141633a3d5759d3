//! Waiting on a condition, with a deadline and a name: nothing here sleeps for luck.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{LaunchError, Result, log_tail};

const PAUSE: Duration = Duration::from_millis(20);

/// Asks `condition` again and again until it gives a value.
///
/// # Errors
/// [`LaunchError::Timeout`], which names `what`, when it has given none by the deadline.
///
/// # Cancel safety
/// Dropping the future stops the asking and nothing else.
pub async fn until<T, F>(what: &str, deadline: Duration, mut condition: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Option<T>>,
{
    let begin = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return Ok(value);
        }
        if begin.elapsed() >= deadline {
            return Err(LaunchError::Timeout { what: what.to_owned(), waited: begin.elapsed(), log: String::new() });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// As [`until`], for a process that is starting: gives up at once when it has ended, and shows its log.
pub(crate) async fn until_ready<F: Future<Output = bool>>(
    name: &str,
    deadline: Duration,
    log: &Path,
    has_ended: impl Fn() -> bool,
    ready: impl Fn() -> F,
) -> Result<()> {
    let (has_ended, ready) = (&has_ended, &ready);
    let outcome = until(&format!("{name} to be ready"), deadline, || async move {
        if ready().await {
            return Some(true);
        }
        has_ended().then_some(false)
    })
    .await;
    match outcome {
        Ok(true) => Ok(()),
        Ok(false) => Err(LaunchError::Ended { name: name.to_owned(), log: log_tail(log) }),
        Err(LaunchError::Timeout { what, waited, .. }) => {
            Err(LaunchError::Timeout { what, waited, log: log_tail(log) })
        }
        Err(other) => Err(other),
    }
}
