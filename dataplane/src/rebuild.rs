//! Fills beside the serving generation: started by hand, or by a line that went on into a new epoch.

use std::sync::Arc;
use std::time::Duration;

use contract::partition::Partition;
use contract::position::Position;
use rdkafka::error::KafkaError;
use runtime::shutdown::Shutdown;
use tokio::sync::watch;

use crate::consumer::LogClient;
use crate::dead_letters::DeadLetters;
use crate::generation::{FillError, Filler};
use crate::projector::Bounds;
use crate::redis_link::Redis;
use crate::settings::ProjectSettings;
use crate::status::ProjectorStatus;
use crate::view::View;
use crate::view::header::Header;
use crate::view::keys::Keys;
use crate::watermarks::{self, Newest};

/// Makes fillers, each with a client and a connection of its own.
#[derive(Clone)]
pub struct Rebuilder {
    settings: ProjectSettings,
    redis: Redis,
    dead_letters: Arc<DeadLetters>,
    shutdown: Shutdown,
}

impl Rebuilder {
    /// Nothing is connected yet.
    #[must_use]
    pub fn new(settings: ProjectSettings, redis: Redis, dead_letters: Arc<DeadLetters>, shutdown: Shutdown) -> Self {
        Self { settings, redis, dead_letters, shutdown }
    }

    /// Fills one partition and flips to it; returns the new generation.
    ///
    /// # Errors
    /// [`FillError`]; the old generation serves on.
    pub async fn fill(
        &self,
        partition: Partition,
        position: &Position,
        progress: impl Fn(&Header),
    ) -> Result<u64, FillError> {
        let view = View::open(self.redis.connect().await?, Keys::new(&self.settings.redis_prefix)).await?;
        let filler = Filler {
            log: LogClient::new(&self.settings)?,
            view,
            dead_letters: Arc::clone(&self.dead_letters),
            bounds: bounds(&self.settings),
            patience: Duration::from_secs(self.settings.fill_patience_s),
            shutdown: self.shutdown.clone(),
        };
        filler.fill(partition, position, progress).await
    }

    /// As [`Rebuilder::fill`], telling `status` how it goes.
    pub async fn fill_told(
        self,
        partition: Partition,
        position: Arc<Position>,
        status: Arc<watch::Sender<ProjectorStatus>>,
    ) {
        let tell = |text: Option<String>| {
            status.send_modify(|status| status.partitions.entry(partition).or_default().beside = text);
        };
        let filled = self
            .fill(partition, &position, |header| {
                tell(Some(format!("filling generation {}, at {}-{}", header.generation, header.epoch, header.seq)));
            })
            .await;
        match filled {
            Ok(_) => tell(None),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                tell(Some(format!("dropped: {error}{cause}")));
            }
        }
    }
}

/// The bounds of a batch that the settings give.
#[must_use]
pub fn bounds(settings: &ProjectSettings) -> Bounds {
    Bounds { records: settings.batch_records as usize, bytes: settings.batch_bytes }
}

/// Why a rebuild by hand failed.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The view.
    #[error("a partition could not be filled")]
    Fill(#[from] FillError),
    /// The broker, or the topics are not there.
    #[error("the log can't be read")]
    Kafka(#[from] KafkaError),
    /// There is nothing to rebuild from.
    #[error("the topics are not there, or the relay has written no position yet")]
    NoPosition,
}

/// How long a rebuild waits for the relay's position.
const POSITION_WAIT: Duration = Duration::from_secs(15);

/// Fills every partition beside the serving generation, one after the other, and flips each; `progress`
/// hears of each header.
///
/// # Errors
/// The first partition that fails; those before it are flipped.
pub async fn rebuild(
    settings: ProjectSettings,
    shutdown: Shutdown,
    progress: impl Fn(Partition, &Header),
) -> Result<Vec<(Partition, u64)>, RebuildError> {
    let redis = Redis::new(&settings.redis_url).map_err(FillError::from)?;
    let log = LogClient::new(&settings)?;
    let signals = log.partitions(&settings.topic("signals")).await?;
    let signals = u16::try_from(signals).unwrap_or(0);
    if signals == 0 {
        return Err(RebuildError::NoPosition);
    }
    let (tell, mut newest) = watch::channel(Newest::default());
    let reading = tokio::spawn(watermarks::run(settings.clone(), log, redis.clone(), signals, tell, shutdown.clone()));
    let known = tokio::time::timeout(POSITION_WAIT, newest.wait_for(|newest| newest.complete)).await;
    let position = known.ok().and_then(Result::ok).and_then(|newest| newest.position.clone());
    reading.abort();
    let position = position.ok_or(RebuildError::NoPosition)?;
    let dead_letters = Arc::new(DeadLetters::new(&settings));
    let rebuilder = Rebuilder::new(settings, redis, dead_letters, shutdown);
    let mut done = Vec::new();
    for partition in Partition::all(signals) {
        let generation = rebuilder.fill(partition, &position, |header| progress(partition, header)).await?;
        done.push((partition, generation));
    }
    Ok(done)
}
