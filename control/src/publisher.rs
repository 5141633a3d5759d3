//! Stage 5b: records to the broker, transactional and fenced.
//!
//! *Input*: records in commit order, from one task. *Output*: the same order in each partition, with the
//! offsets that the broker gave. *Bound*: 32 MiB and 50,000 records unacknowledged; beyond it
//! [`Publisher::send`] waits. *On shutdown*: an open transaction is aborted, by this producer's end or by its
//! successor's `init_transactions`.
//!
//! Any delivery error, and a delivery without an offset (the client reports success so after a duplicate
//! sequence), ends the publisher: the relay starts again from the slot. No record is ever retried past its
//! successors.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use contract::partition::Partition;
use contract::time::Timestamp;
use prometheus::Histogram;
use rdkafka::client::ClientContext;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::{ClientConfig, Message};
use tokio::sync::Notify;

use crate::apart::apart;

/// What a record waits for before it counts as delivered: every replica that is in sync.
pub const ACKS: &str = "all";

/// Unacknowledged bytes beyond which sending waits.
const IN_FLIGHT_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Unacknowledged records beyond which sending waits; below the client's own bound.
const IN_FLIGHT_RECORDS_MAX: u64 = 50_000;
/// How long the broker may take for a transaction's begin, commit or abort.
const TRANSACTION: Duration = Duration::from_secs(30);
/// How long a record may stay unacknowledged before the line stops.
const DELIVERY: Duration = Duration::from_secs(30);
/// How long a transaction may stay open before the broker aborts it: a huge command batch is one transaction.
const TRANSACTION_OPEN: Duration = Duration::from_secs(300);
/// How long the thread that takes acknowledgements waits for one at a time. The client spins through the last
/// millisecond of each wait, and its own thread waits 100 ms: 0.8 % of a core where nothing happens.
const POLL: Duration = Duration::from_secs(1);

/// Why the line stops.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PublishError {
    /// The broker refused a record, or did not acknowledge it in time.
    #[error("a record was not delivered")]
    NotDelivered(#[source] KafkaError),
    /// Success without an offset: what became of the record is unknown.
    #[error("a record was acknowledged without an offset")]
    NoOffset,
    /// The client took no record.
    #[error("a record was not taken")]
    NotTaken(#[source] KafkaError),
    /// A successor has taken over, or the broker refused the transaction.
    #[error("{what}")]
    Transaction {
        /// Which step.
        what: &'static str,
        /// The broker's answer.
        #[source]
        source: KafkaError,
    },
    /// Acknowledgements stayed away.
    #[error("the broker did not acknowledge everything within {} s", DELIVERY.as_secs())]
    Slow,
}

/// One record on its way.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// The topic's full name.
    pub topic: &'a str,
    /// The partition's number in it.
    pub partition: u16,
    /// Under which number [`Publisher::last_offset`] remembers its offset.
    pub slot: usize,
    /// The key.
    pub key: &'a str,
    /// The value; `None` is a deletion.
    pub value: Option<&'a [u8]>,
}

/// What the thread that takes acknowledgements tells the relay's task.
struct Ledger {
    in_flight: AtomicU64,
    in_flight_bytes: AtomicU64,
    /// The newest acknowledged offset per slot, -1 for none.
    offsets: Vec<AtomicI64>,
    failure: Mutex<Option<PublishError>>,
    failed: Notify,
    /// Somebody waits for acknowledgements.
    waiting: AtomicBool,
    progress: Notify,
}

impl Ledger {
    fn fail(&self, error: PublishError) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        // The first one is the cause of the others.
        if failure.is_none() {
            *failure = Some(error);
        }
        drop(failure);
        self.failed.notify_one();
        self.progress.notify_one();
    }

    fn failure(&self) -> Option<PublishError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What the client tells, and where it is counted how long acknowledgements take.
struct Deliveries(Arc<Ledger>, Histogram);

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, reason: &str) {
        // A lost connection is retried by the client; only what it calls fatal ends the producer, and that
        // comes back from the next call as well.
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.0.fail(PublishError::NotTaken(error));
        } else {
            tracing::debug!(%error, reason, "producer");
        }
    }
}

/// Which slot a record has, and its size, in the word that the client carries along.
fn pack(slot: usize, bytes: usize) -> usize {
    slot << 40 | bytes & ((1 << 40) - 1)
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, carried: usize) {
        let ledger = &*self.0;
        match result {
            Ok(record) if record.offset() >= 0 => {
                // Acknowledgements of a partition come in its order.
                ledger.offsets[carried >> 40].store(record.offset(), Ordering::Relaxed);
                if let Some(handed_ms) = record.timestamp().to_millis() {
                    self.1.observe(Timestamp::now().millis().saturating_sub(handed_ms).max(0) as f64 / 1e3);
                }
            }
            Ok(_) => ledger.fail(PublishError::NoOffset),
            Err((error, _)) => ledger.fail(PublishError::NotDelivered(error.clone())),
        }
        ledger.in_flight_bytes.fetch_sub((carried & ((1 << 40) - 1)) as u64, Ordering::SeqCst);
        ledger.in_flight.fetch_sub(1, Ordering::SeqCst);
        if ledger.waiting.load(Ordering::SeqCst) {
            ledger.progress.notify_one();
        }
    }
}

/// The fenced, transactional producer of one take-over.
pub struct Publisher {
    producer: Arc<BaseProducer<Deliveries>>,
    ledger: Arc<Ledger>,
    /// Largest record (key, value and headers), in bytes.
    record_bytes_max: usize,
}

impl Publisher {
    /// A producer with the one `transactional.id` of the relay of `topic_prefix`, remembering the offsets of
    /// `slots` places; `acknowledged` takes the seconds from handing a record over to its acknowledgement.
    ///
    /// # Errors
    /// The client refuses its settings.
    pub fn connect(
        brokers: &str,
        topic_prefix: &str,
        slots: usize,
        batch_bytes_max: usize,
        acknowledged: Histogram,
    ) -> Result<Self, PublishError> {
        let ledger = Arc::new(Ledger {
            in_flight: AtomicU64::new(0),
            in_flight_bytes: AtomicU64::new(0),
            offsets: (0..slots).map(|_| AtomicI64::new(-1)).collect(),
            failure: Mutex::new(None),
            failed: Notify::new(),
            waiting: AtomicBool::new(false),
            progress: Notify::new(),
        });
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", brokers)
            .set("client.id", "nexus-relay")
            .set("transactional.id", format!("{topic_prefix}relay"))
            .set("transaction.timeout.ms", TRANSACTION_OPEN.as_millis().to_string())
            .set("message.timeout.ms", DELIVERY.as_millis().to_string())
            .set("enable.idempotence", "true")
            .set("acks", ACKS)
            .set("linger.ms", "0")
            // While one request is under way the next records gather: a request costs the broker more than what is in it.
            // At 1,000 events/s on two busy cores l2c p99 went from 182, 127 and 71 ms to 84, 70 and 41 in three pairs of runs.
            .set("max.in.flight.requests.per.connection", "1")
            // A transaction right after a commit meets CONCURRENT_TRANSACTIONS and backs off.
            .set("retry.backoff.ms", "5")
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            .set("socket.nagle.disable", "true")
            .set("message.max.bytes", batch_bytes_max.max(1000).to_string())
            .set("queue.buffering.max.messages", "100000")
            .set("queue.buffering.max.kbytes", "65536");
        let producer = BaseProducer::from_config_and_context(&config, Deliveries(ledger.clone(), acknowledged))
            .map_err(|source| PublishError::Transaction { what: "the producer can't be made", source })?;
        let producer = Arc::new(producer);
        let polled = producer.clone();
        // The last to hold the client, so that no task waits for its end, which may take half a second.
        let polling = move || {
            while Arc::strong_count(&polled) > 1 {
                polled.poll(POLL);
            }
        };
        std::thread::Builder::new().name("relay-acks".to_owned()).spawn(polling).expect("the system has threads");
        // A batch has a head of 61 bytes, and each record in it lengths and deltas of some 30 more.
        let record_bytes_max = batch_bytes_max.saturating_sub(1024);
        Ok(Self { producer, ledger, record_bytes_max })
    }

    /// Largest record (key, value and headers), in bytes: what is larger goes out as a marker.
    #[must_use]
    pub fn record_bytes_max(&self) -> usize {
        self.record_bytes_max
    }

    /// Takes the `transactional.id`: from here on the broker refuses every predecessor, and the transaction
    /// that one may have left open is ended.
    ///
    /// # Errors
    /// [`PublishError::Transaction`].
    pub async fn fence(&self) -> Result<(), PublishError> {
        self.blocking("the transactional id can't be taken", |producer| producer.init_transactions(TRANSACTION)).await
    }

    /// Begins a transaction; asks nobody.
    ///
    /// # Errors
    /// [`PublishError::Transaction`].
    pub fn begin(&self) -> Result<(), PublishError> {
        let begun = self.producer.begin_transaction();
        begun.map_err(|source| PublishError::Transaction { what: "a transaction can't begin", source })
    }

    /// Hands a record to the client, after waiting for room where there is none.
    ///
    /// # Errors
    /// [`PublishError`]; the line stops.
    pub async fn send(&self, record: Outgoing<'_>, headers: Option<OwnedHeaders>) -> Result<(), PublishError> {
        let bytes = record.key.len() + record.value.map_or(0, <[u8]>::len);
        let ledger = &*self.ledger;
        if ledger.in_flight.load(Ordering::Relaxed) >= IN_FLIGHT_RECORDS_MAX
            || ledger.in_flight_bytes.load(Ordering::Relaxed) >= IN_FLIGHT_BYTES_MAX
        {
            // Half of it, so that a full pipeline is not refilled record by record.
            self.wait(|ledger| {
                ledger.in_flight.load(Ordering::SeqCst) <= IN_FLIGHT_RECORDS_MAX / 2
                    && ledger.in_flight_bytes.load(Ordering::SeqCst) <= IN_FLIGHT_BYTES_MAX / 2
            })
            .await?;
        }
        let mut outgoing = BaseRecord::with_opaque_to(record.topic, pack(record.slot, bytes))
            .partition(i32::from(record.partition))
            .key(record.key);
        if let Some(value) = record.value {
            outgoing = outgoing.payload(value);
        }
        if let Some(headers) = headers {
            outgoing = outgoing.headers(headers);
        }
        // Counted before it is sent: its acknowledgement may come before this returns.
        ledger.in_flight.fetch_add(1, Ordering::SeqCst);
        ledger.in_flight_bytes.fetch_add(bytes as u64, Ordering::SeqCst);
        self.producer.send(outgoing).map_err(|(error, _)| {
            ledger.in_flight.fetch_sub(1, Ordering::SeqCst);
            ledger.in_flight_bytes.fetch_sub(bytes as u64, Ordering::SeqCst);
            PublishError::NotTaken(error)
        })
    }

    /// Returns once everything sent is acknowledged.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn drained(&self) -> Result<(), PublishError> {
        self.wait(|ledger| ledger.in_flight.load(Ordering::SeqCst) == 0).await
    }

    /// Commits the transaction. Everything sent must be acknowledged ([`Publisher::drained`]).
    ///
    /// # Errors
    /// [`PublishError::Transaction`]: then what was sent may or may not be committed.
    pub async fn commit(&self) -> Result<(), PublishError> {
        self.blocking("the transaction can't be committed", |producer| {
            // The client's flush polls in slices of 100 ms while it counts anything as under way, and it counts
            // the acknowledgements that its thread is still handing over.
            let patience = Instant::now() + Duration::from_millis(50);
            while producer.in_flight_count() > 0 && Instant::now() < patience {
                std::thread::sleep(Duration::from_micros(50));
            }
            producer.commit_transaction(TRANSACTION)
        })
        .await
    }

    /// Aborts the transaction that is open, so that nobody waits for its end.
    ///
    /// # Errors
    /// [`PublishError::Transaction`].
    pub async fn abort(&self) -> Result<(), PublishError> {
        self.blocking("the transaction can't be aborted", |producer| producer.abort_transaction(Duration::from_secs(2)))
            .await
    }

    /// The offset of the last acknowledged record of `slot`.
    #[must_use]
    pub fn last_offset(&self, slot: usize) -> Option<i64> {
        Some(self.ledger.offsets[slot].load(Ordering::SeqCst)).filter(|offset| *offset >= 0)
    }

    /// Records that are not acknowledged yet.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.ledger.in_flight.load(Ordering::Relaxed)
    }

    /// Returns when a record was not delivered, and why.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn failed(&self) -> PublishError {
        loop {
            if let Some(error) = self.ledger.failure() {
                return error;
            }
            self.ledger.failed.notified().await;
        }
    }

    async fn wait(&self, until: impl Fn(&Ledger) -> bool) -> Result<(), PublishError> {
        let ledger = &*self.ledger;
        let waiting = async {
            ledger.waiting.store(true, Ordering::SeqCst);
            while ledger.failure().is_none() && !until(ledger) {
                ledger.progress.notified().await;
            }
        };
        let waited = tokio::time::timeout(DELIVERY, waiting).await;
        ledger.waiting.store(false, Ordering::SeqCst);
        match (ledger.failure(), waited) {
            (Some(error), _) => Err(error),
            (None, Ok(())) => Ok(()),
            (None, Err(_)) => Err(PublishError::Slow),
        }
    }

    async fn blocking(
        &self,
        what: &'static str,
        step: impl FnOnce(&BaseProducer<Deliveries>) -> Result<(), KafkaError> + Send + 'static,
    ) -> Result<(), PublishError> {
        let producer = self.producer.clone();
        let done = apart("relay-broker", move || step(&producer)).await;
        done.map_err(|source| PublishError::Transaction { what, source })
    }
}

/// The places whose offsets the relay remembers: one per partition of events, then positions, then watermarks.
#[must_use]
pub fn slots(partitions: &[Partition]) -> usize {
    partitions.len() + 2
}
