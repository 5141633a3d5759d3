//! A Redis that lost what it knew.

use std::time::Duration;

use infrastructure::{Planes, TestStack};
use serde_json::json;

use crate::client::{Client, assert_planes_agree, eventually, walk};

#[tokio::test]
async fn an_emptied_redis_is_refilled_by_replay_and_never_answers_404_meanwhile() {
    let stack = TestStack::start().await.expect("servers");
    let planes = Planes::start(&stack.namespace("refill").await).await.expect("planes");
    let mut control = Client::new(&planes.control, planes.api_key());
    let mut view = Client::new(&planes.dataplane, planes.api_key());
    let mut kept = Vec::new();
    for i in 0..300 {
        let created = control.create(&format!("signal {i}")).await;
        match i % 3 {
            0 => drop(control.send("DELETE", &format!("/v1/signals/{}", created.id()), &[], None).await.expect(204)),
            1 => drop(control.patch(&created.id(), &json!({"status": "active"})).await.expect(200)),
            _ => {}
        }
        if i % 3 != 0 {
            kept.push(created.id());
        }
    }
    assert_eq!(assert_planes_agree(&mut control, &mut view).await, 200);
    let before = walk(&mut view, "/v1/signals?order=created").await;

    let client = redis::Client::open(stack.servers().redis_url()).expect("a client");
    let mut connection = client.get_multiplexed_async_connection().await.expect("Redis");
    redis::cmd("FLUSHALL").query_async::<()>(&mut connection).await.expect("flushed");
    let path = format!("/v1/signals/{}", kept[0]);
    eventually("the view to be filled again", Duration::from_secs(60), async || {
        let answer = view.get(&path).await;
        // Nothing in between: either it is there, or the view says that it can't tell.
        assert!(matches!(answer.status, 200 | 503), "status {} while the view is empty", answer.status);
        (answer.status == 200).then_some(())
    })
    .await;
    eventually("lists to be whole again", Duration::from_secs(60), async || {
        let page = view.get("/v1/signals?order=created&limit=500").await;
        assert!(matches!(page.status, 200 | 503));
        (page.status == 200).then_some(())
    })
    .await;
    assert_eq!(walk(&mut view, "/v1/signals?order=created").await, before);
    let created = control.create("after the refill").await;
    view.get_with(&format!("/v1/signals/{}", created.id()), &created.token()).await.expect(200);
    assert_eq!(assert_planes_agree(&mut control, &mut view).await, 201);
}

#[tokio::test]
async fn a_redis_killed_under_load_never_serves_what_it_forgot() {
    let stack = TestStack::start().await.expect("servers");
    let planes = Planes::start(&stack.namespace("forgot").await).await.expect("planes");
    let mut control = Client::new(&planes.control, planes.api_key());
    let mut view = Client::new(&planes.dataplane, planes.api_key());
    let mut versions = Vec::new();
    for round in 0..3 {
        for i in 0..100 {
            let created = control.create(&format!("{round}/{i}")).await;
            versions.push((created.id(), created.token()));
        }
        let (id, token) = versions.last().expect("created").clone();
        view.get_with(&format!("/v1/signals/{id}"), &token).await.expect(200);
        // appendfsync everysec: up to a second of the view is gone.
        stack.servers().redis.kill().await;
        stack.servers().redis.start().await.expect("Redis again");
        for (id, _) in versions.iter().rev().take(20) {
            let path = format!("/v1/signals/{id}");
            eventually("a seen signal to be there again", Duration::from_secs(60), async || {
                let answer = view.get(&path).await;
                assert!(
                    matches!(answer.status, 200 | 503),
                    "status {} for a signal that had been visible",
                    answer.status
                );
                (answer.status == 200).then_some(())
            })
            .await;
        }
    }
    assert_eq!(assert_planes_agree(&mut control, &mut view).await, 300);
}
