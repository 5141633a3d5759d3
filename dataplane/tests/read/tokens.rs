//! Reads with tokens.

use std::time::{Duration, Instant};

use contract::partition::{Partition, Topic};
use contract::position::Watermark;
use contract::signal::{Priority, Status};
use contract::token::{Entry, ServerRun, Token};

use crate::world::{Change, EPOCH, World, signal, until};

#[tokio::test]
async fn a_read_with_a_token_is_fresh_or_says_that_it_is_not() {
    let world = World::start().await;
    let mut one = signal(Priority::Low, Status::Pending);
    let path = format!("/v1/signals/{}", one.id);
    let token = world.token(Topic::Signals, one.id, 1).encode();
    let begun = Instant::now();
    let late = world.read(&path, &[("nexus-token", &token)]).await;
    late.is(503, "not-yet-consistent");
    assert!(begun.elapsed() >= Duration::from_secs(1), "the default wait is a second");
    assert!(late.headers.contains_key("retry-after") && !late.headers.contains_key("preference-applied"));
    let none = world.read(&path, &[("nexus-token", &token), ("prefer", "wait=0")]).await;
    none.is(503, "not-yet-consistent");
    assert_eq!(none.headers["preference-applied"], "wait=0");

    for version in 1..=100 {
        one.version = version;
        let token = world.token(Topic::Signals, one.id, version).encode();
        let headers = [("nexus-token", token.as_str()), ("prefer", "wait=20")];
        let list = [("nexus-token", token.as_str()), ("prefer", "wait=99")];
        let change = Change::signal(&one);
        let (read, listed, ()) = tokio::join!(
            world.read(&path, &headers),
            world.read("/v1/signals", &list),
            world.apply(std::slice::from_ref(&change))
        );
        assert_eq!((read.status.as_u16(), read.body), (200, one.render().into()));
        assert_eq!(listed.json()["items"][0]["version"], version);
        assert_eq!(listed.headers["preference-applied"], "wait=30");
    }
    // A deletion is a version too.
    let token = world.token(Topic::Signals, one.id, 101).encode();
    let headers = [("nexus-token", token.as_str()), ("prefer", "wait=20")];
    let delete = [Change::delete(Topic::Signals, one.id, 101)];
    let (read, ()) = tokio::join!(world.read(&path, &headers), world.apply(&delete));
    read.is(404, "not-found");
    assert_eq!(read.json()["deleted_version"], 101);
}

#[tokio::test]
async fn a_token_of_a_parked_event_is_told_so() {
    let world = World::start().await;
    let mut one = signal(Priority::Low, Status::Pending);
    world.apply(&[Change::signal(&one)]).await;
    let partition = Partition::of(Topic::Signals, one.id, 4);
    let mark = |id: uuid::Uuid| {
        let mut mark = redis::cmd("HSET");
        mark.arg(world.keys.poison(partition, EPOCH)).arg(id.to_string()).arg("7 the document is no signal");
        mark
    };
    let path = format!("/v1/signals/{}", one.id);
    let headers = |version| {
        [("nexus-token", world.token(Topic::Signals, one.id, version).encode()), ("prefer", "wait=0".to_owned())]
    };
    let read = async |version| {
        let headers = headers(version);
        world.read(&path, &headers.each_ref().map(|(name, value)| (*name, value.as_str()))).await
    };
    let () = world.redis(&mark(signal(Priority::Low, Status::Pending).id)).await;
    let answer = read(2).await;
    answer.is(503, "not-yet-consistent");
    assert_eq!(answer.header("retry-after"), Some("1"), "another one is parked");
    let () = world.redis(&mark(one.id)).await;
    let answer = read(2).await;
    answer.is(503, "not-yet-consistent");
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("event 7") && detail.contains("parked as a dead letter: the document is no"), "{detail}");
    assert_eq!(answer.header("retry-after"), Some("30"));
    // What is there is shown; only who waits for what is not there is told.
    assert_eq!(read(1).await.status, 200);
    one.version = 2;
    world.apply(&[Change::signal(&one)]).await;
    assert_eq!(read(2).await.status, 200);
}

#[tokio::test]
async fn every_entry_of_every_token_counts() {
    let world = World::start().await;
    let signals: Vec<_> = (0..4).map(|_| signal(Priority::Low, Status::Pending)).collect();
    let entry = |id| world.token(Topic::Signals, id, 1).entries[0];
    let both = Token {
        entries: vec![entry(signals[0].id), entry(signals[1].id)],
        ..world.token(Topic::Signals, signals[0].id, 1)
    };
    let list = format!("{}, {}", both.encode(), world.token(Topic::Signals, signals[2].id, 1).encode());
    let last = world.token(Topic::Signals, signals[3].id, 1).encode();
    for (applied, signal) in signals.iter().enumerate() {
        let headers = [("nexus-token", list.as_str()), ("nexus-token", last.as_str()), ("prefer", "wait=0")];
        world.read("/v1/signals", &headers).await.is(503, "not-yet-consistent");
        world.apply(&[Change::signal(signal)]).await;
        if applied == 3 {
            assert_eq!(world.read("/v1/signals", &headers).await.status, 200);
        }
    }
}

#[tokio::test]
async fn tokens_that_can_not_be_met_are_400() {
    let world = World::start().await;
    let one = signal(Priority::Low, Status::Pending);
    world.apply(&[Change::signal(&one)]).await;
    let good = world.token(Topic::Signals, one.id, 1);
    let read = async |token: String| world.read("/v1/signals", &[("nexus-token", &token)]).await;
    assert_eq!(read(good.encode()).await.status, 200);
    for bad in ["", "x", &good.encode()[1..], &format!("{},", good.encode()), &vec![good.encode(); 65].join(",")] {
        read(bad.to_owned()).await.is(400, "bad-token");
    }
    assert_eq!(read(vec![good.encode(); 64].join(",")).await.status, 200);
    let far = Entry { partition: Partition { topic: Topic::Signals, index: 4 }, ..good.entries[0] };
    read(Token { entries: vec![far], ..good.clone() }.encode()).await.is(400, "bad-token");
    read(Token { issued_ms: good.issued_ms - 13 * 3_600_000, ..good.clone() }.encode()).await.is(400, "token-expired");
    let header = [("nexus-token", "x"), ("prefer", "wait=-1")];
    world.read("/v1/signals", &header).await.is(400, "bad-request");

    // A later history is waited for, an older one is gone; in a generation of a later epoch, absent means deleted.
    let elsewhere = Token { epoch: EPOCH, ..world.token(Topic::Signals, uuid::Uuid::from_u128(1), 1) };
    read(elsewhere.encode()).await.is(503, "not-yet-consistent");
    world.fill(EPOCH + 1).await;
    world.write_caller(&world.admin).await;
    assert_eq!(read(elsewhere.encode()).await.status, 200);
    read(Token { history: EPOCH + 2, ..good.clone() }.encode()).await.is(503, "not-yet-consistent");
    world.set_headers(|header| header.history = EPOCH + 2).await;
    read(good.encode()).await.is(400, "token-expired");
}

#[tokio::test]
async fn a_token_of_an_unproven_server_run_waits_for_a_watermark_of_that_run() {
    let world = World::start().await;
    let one = signal(Priority::Low, Status::Pending);
    world.apply(&[Change::signal(&one)]).await;
    let run = ServerRun { timeline: 1, started: 2_000 };
    let token = Token { unproven: Some(run), ..world.token(Topic::Signals, one.id, 1) }.encode();
    let seqs: std::collections::BTreeMap<_, _> =
        Partition::all(4).into_iter().map(|partition| (partition, 0)).collect();
    let write = async |run: ServerRun, time: i64, seq: u64| {
        let mut seqs = seqs.clone();
        seqs.insert(Partition { topic: Topic::Signals, index: 0 }, seq);
        let watermark = Watermark { epoch: EPOCH, history: 0, time, run, seqs };
        let text = format!("{}\n{}", serde_json::to_string(&watermark).unwrap(), time / 1000);
        let () = world.redis(redis::cmd("SET").arg(world.keys.watermark()).arg(text)).await;
    };
    let headers = [("nexus-token", token.as_str()), ("prefer", "wait=0")];
    world.read("/v1/signals", &headers).await.is(503, "not-yet-consistent");
    write(ServerRun { timeline: 1, started: 1_999 }, 1_000_000, 0).await;
    until("the watermark is seen", async || {
        (world.read("/v1/status", &[]).await.json()["watermark_l2c"]["count"] == 1).then_some(())
    })
    .await;
    world.read("/v1/signals", &headers).await.is(503, "not-yet-consistent");
    // Of the run, but not applied.
    write(run, 2_000_000, 1_000).await;
    let waits = [("nexus-token", token.as_str()), ("prefer", "wait=20")];
    let (answer, ()) = tokio::join!(world.read("/v1/signals", &waits), write(run, 3_000_000, 0));
    assert_eq!(answer.status, 200);
}
