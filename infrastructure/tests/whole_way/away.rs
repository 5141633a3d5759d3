//! Servers that go away and come back: what can be answered is, the rest says so, and all recovers by itself.

use std::time::Duration;

use infrastructure::{Planes, TestStack};

use crate::client::{Client, assert_planes_agree, eventually};

const BACK: Duration = Duration::from_secs(60);

#[tokio::test]
async fn postgres_away_is_503_with_retry_after_and_recovers() {
    let stack = TestStack::start().await.expect("servers");
    let planes = Planes::start(&stack.namespace("nopg").await).await.expect("planes");
    let mut control = Client::new(&planes.control, planes.api_key());
    let mut view = Client::new(&planes.dataplane, planes.api_key());
    let kept = control.create("kept").await;
    view.get_with(&format!("/v1/signals/{}", kept.id()), &kept.token()).await.expect(200);

    stack.servers().postgres.kill().await;
    let refused = control.send("POST", "/v1/signals", &[], Some(r#"{"title":"refused"}"#)).await.expect(503);
    assert!(refused.header("retry-after").is_some());
    assert!(["unavailable", "outcome-unknown"].contains(&refused.json()["code"].as_str().expect("a code")));
    let ready = eventually("control to say that Postgres is missing", Duration::from_secs(15), async || {
        let ready = control.get("/readyz").await;
        (ready.status == 503).then_some(ready)
    })
    .await;
    assert!(String::from_utf8_lossy(&ready.body).to_lowercase().contains("postgres"));
    // Reads do not need Postgres.
    view.get(&format!("/v1/signals/{}", kept.id())).await.expect(200);

    stack.servers().postgres.start().await.expect("Postgres again");
    let created = eventually("commands to be accepted again", BACK, async || {
        let answer = control.send("POST", "/v1/signals", &[], Some(r#"{"title":"again"}"#)).await;
        (answer.status == 201).then_some(answer)
    })
    .await;
    view.get_with(&format!("/v1/signals/{}", created.id()), &created.token()).await.expect(200);
    assert!(assert_planes_agree(&mut control, &mut view).await >= 2);
}

#[tokio::test]
async fn broker_away_commands_still_succeed_and_the_view_catches_up() {
    let stack = TestStack::start().await.expect("servers");
    let planes = Planes::start(&stack.namespace("nobroker").await).await.expect("planes");
    let mut control = Client::new(&planes.control, planes.api_key());
    let mut view = Client::new(&planes.dataplane, planes.api_key());
    let before = control.create("before").await;
    view.get_with(&format!("/v1/signals/{}", before.id()), &before.token()).await.expect(200);
    stack.servers().broker.kill().await;
    let mut last = None;
    for i in 0..100 {
        last = Some(control.create(&format!("while the broker is away {i}")).await);
    }
    let last = last.expect("created");
    let path = format!("/v1/signals/{}", last.id());
    let stale = view.send("GET", &path, &[("nexus-token", &last.token()), ("prefer", "wait=0")], None).await;
    assert_eq!(stale.expect(503).json()["code"], "not-yet-consistent");
    eventually("control to call itself degraded", Duration::from_secs(30), async || {
        let ready = control.get("/readyz").await.expect(200).json();
        (ready["status"] == "degraded").then_some(())
    })
    .await;
    stack.servers().broker.start().await.expect("the broker again");
    eventually("the view to catch up", BACK, async || (view.get(&path).await.status == 200).then_some(())).await;
    assert_eq!(assert_planes_agree(&mut control, &mut view).await, 101);
}

#[tokio::test]
async fn redis_away_commands_still_succeed_and_reads_say_503_not_401() {
    let stack = TestStack::start().await.expect("servers");
    let planes = Planes::start(&stack.namespace("noredis").await).await.expect("planes");
    let mut control = Client::new(&planes.control, planes.api_key());
    let mut view = Client::new(&planes.dataplane, planes.api_key());
    control.create("before").await;
    stack.servers().redis.stop().await;
    let last = control.create("while Redis is away").await;
    let path = format!("/v1/signals/{}", last.id());
    view.get(&path).await.expect(503);
    let ready = eventually("the data plane to say that Redis is missing", Duration::from_secs(15), async || {
        let ready = view.get("/readyz").await;
        (ready.status == 503).then_some(ready)
    })
    .await;
    assert!(String::from_utf8_lossy(&ready.body).to_lowercase().contains("redis"));
    stack.servers().redis.start().await.expect("Redis again");
    eventually("reads to be answered again", BACK, async || (view.get(&path).await.status == 200).then_some(())).await;
    assert_eq!(assert_planes_agree(&mut control, &mut view).await, 2);
}
