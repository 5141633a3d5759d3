//! Taking over, in this order: the slot, the transactional id, the position, the proof. Read earlier, the
//! position may be one transaction old.

use std::time::Duration;

use contract::partition::Partition;
use contract::position::{Lsn, POSITION_KEY, Position};
use contract::time::Timestamp;
use pgwire_replication::config::ReplicationConfig;
use pgwire_replication::lsn::Lsn as WireLsn;
use pgwire_replication::{PgWireError, ReplicationClient};
use runtime::sabotage::{self, Sabotage};
use tokio_util::sync::CancellationToken;

use super::database::{Database, Published};
use super::metrics::metrics;
use super::readback::Reader;
use super::stream::{Line, Progress};
use super::{RelayError, RelaySettings, Reporter, replication_url};
use crate::apart::apart;
use crate::history::{self, Broken, Chain, Facts, Found, Redelivery};
use crate::publisher::{self, Outgoing, Publisher};
use crate::relay_status::RelayState;
use crate::slot::{self, PUBLICATION};
use crate::topics::{self, TopicError};

/// How often a standby looks whether the slot is free.
const STANDBY: Duration = Duration::from_millis(200);
/// Messages that are read ahead. A bundle may be one event, of some 100 KiB at most, larger than [`bundle::FULL`], so 29 MiB
/// at most; larger messages are not ours, and Postgres holds them whole as well.
///
/// [`bundle::FULL`]: contract::bundle::FULL
const READ_AHEAD: usize = 128;
/// How long Postgres keeps the slot for a relay that says nothing: then a standby may have it.
const SILENCE: &str = "-c wal_sender_timeout=10s";

/// The replication session's configuration.
pub(super) fn replication(settings: &RelaySettings) -> Result<ReplicationConfig, RelayError> {
    let config = replication_url::parse(&settings.replication_url, &settings.slot, PUBLICATION)?;
    Ok(config
        // 0/0 is the server's own confirmed position. A start of ours past the server's WAL would be accepted in
        // silence and then confirmed.
        .with_start_lsn(WireLsn::from_u64(0))
        .with_status_interval(Duration::from_secs(1))
        .with_wakeup_interval(Duration::from_secs(1))
        .with_buffer_size(READ_AHEAD)
        .with_options(SILENCE)
        .with_application_name("nexus-relay"))
}

/// Waits for the slot, fences every predecessor and proves the chain. `None`: told to stop.
pub(super) async fn take_over(
    settings: &RelaySettings,
    reporter: &Reporter,
    shutdown: &CancellationToken,
) -> Result<Option<Line>, RelayError> {
    let mut database = Database::connect(&settings.database_url).await?;
    let Some((client, identity)) = hold_slot(settings, &mut database, reporter, shutdown).await? else {
        return Ok(None);
    };
    reporter.set(RelayState::Proving, "");

    // Asked while the session holds the slot: both connections live in the same run of the server.
    let epoch = database.epoch().await?.ok_or(RelayError::NotMigrated)?;
    let copy = database.copy().await?;
    let (system, run) = database.server().await?;
    if system != identity.system_id || run.timeline != identity.timeline {
        return Err(RelayError::DifferentServers);
    }
    let confirmed = slot::look_up(database.connection(), &settings.slot).await?.and_then(|row| row.confirmed);
    let confirmed = confirmed.ok_or_else(|| Broken::SlotLost(settings.slot.clone()))?;

    // Once there is a copy, a topic that is not there was lost: making it again would hide that.
    let limits = match &copy {
        None => topics::ensure(&settings.topics).await?,
        Some(_) => match topics::check(&settings.topics).await {
            Err(TopicError::Missing(topic)) => return Err(Broken::TopicLost(topic).into()),
            checked => checked?,
        },
    };
    let partitions = Partition::all(settings.topics.partitions);
    let publisher = Publisher::connect(
        &settings.topics.brokers,
        &settings.topics.prefix,
        publisher::slots(&partitions),
        limits.batch_bytes_max,
        metrics().acknowledged.clone(),
    )?;
    publisher.fence().await?;
    metrics().producers.with_label_values(&[publisher::ACKS]).inc();

    let reader = Reader::new(&settings.topics)?;
    let (from, all) = (copy.as_ref().map(|copy| copy.record_offset), partitions.clone());
    let reading = move || {
        let found = reader.newest_position(from)?;
        let records = match &found {
            Some(found) => reader.records(&found.position.partitions)?,
            None => Default::default(),
        };
        let (ends, occupied) = reader.log_ends(&all)?;
        Ok::<_, RelayError>((found, records, ends, occupied))
    };
    let (found, records, ends, occupied) = apart("relay-readback", reading).await?;

    let offset = found.as_ref().map(|found| found.offset);
    let confirmed = match &found {
        Some(found) if sabotage::on(Sabotage::ConfirmBeforePublish) => found.position.end_lsn,
        _ => confirmed,
    };
    let facts = Facts {
        epoch: epoch.clone(),
        copy,
        confirmed,
        system,
        wal_end: Lsn(identity.xlogpos.as_u64()),
        partitions,
        found,
        records,
        occupied,
        now_ms: Timestamp::now().millis(),
        delete_retention_ms: limits.delete_retention_ms,
    };
    let (found, redelivery) = match (history::prove(&facts)?, offset) {
        (Chain::Continues(position, redelivery), Some(offset)) => (Found { offset, position: *position }, redelivery),
        // Nothing was found, so nothing continues: the first broker transaction is the position alone.
        (Chain::Continues(..) | Chain::First, _) => {
            let position = Position {
                epoch: epoch.epoch,
                history: epoch.history,
                system: facts.system,
                run,
                begin: ends,
                end_lsn: epoch.first_lsn,
                last: None,
                partitions: Default::default(),
            };
            (publish_first(&publisher, settings, position, facts.partitions.len()).await?, Redelivery::none())
        }
    };
    tracing::info!(
        epoch = found.position.epoch,
        end_lsn = %found.position.end_lsn,
        %confirmed,
        redelivered = !redelivery.is_over(),
        "the chain of events is proven up to here"
    );
    let progress = Progress::after(found, settings.topics.partitions);
    Ok(Some(Line::new(client, publisher, database, settings, run, progress, redelivery)))
}

/// Waits until this process holds the slot.
async fn hold_slot(
    settings: &RelaySettings,
    database: &mut Database,
    reporter: &Reporter,
    shutdown: &CancellationToken,
) -> Result<Option<(ReplicationClient, pgwire_replication::IdentifySystem)>, RelayError> {
    loop {
        if database.epoch().await?.is_none() {
            return Err(RelayError::NotMigrated);
        }
        let row = slot::look_up(database.connection(), &settings.slot).await?;
        let row = row.ok_or_else(|| Broken::SlotLost(settings.slot.clone()))?;
        if row.wal_status == "lost" {
            return Err(Broken::SlotInvalidated { slot: settings.slot.clone(), why: row.wal_status }.into());
        }
        if !row.active
            && let Some(held) = try_slot(settings).await?
        {
            return Ok(Some(held));
        }
        reporter.set(RelayState::Standby, "");
        tokio::select! {
            () = shutdown.cancelled() => return Ok(None),
            () = tokio::time::sleep(STANDBY) => {}
        }
    }
}

/// Takes the slot; `None` where somebody else was faster (SQLSTATE 55006, object in use).
async fn try_slot(
    settings: &RelaySettings,
) -> Result<Option<(ReplicationClient, pgwire_replication::IdentifySystem)>, RelayError> {
    let taking = async {
        let mut client = ReplicationClient::connect_gated(replication(settings)?).await.map_err(RelayError::Stream)?;
        let identity = client.identify_system().await.map_err(RelayError::Stream)?;
        client.start().await.map_err(RelayError::Stream)?;
        match client.wait_started().await {
            Ok(()) => Ok(Some((client, identity))),
            Err(PgWireError::Server(text)) if text.contains("SQLSTATE 55006") => Ok(None),
            Err(error) => Err(RelayError::Stream(error)),
        }
    };
    match tokio::time::timeout(Duration::from_secs(15), taking).await {
        Ok(taken) => taken,
        Err(_) => Err(RelayError::Slow("Postgres' replication session")),
    }
}

/// Publishes the position record that begins an epoch, alone in its transaction.
async fn publish_first(
    publisher: &Publisher,
    settings: &RelaySettings,
    position: Position,
    slot: usize,
) -> Result<Found, RelayError> {
    publisher.begin()?;
    let published = publish_position(publisher, &settings.topics.watermarks(), &position, slot).await?;
    publisher.commit().await?;
    tracing::info!(epoch = position.epoch, offset = published.record_offset, "the epoch begins in the topics");
    Ok(Found { offset: published.record_offset, position })
}

/// Sends a position record and waits for its offset; to be committed by the caller.
pub(super) async fn publish_position(
    publisher: &Publisher,
    topic: &str,
    position: &Position,
    slot: usize,
) -> Result<Published, RelayError> {
    let record = serde_json::to_string(position).expect("a position is JSON");
    let outgoing = Outgoing { topic, partition: 0, slot, key: POSITION_KEY, value: Some(record.as_bytes()) };
    publisher.send(outgoing, None).await?;
    publisher.drained().await?;
    let record_offset = publisher.last_offset(slot).ok_or(publisher::PublishError::NoOffset)?;
    Ok(Published { record_offset, record, end_lsn: position.end_lsn })
}
