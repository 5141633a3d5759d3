//! The batcher: bounds, order of shutdown, and commands whose callers went away.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use contract::command::Precondition;
use control::batcher::{Batcher, BatcherSettings};
use control::request::{Refusal, Work};
use control::store::{Store, StoreSettings};
use sqlx::Executor;

use crate::support::{PARTITIONS, Place, create, creation, id_of, json, keyed, metrics, request, retitle};

fn batcher(place: &Place, settings: BatcherSettings) -> Batcher {
    Batcher::start(place.store.clone(), settings, metrics())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_loses_nobody_s_command() {
    let place = Place::new("dropped").await;
    let batcher = batcher(&place, BatcherSettings::default());
    let mut answered = HashSet::new();
    let mut tasks = Vec::new();
    for i in 0..400_u64 {
        let batcher = batcher.clone();
        tasks.push(tokio::spawn(async move {
            let receiver = batcher.submit(request(create(&format!("c{i}")))).unwrap();
            receiver.await.unwrap().map(|answer| id_of(&answer))
        }));
        if i % 3 == 0 {
            // Some before they submitted, some between, some after their answer.
            tokio::task::yield_now().await;
            tasks[usize::try_from(i / 2).unwrap()].abort();
        }
    }
    for task in tasks {
        if let Ok(id) = task.await {
            answered.insert(id.unwrap());
        }
    }
    assert!(batcher.drain(Duration::from_secs(5)).await);
    let rows: HashSet<_> = place.rows().await.into_iter().map(|(id, _)| id).collect();
    assert!(answered.is_subset(&rows), "an acknowledged command was lost");
    let events: HashSet<_> = place.events().await.into_iter().map(|event| event.id).collect();
    assert_eq!(rows, events);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_and_harms_nobody() {
    let place = Place::new("full").await;
    let settings = BatcherSettings { workers: 1, batch_commands: 1, queue_requests: 4, ..BatcherSettings::default() };
    let batcher = batcher(&place, settings);
    // Nothing commits while somebody holds the epoch's table.
    let mut blocker = place.admin().await;
    blocker.execute("BEGIN; LOCK TABLE nexus.epoch IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let mut receivers = vec![batcher.submit(request(create("running"))).unwrap()];
    let began = Instant::now();
    while batcher.waiting() > 0 {
        assert!(began.elapsed() < Duration::from_secs(5), "the first to be taken");
        tokio::task::yield_now().await;
    }
    for i in 0..4 {
        receivers.push(batcher.submit(request(create(&format!("waiting {i}")))).unwrap());
    }
    assert_eq!(batcher.submit(request(create("too many"))).expect_err("full"), Refusal::Overloaded);
    blocker.execute("ROLLBACK").await.unwrap();
    for receiver in receivers {
        assert_eq!(receiver.await.unwrap().unwrap().status, 201);
    }
    assert_eq!(place.rows().await.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_flight_is_answered_409_and_applied_once() {
    let place = Place::new("in_flight").await;
    let batcher = batcher(&place, BatcherSettings::default());
    let mut blocker = place.admin().await;
    blocker.execute("BEGIN; LOCK TABLE nexus.epoch IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let first = batcher.submit(keyed(create("once"), "k", 1)).unwrap();
    let second = batcher.submit(keyed(create("once"), "k", 1)).unwrap().await.unwrap().unwrap();
    assert_eq!((second.status, json(&second)["code"].as_str()), (409, Some("idempotency-in-progress")));
    blocker.execute("ROLLBACK").await.unwrap();
    let first = first.await.unwrap().unwrap();
    let third = batcher.submit(keyed(create("once"), "k", 1)).unwrap().await.unwrap().unwrap();
    assert_eq!((first.status, third.status, third.replayed), (201, 201, true));
    assert_eq!(place.rows().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_answers_every_request_taken() {
    let place = Place::new("drain").await;
    let batcher = batcher(&place, BatcherSettings { batch_commands: 7, ..BatcherSettings::default() });
    let receivers: Vec<_> = (0..100).map(|i| batcher.submit(request(create(&format!("d{i}")))).unwrap()).collect();
    assert!(batcher.drain(Duration::from_secs(5)).await);
    assert!(matches!(batcher.submit(request(create("late"))), Err(Refusal::Unavailable { .. })));
    for receiver in receivers {
        assert_eq!(receiver.await.unwrap().unwrap().status, 201);
    }
    assert_eq!(place.events().await.len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_runs_out_of_time_says_what_it_knows() {
    let place = Place::new("hard_drain").await;
    let settings = BatcherSettings { workers: 1, batch_commands: 1, ..BatcherSettings::default() };
    let batcher = batcher(&place, settings);
    let mut blocker = place.admin().await;
    blocker.execute("BEGIN; LOCK TABLE nexus.epoch IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let receivers: Vec<_> = (0..3).map(|_| batcher.submit(request(create("x"))).unwrap()).collect();
    assert!(!batcher.drain(Duration::from_millis(200)).await);
    let mut receivers = receivers.into_iter();
    let running = receivers.next().unwrap();
    for waiting in receivers {
        assert!(matches!(waiting.await.unwrap(), Err(Refusal::Unavailable { .. })), "nothing happened");
    }
    assert_eq!(running.await.unwrap(), Err(Refusal::OutcomeUnknown));
    blocker.execute("ROLLBACK").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_postgres_refuses_fails_alone() {
    let place = Place::new("culprit").await;
    let id = place.create("shared").await;
    // U+0000 in a key: the HTTP side never lets one through, and Postgres takes none.
    let requests = [
        request(create("before")),
        request(Work::Signal(retitle(id, "changed", Precondition::None))),
        keyed(create("culprit"), "a\0b", 1),
        request(Work::Batch(vec![Ok(creation("after")), Ok(retitle(id, "again", Precondition::AnyOf(vec![2])))])),
    ];
    let answers = place.store.execute(&requests, Instant::now()).await;
    let statuses: Vec<_> = answers.iter().map(|answer| answer.as_ref().map(|answer| answer.status)).collect();
    assert_eq!(statuses, [Ok(201), Ok(200), Err(&Refusal::Internal), Ok(200)]);
    assert_eq!(json(answers[3].as_ref().unwrap())["results"][1]["version"], 3);
    assert_eq!(place.events().await.len(), 1 + 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_wait_are_answered_soon_when_postgres_is_away() {
    let settings = StoreSettings {
        away_after: Duration::from_secs(1),
        // Nobody listens there.
        ..StoreSettings::new("postgres://nexus@127.0.0.1:1/nexus", PARTITIONS)
    };
    let store = Store::new(settings, metrics()).unwrap();
    let small = BatcherSettings { workers: 1, batch_commands: 10, ..BatcherSettings::default() };
    let batcher = Batcher::start(store, small, metrics());
    let began = Instant::now();
    let receivers: Vec<_> = (0..30).map(|_| batcher.submit(request(create("x"))).unwrap()).collect();
    for receiver in receivers {
        assert!(matches!(receiver.await.unwrap(), Err(Refusal::Unavailable { .. })));
    }
    assert!(began.elapsed() < Duration::from_secs(2), "took {:?}", began.elapsed());
}
