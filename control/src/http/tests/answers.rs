//! What commands become on the way in, and what their outcomes become on the way out.

use std::time::Instant;

use contract::command::{Precondition, SignalCommand};
use contract::problem::{FINAL_STATUS, Problem};
use contract::query::{After, Order, Resource};
use contract::signal::{Priority, Status};

use super::*;

#[tokio::test]
async fn a_creation_carries_caller_trace_and_idempotency_in_and_all_headers_out() {
    let bench = Bench::new();
    let mut answer = Answer::ok(201, "{\"id\":1}");
    answer.etag = Some(1);
    answer.location = Some("/v1/signals/1".to_owned());
    answer.token = Some("abc".to_owned());
    answer.replayed = true;
    bench.answer_with(answer);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let call = bench.call("POST", "/v1/signals").by(Some(secret(Role::Operator)));
    let call = call.header("traceparent", trace).header("idempotency-key", "my key");
    let reply = call.body(r#"{"title":"x"}"#).send().await;
    assert_eq!((reply.status, reply.text.as_str()), (201, "{\"id\":1}"));
    for (name, value) in [
        ("etag", "\"1\""),
        ("location", "/v1/signals/1"),
        ("nexus-token", "abc"),
        ("idempotency-replayed", "true"),
        ("content-type", "application/json"),
    ] {
        assert_eq!(reply.header(name), Some(value));
    }
    let asked = bench.asked().remove(0);
    assert_eq!((asked.traceparent.as_str(), asked.request_id.as_str()), (trace, "r1"));
    assert_eq!(asked.caller.role, Role::Operator);
    assert_eq!(asked.caller.identity, record(&secret(Role::Operator), Role::Operator).identity);
    assert_eq!(asked.idempotency.expect("a key").key, "my key");
    assert!(asked.bytes >= 13);
    assert!(matches!(asked.work, Work::Signal(SignalCommand::Create(create)) if create.title == "x"));
}

#[tokio::test]
async fn if_match_becomes_the_precondition() {
    let bench = Bench::new();
    let signal = format!("/v1/signals/{KNOWN}");
    for (header, expected) in [
        (None, Precondition::None),
        (Some("*"), Precondition::Exists),
        (Some("\"3\", \"4\""), Precondition::AnyOf(vec![3, 4])),
        (Some("\"other\""), Precondition::AnyOf(vec![])),
    ] {
        for method in ["PATCH", "DELETE"] {
            let mut call = bench.call(method, &signal);
            if let Some(value) = header {
                call = call.header("if-match", value);
            }
            assert_eq!(call.body("{}").send().await.status, 200);
            let found = match bench.asked().remove(0).work {
                Work::Signal(SignalCommand::Update(KNOWN, _, precondition)) => precondition,
                Work::Signal(SignalCommand::Delete(KNOWN, precondition)) => precondition,
                other => panic!("{other:?}"),
            };
            assert_eq!(found, expected, "{method} {header:?}");
        }
    }
}

#[tokio::test]
async fn identities_and_keys_become_their_work() {
    let bench = Bench::new();
    let identity = format!("/v1/identities/{KNOWN}");
    let call = |method: &str, path: String, body: &str| bench.call(method, &path).body(body.to_owned()).send();
    call("POST", "/v1/identities".into(), r#"{"name":"bot","role":"operator"}"#).await;
    call("PATCH", identity.clone(), r#"{"active":false}"#).await;
    call("DELETE", identity.clone(), "").await;
    call("POST", format!("{identity}/keys"), r#"{"name":"ci","expires_at":"2999-01-01T00:00:00Z"}"#).await;
    call("DELETE", format!("{identity}/keys/{DELETED}"), "").await;
    let works: Vec<Work> = bench.asked().into_iter().map(|request| request.work).collect();
    assert!(matches!(&works[0], Work::CreateIdentity(create) if create.role == Role::Operator));
    assert!(matches!(&works[1], Work::UpdateIdentity(KNOWN, patch, Precondition::None) if patch.active == Some(false)));
    assert!(matches!(&works[2], Work::DeleteIdentity(KNOWN, Precondition::None)));
    assert!(matches!(&works[3], Work::CreateKey(KNOWN, key) if key.expires_at.is_some()));
    assert!(matches!(&works[4], Work::RevokeKey(KNOWN, DELETED)));
}

#[tokio::test]
async fn a_batch_keeps_its_broken_entries_in_their_places() {
    let bench = Bench::new();
    let body =
        r#"{"commands":[{"op":"create","signal":{"title":"a"}},{"op":"delete","id":"x"},{"op":"create","signal":{}}]}"#;
    assert_eq!(bench.call("POST", "/v1/signals:batch").body(body).send().await.status, 200);
    let Work::Batch(entries) = bench.asked().remove(0).work else { panic!("a batch") };
    let told: Vec<u16> = entries.iter().map(|e| e.as_ref().map_or_else(|p| p.kind.status, |_| 0)).collect();
    assert_eq!(told, [0, 404, 422]);
}

#[tokio::test]
async fn a_deletion_has_neither_body_nor_type() {
    let bench = Bench::new();
    let mut answer = Answer::ok(204, Bytes::new());
    answer.token = Some("abc".to_owned());
    bench.answer_with(answer);
    let reply = bench.call("DELETE", &format!("/v1/signals/{KNOWN}")).send().await;
    assert_eq!((reply.status, reply.text.as_str()), (204, ""));
    assert_eq!((reply.header("content-type"), reply.header("nexus-token")), (None, Some("abc")));
}

#[tokio::test]
async fn a_rejection_goes_out_as_its_problem() {
    let bench = Bench::new();
    bench.answer_with(Answer::rejected(&Problem::new(&FINAL_STATUS, "it is completed"), "r1"));
    let reply = bench.call("PATCH", &format!("/v1/signals/{KNOWN}")).body("{}").send().await;
    assert_eq!((reply.status, reply.code().as_str()), (409, "final-status"));
    assert_eq!(reply.json()["request_id"], "r1");
}

#[tokio::test]
async fn refusals_say_whether_something_may_have_happened() {
    let bench = Bench::new();
    let away = || Refusal::Unavailable { detail: "Postgres is away".to_owned() };
    for (outcome, status, code) in [
        (Outcome::TakeNothing(Refusal::Overloaded), 503, "overloaded"),
        (Outcome::TakeNothing(away()), 503, "unavailable"),
        (Outcome::Refuse(away()), 503, "unavailable"),
        (Outcome::Refuse(Refusal::OutcomeUnknown), 503, "outcome-unknown"),
        (Outcome::Refuse(Refusal::Internal), 500, "internal"),
    ] {
        bench.set(outcome);
        for (path, body) in [("/v1/signals", r#"{"title":"x"}"#), ("/v1/identities", r#"{"name":"x"}"#)] {
            let reply = bench.call("POST", path).body(body).send().await;
            assert_eq!((reply.status, reply.code().as_str()), (status, code));
            assert_eq!(reply.header("retry-after").is_some(), status == 503);
        }
    }
}

#[tokio::test]
async fn a_command_without_an_answer_is_outcome_unknown_at_the_deadline() {
    let bench = Bench::new();
    bench.set(Outcome::Hang);
    let began = Instant::now();
    let reply = bench.call("POST", "/v1/signals").body(r#"{"title":"x"}"#).send().await;
    assert_eq!((reply.status, reply.code().as_str()), (503, "outcome-unknown"));
    assert!(began.elapsed() >= RECEIPT);
    assert_eq!(bench.asked().len(), 1, "it was submitted, and once");
}

#[tokio::test]
async fn in_a_shutdown_commands_are_answered_before_their_connections_are_cut() {
    let bench = Bench::new();
    bench.set(Outcome::Hang);
    bench.shutdown.begin();
    let began = Instant::now();
    let reply = bench.call("POST", "/v1/identities").body(r#"{"name":"x"}"#).send().await;
    assert_eq!(reply.code(), "outcome-unknown");
    assert!((RECEIPT / 4..RECEIPT).contains(&began.elapsed()));
}

#[tokio::test]
async fn one_entity_is_read_with_its_tag_and_not_again_when_it_is_known() {
    let bench = Bench::new();
    for path in [format!("/v1/signals/{KNOWN}"), format!("/v1/identities/{KNOWN}"), "/v1/me".to_owned()] {
        let reply = bench.call("GET", &path).send().await;
        assert_eq!((reply.status, reply.header("etag")), (200, Some("\"3\"")), "{path}");
        assert_eq!(reply.header("cache-control"), Some("private, no-cache"));
        assert_eq!(reply.header("vary"), Some("Authorization, Accept"));
        for known in ["\"3\"", "W/\"3\"", "*", "\"1\", \"3\""] {
            let reply = bench.call("GET", &path).header("if-none-match", known).send().await;
            assert_eq!((reply.status, reply.text.as_str(), reply.header("etag")), (304, "", Some("\"3\"")), "{known}");
            assert_eq!(reply.header("cache-control"), Some("private, no-cache"));
        }
        assert_eq!(bench.call("GET", &path).header("if-none-match", "\"2\"").send().await.status, 200);
    }
    let gone = bench.call("GET", &format!("/v1/signals/{DELETED}")).send().await;
    assert_eq!((gone.status, gone.json()["deleted_version"].as_u64()), (404, Some(9)));
    let missing = bench.call("GET", &format!("/v1/signals/{}", Uuid::from_u64_pair(7, 7))).send().await;
    assert_eq!((missing.status, missing.json().get("deleted_version")), (404, None));
}

#[tokio::test]
async fn a_page_names_the_next_one_in_body_and_link() {
    let bench = Bench::new();
    let path = "/v1/signals?status=active%2Cpending&order=-created&limit=2";
    let reply = bench.call("GET", path).send().await;
    assert_eq!((reply.status, reply.text.as_str()), (200, r#"{"items":[],"next_cursor":null}"#));
    assert_eq!(reply.header("link"), None);
    let query = bench.memory.queries.lock().expect("unpoisoned").remove(0);
    assert_eq!((query.resource, query.order, query.limit), (Resource::Signals, Order::CreatedDescending, 2));
    assert!(query.filter.matches(Status::Active, Priority::Low));
    assert!(!query.filter.matches(Status::Completed, Priority::Low));

    let after = After { priority: Priority::Low, id: KNOWN };
    let cursor = query.cursor(after);
    let items = vec![Bytes::from_static(b"{\"a\":1}"), Bytes::from_static(b"{\"a\":2}")];
    *bench.memory.page.lock().expect("unpoisoned") = Some(Page { items, next_cursor: Some(cursor.clone()) });
    let reply = bench.call("GET", path).send().await;
    assert_eq!(reply.text, format!("{{\"items\":[{{\"a\":1}},{{\"a\":2}}],\"next_cursor\":\"{cursor}\"}}"));
    let link = reply.header("link").expect("a link").to_owned();
    let next = link.strip_prefix('<').and_then(|l| l.strip_suffix(">; rel=\"next\"")).expect("a next link");
    assert!(next.starts_with("/v1/signals?"), "{link}");
    assert_eq!(bench.call("GET", next).send().await.status, 200);
    let followed = bench.memory.queries.lock().expect("unpoisoned").pop().expect("a query");
    assert_eq!((followed.after, followed.filter, followed.limit), (Some(after), query.filter, 2));
}

#[tokio::test]
async fn keys_are_listed_for_an_identity_that_is_there() {
    let bench = Bench::new();
    let reply = bench.call("GET", &format!("/v1/identities/{KNOWN}/keys")).send().await;
    assert_eq!(reply.text, r#"{"items":[{"id":"k"}],"next_cursor":null}"#);
    assert_eq!(bench.call("GET", &format!("/v1/identities/{DELETED}/keys")).send().await.status, 404);
}

#[tokio::test]
async fn reads_with_postgres_away_are_503() {
    let bench = Bench::new();
    assert_eq!(bench.call("GET", "/v1/me").send().await.status, 200, "so that the key is known");
    *bench.memory.is_away.lock().expect("unpoisoned") = true;
    for path in ["/v1/signals".to_owned(), format!("/v1/signals/{KNOWN}"), "/v1/me".to_owned()] {
        let reply = bench.call("GET", &path).send().await;
        assert_eq!((reply.status, reply.code().as_str()), (503, "unavailable"), "{path}");
        assert_eq!(reply.header("retry-after"), Some("1"));
    }
}
