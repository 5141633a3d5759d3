//! The life of one signal, through every hop.

use std::time::Duration;

use infrastructure::{Planes, TestStack};
use serde_json::json;

use crate::client::{Client, assert_planes_agree, eventually};
use crate::topics;

#[tokio::test]
async fn a_signal_is_the_same_bytes_at_every_hop_of_its_life() {
    let namespace = TestStack::shared().await.namespace("life").await;
    let planes = Planes::start(&namespace).await.expect("planes");
    let mut control = Client::new(&planes.control, planes.api_key());
    let mut view = Client::new(&planes.dataplane, planes.api_key());

    let body = r#"{"title":"restart the \"pump\"","priority":"high","payload":{ "z": 1.50, "a": [1e3, -0] }}"#;
    let created = control.send("POST", "/v1/signals", &[], Some(body)).await.expect(201);
    let id = created.id();
    assert_eq!(created.header("location"), Some(format!("/v1/signals/{id}").as_str()));
    assert_eq!(created.header("etag"), Some("\"1\""));
    assert!(String::from_utf8_lossy(&created.body).contains(r#""payload":{"z":1.50,"a":[1e3,-0]}"#));

    let path = format!("/v1/signals/{id}");
    let stored = control.get(&path).await.expect(200);
    let seen = view.get_with(&path, &created.token()).await.expect(200);
    assert_eq!(stored.body, created.body);
    assert_eq!(seen.body, created.body);
    assert_eq!(seen.header("etag"), Some("\"1\""));
    view.send("GET", &path, &[("if-none-match", "\"1\"")], None).await.expect(304);

    let patched = control.patch(&id, &json!({"status": "active", "payload": {"a": null, "b": {}}})).await.expect(200);
    assert_eq!(patched.header("etag"), Some("\"2\""));
    assert_eq!(view.get_with(&path, &patched.token()).await.expect(200).body, patched.body);
    let nothing = control.patch(&id, &json!({"status": "active"})).await.expect(200);
    assert_eq!(nothing.header("etag"), Some("\"2\""));
    control.send("PATCH", &path, &[("if-match", "\"1\"")], Some("{}")).await.expect(412);

    let listed = view.get("/v1/signals?status=active&priority=high").await.expect(200).json();
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1));

    let deleted = control.send("DELETE", &path, &[], None).await.expect(204);
    let gone = view.get_with(&path, &deleted.token()).await.expect(404);
    assert_eq!(gone.json()["deleted_version"], 3);
    control.send("DELETE", &path, &[], None).await.expect(404);
    assert_eq!(view.get("/v1/signals").await.expect(200).json()["items"], json!([]));

    // The events on the topic: in order, the very bytes that were answered, then a null.
    let records = eventually("three committed events", Duration::from_secs(10), async || {
        let all: Vec<_> = topics::read_all(&namespace, "signals", "read_committed").into_values().flatten().collect();
        (all.len() == 3).then_some(all)
    })
    .await;
    assert!(records.iter().all(|record| record.key == id));
    assert_eq!(records[0].value.as_deref(), Some(created.body.as_ref()));
    assert_eq!(records[1].value.as_deref(), Some(patched.body.as_ref()));
    assert_eq!(records[2].value, None);
    let types: Vec<&str> = records.iter().map(|record| record.headers["ce_type"].as_str()).collect();
    assert_eq!(types, ["nexus.signal.created", "nexus.signal.updated", "nexus.signal.deleted"]);
    assert_eq!(records[2].headers["nexus_version"], "3");
    assert_eq!(records[0].headers["ce_source"], format!("{}signals", namespace.topic_prefix()));
}

#[tokio::test]
async fn both_planes_say_which_commit_they_were_built_from() {
    let namespace = TestStack::shared().await.namespace("version").await;
    let planes = Planes::start(&namespace).await.expect("planes");
    // A commit that the checkout knows; not just HEAD, which may have moved since the executables were built.
    let git = |arguments: &[&str]| {
        let mut git = std::process::Command::new("git");
        git.args(["-c", "safe.directory=*"]).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
        git.output().is_ok_and(|output| output.status.success())
    };
    let in_checkout = git(&["rev-parse", "--verify", "HEAD"]);
    for plane in [&planes.control, &planes.dataplane] {
        let version = Client::new(plane, "").get("/version").await.expect(200).json();
        let commit = version["commit"].as_str();
        assert_eq!(commit.is_some(), in_checkout, "{version}");
        let known = |commit: &str| commit.len() == 40 && git(&["cat-file", "-e", &format!("{commit}^{{commit}}")]);
        assert!(commit.is_none_or(known), "{version}");
    }
}

#[tokio::test]
async fn a_conflict_in_a_batch_rejects_one_command_and_two_patches_both_count() {
    let namespace = TestStack::shared().await.namespace("batch").await;
    let planes = Planes::start(&namespace).await.expect("planes");
    let mut control = Client::new(&planes.control, planes.api_key());
    let mut view = Client::new(&planes.dataplane, planes.api_key());
    let id = control.create("both").await.id();
    let batch = json!({"commands": [
        {"op": "update", "id": id, "signal": {"payload": {"a": 1}}},
        {"op": "update", "id": id, "if_match": 1, "signal": {"payload": {"lost": true}}},
        {"op": "update", "id": id, "if_match": 2, "signal": {"payload": {"b": 2}}},
        {"op": "create", "signal": {"title": ""}},
        {"op": "create", "signal": {"title": "fine"}},
        {"op": "delete", "id": "no-uuid"},
    ]});
    let answer = control.send("POST", "/v1/signals:batch", &[], Some(&batch.to_string())).await.expect(200);
    let results = answer.json()["results"].clone();
    let statuses: Vec<u64> =
        results.as_array().expect("results").iter().map(|r| r["status"].as_u64().expect("a status")).collect();
    assert_eq!(statuses, [200, 412, 200, 422, 201, 404]);
    let seen = view.get_with(&format!("/v1/signals/{id}"), &answer.token()).await.expect(200).json();
    assert_eq!(seen["payload"], json!({"a": 1, "b": 2}));
    assert_eq!(seen["version"], 3);
    assert_eq!(assert_planes_agree(&mut control, &mut view).await, 2);
}

#[tokio::test]
async fn an_idempotency_key_gives_the_first_answer_again() {
    let namespace = TestStack::shared().await.namespace("idempotency").await;
    let planes = Planes::start(&namespace).await.expect("planes");
    let mut control = Client::new(&planes.control, planes.api_key());
    let key = [("idempotency-key", "order 66")];
    let first = control.send("POST", "/v1/signals", &key, Some(r#"{"title":"once"}"#)).await.expect(201);
    let again = control.send("POST", "/v1/signals", &key, Some(r#"{"title":"once"}"#)).await.expect(201);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(first.header("idempotency-replayed"), None);
    assert_eq!((&again.body, again.token(), again.header("etag")), (&first.body, first.token(), first.header("etag")));
    let other = control.send("POST", "/v1/signals", &key, Some(r#"{"title":"twice"}"#)).await.expect(422);
    assert_eq!(other.json()["code"], "idempotency-key-reused");
    assert_eq!(control.get("/v1/signals").await.expect(200).json()["items"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_poison_event_is_parked_and_the_line_goes_on() {
    use sqlx::{Connection, Executor};
    let namespace = TestStack::shared().await.namespace("poison").await;
    let planes = Planes::start(&namespace).await.expect("planes");
    let mut control = Client::new(&planes.control, planes.api_key());
    let mut view = Client::new(&planes.dataplane, planes.api_key());
    let id = control.create("poisoned").await.id();
    // As a superuser, because nobody else may: a message with a readable key and nonsense behind it.
    let mut admin = sqlx::PgConnection::connect(&namespace.database_admin_url()).await.expect("Postgres");
    let hex: String = id.replace('-', "");
    let forged = format!("SELECT pg_logical_emit_message(true, 'nexus.event', decode('73{hex}63', 'hex'))");
    admin.execute(sqlx::AssertSqlSafe(forged)).await.expect("emitted");
    admin.execute("SELECT pg_logical_emit_message(true, 'nexus.event', 'rubbish'::bytea)").await.expect("emitted");
    let after = control.create("after the poison").await;
    view.get_with(&format!("/v1/signals/{}", after.id()), &after.token()).await.expect(200);
    let parked = eventually("both to be parked", Duration::from_secs(20), async || {
        let parked: Vec<_> = topics_dead_letters(&namespace);
        (parked.len() >= 2).then_some(parked)
    })
    .await;
    assert_eq!(parked.len(), 2);
    assert!(parked.contains(&id));
    topics::assert_exactly_once_in_order(&namespace, "signals");

    // Whoever may not forge events, can't.
    let mut stranger = sqlx::PgConnection::connect(&namespace.database_admin_url()).await.expect("Postgres");
    stranger.execute("CREATE ROLE stranger_of_poison").await.expect("a role");
    stranger.execute("SET ROLE stranger_of_poison").await.expect("the role");
    let refused = stranger.execute("SELECT pg_logical_emit_message(true, 'nexus.event', 'x')").await;
    assert!(refused.expect_err("refused").to_string().contains("permission denied"));
}

fn topics_dead_letters(namespace: &infrastructure::Namespace) -> Vec<String> {
    use rdkafka::Message;
    use rdkafka::consumer::{BaseConsumer, Consumer};
    let consumer: BaseConsumer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", namespace.brokers())
        .set("group.id", "dead-letters-test")
        .set("enable.partition.eof", "true")
        .create()
        .expect("a consumer");
    let mut assignment = rdkafka::TopicPartitionList::new();
    let name = format!("{}dead-letters", namespace.topic_prefix());
    assignment.add_partition_offset(&name, 0, rdkafka::Offset::Beginning).expect("an offset");
    consumer.assign(&assignment).expect("an assignment");
    let mut keys = Vec::new();
    while let Some(Ok(message)) = consumer.poll(Duration::from_secs(10)) {
        keys.push(String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned());
    }
    keys
}
