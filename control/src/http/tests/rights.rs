//! Who may do what.

use std::time::Instant;

use contract::identity::{Role, format_secret};
use futures_util::StreamExt;
use uuid::Uuid;

use super::*;
use crate::auth::records::READING_MAX;
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

async fn send(
    bench: &Bench,
    case: &(&'static str, String, Option<&'static str>, Role),
    secret: Option<String>,
) -> Reply {
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

#[tokio::test]
async fn a_key_is_read_once_and_again_when_its_record_is_no_longer_fresh() {
    let bench = Bench::new();
    let reads = || *bench.memory.key_reads.lock().expect("unpoisoned");
    let began = Instant::now();
    let calls = (0..100).map(|_| bench.call("GET", "/v1/me").send());
    let replies = futures_util::future::join_all(calls).await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    assert!(reads() == 1 || began.elapsed() > KEY_RECORD / 2, "a hundred at once wait for one read: {}", reads());
    bench.memory.keys.lock().expect("unpoisoned").clear();
    tokio::time::sleep(KEY_RECORD).await;
    assert_eq!(bench.call("GET", "/v1/me").send().await.status, 401, "revoked elsewhere");
    // That there is no such key is remembered as well.
    let (began, before) = (Instant::now(), reads());
    for _ in 0..100 {
        assert_eq!(bench.call("GET", "/v1/me").send().await.status, 401);
    }
    assert!(reads() == before || began.elapsed() > KEY_RECORD, "{} reads", reads() - before);
}

#[tokio::test]
async fn a_busy_key_is_read_ahead_and_is_never_older_than_its_time() {
    let bench = Bench::new();
    let began = Instant::now();
    while began.elapsed() < KEY_RECORD * 4 {
        assert_eq!(bench.call("GET", "/v1/me").send().await.status, 200);
        tokio::time::sleep(KEY_RECORD / 20).await;
    }
    let reads = *bench.memory.key_reads.lock().expect("unpoisoned");
    assert!(reads <= 9, "{reads} reads in four times the freshness");
    bench.memory.keys.lock().expect("unpoisoned").clear();
    let revoked = Instant::now();
    let mut last_accepted = revoked;
    loop {
        let asked = Instant::now();
        if bench.call("GET", "/v1/me").send().await.status != 200 {
            break;
        }
        last_accepted = asked;
        tokio::time::sleep(KEY_RECORD / 20).await;
    }
    assert!(last_accepted - revoked <= KEY_RECORD, "accepted {:?} after it was revoked", last_accepted - revoked);
}

#[tokio::test]
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

#[tokio::test]
async fn with_postgres_away_a_key_that_is_not_fresh_is_503_and_not_401() {
    let bench = Bench::new();
    *bench.memory.is_away.lock().expect("unpoisoned") = true;
    let reply = bench.call("POST", "/v1/signals").body(r#"{"title":"x"}"#).send().await;
    assert_eq!((reply.status, reply.code().as_str()), (503, "unavailable"));
    assert_eq!(reply.header("retry-after"), Some("1"));
    *bench.memory.is_away.lock().expect("unpoisoned") = false;
    assert_eq!(bench.call("GET", "/v1/me").send().await.status, 200, "a failed read is not remembered");
}

#[tokio::test]
async fn keys_that_nobody_knows_do_not_pile_up_while_postgres_does_not_answer() {
    let bench = Bench::new();
    let stuck = bench.memory.gate.write().await;
    let beyond = 50;
    let unknown = |n| format_secret(Uuid::from_u64_pair(77, n), &[3; 32]);
    let calls = (0..(READING_MAX + beyond) as u64).map(|n| bench.call("GET", "/v1/me").by(Some(unknown(n))).send());
    let mut calls: futures_util::stream::FuturesUnordered<_> = calls.collect();
    for _ in 0..beyond {
        let reply = calls.next().await.expect("a reply");
        assert_eq!((reply.status, reply.code().as_str()), (503, "overloaded"));
        assert_eq!(reply.header("retry-after"), Some("1"));
    }
    drop(stuck);
    // Those that were begun have their answers, and then there is room again.
    while let Some(reply) = calls.next().await {
        assert_eq!(reply.status, 401);
    }
    assert_eq!(bench.call("GET", "/v1/me").by(Some(unknown(u64::MAX))).send().await.status, 401);
}
