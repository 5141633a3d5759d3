//! A read with a token is never stale.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use infrastructure::{Planes, TestStack};
use serde_json::json;

use crate::client::{Client, assert_planes_agree};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_reads_with_a_token_are_never_stale() {
    let namespace = TestStack::shared().await.namespace("token").await;
    let planes = Planes::start(&namespace).await.expect("planes");
    let done = Arc::new(AtomicUsize::new(0));
    let mut workers = Vec::new();
    for worker in 0..20 {
        let mut control = Client::new(&planes.control, planes.api_key());
        let mut view = Client::new(&planes.dataplane, planes.api_key());
        let done = done.clone();
        workers.push(tokio::spawn(async move {
            for i in 0..250 {
                let created = control.create(&format!("{worker}/{i}")).await;
                let path = format!("/v1/signals/{}", created.id());
                let seen = view.get_with(&path, &created.token()).await.expect(200);
                assert_eq!(seen.body, created.body);
                let changed = control.patch(&created.id(), &json!({"payload": {"i": i}})).await.expect(200);
                let seen = view.get_with(&path, &changed.token()).await.expect(200);
                assert_eq!(seen.body, changed.body, "a read with a token was stale");
                done.fetch_add(2, Ordering::Relaxed);
            }
        }));
    }
    for worker in workers {
        worker.await.expect("no stale read");
    }
    assert_eq!(done.load(Ordering::Relaxed), 10_000);
    let mut control = Client::new(&planes.control, planes.api_key());
    let mut view = Client::new(&planes.dataplane, planes.api_key());
    assert_eq!(assert_planes_agree(&mut control, &mut view).await, 5000);
}

#[tokio::test]
async fn a_read_says_not_yet_consistent_when_the_view_stands_still() {
    let namespace = TestStack::shared().await.namespace("still").await;
    let planes = Planes::start(&namespace).await.expect("planes");
    let mut control = Client::new(&planes.control, planes.api_key());
    let reader =
        infrastructure::Plane::dataplane(&namespace).command("read").name("reader").start().await.expect("a reader");
    let mut view = Client::new(&reader, planes.api_key());
    let first = control.create("first").await;
    view.get_with(&format!("/v1/signals/{}", first.id()), &first.token()).await.expect(200);

    planes.dataplane.pause();
    let second = control.create("second").await;
    let path = format!("/v1/signals/{}", second.id());
    let token = second.token();
    let stale = view.send("GET", &path, &[("nexus-token", &token), ("prefer", "wait=0")], None).await.expect(503);
    assert_eq!(stale.json()["code"], "not-yet-consistent");
    assert!(stale.header("retry-after").is_some());
    view.get(&path).await.expect(404);
    let waiting = tokio::spawn(async move { view.get_with(&path, &token).await });
    planes.dataplane.resume();
    assert_eq!(waiting.await.expect("an answer").expect(200).body, second.body);
}
