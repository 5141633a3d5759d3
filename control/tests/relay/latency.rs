//! How long an event takes from the return of its commit to a consumer. Not a test of a guarantee; run it with
//! `cargo test --release -p control --test relay -- --ignored latency --nocapture`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use contract::event::{Change, EVENT_PREFIX, Event};
use contract::partition::Topic;
use contract::time::Timestamp;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use uuid::Uuid;

use crate::child::RelayProcess;
use crate::place::{Place, emit_many, new_id};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn latency_from_commit_to_consumer() {
    for (rate, per_commit) in [(500, 1), (5_000, 10), (20_000, 50)] {
        measure(rate, per_commit, Duration::from_secs(10)).await;
    }
}

async fn measure(rate: u32, per_commit: usize, length: Duration) {
    let place = Place::new("latency").await;
    let relay = RelayProcess::start(&place);
    let mut sql = place.sql().await;
    emit_many(&mut sql, 100).await;
    place.committed(100).await;

    let topic = place.settings.topics.name(Topic::Signals);
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &place.settings.topics.brokers)
        .set("group.id", "latency")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_uncommitted")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.min.bytes", "1")
        .set("fetch.queue.backoff.ms", "1")
        .set("socket.nagle.disable", "true")
        .create()
        .expect("a consumer");
    let mut list = TopicPartitionList::new();
    for partition in 0..4 {
        list.add_partition_offset(&topic, partition, Offset::End).expect("an offset");
    }
    consumer.assign(&list).expect("assigned");
    consumer.poll(Duration::from_secs(1));
    let (arrived, arrivals) = mpsc::sync_channel(1_000_000);
    static DONE: AtomicBool = AtomicBool::new(false);
    DONE.store(false, Ordering::SeqCst);
    let reading = std::thread::spawn(move || {
        while !DONE.load(Ordering::SeqCst) {
            if let Some(Ok(record)) = consumer.poll(Duration::from_millis(50)) {
                let now = Instant::now();
                let key = std::str::from_utf8(record.key().expect("a key")).expect("text");
                arrived.send((key.parse::<Uuid>().expect("an id"), now)).expect("read");
            }
        }
    });

    let value = vec![b' '; 400];
    let (begun, cpu) = (Instant::now(), relay.cpu());
    let (mut committed, mut commits) = (HashMap::new(), 0_u32);
    while begun.elapsed() < length {
        let due = begun + Duration::from_secs_f64(f64::from(commits) * per_commit as f64 / f64::from(rate));
        tokio::time::sleep_until(due.into()).await;
        let ids: Vec<Uuid> = (0..per_commit).map(|_| new_id()).collect();
        let event = |id| Event {
            topic: Topic::Signals,
            id,
            change: Change::Created,
            version: 1,
            time: Timestamp::now(),
            traceparent: "",
            value: &value,
        };
        let events: Vec<Vec<u8>> = ids.iter().map(|id| event(*id).encode()).collect();
        sqlx::query("SELECT count(pg_logical_emit_message(true, $1, e)) FROM unnest($2::bytea[]) e")
            .bind(EVENT_PREFIX)
            .bind(&events)
            .execute(&mut sql)
            .await
            .expect("emitted");
        let now = Instant::now();
        committed.extend(ids.into_iter().map(|id| (id, now)));
        commits += 1;
    }
    let took = begun.elapsed();
    let cpu = relay.cpu() - cpu;
    let mut waits = Vec::new();
    while waits.len() < committed.len() {
        let (id, at) = arrivals.recv_timeout(Duration::from_secs(30)).expect("every event arrives");
        if let Some(commit) = committed.get(&id) {
            waits.push(at.saturating_duration_since(*commit));
        }
    }
    DONE.store(true, Ordering::SeqCst);
    reading.join().expect("read");
    waits.sort_unstable();
    let part = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    println!(
        "{:>6.0} events/s: p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms, max {:.1} ms; relay {:.1} us of CPU an event",
        committed.len() as f64 / took.as_secs_f64(),
        part(0.5),
        part(0.9),
        part(0.99),
        part(1.0),
        cpu.as_secs_f64() * 1e6 / committed.len() as f64
    );
}
