//! Processes that die or freeze at the worst moment.

use std::time::Duration;

use infrastructure::{Plane, Planes, Signal, TestStack};
use serde_json::json;
use sqlx::Connection;

use crate::client::{Client, assert_planes_agree, eventually};
use crate::topics;

#[tokio::test]
async fn nothing_is_lost_when_control_is_killed_between_commit_and_publish() {
    let stack = TestStack::start().await.expect("servers");
    let namespace = stack.namespace("kill").await;
    let planes = Planes::start(&namespace).await.expect("planes");
    let mut control = Client::new(&planes.control, planes.api_key());
    let mut view = Client::new(&planes.dataplane, planes.api_key());
    let before = control.create("before").await;
    view.get_with(&format!("/v1/signals/{}", before.id()), &before.token()).await.expect(200);

    stack.servers().broker.pause();
    let mut accepted = Vec::new();
    for i in 0..50 {
        accepted.push(control.create(&format!("unpublished {i}")).await);
    }
    planes.control.kill().await;
    stack.servers().broker.resume();
    planes.control.start().await.expect("control again");

    for created in &accepted {
        let seen = view.get_with(&format!("/v1/signals/{}", created.id()), &created.token()).await.expect(200);
        assert_eq!(seen.body, created.body);
    }
    let mut control = Client::new(&planes.control, planes.api_key());
    assert_eq!(assert_planes_agree(&mut control, &mut view).await, 51);
    topics::assert_exactly_once_in_order(&namespace, "signals");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_killed_under_load_again_and_again_repeats_with_the_same_numbers() {
    let namespace = TestStack::shared().await.namespace("rekill").await;
    let planes = Planes::start(&namespace).await.expect("planes");
    // A second control plane keeps answering, and its relay stands by.
    let second = Plane::control(&namespace).name("control-b").start().await.expect("a second control plane");
    let mut writer = Client::new(&second, planes.api_key());
    let load = tokio::spawn(async move {
        let mut accepted = 0;
        for i in 0..1500 {
            let created = writer.create(&format!("under load {i}")).await;
            if i % 3 == 0 {
                writer.patch(&created.id(), &json!({"priority": "critical"})).await.expect(200);
            }
            if i % 7 == 0 {
                writer.send("DELETE", &format!("/v1/signals/{}", created.id()), &[], None).await.expect(204);
            } else {
                accepted += 1;
            }
        }
        accepted
    });
    for _ in 0..3 {
        planes.control.kill().await;
        tokio::time::sleep(Duration::from_millis(300)).await; // the load goes on meanwhile
        planes.control.start().await.expect("control again");
        // Make it the relaying one again for the next round: the other's connection to the slot is ended by the server.
        end_replication(&namespace).await;
    }
    let accepted = load.await.expect("the load ended well");
    let mut control = Client::new(&second, planes.api_key());
    let mut view = Client::new(&planes.dataplane, planes.api_key());
    assert_eq!(assert_planes_agree(&mut control, &mut view).await, accepted);
    topics::assert_exactly_once_in_order(&namespace, "signals");
}

#[tokio::test]
async fn a_paused_relay_thawed_after_its_successor_took_over_is_fenced() {
    let namespace = TestStack::shared().await.namespace("thaw").await;
    let planes = Planes::start(&namespace).await.expect("planes");
    let mut view = Client::new(&planes.dataplane, planes.api_key());
    let second = Plane::control(&namespace).name("control-b").start().await.expect("a second control plane");
    let mut writer = Client::new(&second, planes.api_key());
    for i in 0..20 {
        writer.create(&format!("before {i}")).await;
    }
    planes.control.pause();
    end_replication(&namespace).await;
    let mut last = None;
    for i in 0..20 {
        last = Some(writer.create(&format!("during {i}")).await);
    }
    let last = last.expect("created");
    // The successor took over: what was written while the first one was frozen becomes visible.
    view.get_with(&format!("/v1/signals/{}", last.id()), &last.token()).await.expect(200);
    planes.control.resume();
    for i in 0..20 {
        writer.create(&format!("after {i}")).await;
    }
    assert_eq!(assert_planes_agree(&mut writer, &mut view).await, 60);
    topics::assert_exactly_once_in_order(&namespace, "signals");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_leaves_no_accepted_command_without_its_answer() {
    let namespace = TestStack::shared().await.namespace("drain").await;
    let planes = Planes::start(&namespace).await.expect("planes");
    let mut writers = Vec::new();
    for worker in 0..16 {
        let mut control = Client::new(&planes.control, planes.api_key());
        writers.push(tokio::spawn(async move {
            let mut answered = Vec::new();
            for i in 0.. {
                let body = json!({"title": format!("{worker}/{i}")}).to_string();
                match control.try_send("POST", "/v1/signals", &[], Some(&body)).await {
                    Ok(answer) if answer.status == 201 => answered.push(answer.id()),
                    Ok(answer) => assert_eq!(answer.status, 503),
                    Err(_) => break,
                }
            }
            answered
        }));
    }
    tokio::time::sleep(Duration::from_millis(500)).await; // let the load run
    let start = std::time::Instant::now();
    assert!(planes.control.stop().await, "control had to be killed");
    assert!(start.elapsed() < Duration::from_secs(5), "the drain took {:?}", start.elapsed());
    let mut answered = Vec::new();
    for writer in writers {
        answered.extend(writer.await.expect("a writer"));
    }
    let mut admin = sqlx::PgConnection::connect(&namespace.database_admin_url()).await.expect("Postgres");
    let mut stored: Vec<String> =
        sqlx::query_scalar("SELECT id::text FROM nexus.signals").fetch_all(&mut admin).await.expect("rows");
    stored.sort_unstable();
    answered.sort_unstable();
    assert!(answered.len() > 16, "the load did not run: {}", answered.len());
    // Every stored command had its answer, and every answer its row.
    assert_eq!(answered.len(), stored.len());
    assert_eq!(answered, stored);
    assert!(planes.dataplane.signal(Signal::TERM));
    eventually("the data plane to end", Duration::from_secs(5), async || {
        planes.dataplane.pid().is_none().then_some(())
    })
    .await;
}

/// Ends the connection that holds the slot, as a server does with a peer that is silent for too long.
async fn end_replication(namespace: &infrastructure::Namespace) {
    let mut admin = sqlx::PgConnection::connect(&namespace.database_admin_url()).await.expect("Postgres");
    sqlx::query("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active")
        .bind(namespace.slot())
        .execute(&mut admin)
        .await
        .expect("terminated");
}
