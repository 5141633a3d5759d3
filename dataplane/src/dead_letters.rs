//! Events that can't be applied, parked in `dead-letters` with all they carried and the reason.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::Message;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Header, Headers, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};

use crate::consumer::base_config;
use crate::settings::ProjectSettings;

/// A record that is to be parked.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: OwnedHeaders,
}

impl DeadLetter {
    /// `message` with its key, value and headers, and why and where it failed.
    #[must_use]
    pub fn of(message: &BorrowedMessage<'_>, seq: Option<u64>, reason: &str) -> Self {
        let mut headers = OwnedHeaders::new_with_capacity(16);
        for header in message.headers().into_iter().flat_map(Headers::iter) {
            headers = headers.insert(header);
        }
        let mut add = |key: &str, value: &str| {
            headers = std::mem::take(&mut headers).insert(Header { key, value: Some(value) });
        };
        add("nexus_dead_reason", reason);
        add("nexus_source_topic", message.topic());
        add("nexus_source_partition", &message.partition().to_string());
        add("nexus_source_offset", &message.offset().to_string());
        if let Some(seq) = seq {
            add("nexus_source_seq", &seq.to_string());
        }
        Self { key: message.key().map(<[u8]>::to_vec), value: message.payload().map(<[u8]>::to_vec), headers }
    }
}

/// Writes dead letters. The producer is made with the first one: most projectors never need it. One that failed is
/// replaced: it may have lost every broker for ever ([`crate::consumer::LogClient`]).
pub struct DeadLetters {
    settings: ProjectSettings,
    producer: Mutex<Option<FutureProducer>>,
}

impl DeadLetters {
    /// Nothing is connected yet.
    #[must_use]
    pub fn new(settings: &ProjectSettings) -> Self {
        Self { settings: settings.clone(), producer: Mutex::new(None) }
    }

    /// Parks `letter`: it is acknowledged by every in-sync replica when this returns. A repeat parks it twice.
    ///
    /// # Errors
    /// The broker is away, or the topic is.
    pub async fn park(&self, letter: DeadLetter) -> KafkaResult<()> {
        let producer = self.producer()?;
        let topic = self.settings.topic("dead-letters");
        let record: FutureRecord<'_, [u8], [u8]> = FutureRecord {
            topic: &topic,
            partition: None,
            payload: letter.value.as_deref(),
            key: letter.key.as_deref(),
            timestamp: None,
            headers: Some(letter.headers),
        };
        #[expect(clippy::disallowed_methods, reason = "one letter at a time, each awaited: nothing to reorder")]
        let sent = producer.send(record, Duration::from_secs(10)).await;
        sent.map(drop).map_err(|(error, _): (KafkaError, _)| {
            let failed = self.place().take();
            // Its last owner waits for its thread.
            std::thread::spawn(move || drop((failed, producer)));
            error
        })
    }

    fn producer(&self) -> KafkaResult<FutureProducer> {
        let mut place = self.place();
        if let Some(producer) = &*place {
            return Ok(producer.clone());
        }
        let producer: FutureProducer = base_config(&self.settings)
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("linger.ms", "0")
            .set("message.max.bytes", "9000000")
            .set("message.timeout.ms", "10000")
            .create()?;
        Ok(place.insert(producer).clone())
    }

    fn place(&self) -> MutexGuard<'_, Option<FutureProducer>> {
        self.producer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
