use std::collections::HashMap;
use std::time::{Duration, Instant};

use contract::event::EVENT_PREFIX;
use control::relay_status::RelayState;

use crate::child::RelayProcess;
use crate::place::{Place, assert_unbroken, emit, emit_many, event, new_id, wait_for};

/// Every repeat has the number of the first.
async fn assert_repeats_keep_their_numbers(place: &Place) -> usize {
    let (mut numbers, mut repeats) = (HashMap::new(), 0);
    for (partition, seen) in place.records(false).await {
        for record in seen {
            match numbers.insert((partition, record.key.clone(), record.version), record.id) {
                Some(first) => {
                    assert_eq!(first, record.id, "{record:?}");
                    repeats += 1;
                }
                None => continue,
            }
        }
    }
    repeats
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_killed_mid_transaction_repeats_with_the_same_numbers_and_nothing_twice() {
    let place = Place::new("killed").await;
    let mut sql = place.sql().await;
    // Enough that it is caught in the middle; on a busy machine it may be through before it is killed, then once more.
    let (count, mut total) = (60_000, 0);
    for _ in 0..4 {
        let relay = RelayProcess::start(&place);
        emit_many(&mut sql, 100).await;
        place.committed(total + 100).await;
        let before = place.log_ends().await;
        emit_many(&mut sql, count).await;
        wait_for("part of the batch on the topics", async || place.log_ends().await > before + 1_000).await;
        relay.kill();
        let mut successor = place.relay();
        successor.is(RelayState::Streaming).await;
        emit_many(&mut sql, 100).await;
        total += count + 200;
        let records = place.committed(total).await;
        assert_unbroken(&records);
        assert_eq!(records.values().map(Vec::len).sum::<usize>(), total);
        let repeats = assert_repeats_keep_their_numbers(&place).await;
        successor.stop().await;
        if repeats > 0 {
            return;
        }
    }
    panic!("the relay was never caught in the middle");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_relay_thawed_after_its_successor_took_over_is_fenced() {
    // On a busy machine it may be through before it is paused, then once more.
    for attempt in 1..=4 {
        if paused_and_thawed(&format!("paused{attempt}")).await > 0 {
            return;
        }
    }
    panic!("the relay was never caught in the middle");
}

/// Returns how many records came twice: none where the relay was through before it was paused.
async fn paused_and_thawed(name: &str) -> usize {
    let place = Place::new(name).await;
    let mut sql = place.sql().await;
    let paused = RelayProcess::start(&place);
    emit_many(&mut sql, 100).await;
    place.committed(100).await;
    let before = place.log_ends().await;
    emit_many(&mut sql, 40_000).await;
    wait_for("part of the batch on the topics", async || place.log_ends().await > before + 1_000).await;
    paused.pause();
    // What it has not read yet waits in its socket and is published by the successor.
    emit_many(&mut sql, 1_000).await;
    let mut successor = place.relay();
    successor.is(RelayState::Streaming).await;
    emit_many(&mut sql, 1_000).await;
    let count = 42_100;
    place.committed(count).await;
    paused.thaw();
    // The thawed one finds itself fenced, and waits for the slot while the successor goes on.
    for _ in 0..20 {
        emit_many(&mut sql, 50).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let records = place.committed(count + 1_000).await;
    assert_unbroken(&records);
    assert_eq!(records.values().map(Vec::len).sum::<usize>(), count + 1_000);
    assert_eq!(successor.status.borrow().state, RelayState::Streaming);
    let repeats = assert_repeats_keep_their_numbers(&place).await;
    successor.stop().await;
    repeats
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_within_seconds() {
    let place = Place::new("standby").await;
    let mut sql = place.sql().await;
    let relay = RelayProcess::start(&place);
    emit(&mut sql, EVENT_PREFIX, &event(new_id(), 1)).await;
    place.committed(1).await;
    let mut standby = place.relay();
    standby.is(RelayState::Standby).await;
    let killed = Instant::now();
    relay.kill();
    emit(&mut sql, EVENT_PREFIX, &event(new_id(), 1)).await;
    standby.is(RelayState::Streaming).await;
    let took = killed.elapsed();
    println!("the standby streams after {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_unbroken(&place.committed(2).await);
    standby.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_relay_continues_where_it_was() {
    let place = Place::new("continues").await;
    let mut sql = place.sql().await;
    for round in 1..=4 {
        let mut relay = place.relay();
        relay.is(RelayState::Streaming).await;
        emit_many(&mut sql, 500).await;
        if round % 2 == 0 {
            // Published but not confirmed: it comes again and is skipped.
            place.committed(500 * round).await;
        }
        relay.stop().await;
    }
    let mut relay = place.relay();
    relay.is(RelayState::Streaming).await;
    let records = place.committed(2_000).await;
    assert_unbroken(&records);
    assert_eq!(records.values().map(Vec::len).sum::<usize>(), 2_000);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_epoch_begins_with_its_position_alone_and_the_copy_follows() {
    let place = Place::new("begins").await;
    let mut relay = place.relay();
    let status = relay.is(RelayState::Streaming).await;
    let first = place.positions().await.into_iter().next().expect("a position");
    assert_eq!(Some(first.epoch), status.epoch);
    assert_eq!((first.history, first.last, first.partitions.len(), first.begin.len()), (0, None, 0, 6));
    assert!(first.begin.values().all(|begin| *begin == 0));
    let mut sql = place.sql().await;
    wait_for("the proven run beside the epoch", async || {
        sqlx::query_scalar(
            "SELECT timeline = 1 AND started = (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint \
             FROM nexus.epoch",
        )
        .fetch_one(&mut sql)
        .await
        .unwrap_or(false)
    })
    .await;
    wait_for("Postgres' copy of the position", async || {
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM nexus.position p JOIN nexus.epoch e USING (epoch)")
            .fetch_one(&mut sql)
            .await
            .expect("counted");
        rows == 1
    })
    .await;
    relay.stop().await;
}
