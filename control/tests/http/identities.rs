//! Identities, their keys, and how soon a change of rights holds.

use std::time::{Duration, Instant};

use infrastructure::{Plane, wait};

use crate::support::{Client, Control, control};

async fn make(control: &Control, name: &str, role: &str) -> (String, String, Client) {
    let made = control.client.post("/v1/identities", &format!(r#"{{"name":"{name}","role":"{role}"}}"#)).await;
    assert_eq!((made.status, made.header("etag")), (201, Some("\"1\"")), "{made:?}");
    let id = made.id();
    let key = control.client.post(&format!("/v1/identities/{id}/keys"), r#"{"name":"k"}"#).await;
    assert_eq!(key.status, 201, "{key:?}");
    assert!(key.header("nexus-token").is_some());
    let client = control.client.with_key(key.json()["secret"].as_str().unwrap());
    (id, key.id(), client)
}

#[tokio::test]
async fn an_identity_lives_and_its_rules_hold() {
    let control = control("identities").await;
    let admin = &control.client;
    let (id, key, operator) = make(&control, "op", "operator").await;
    let path = format!("/v1/identities/{id}");
    assert_eq!(operator.get("/v1/me").await.json()["name"], "op");
    assert_eq!(operator.post("/v1/signals", r#"{"title":"x"}"#).await.status, 201);
    assert_eq!(operator.get(&path).await.status, 403);
    let taken = admin.post("/v1/identities", r#"{"name":"op"}"#).await;
    assert_eq!((taken.status, taken.code().as_str()), (409, "name-taken"));
    let stale = admin.call("PATCH", &path, &[("If-Match", "\"4\"")], r#"{"email":"a@b"}"#).await;
    assert_eq!(stale.status, 412);
    let changed = admin.call("PATCH", &path, &[("If-Match", "\"1\"")], r#"{"email":"a@b"}"#).await;
    assert_eq!((changed.status, changed.header("etag")), (200, Some("\"2\"")));
    assert_eq!(admin.get(&path).await.text, changed.text);

    let keys = admin.get(&format!("{path}/keys")).await;
    assert_eq!(keys.json()["items"][0]["id"], key.as_str());
    assert!(!keys.text.contains("secret") && !keys.text.contains("nxs_"));

    let page = admin.get("/v1/identities?limit=1").await;
    assert_eq!(page.json()["items"][0]["name"], "admin");
    assert!(page.header("link").is_some());

    let last = admin.get("/v1/me").await.id();
    for reply in [
        admin.delete(&format!("/v1/identities/{last}")).await,
        admin.patch(&format!("/v1/identities/{last}"), r#"{"role":"reader"}"#).await,
        admin.patch(&format!("/v1/identities/{last}"), r#"{"active":false}"#).await,
    ] {
        assert_eq!((reply.status, reply.code().as_str()), (409, "last-admin"));
    }
    assert_eq!(admin.delete(&path).await.status, 204);
    assert_eq!(operator.get("/v1/me").await.status, 401, "its keys go with it, at once");
    assert_eq!(admin.get(&path).await.status, 404);
    assert_eq!(admin.get(&format!("{path}/keys")).await.status, 404);
}

#[tokio::test]
async fn a_change_of_rights_holds_at_once_here_and_within_a_second_elsewhere() {
    let control = control("rights").await;
    let other = Plane::control(&control.namespace).name("control-b").start().await.unwrap();
    let admin = &control.client;
    for (change, expected) in [("demote", 403), ("deactivate", 403), ("revoke", 401), ("delete", 401)] {
        let (id, key, here) = make(&control, change, "operator").await;
        let there = Client { addr: other.address(), key: here.key.clone() };
        let post = |client: Client| async move { client.post("/v1/signals", r#"{"title":"x"}"#).await.status };
        assert_eq!((post(here.clone()).await, post(there.clone()).await), (201, 201));
        let path = format!("/v1/identities/{id}");
        let reply = match change {
            "demote" => admin.patch(&path, r#"{"role":"reader"}"#).await,
            "deactivate" => admin.patch(&path, r#"{"active":false}"#).await,
            "revoke" => admin.delete(&format!("{path}/keys/{key}")).await,
            _ => admin.delete(&path).await,
        };
        assert!(reply.status < 300, "{reply:?}");
        assert_eq!(post(here).await, expected, "{change} in the process that did it");
        let since = Instant::now();
        let noticed = wait::until("the other process to notice", Duration::from_secs(10), || async {
            let asked = since.elapsed();
            (post(there.clone()).await == expected).then_some(asked)
        });
        let asked = noticed.await.unwrap();
        assert!(asked <= Duration::from_millis(1_500), "{change} noticed after {asked:?}");
    }
}

#[tokio::test]
async fn an_expired_key_is_refused() {
    let control = control("expiry").await;
    let me = control.client.get("/v1/me").await.id();
    let soon = contract::time::Timestamp(contract::time::Timestamp::now().0 + 1_500_000);
    let body = format!(r#"{{"name":"short","expires_at":"{soon}"}}"#);
    let made = control.client.post(&format!("/v1/identities/{me}/keys"), &body).await;
    let client = control.client.with_key(made.json()["secret"].as_str().unwrap());
    assert_eq!(client.get("/v1/me").await.status, 200);
    let expired = || async { (client.get("/v1/me").await.status == 401).then_some(()) };
    wait::until("the key to expire", Duration::from_secs(10), expired).await.unwrap();
    assert!(contract::time::Timestamp::now() >= soon);
}
