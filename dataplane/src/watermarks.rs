//! The relay's records: the newest position, by which epochs are found, and the newest watermark, which
//! goes into the view.

use std::sync::Arc;
use std::time::Duration;

use contract::position::{POSITION_KEY, Position, WATERMARK_KEY, Watermark};
use futures_util::{FutureExt, StreamExt};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Message, Offset};
use runtime::shutdown::Shutdown;
use tokio::sync::watch;

use crate::consumer::LogClient;
use crate::redis_link::Redis;
use crate::settings::ProjectSettings;
use crate::view::View;
use crate::view::keys::Keys;

/// The newest of the relay's records.
#[derive(Debug, Clone, Default)]
pub struct Newest {
    /// Whether the topic has been read to its end once: before, a newer one may be there.
    pub complete: bool,
    /// The newest position.
    pub position: Option<Arc<Position>>,
    /// The newest watermark.
    pub watermark: Option<Arc<Watermark>>,
}

const RETRY: Duration = Duration::from_millis(500);

/// Reads the topic, tells `newest`, and stores each newer watermark in the view, until shutdown.
pub async fn run(
    settings: ProjectSettings,
    log: LogClient,
    redis: Redis,
    partitions: u16,
    newest: watch::Sender<Newest>,
    shutdown: Shutdown,
) {
    let topic = settings.topic("watermarks");
    let mut view: Option<View> = None;
    while !shutdown.is_begun() {
        let reader = match log.open_named(&topic, 0, Offset::Beginning) {
            Ok(reader) => reader,
            Err(error) => {
                tracing::warn!(%error, topic, "can't be read yet");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let mut stream = reader.stream();
        let mut unsaved: Option<(Vec<u8>, u64, i64)> = None;
        loop {
            let message = tokio::select! {
                () = shutdown.begun() => return,
                () = reader.replaced() => break,
                message = stream.next() => message,
                () = tokio::time::sleep(RETRY), if unsaved.is_some() => None,
            };
            let mut next = message;
            // The topic was made anew: from its beginning.
            let mut again = false;
            // All that waits is read before the last of it is stored.
            while let Some(message) = next.take() {
                match message {
                    Ok(message) => {
                        if let Some(record) = take(&newest, message.key(), message.payload()) {
                            unsaved = Some(record);
                        }
                    }
                    Err(KafkaError::PartitionEOF(_)) => {
                        newest.send_if_modified(|newest| !std::mem::replace(&mut newest.complete, true));
                    }
                    Err(error) => {
                        tracing::debug!(%error, topic, "reading reports");
                        again |= error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset);
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
                next = stream.next().now_or_never().flatten();
            }
            if again {
                break;
            }
            if !newest.borrow().complete {
                continue;
            }
            if let Some((json, epoch, time)) = unsaved.take()
                && !store(&mut view, &redis, &settings, &json, epoch, time, partitions).await
            {
                unsaved = Some((json, epoch, time));
            }
        }
    }
}

fn take(newest: &watch::Sender<Newest>, key: Option<&[u8]>, value: Option<&[u8]>) -> Option<(Vec<u8>, u64, i64)> {
    let value = value?;
    let unreadable = |error: serde_json::Error| tracing::error!(%error, "a record of the relay can't be read");
    if key == Some(POSITION_KEY.as_bytes()) {
        let position: Position = serde_json::from_slice(value).map_err(unreadable).ok()?;
        newest.send_modify(|newest| newest.position = Some(Arc::new(position)));
    } else if key == Some(WATERMARK_KEY.as_bytes()) {
        let watermark: Watermark = serde_json::from_slice(value).map_err(unreadable).ok()?;
        let (epoch, time) = (watermark.epoch, watermark.time);
        newest.send_modify(|newest| newest.watermark = Some(Arc::new(watermark)));
        return Some((value.to_vec(), epoch, time));
    }
    None
}

async fn store(
    view: &mut Option<View>,
    redis: &Redis,
    settings: &ProjectSettings,
    json: &[u8],
    epoch: u64,
    time: i64,
    partitions: u16,
) -> bool {
    if view.is_none() {
        let Ok(link) = redis.connect().await else { return false };
        *view = View::open(link, Keys::new(&settings.redis_prefix)).await.ok();
    }
    let Some(open) = view else { return false };
    let stored = open.store_watermark(json, epoch, time, partitions).await;
    if let Err(error) = &stored {
        tracing::debug!(%error, "the watermark could not be stored; the next one will be");
        *view = None;
    }
    stored.is_ok()
}
