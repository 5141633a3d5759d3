//! Redis going, and coming back without what it knew.

use contract::identity::Role;
use contract::signal::{Priority, Status};

use crate::world::{Change, EPOCH, RedisServer, World, signal, until};

#[tokio::test]
async fn without_redis_reads_are_503_and_an_empty_redis_is_never_a_404() {
    let mut redis = RedisServer::start().await;
    let world = World::start_on(&redis.url(), 4, true).await;
    let one = signal(Priority::Low, Status::Pending);
    world.apply(&[Change::signal(&one)]).await;
    let path = format!("/v1/signals/{}", one.id);
    assert_eq!(world.read(&path, &[]).await.status, 200);

    redis.kill();
    for path in [path.as_str(), "/v1/signals", "/v1/me", "/v1/status"] {
        world.read(path, &[]).await.is(503, "unavailable");
        // Nobody's key can be judged, a stranger's neither.
        world.read_as(&World::caller(Role::Reader), path, &[]).await.is(503, "unavailable");
    }
    let ready = world.get("/readyz", &[]).await;
    until("the server is unready", async || (world.get("/readyz", &[]).await.status == 503).then_some(())).await;
    assert!(ready.status == 503 || ready.status == 200);

    redis.restart().await;
    until("the server finds the empty Redis", async || {
        (world.read(&path, &[]).await.code() == "view-not-ready").then_some(())
    })
    .await;
    let unready = world.get("/readyz", &[]).await;
    assert_eq!(unready.status, 503);
    assert!(unready.json()["checks"]["view"]["detail"].is_string());

    // A new connection for the test's own writes, too.
    let again = World::start_on(&redis.url(), 4, false).await;
    until("the other server finds it, too", async || {
        (again.read("/v1/signals", &[]).await.code() == "view-not-ready").then_some(())
    })
    .await;
    again.fill(EPOCH).await;
    again.write_caller(&again.admin).await;
    again.ready().await;
    again.apply(&[Change::signal(&one)]).await;
    assert_eq!(again.read(&path, &[]).await.status, 200);
}

#[tokio::test]
async fn a_redis_that_stalls_counts_as_away_and_recovers() {
    let redis = RedisServer::start().await;
    let world = World::start_on(&redis.url(), 4, true).await;
    let () = world.redis(redis::cmd("CLIENT").arg("PAUSE").arg(4000).arg("ALL")).await;
    world.read("/v1/signals", &[]).await.is(503, "unavailable");
    until("reads are answered again", async || (world.read("/v1/signals", &[]).await.status == 200).then_some(()))
        .await;
}
