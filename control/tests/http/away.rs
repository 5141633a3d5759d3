//! Servers that are away. Each test has servers of its own.

use std::time::Duration;

use infrastructure::{Plane, TestStack, wait};

use crate::support::control_on;

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn with_postgres_away_commands_are_503_and_all_recovers_by_itself() {
    let stack = TestStack::start().await.unwrap();
    let control = control_on(&stack, "postgres_away").await;
    let client = &control.client;
    assert_eq!(client.post("/v1/signals", r#"{"title":"before"}"#).await.status, 201);
    stack.servers().postgres.kill().await;
    // A command sent into a connection that died a moment ago has an unknown outcome; into one idle for longer none is.
    tokio::time::sleep(Duration::from_millis(100)).await;
    for (method, path, body) in
        [("POST", "/v1/signals", r#"{"title":"x"}"#), ("GET", "/v1/signals", ""), ("GET", "/v1/me", "")]
    {
        let reply = client.call(method, path, &[], body).await;
        assert_eq!((reply.status, reply.code().as_str()), (503, "unavailable"), "{method} {path}: {reply:?}");
        assert!(reply.header("retry-after").is_some());
    }
    wait::until("readiness to say so", PATIENCE, || async {
        let reply = client.get("/readyz").await;
        (reply.status == 503 && reply.json()["checks"]["postgres"]["ok"] == false).then_some(())
    })
    .await
    .unwrap();
    stack.servers().postgres.start().await.unwrap();
    control.plane.wait_ready().await.unwrap();
    wait::until("commands to be accepted again", PATIENCE, || async {
        (client.post("/v1/signals", r#"{"title":"after"}"#).await.status == 201).then_some(())
    })
    .await
    .unwrap();
    wait::until("the relay to stream again", PATIENCE, || async {
        (client.get("/readyz").await.json()["status"] == "ready").then_some(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn it_starts_without_postgres_and_serves_when_it_comes() {
    let stack = TestStack::start().await.unwrap();
    let control = control_on(&stack, "starts_without").await;
    assert!(control.plane.stop().await);
    stack.servers().postgres.kill().await;
    control.plane.spawn().unwrap();
    wait::until("readiness to name Postgres", PATIENCE, || async {
        let reply = control.client.try_call("GET", "/readyz", &[], "").await.ok()?;
        (reply.status == 503).then_some(())
    })
    .await
    .unwrap();
    assert_eq!(control.client.get("/livez").await.status, 200);
    assert_eq!(control.client.get("/v1/me").await.status, 503);
    stack.servers().postgres.start().await.unwrap();
    control.plane.wait_ready().await.unwrap();
    wait::until("the key to be read", PATIENCE, || async {
        (control.client.get("/v1/me").await.status == 200).then_some(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn with_the_broker_away_commands_succeed_and_readiness_is_degraded() {
    let stack = TestStack::start().await.unwrap();
    let control = control_on(&stack, "broker_away").await;
    let client = &control.client;
    wait::until("the relay to stream", PATIENCE, || async {
        (client.get("/readyz").await.json()["status"] == "ready").then_some(())
    })
    .await
    .unwrap();
    stack.servers().broker.kill().await;
    for _ in 0..20 {
        assert_eq!(client.post("/v1/signals", r#"{"title":"x"}"#).await.status, 201);
    }
    let degraded = wait::until("readiness to be degraded", PATIENCE, || async {
        let reply = client.get("/readyz").await;
        (reply.json()["status"] == "degraded").then_some(reply)
    });
    let degraded = degraded.await.unwrap();
    assert_eq!(degraded.status, 200);
    assert!(!degraded.json()["checks"]["relay"]["detail"].as_str().unwrap().is_empty());
    stack.servers().broker.start().await.unwrap();
    wait::until("the relay to catch up", PATIENCE, || async {
        (client.get("/readyz").await.json()["status"] == "ready").then_some(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_database_that_was_not_migrated_is_named_by_readiness() {
    let namespace = TestStack::shared().await.namespace("unmigrated").await;
    let plane = Plane::control(&namespace).start_unready().unwrap();
    wait::until("readiness to ask for migrate", PATIENCE, || async {
        let reply = infrastructure::probe::http_get(plane.address(), "/readyz", None).await?;
        (reply.status == 503 && reply.body.contains("nexus-control migrate")).then_some(())
    })
    .await
    .unwrap();
}
