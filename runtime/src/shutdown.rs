//! One token that tells every part of a process to stop, and the order in which it does.
//!
//! SIGTERM or SIGINT begins the shutdown; each part stops its intake, flushes and acknowledges within
//! [`DRAIN_DEADLINE`]; a second signal ends the process at once.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long parts may drain. The process is gone within 5 s of the signal.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(4);

/// Whether the process is to stop. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

impl Shutdown {
    /// One that only [`Shutdown::begin`] begins.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One that SIGTERM and SIGINT begin as well. A second signal exits at once with 128 + its number.
    /// Must be called within a runtime.
    ///
    /// # Errors
    /// The handlers can't be installed.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::new();
        let mut term = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let begun = shutdown.clone();
        tokio::spawn(async move {
            loop {
                let (name, code) = tokio::select! {
                    _ = term.recv() => ("SIGTERM", 143),
                    _ = interrupt.recv() => ("SIGINT", 130),
                };
                if begun.is_begun() {
                    tracing::warn!(signal = name, "second signal, exiting at once");
                    std::process::exit(code);
                }
                tracing::info!(signal = name, "shutting down");
                begun.begin();
            }
        });
        Ok(shutdown)
    }

    /// Begins the shutdown; again: nothing.
    pub fn begin(&self) {
        self.token.cancel();
    }

    /// Whether it has begun.
    #[must_use]
    pub fn is_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Returns once it has begun.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn begun(&self) {
        self.token.cancelled().await;
    }

    /// The token itself, for parts that need children of it.
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }
}

/// What `part` returned, or `None` when it outlived `deadline` (logged under `name`).
pub async fn within<T>(name: &str, deadline: Duration, part: impl Future<Output = T>) -> Option<T> {
    let result = tokio::time::timeout(deadline, part).await.ok();
    if result.is_none() {
        tracing::warn!(part = name, deadline_s = deadline.as_secs_f64(), "did not stop in time, left behind");
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_clone_hears_the_beginning() {
        let shutdown = Shutdown::new();
        let clone = shutdown.clone();
        assert!(!clone.is_begun());
        shutdown.begin();
        clone.begun().await;
        assert!(clone.is_begun());
    }

    #[tokio::test]
    async fn a_part_that_hangs_is_left_behind() {
        assert_eq!(within("hanging", Duration::from_millis(1), std::future::pending::<()>()).await, None);
        assert_eq!(within("quick", Duration::from_secs(1), async { 7 }).await, Some(7));
    }
}
