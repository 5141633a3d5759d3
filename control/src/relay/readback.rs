//! Reading the topics back, committed records only: the newest position, the records that it names,
//! the log ends. Blocking; every call has a deadline.
//!
//! It runs after `init_transactions`, which ends whatever transaction a predecessor left open, so that
//! the last stable offset is the log's end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use contract::event::RecordId;
use contract::partition::Partition;
use contract::position::{LastRecord, POSITION_KEY, Position};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::{ClientConfig, Message, Offset};

use super::RelayError;
use crate::history::{Found, ReadBack};
use crate::topics::TopicSettings;

/// Longest that one reading may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// Reads the topics back.
pub struct Reader {
    consumer: BaseConsumer,
    topics: TopicSettings,
    deadline: Instant,
}

impl Reader {
    /// A reader for one take-over.
    pub fn new(topics: &TopicSettings) -> Result<Self, RelayError> {
        let consumer = ClientConfig::new()
            .set("bootstrap.servers", &topics.brokers)
            .set("client.id", "nexus-relay-readback")
            // Never joined, only assigned by hand; the client wants a name all the same.
            .set("group.id", format!("{}relay-readback", topics.prefix))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error")
            .set("fetch.wait.max.ms", "20")
            .set("fetch.queue.backoff.ms", "5")
            .set("socket.nagle.disable", "true")
            .create()
            .map_err(kafka("the reader can't be made"))?;
        Ok(Self { consumer, topics: topics.clone(), deadline: Instant::now() + DEADLINE })
    }

    /// The newest committed position at or after the offset `from` (`None`: of the whole topic), up to the end.
    pub fn newest_position(&self, from: Option<i64>) -> Result<Option<Found>, RelayError> {
        let topic = self.topics.watermarks();
        let (low, high) = self.ends(&topic, 0)?;
        // Compaction leaves the beginning where it was, so an offset outside the log means that the log
        // was shortened or replaced: what it holds now is shown, and the proof compares.
        let start = from.filter(|from| (low..high).contains(from)).unwrap_or(low);
        if low >= high {
            return Ok(None);
        }
        let mut newest = None;
        self.read(&[(topic, 0, start)], |_, record| {
            if let Some(record) = record
                && record.key() == Some(POSITION_KEY.as_bytes())
            {
                let position: Option<Position> = record.payload().and_then(|value| serde_json::from_slice(value).ok());
                newest = position.map(|position| Found { offset: record.offset(), position });
            }
            record.is_some()
        })?;
        Ok(newest)
    }

    /// What lies at each of the recorded offsets.
    pub fn records(
        &self,
        recorded: &BTreeMap<Partition, LastRecord>,
    ) -> Result<BTreeMap<Partition, ReadBack>, RelayError> {
        let mut answers = BTreeMap::new();
        let mut asked = Vec::new();
        for (&partition, last) in recorded {
            let topic = self.topics.name(partition.topic);
            let (_, high) = self.ends(&topic, partition.index)?;
            if last.offset >= high {
                answers.insert(partition, ReadBack::BehindLogEnd);
            } else {
                asked.push((partition, (topic, partition.index, last.offset)));
            }
        }
        let places: Vec<_> = asked.iter().map(|(_, place)| place.clone()).collect();
        self.read(&places, |index, record| {
            let (partition, (_, _, offset)) = &asked[index];
            answers.entry(*partition).or_insert(match record {
                Some(record) if record.offset() == *offset => ReadBack::Record(number(record)),
                _ => ReadBack::Gone,
            });
            false
        })?;
        Ok(answers)
    }

    /// Where each partition's log ends, and the partitions that hold anything.
    pub fn log_ends(&self, partitions: &[Partition]) -> Result<(BTreeMap<Partition, i64>, Vec<Partition>), RelayError> {
        let (mut ends, mut occupied) = (BTreeMap::new(), Vec::new());
        for &partition in partitions {
            let (low, high) = self.ends(&self.topics.name(partition.topic), partition.index)?;
            ends.insert(partition, high);
            if low < high {
                occupied.push(partition);
            }
        }
        Ok((ends, occupied))
    }

    fn ends(&self, topic: &str, partition: u16) -> Result<(i64, i64), RelayError> {
        let asked = self.consumer.fetch_watermarks(topic, i32::from(partition), self.left()?);
        asked.map_err(kafka("a log's ends can't be read"))
    }

    /// Reads from each place until `take` (given the place's index and the record, `None` at the end) says
    /// that it needs no more, or the end.
    fn read(
        &self,
        places: &[(String, u16, i64)],
        mut take: impl FnMut(usize, Option<&BorrowedMessage<'_>>) -> bool,
    ) -> Result<(), RelayError> {
        for (index, (topic, partition, offset)) in places.iter().enumerate() {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(topic, i32::from(*partition), Offset::Offset(*offset))
                .map_err(kafka("an offset can't be read from"))?;
            self.consumer.assign(&list).map_err(kafka("a partition can't be assigned"))?;
            loop {
                let more = match self.consumer.poll(self.left()?.min(Duration::from_millis(100))) {
                    None => true,
                    Some(Ok(record)) => take(index, Some(&record)),
                    Some(Err(KafkaError::PartitionEOF(_))) => {
                        take(index, None);
                        false
                    }
                    Some(Err(error)) => return Err(kafka("a partition can't be read back")(error)),
                };
                if !more {
                    break;
                }
            }
        }
        Ok(())
    }

    fn left(&self) -> Result<Duration, RelayError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(RelayError::Slow("the broker, reading back")) } else { Ok(left) }
    }
}

/// The number that a record carries in its `ce_id`.
fn number(record: &BorrowedMessage<'_>) -> Option<RecordId> {
    let headers = record.headers()?;
    headers.iter().find(|header| header.key == "ce_id").and_then(|header| RecordId::parse(header.value?))
}

fn kafka(what: &'static str) -> impl Fn(KafkaError) -> RelayError {
    move |source| RelayError::Broker { what, source }
}
