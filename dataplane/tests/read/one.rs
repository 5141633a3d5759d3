//! One signal.

use contract::partition::Topic;
use contract::signal::{Priority, Status};
use uuid::Uuid;

use crate::world::{Change, World, signal};

#[tokio::test]
async fn a_signal_is_answered_with_the_very_bytes_of_its_event() {
    let world = World::start().await;
    let mut one = signal(Priority::High, Status::Active);
    world.apply(&[Change::signal(&one)]).await;
    let path = format!("/v1/signals/{}", one.id);
    let answer = world.read(&path, &[]).await;
    assert_eq!((answer.status.as_u16(), answer.body), (200, one.render().into()));
    assert_eq!(answer.headers["etag"], "\"1\"");
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.headers["cache-control"], "private, no-cache");
    assert_eq!(answer.headers["vary"], "Authorization, Accept");

    one.version = 2;
    world.apply(&[Change::signal(&one)]).await;
    let answer = world.read(&path.to_uppercase().replace("/V1/SIGNALS", "/v1/signals"), &[]).await;
    assert_eq!((answer.status.as_u16(), answer.body), (200, one.render().into()));
    for (tag, status) in [("\"2\"", 304), ("W/\"2\"", 304), ("*", 304), ("\"1\"", 200), ("\"1\", \"2\"", 304)] {
        let answer = world.read(&path, &[("if-none-match", tag)]).await;
        assert_eq!(answer.status, status, "{tag}");
        assert_eq!(answer.headers["etag"], "\"2\"");
        assert_eq!(answer.body.is_empty(), status == 304);
    }
}

#[tokio::test]
async fn a_deleted_signal_is_404_and_names_the_deletion() {
    let world = World::start().await;
    let one = signal(Priority::Low, Status::Pending);
    world.apply(&[Change::signal(&one), Change::delete(Topic::Signals, one.id, 2)]).await;
    let answer = world.read(&format!("/v1/signals/{}", one.id), &[]).await;
    answer.is(404, "not-found");
    assert_eq!(answer.json()["deleted_version"], 2);
    let answer = world.read(&format!("/v1/signals/{}", Uuid::from_u128(9)), &[]).await;
    answer.is(404, "not-found");
    assert_eq!(answer.json().get("deleted_version"), None);
    for path in ["/v1/signals/x", "/v1/signals/", "/v1/signals/a/b", "/v1/identities/1", "/v2"] {
        world.read(path, &[]).await.is(404, "not-found");
    }
    world.read(&format!("/v1/signals/{}?x=1", one.id), &[]).await.is(400, "bad-query");
    world.read(&format!("/v1/signals/{}", one.id), &[("accept", "text/html")]).await.is(406, "not-acceptable");
}

#[tokio::test]
async fn a_new_generation_serves_from_its_first_read_and_an_unready_one_never() {
    let world = World::start().await;
    let one = signal(Priority::Low, Status::Pending);
    let path = format!("/v1/signals/{}", one.id);
    world.apply(&[Change::signal(&one)]).await;
    assert_eq!(world.read(&path, &[]).await.status, 200);

    world.set_headers(|header| header.ready = false).await;
    world.read(&path, &[]).await.is(503, "view-not-ready");
    world.set_headers(|header| header.ready = true).await;
    let run_id = {
        let answer = world.read("/v1/status", &[]).await;
        answer.json()["redis"]["run_id"].as_str().unwrap().to_owned()
    };
    world.set_headers(|header| header.run_id = "another".into()).await;
    let answer = world.read(&path, &[]).await;
    answer.is(503, "view-not-ready");
    assert!(answer.headers.contains_key("retry-after"));
    world.set_headers(|header| header.run_id.clone_from(&run_id)).await;
    assert_eq!(world.read(&path, &[]).await.status, 200);

    // The same header, gone: never a 404.
    let partition = contract::partition::Partition::of(Topic::Signals, one.id, 4);
    let key = world.keys.header(partition);
    let header: String = world.redis(redis::cmd("GETDEL").arg(&key)).await;
    world.read(&path, &[]).await.is(503, "view-not-ready");
    let () = world.redis(redis::cmd("SET").arg(&key).arg(header)).await;

    // Another generation, in which the signal is not: the first read already knows.
    world.fill(crate::world::EPOCH).await;
    world.write_caller(&world.admin).await;
    world.read(&path, &[]).await.is(404, "not-found");
    world.apply(&[Change::signal(&one)]).await;
    assert_eq!(world.read(&path, &[]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_reads_each_get_their_own_answer() {
    let world = std::sync::Arc::new(World::start().await);
    let signals: Vec<_> = (0..200).map(|_| signal(Priority::Normal, Status::Pending)).collect();
    world.apply(&signals.iter().map(Change::signal).collect::<Vec<_>>()).await;
    let mut reads = tokio::task::JoinSet::new();
    for one in signals {
        let world = world.clone();
        reads.spawn(async move {
            let answer = world.read(&format!("/v1/signals/{}", one.id), &[]).await;
            assert_eq!((answer.status.as_u16(), answer.body), (200, one.render().into()));
        });
    }
    reads.join_all().await;
}
