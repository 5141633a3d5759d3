//! The relay on a thread of its own, so that no load of requests delays an event.
//!
//! *Input, output, bound*: the relay's. *On shutdown*: its token; [`RelayThread::stopped`] tells when it is done.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::relay::{Relay, RelayError, RelaySettings};
use crate::relay_status::RelayStatus;

/// Between a panic of the relay, a fault of ours, and its next start.
const AFTER_PANIC: Duration = Duration::from_secs(1);

/// A running relay.
#[derive(Debug)]
pub struct RelayThread {
    status: watch::Receiver<RelayStatus>,
    stop: CancellationToken,
    ended: oneshot::Receiver<Result<(), RelayError>>,
}

impl RelayThread {
    /// Starts it.
    ///
    /// # Errors
    /// The system grants no thread.
    pub fn start(settings: RelaySettings) -> io::Result<Self> {
        let (sender, status) = watch::channel(RelayStatus::starting());
        let (result, ended) = oneshot::channel();
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let token = stop.clone();
        std::thread::Builder::new().name("relay".to_owned()).spawn(move || {
            let ended = runtime.block_on(supervise(settings, sender, token));
            // Nobody may be waiting any more.
            let _ = result.send(ended);
        })?;
        Ok(Self { status, stop, ended })
    }

    /// What it is doing, now and at every change.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<RelayStatus> {
        self.status.clone()
    }

    /// Tells it to stop at its next commit; again: nothing.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Returns once it has stopped.
    ///
    /// # Errors
    /// With these settings it could never work.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub fn stopped(&mut self) -> impl Future<Output = Result<(), RelayError>> {
        let ended = &mut self.ended;
        async move { ended.await.unwrap_or(Ok(())) }
    }
}

/// Runs relay after relay: one that panics is logged and followed by the next.
async fn supervise(
    settings: RelaySettings,
    status: watch::Sender<RelayStatus>,
    stop: CancellationToken,
) -> Result<(), RelayError> {
    loop {
        let relay = Relay::new(settings.clone());
        let mut of_relay = relay.status();
        let mut run = tokio::spawn(relay.run(stop.clone()));
        let ended = loop {
            tokio::select! {
                biased;
                Ok(()) = of_relay.changed() => { status.send_replace(of_relay.borrow_and_update().clone()); }
                ended = &mut run => break ended,
            }
        };
        match ended {
            Ok(ended) => return ended,
            Err(error) => {
                tracing::error!(%error, "the relay broke and starts again");
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(AFTER_PANIC) => {}
                }
            }
        }
    }
}
