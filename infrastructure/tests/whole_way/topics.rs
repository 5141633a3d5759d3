//! Reads topics as any consumer would.

use std::collections::BTreeMap;
use std::time::Duration;

use contract::event::RecordId;
use infrastructure::Namespace;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// One record of an event topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub id: RecordId,
    pub key: String,
    pub value: Option<Vec<u8>>,
    pub headers: BTreeMap<String, String>,
}

/// Every record of `<prefix><topic>`, per partition, up to where the log ends now.
pub fn read_all(namespace: &Namespace, topic: &str, isolation: &str) -> BTreeMap<i32, Vec<Record>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", namespace.brokers())
        .set("group.id", "whole-way-test")
        .set("isolation.level", isolation)
        .set("enable.partition.eof", "true")
        .set("enable.auto.commit", "false")
        .create()
        .expect("a consumer");
    let name = format!("{}{topic}", namespace.topic_prefix());
    let metadata = consumer.fetch_metadata(Some(&name), Duration::from_secs(10)).expect("metadata");
    let partitions: Vec<i32> = metadata.topics()[0].partitions().iter().map(|p| p.id()).collect();
    assert!(!partitions.is_empty(), "{name} has no partitions");
    let mut assignment = TopicPartitionList::new();
    for partition in &partitions {
        assignment.add_partition_offset(&name, *partition, Offset::Beginning).expect("an offset");
    }
    consumer.assign(&assignment).expect("an assignment");
    let mut records: BTreeMap<i32, Vec<Record>> = partitions.iter().map(|p| (*p, Vec::new())).collect();
    let mut ended = std::collections::BTreeSet::new();
    while ended.len() < partitions.len() {
        match consumer.poll(Duration::from_secs(20)) {
            Some(Ok(message)) => {
                let headers: BTreeMap<String, String> = message
                    .headers()
                    .map(|headers| {
                        headers
                            .iter()
                            .map(|h| {
                                (h.key.to_owned(), String::from_utf8_lossy(h.value.unwrap_or_default()).into_owned())
                            })
                            .collect()
                    })
                    .unwrap_or_default();
                let record = Record {
                    id: RecordId::parse(headers["ce_id"].as_bytes()).expect("a record's number"),
                    key: String::from_utf8_lossy(message.key().expect("a key")).into_owned(),
                    value: message.payload().map(<[u8]>::to_vec),
                    headers,
                };
                assert_eq!(i32::from(record.id.partition), message.partition());
                records.get_mut(&message.partition()).expect("a known partition").push(record);
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                ended.insert(partition);
            }
            Some(Err(error)) => panic!("reading {name}: {error}"),
            None => panic!("reading {name}: nothing came for 20 s"),
        }
    }
    records
}

/// A `read_committed` consumer sees each number once, in order and without a hole; in what `read_uncommitted` sees, a
/// number that stands twice stands for the same record.
pub fn assert_exactly_once_in_order(namespace: &Namespace, topic: &str) -> BTreeMap<i32, Vec<Record>> {
    let committed = read_all(namespace, topic, "read_committed");
    for (partition, records) in &committed {
        for (i, record) in records.iter().enumerate() {
            assert_eq!(record.id.seq, i as u64 + 1, "partition {partition} of {topic}: {:?}", record.id);
        }
    }
    for (partition, records) in read_all(namespace, topic, "read_uncommitted") {
        let mut first: BTreeMap<RecordId, &Record> = BTreeMap::new();
        for record in &records {
            let known = first.entry(record.id).or_insert(record);
            assert_eq!(known.value, record.value, "partition {partition}: number {:?} for two events", record.id);
            assert_eq!(known.key, record.key);
        }
    }
    committed
}
