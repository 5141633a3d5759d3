//! Who may do what.

use contract::identity::{Role, format_secret};
use uuid::Uuid;

use super::*;
use crate::request::Invalidates;

/// Every request that there is, with the least role that may send it.
fn matrix() -> Vec<(&'static str, String, Option<&'static str>, Role)> {
    let signal = format!("/v1/signals/{KNOWN}");
    let identity = format!("/v1/identities/{KNOWN}");
    let keys = format!("{identity}/keys");
    let key = format!("{keys}/{KNOWN}");
    vec![
        ("GET", "/v1/me".into(), None, Role::Reader),
        ("GET", "/v1/signals".into(), None, Role::Reader),
        ("GET", signal.clone(), None, Role::Reader),
        ("POST", "/v1/signals".into(), Some(r#"{"title":"x"}"#), Role::Operator),
        ("PATCH", signal.clone(), Some("{}"), Role::Operator),
        ("DELETE", signal, None, Role::Operator),
        ("POST", "/v1/signals:batch".into(), Some(r#"{"commands":[{"op":"drop"}]}"#), Role::Operator),
        ("GET", "/v1/identities".into(), None, Role::Admin),
        ("GET", identity.clone(), None, Role::Admin),
        ("POST", "/v1/identities".into(), Some(r#"{"name":"x"}"#), Role::Admin),
        ("PATCH", identity.clone(), Some("{}"), Role::Admin),
        ("DELETE", identity, None, Role::Admin),
        ("GET", keys.clone(), None, Role::Admin),
        ("POST", keys, Some(r#"{"name":"x"}"#), Role::Admin),
        ("DELETE", key, None, Role::Admin),
    ]
}

async fn send(bench: &Bench, case: &(&'static str, String, Option<&'static str>, Role), secret: Option<String>) -> Reply {
    let call = bench.call(case.0, &case.1).by(secret);
    match case.2 {
        Some(body) => call.body(body).send().await,
        None => call.send().await,
    }
}

#[tokio::test]
async fn each_route_lets_in_its_roles_and_no_others() {
    let bench = Bench::new();
    let count: usize = crate::http::ROUTES.iter().map(|route| route.verbs.len()).sum();
    assert_eq!(matrix().len(), count, "the matrix covers every route and method");
    for case in matrix() {
        for role in [Role::Reader, Role::Operator, Role::Admin] {
            let reply = send(&bench, &case, Some(secret(role))).await;
            if role >= case.3 {
                assert_eq!(reply.status, 200, "{role} {} {}: {}", case.0, case.1, reply.text);
            } else {
                assert_eq!((reply.status, reply.code().as_str()), (403, "forbidden"), "{role} {} {}", case.0, case.1);
            }
        }
    }
}

#[tokio::test]
async fn nobody_without_a_good_key_comes_in() {
    let bench = Bench::new();
    let wrong = format_secret(Uuid::from_u64_pair(2, u64::from(Role::Admin.rank())), &[8; 32]);
    let unknown = format_secret(Uuid::from_u64_pair(9, 9), &[7; 32]);
    for case in matrix() {
        for bad in [None, Some("nxs_".to_owned()), Some("x".to_owned()), Some(wrong.clone()), Some(unknown.clone())] {
            let reply = send(&bench, &case, bad.clone()).await;
            assert_eq!(reply.status, 401, "{bad:?} {} {}", case.0, case.1);
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
        }
    }
    assert!(bench.asked().is_empty());
}

#[tokio::test]
async fn an_expired_key_is_401_and_an_inactive_identity_403() {
    let bench = Bench::new();
    for (change, expected) in [(0, 401), (1, 200), (2, 403)] {
        let secret = format_secret(Uuid::from_u64_pair(5, change), &[1; 32]);
        let mut record = record(&secret, Role::Admin);
        match change {
            0 => record.expires_at = Some(Timestamp::now().0),
            1 => record.expires_at = Some(Timestamp::now().0 + 60_000_000),
            _ => record.active = false,
        }
        bench.memory.keys.lock().expect("unpoisoned").insert(record.id, record);
        let reply = bench.call("GET", "/v1/me").by(Some(secret)).send().await;
        assert_eq!(reply.status, expected, "{}", reply.text);
    }
}

#[tokio::test]
async fn a_role_comes_before_media_type_and_body() {
    let bench = Bench::new();
    let call = bench.call("POST", "/v1/signals").by(Some(secret(Role::Reader)));
    let reply = call.header("content-type", "text/plain").body("{").send().await;
    assert_eq!(reply.status, 403);
}

#[tokio::test(start_paused = true)]
async fn a_key_is_read_again_each_second_and_not_more_often() {
    let bench = Bench::new();
    let reads = || *bench.memory.key_reads.lock().expect("unpoisoned");
    for _ in 0..100 {
        assert_eq!(bench.call("GET", "/v1/me").send().await.status, 200);
    }
    assert_eq!(reads(), 1);
    bench.memory.keys.lock().expect("unpoisoned").clear();
    tokio::time::sleep(Duration::from_millis(1_001)).await;
    assert_eq!(bench.call("GET", "/v1/me").send().await.status, 401, "revoked elsewhere");
    // That there is no such key is remembered as well.
    for _ in 0..100 {
        assert_eq!(bench.call("GET", "/v1/me").send().await.status, 401);
    }
    assert_eq!(reads(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_busy_key_never_waits_and_is_never_older_than_a_second() {
    let bench = Bench::new();
    for _ in 0..50 {
        assert_eq!(bench.call("GET", "/v1/me").send().await.status, 200);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let reads = *bench.memory.key_reads.lock().expect("unpoisoned");
    assert!((5..=11).contains(&reads), "{reads} reads in 5 s");
    bench.memory.keys.lock().expect("unpoisoned").clear();
    let mut accepted_ms = 0;
    while bench.call("GET", "/v1/me").send().await.status == 200 {
        accepted_ms += 100;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(accepted_ms <= 1_000, "accepted for {accepted_ms} ms after it was revoked");
}

#[tokio::test(start_paused = true)]
async fn what_this_process_revoked_is_refused_at_once() {
    for by_identity in [false, true] {
        let bench = Bench::new();
        let victim = secret(Role::Operator);
        let revoked = record(&victim, Role::Operator);
        assert_eq!(bench.call("GET", "/v1/me").by(Some(victim.clone())).send().await.status, 200);
        bench.memory.keys.lock().expect("unpoisoned").remove(&revoked.id);
        let mut answer = Answer::ok(204, Bytes::new());
        answer.invalidates = if by_identity {
            Invalidates { keys: Vec::new(), identities: vec![revoked.identity] }
        } else {
            Invalidates { keys: vec![revoked.id], identities: Vec::new() }
        };
        bench.answer_with(answer);
        let path = format!("/v1/identities/{KNOWN}/keys/{}", revoked.id);
        assert_eq!(bench.call("DELETE", &path).send().await.status, 204);
        assert_eq!(bench.call("GET", "/v1/me").by(Some(victim)).send().await.status, 401);
    }
}

#[tokio::test(start_paused = true)]
async fn with_postgres_away_a_key_that_is_not_fresh_is_503_and_not_401() {
    let bench = Bench::new();
    *bench.memory.is_away.lock().expect("unpoisoned") = true;
    let reply = bench.call("POST", "/v1/signals").body(r#"{"title":"x"}"#).send().await;
    assert_eq!((reply.status, reply.code().as_str()), (503, "unavailable"));
    assert_eq!(reply.header("retry-after"), Some("1"));
    *bench.memory.is_away.lock().expect("unpoisoned") = false;
    assert_eq!(bench.call("GET", "/v1/me").send().await.status, 200, "a failed read is not remembered");
}
