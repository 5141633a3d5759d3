use std::time::{Duration, Instant};

use contract::event::EVENT_PREFIX;
use contract::partition::{Partition, Topic};
use control::relay_status::RelayState;
use sqlx::Connection;

use crate::place::{Place, assert_unbroken, emit, emit_many, event, new_id, wait_for};

#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_commits_is_the_order_in_each_partition() {
    let place = Place::new("order").await;
    let mut relay = place.relay();
    relay.is(RelayState::Streaming).await;

    // Who emits first and commits last comes last.
    let (mut early, mut late) = (place.sql().await, place.sql().await);
    let first = new_id();
    let second = loop {
        let id = new_id();
        if Partition::of(Topic::Signals, id, 4) == Partition::of(Topic::Signals, first, 4) {
            break id;
        }
    };
    let mut slow = early.begin().await.expect("begun");
    emit(&mut *slow, EVENT_PREFIX, &event(first, 1)).await;
    emit(&mut late, EVENT_PREFIX, &event(second, 1)).await;
    slow.commit().await.expect("committed");

    // A row's lock makes the order of its versions the order of commits.
    let table = "CREATE TABLE public.counters (id uuid PRIMARY KEY, version bigint NOT NULL)";
    sqlx::Executor::execute(&mut early, table).await.expect("made");
    let ids: Vec<_> = (0..6).map(|_| new_id()).collect();
    for id in &ids {
        sqlx::query("INSERT INTO public.counters VALUES ($1, 0)").bind(id).execute(&mut early).await.expect("inserted");
    }
    let (tasks, rounds) = (8, 40);
    let mut running = Vec::new();
    for task in 0..tasks {
        let (mut sql, ids) = (place.sql().await, ids.clone());
        running.push(tokio::spawn(async move {
            for round in 0..rounds {
                let mut transaction = sql.begin().await.expect("begun");
                let mut chosen = [ids[(task + round) % ids.len()], ids[(task * 5 + round * 3 + 1) % ids.len()]];
                chosen.sort_unstable();
                for id in chosen {
                    let version: i64 = sqlx::query_scalar(
                        "UPDATE public.counters SET version = version + 1 WHERE id = $1 RETURNING version",
                    )
                    .bind(id)
                    .fetch_one(&mut *transaction)
                    .await
                    .expect("updated");
                    emit(&mut *transaction, EVENT_PREFIX, &event(id, version.unsigned_abs())).await;
                }
                transaction.commit().await.expect("committed");
            }
        }));
    }
    for task in running {
        task.await.expect("ran");
    }

    let count = 2 + 2 * tasks * rounds;
    let records = place.committed(count).await;
    assert_unbroken(&records);
    assert_eq!(records.values().map(Vec::len).sum::<usize>(), count);
    let home = &records[&Partition::of(Topic::Signals, first, 4)];
    let at = |id: uuid::Uuid| home.iter().position(|record| record.key == id.to_string()).expect("published");
    assert!(at(second) < at(first));
    for id in ids {
        let home = &records[&Partition::of(Topic::Signals, id, 4)];
        let versions: Vec<u64> =
            home.iter().filter(|record| record.key == id.to_string()).map(|record| record.version).collect();
        assert_eq!(versions, (1..=versions.len() as u64).collect::<Vec<_>>());
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_or_rolled_back_is_not_published() {
    let place = Place::new("foreign").await;
    let mut relay = place.relay();
    relay.is(RelayState::Streaming).await;
    let mut sql = place.sql().await;
    emit(&mut sql, "nexus.other", &event(new_id(), 1)).await;
    emit(&mut sql, "somebody", b"else").await;
    sqlx::query("SELECT pg_logical_emit_message(false, $1, $2::bytea)")
        .bind(EVENT_PREFIX)
        .bind(event(new_id(), 1))
        .execute(&mut sql)
        .await
        .expect("emitted");
    let mut doomed = sql.begin().await.expect("begun");
    emit(&mut *doomed, EVENT_PREFIX, &event(new_id(), 1)).await;
    doomed.rollback().await.expect("rolled back");
    let ours = new_id();
    emit(&mut sql, EVENT_PREFIX, &event(ours, 1)).await;
    let records = place.committed(1).await;
    let keys: Vec<&String> = records.values().flatten().map(|record| &record.key).collect();
    assert_eq!(keys, [&ours.to_string()]);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_batch_is_one_broker_transaction() {
    let place = Place::new("huge").await;
    let mut relay = place.relay();
    relay.is(RelayState::Streaming).await;
    let (count, began) = (100_000, Instant::now());
    let mut sql = place.sql().await;
    emit_many(&mut sql, count).await;
    let committed_after = began.elapsed();
    let records = place.committed(count).await;
    println!(
        "{count} events: committed in Postgres after {committed_after:?}, in the topics after {:?}",
        began.elapsed()
    );
    assert_unbroken(&records);
    assert_eq!(records.values().map(Vec::len).sum::<usize>(), count);
    let ends: Vec<u64> = place
        .positions()
        .await
        .iter()
        .map(|position| position.partitions.values().map(|last| last.seq).sum())
        .collect();
    assert!(ends.iter().all(|end| *end == 0 || *end == count as u64), "a position in the middle of a batch: {ends:?}");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_database_is_confirmed_and_costs_few_transactions() {
    let place = Place::new("idle").await;
    let mut relay = place.relay();
    relay.is(RelayState::Streaming).await;
    let (before, positions) = (place.confirmed().await, place.positions().await.len());
    let began = Instant::now();
    wait_for("the confirmed position to move", async || place.confirmed().await != before).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let (seconds, more) = (began.elapsed().as_secs_f64(), place.positions().await.len() - positions);
    assert!(more as f64 <= seconds * 1.2 + 2.0, "{more} broker transactions in {seconds:.1} s");
    let status = relay.status.borrow().clone();
    assert!(status.watermark_age_ms().expect("watermarks flow") < 3000, "{status:?}");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_steady_load_watermarks_are_told_between_commits() {
    let place = Place::new("steady").await;
    let mut relay = place.relay();
    relay.is(RelayState::Streaming).await;
    let mut sql = place.sql().await;
    // No silence in which the broker transaction would end early. A machine that stands still for a second is no proof.
    let mut oldest = i64::MAX;
    for _ in 0..4 {
        let mut oldest_now = 0;
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(6) {
            emit(&mut sql, EVENT_PREFIX, &event(new_id(), 1)).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            let age = relay.status.borrow().watermark_age_ms();
            oldest_now = oldest_now.max(age.filter(|_| began.elapsed().as_secs() >= 2).unwrap_or(0));
        }
        oldest = oldest.min(oldest_now);
        if oldest < 3_000 {
            break;
        }
    }
    assert!((1..3_000).contains(&oldest), "{oldest} ms since the last watermark");
    relay.stop().await;
}
