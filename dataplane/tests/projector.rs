//! The projector over a real broker and a real Redis.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use contract::event::{Change, RecordId};
use contract::identity::{Identity, KeyRecord, Kind, Role};
use contract::partition::{Partition, Topic};
use contract::signal::{Priority, Status};
use contract::time::Timestamp;
use dataplane::projector::{Batch, Effect};
use dataplane::view::feed_cap::FEED_BYTES;
use dataplane::view::{Outcome, Target, View};
use infrastructure::{Namespace, TestStack};
use redis::AsyncCommands;
use support::{DEADLINE, Log, Projector, Reads, assert_same, expected, id, settings, until};

/// Signals that come, change their place in the index, and go.
fn life(log: &mut Log, from: u64, count: u64) {
    for n in from..from + count {
        log.signal(id(n), 1, Priority::ALL[(n % 4) as usize], Status::Pending);
        if n % 2 == 0 {
            log.signal(id(n), 2, Priority::ALL[(n / 2 % 4) as usize], Status::Active);
        }
        if n % 5 == 0 {
            log.delete(id(n), if n % 2 == 0 { 3 } else { 2 });
        }
    }
    log.flush();
}

/// A log of `count` signals' lives, and a projector that has applied it.
async fn projected(place: &Namespace, count: u64) -> (Log, Reads, Projector) {
    let mut log = Log::create(place).await;
    let mut reads = Reads::of(place).await;
    let projector = Projector::start(settings(place));
    life(&mut log, 0, count);
    reads.caught_up(&log).await;
    (log, reads, projector)
}

/// Waits until the view is as far as the log; then it holds what the log says.
async fn agree(reads: &mut Reads, log: &Log) {
    reads.caught_up(log).await;
    assert_same(&reads.content().await, &expected(log));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_applied_and_indexed_once() {
    let place = TestStack::shared().await.namespace("applied").await;
    let (mut log, mut reads, projector) = projected(&place, 200).await;
    life(&mut log, 200, 100);
    let who = Identity {
        id: id(1000),
        name: "ops".into(),
        display_name: None,
        email: None,
        kind: Kind::Human,
        role: Role::Admin,
        active: true,
        created_at: Timestamp(0),
        updated_at: Timestamp(0),
        version: 1,
    };
    log.event(Topic::Identities, who.id, 1, Some(who.render()), Change::Created.ce_type(Topic::Identities));
    let key = KeyRecord {
        id: id(1001),
        identity: who.id,
        role: Role::Admin,
        active: true,
        sha256: "00".into(),
        expires_at: None,
        version: 1,
    };
    log.event(Topic::Keys, key.id, 1, Some(key.render()), Change::Created.ce_type(Topic::Keys));
    log.watermark(5);
    log.flush();
    agree(&mut reads, &log).await;

    // The feed joins on: each entry begins where the one before ended.
    let mut named = 0;
    for partition in Partition::all(place.partitions()) {
        let mut last = None;
        for (epoch, from, to, keys) in reads.feed(partition).await {
            assert_eq!(epoch, log.epoch);
            assert!(last.is_none_or(|last| from == last + 1) && from <= to, "{partition}: {from} after {last:?}");
            assert_eq!(keys.len() % 55, 0);
            named += keys.len() / 55;
            last = Some(to);
        }
        if let Some(last) = last {
            assert_eq!(Some(&last), log.seqs.get(&partition));
        }
    }
    assert!(named > 0, "some changes came after the fill");
    let stored = until("the watermark in the view", DEADLINE, async || {
        let stored: Option<String> = reads.redis.get(reads.keys.watermark()).await.ok()?;
        stored
    });
    let stored = stored.await.unwrap();
    assert!(stored.starts_with(&format!("{{\"epoch\":{}", log.epoch)), "{stored}");
    let layout: String = reads.redis.get(reads.keys.layout()).await.unwrap();
    assert_eq!(layout, "1 4");
    projector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_repeats_itself_changes_nothing() {
    let place = TestStack::shared().await.namespace("twice").await;
    let (mut log, mut reads, projector) = projected(&place, 200).await;
    let before = reads.content().await;
    let feeds = reads.feed(Partition { topic: Topic::Signals, index: 0 }).await;
    // As a relay does after an aborted transaction: the same records with the same numbers.
    for record in &log.written {
        log.write(record);
    }
    life(&mut log, 5000, 1);
    reads.caught_up(&log).await;
    let after = reads.content().await;
    assert_same(&after, &expected(&log));
    for (partition, content) in before {
        for (id, document) in content.documents {
            assert_eq!(after[&partition].documents[&id], document, "deletes stay deleted, versions stay");
        }
    }
    assert!(reads.feed(Partition { topic: Topic::Signals, index: 0 }).await.len() <= feeds.len() + 3);
    projector.stop().await;

    // And a new projector, from the checkpoint, finds nothing to do.
    let projector = Projector::start(settings(&place));
    life(&mut log, 6000, 1);
    agree(&mut reads, &log).await;
    projector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_fails_midway_is_repaired_by_its_repetition() {
    let place = TestStack::shared().await.namespace("midway").await;
    let (mut log, mut reads, projector) = projected(&place, 40).await;
    // A set that is a string stops the script between the first index and the document.
    let mut broken = Vec::new();
    for partition in Partition::all(place.partitions()).into_iter().filter(|p| p.topic == Topic::Signals) {
        let generation = reads.header(partition).await.unwrap().generation;
        let key = reads.keys.index(partition, generation, b'p');
        let () = reads.redis.set(&key, "no set").await.unwrap();
        broken.push(key);
    }
    let seqs = log.seqs.clone();
    for n in (1..40).step_by(2).filter(|n| n % 5 != 0) {
        let status = [Status::Cancelled, Status::Completed][(n / 2 % 2) as usize];
        log.signal(id(n), 2, Priority::Critical, status);
    }
    log.flush();
    let mut status = projector.status.clone();
    let failing =
        status.wait_for(|status| status.redis_error.as_ref().is_some_and(|error| error.contains("WRONGTYPE")));
    tokio::time::timeout(DEADLINE, failing).await.expect("the script fails").unwrap();
    for (partition, seq) in &seqs {
        let header = reads.header(*partition).await.unwrap();
        assert!(header.seq == *seq || log.seqs[partition] > *seq, "a batch that failed is not checkpointed");
    }
    // More comes, so that the batch that is repeated is another one than the one that failed.
    for n in (1..40).step_by(4).filter(|n| n % 5 != 0) {
        log.signal(id(n), 3, Priority::Low, Status::Active);
    }
    log.flush();
    for key in broken {
        let _: u64 = reads.redis.del(key).await.unwrap();
    }
    agree(&mut reads, &log).await;
    projector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_projectors_on_the_same_partitions_are_harmless() {
    let place = TestStack::shared().await.namespace("overlap").await;
    let mut log = Log::create(&place).await;
    let mut reads = Reads::of(&place).await;
    // Both take every partition until the group has spoken; then each has its own.
    let (first, second) = (Projector::start(settings(&place)), Projector::start(settings(&place)));
    for round in 0..20 {
        life(&mut log, round * 100, 100);
    }
    agree(&mut reads, &log).await;
    let shared = async |projector: &Projector| {
        let mut status = projector.status.clone();
        let found = status.wait_for(|status| {
            let ours = status.partitions.values().filter(|at| at.state != dataplane::status::State::Elsewhere).count();
            (1..6).contains(&ours)
        });
        tokio::time::timeout(DEADLINE, found).await.expect("the group shares the partitions").unwrap();
    };
    shared(&first).await;
    shared(&second).await;
    // The partitions of the one that goes are taken over.
    first.stop().await;
    life(&mut log, 9000, 50);
    agree(&mut reads, &log).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_view_is_filled_again_while_nothing_is_served() {
    let place = TestStack::shared().await.namespace("lost").await;
    let (mut log, mut reads, projector) = projected(&place, 500).await;
    let generation = reads.header("s0".parse().unwrap()).await.unwrap().generation;
    reads.forget_everything().await;
    life(&mut log, 500, 100);
    reads.caught_up(&log).await;
    assert!(reads.header("s0".parse().unwrap()).await.unwrap().generation > generation);
    assert_same(&reads.content().await, &expected(&log));
    projector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_is_never_skipped_and_one_in_the_log_itself_ends_in_a_new_generation() {
    let place = TestStack::shared().await.namespace("hole").await.with_partitions(1);
    let (mut log, mut reads, projector) = projected(&place, 20).await;
    let s0: Partition = "s0".parse().unwrap();
    let before = reads.header(s0).await.unwrap();
    log.next(s0);
    life(&mut log, 100, 20);
    let filled = until("a new generation", DEADLINE, async || {
        reads.header(s0).await.filter(|header| header.generation > before.generation && header.ready)
    });
    filled.await.unwrap();
    agree(&mut reads, &log).await;
    projector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_the_log_does_not_know_voids_the_generation() {
    let place = TestStack::shared().await.namespace("void").await.with_partitions(1);
    let (log, mut reads, projector) = projected(&place, 20).await;
    projector.stop().await;
    let s0: Partition = "s0".parse().unwrap();
    for wrong in ["another number at its offset", "past the log's end"] {
        let mut header = reads.header(s0).await.unwrap();
        let generation = header.generation;
        let wanted = log.seqs[&s0];
        if wrong.starts_with("another") {
            header.seq -= 1;
        } else {
            header.offset += 5;
        }
        let () = reads.redis.set(reads.keys.header(s0), header.to_string()).await.unwrap();
        // A document that no event made: a generation filled anew has none.
        let phantom = reads.keys.document(s0, generation, id(77_777));
        let () = reads.redis.set(phantom, "0000000000000001a{}").await.unwrap();
        let projector = Projector::start(settings(&place));
        let filled = until(wrong, DEADLINE, async || {
            reads.header(s0).await.filter(|header| header.generation > generation && header.ready)
        });
        assert_eq!(filled.await.unwrap().seq, wanted);
        assert_same(&reads.content().await, &expected(&log));
        projector.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_is_parked_and_the_line_goes_on() {
    let place = TestStack::shared().await.namespace("poison").await;
    let mut log = Log::create(&place).await;
    let mut reads = Reads::of(&place).await;
    let projector = Projector::start(settings(&place));
    life(&mut log, 0, 10);
    log.poison(id(1));
    log.poison(id(3));
    log.event(Topic::Signals, id(50), 1, Some(b"{\"id\":".to_vec()), "nexus.signal.created");
    life(&mut log, 100, 10);
    // A newer version takes the mark away.
    log.signal(id(3), 2, Priority::High, Status::Active);
    log.flush();
    reads.caught_up(&log).await;
    let content = reads.content().await;
    let broken = log.written.iter().position(|record| record.key == id(50).to_string()).unwrap();
    let broken = log.written.remove(broken);
    let at = Partition::of(Topic::Signals, id(50), 4);
    let mark = content[&at].poison.get(&broken.key).expect("marked").clone();
    assert!(mark.starts_with(&format!("{} the document is no signal", broken.number.seq)), "{mark}");
    let mut wanted = expected(&log);
    wanted.get_mut(&at).unwrap().poison.insert(broken.key.clone(), mark);
    assert_same(&content, &wanted);
    assert_eq!(projector.status.borrow().dead_letters, 3);
    let parked = dead_letters(&place, 3).await;
    let letter = &parked[&broken.key];
    assert_eq!(letter["nexus_source_seq"], broken.number.seq.to_string());
    assert_eq!(letter["ce_id"], broken.number.format());
    assert_eq!(letter["value"], "{\"id\":");
    assert!(letter["nexus_dead_reason"].starts_with("the document is no signal"));
    projector.stop().await;
}

async fn dead_letters(place: &infrastructure::Namespace, count: usize) -> BTreeMap<String, BTreeMap<String, String>> {
    use rdkafka::Message;
    use rdkafka::consumer::{Consumer, StreamConsumer};
    use rdkafka::message::Headers;
    let consumer: StreamConsumer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", place.brokers())
        .set("group.id", "reads-dead-letters")
        .set("auto.offset.reset", "earliest")
        .create()
        .unwrap();
    let mut list = rdkafka::TopicPartitionList::new();
    let topic = format!("{}dead-letters", place.topic_prefix());
    list.add_partition_offset(&topic, 0, rdkafka::Offset::Beginning).unwrap();
    consumer.assign(&list).unwrap();
    let mut found = BTreeMap::new();
    while found.len() < count {
        let message = tokio::time::timeout(DEADLINE, consumer.recv()).await.expect("dead letters").unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut letter: BTreeMap<String, String> = message
            .headers()
            .unwrap()
            .iter()
            .map(|header| (header.key.to_owned(), text(header.value.unwrap_or_default())))
            .collect();
        letter.insert("value".into(), text(message.payload().unwrap_or_default()));
        found.insert(text(message.key().unwrap()), letter);
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_projector_waits_for_topics_and_says_so() {
    let place = TestStack::shared().await.namespace("waits").await;
    let projector = Projector::start(settings(&place));
    let mut status = projector.status.clone();
    let waiting = status.wait_for(|status| status.waiting_for.as_ref().is_some_and(|what| what.contains("identities")));
    tokio::time::timeout(DEADLINE, waiting).await.expect("it says what it waits for").unwrap();
    let mut log = Log::create(&place).await;
    life(&mut log, 0, 10);
    let mut reads = Reads::of(&place).await;
    reads.caught_up(&log).await;
    projector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_beside_the_serving_generation_is_seamless_and_sweeps_phantoms() {
    let place = TestStack::shared().await.namespace("rebuild").await.with_partitions(2);
    let mut log = Log::create(&place).await;
    let mut reads = Reads::of(&place).await;
    let settings = dataplane::settings::ProjectSettings { retire_after_s: 1, ..settings(&place) };
    let projector = Projector::start(settings.clone());
    life(&mut log, 0, 3000);
    reads.caught_up(&log).await;
    let s0: Partition = "s0".parse().unwrap();
    let old = reads.header(s0).await.unwrap();
    let phantom = reads.keys.document(s0, old.generation, id(77_777));
    let () = reads.redis.set(&phantom, "0000000000000001a{}").await.unwrap();

    let shutdown = runtime::shutdown::Shutdown::new();
    let rebuilding = tokio::spawn(dataplane::rebuild::rebuild(settings, shutdown, |_, _| {}));
    let mut n = 10_000;
    while !rebuilding.is_finished() {
        // The log goes on all the while, and reads never see the partition not ready.
        life(&mut log, n, 20);
        n += 20;
        for partition in Partition::all(2) {
            assert!(reads.header(partition).await.is_some_and(|header| header.ready), "{partition} not ready");
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let flipped = rebuilding.await.unwrap().unwrap();
    assert_eq!(flipped.len(), 4);
    life(&mut log, 90_000, 50);
    reads.caught_up(&log).await;
    assert!(reads.header(s0).await.unwrap().generation > old.generation);
    assert_same(&reads.content().await, &expected(&log));
    for partition in Partition::all(2) {
        let mut last = None;
        for (_, from, to, _) in reads.feed(partition).await {
            assert!(last.is_none_or(|last| from == last + 1), "{partition}: {from} after {last:?}");
            last = Some(to);
        }
    }
    let gone = until("the old generation to be deleted", DEADLINE, async || {
        let left = reads.names(&format!("{}*", reads.keys.generation(s0, old.generation))).await;
        left.is_empty().then_some(())
    });
    gone.await.unwrap();
    projector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_nobody_serves_on_for_ends_and_says_what_to_do() {
    let place = TestStack::shared().await.namespace("stuck").await.with_partitions(1);
    let mut log = Log::create(&place).await;
    let mut reads = Reads::of(&place).await;
    let settings = dataplane::settings::ProjectSettings { fill_patience_s: 1, ..settings(&place) };
    let projector = Projector::start(settings.clone());
    life(&mut log, 0, 20);
    reads.caught_up(&log).await;
    projector.stop().await;
    let s0: Partition = "s0".parse().unwrap();
    let serving = reads.header(s0).await.unwrap();
    // Nobody applies these.
    life(&mut log, 100, 20);
    let rebuilding = dataplane::rebuild::rebuild(settings, runtime::shutdown::Shutdown::new(), |_, _| {});
    let error = tokio::time::timeout(DEADLINE, rebuilding).await.expect("the rebuild ends").unwrap_err();
    let told = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    let at = format!("the serving generation at {}-{}", serving.epoch, serving.seq);
    assert!(told.contains(&at) && told.contains("start a projector"), "{told}");
    let after = reads.header(s0).await.unwrap();
    assert_eq!((after.generation, after.ready), (serving.generation, true), "the old one serves on");
    assert!(reads.names(&format!("{}*", reads.keys.side_header(s0, after.generation))).await.is_empty());
}

/// What a bulk load writes: batches as large as they get.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_feed_stays_within_its_bytes_whoever_writes_it() {
    const LARGE: u64 = 2048;
    let place = TestStack::shared().await.namespace("feed").await.with_partitions(1);
    let (_log, mut reads, projector) = projected(&place, 20).await;
    projector.stop().await;
    let s0: Partition = "s0".parse().unwrap();
    let header = reads.header(s0).await.unwrap();
    let redis = dataplane::redis_link::Redis::new(place.redis_url()).unwrap();
    let mut view = View::open(redis.connect().await.unwrap(), reads.keys.clone()).await.unwrap();
    let mut at = header.point();
    // The second projector finds what the first one wrote.
    for batches in [100, 100] {
        let target = Target::serving(&reads.keys, s0, header.generation);
        for _ in 0..batches {
            let mut batch = Batch::after(at);
            for seq in at.seq + 1..=at.seq + LARGE {
                let (number, version) = (RecordId { epoch: at.epoch, partition: 0, seq }, 1000 + seq);
                let effect = Effect::Change { id: id(seq % LARGE), version, code: b'a', repair: false };
                batch.push(number, i64::try_from(seq).unwrap(), effect, 2, ());
            }
            at = batch.to;
            let call = view.apply_call(&target, &batch, false, |()| b"{}");
            assert!(matches!(view.apply(&call).await.unwrap(), Outcome::Applied(_)));
        }
    }
    let feed = reads.keys.feed(s0);
    let bytes: usize =
        redis::cmd("MEMORY").arg("USAGE").arg(&feed).arg("SAMPLES").arg(0).query_async(&mut reads.redis).await.unwrap();
    let entries: usize = reads.redis.xlen(&feed).await.unwrap();
    assert!(bytes <= FEED_BYTES * 5 / 4 && entries >= 100, "{bytes} bytes in {entries} entries");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_epoch_fills_a_new_generation_beside_the_serving_one() {
    let place = TestStack::shared().await.namespace("epoch").await.with_partitions(2);
    let (mut log, mut reads, projector) = projected(&place, 200).await;
    let old = reads.header("s0".parse().unwrap()).await.unwrap();
    // A row that Postgres no longer has: no event of the new epoch names it.
    log.epoch += 1;
    for (partition, begin) in &mut log.begin {
        *begin = i64::try_from(log.seqs.get(partition).copied().unwrap_or(0)).unwrap();
    }
    log.seqs.clear();
    log.written.clear();
    log.position();
    log.flush();
    for n in 0..100 {
        log.signal(id(n), 9, Priority::High, Status::Pending);
    }
    log.end();
    log.flush();
    for partition in Partition::all(2) {
        let flipped = until("a generation of the new epoch", DEADLINE, async || {
            reads.header(partition).await.filter(|header| header.base == log.epoch && header.ready)
        });
        let header = flipped.await.unwrap();
        assert!(header.generation > old.generation, "{partition}");
    }
    life(&mut log, 5000, 20);
    agree(&mut reads, &log).await;
    projector.stop().await;
}
