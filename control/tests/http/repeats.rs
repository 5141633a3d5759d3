//! Idempotency keys.

use crate::support::control;

const KEY: &str = "Idempotency-Key";

#[tokio::test]
async fn the_same_request_gets_the_first_answer_again() {
    let control = control("repeats").await;
    let client = &control.client;
    let signal = client.post("/v1/signals", r#"{"title":"x"}"#).await;
    let path = format!("/v1/signals/{}", signal.id());
    for (method, path, body, status) in [
        ("POST", "/v1/signals", r#"{"title":"first"}"#, 201),
        ("PATCH", path.as_str(), r#"{"title":"second"}"#, 200),
        ("DELETE", path.as_str(), "", 204),
        ("PATCH", path.as_str(), r#"{"title":"third"}"#, 404),
        ("POST", "/v1/identities", r#"{"name":"bot"}"#, 201),
        ("POST", "/v1/identities", r#"{"name":"admin"}"#, 409),
        (
            "POST",
            "/v1/signals:batch",
            r#"{"commands":[{"op":"create","signal":{"title":"b"}},{"op":"delete","id":"x"}]}"#,
            200,
        ),
    ] {
        let key = format!("{method} {path} {}", body.len());
        let first = client.call(method, path, &[(KEY, &key)], body).await;
        assert_eq!((first.status, first.header("idempotency-replayed")), (status, None), "{first:?}");
        let again = client.call(method, path, &[(KEY, &key)], body).await;
        assert_eq!((again.status, again.header("idempotency-replayed")), (status, Some("true")), "{again:?}");
        assert_eq!(again.text, first.text);
        for name in ["etag", "location", "nexus-token", "content-type"] {
            assert_eq!(again.header(name), first.header(name), "{name} of {key}");
        }
        let other = client.call(method, path, &[(KEY, &key), ("If-Match", "\"9\"")], body).await;
        assert_eq!((other.status, other.code().as_str()), (422, "idempotency-key-reused"), "{key}");
    }
    // Another request comes before what is wrong with it.
    let key = [(KEY, "reused")];
    assert_eq!(client.call("POST", "/v1/signals", &key, r#"{"title":"a"}"#).await.status, 201);
    let invalid = client.call("POST", "/v1/signals", &key, r#"{"title":""}"#).await;
    assert_eq!(invalid.code(), "idempotency-key-reused");
    // What was refused as invalid was not kept: its key is free.
    let key = [(KEY, "free")];
    assert_eq!(client.call("POST", "/v1/signals", &key, r#"{"title":""}"#).await.code(), "validation");
    assert_eq!(client.call("POST", "/v1/signals", &key, r#"{"title":"b"}"#).await.status, 201);
}

#[tokio::test]
async fn a_replayed_key_creation_does_not_show_the_secret_again() {
    let control = control("secret_once").await;
    let client = &control.client;
    let me = client.get("/v1/me").await.id();
    let path = format!("/v1/identities/{me}/keys");
    let call = || client.call("POST", &path, &[(KEY, "k")], r#"{"name":"ci"}"#);
    let first = call().await;
    assert_eq!(first.status, 201, "{first:?}");
    assert!(first.json()["secret"].as_str().unwrap().starts_with("nxs_"));
    let again = call().await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (201, Some("true")));
    assert!(again.json().get("secret").is_none() && !again.text.contains("nxs_"));
    assert_eq!(again.id(), first.id());
}

#[tokio::test]
async fn of_many_at_once_one_is_applied() {
    let control = control("at_once").await;
    for round in 0..10 {
        let key = format!("round {round}");
        let body = format!(r#"{{"title":"{round}"}}"#);
        let calls = (0..16).map(|_| {
            let (client, key, body) = (control.client.clone(), key.clone(), body.clone());
            async move { client.call("POST", "/v1/signals", &[(KEY, &key)], &body).await }
        });
        let replies = futures_util::future::join_all(calls).await;
        let ids: std::collections::BTreeSet<String> =
            replies.iter().filter(|reply| reply.status == 201).map(|reply| reply.id()).collect();
        assert_eq!(ids.len(), 1, "{replies:?}");
        for reply in replies.iter().filter(|reply| reply.status != 201) {
            assert_eq!((reply.status, reply.code().as_str()), (409, "idempotency-in-progress"));
        }
    }
    let page = control.client.get("/v1/signals?limit=500").await.json();
    assert_eq!(page["items"].as_array().unwrap().len(), 10);
}

#[tokio::test]
async fn a_key_belongs_to_its_identity() {
    let control = control("own_keys").await;
    let client = &control.client;
    let bot = client.post("/v1/identities", r#"{"name":"bot","role":"operator"}"#).await.id();
    let made = client.post(&format!("/v1/identities/{bot}/keys"), r#"{"name":"k"}"#).await.json();
    let other = client.with_key(made["secret"].as_str().unwrap());
    let first = client.call("POST", "/v1/signals", &[(KEY, "k")], r#"{"title":"x"}"#).await;
    let second = other.call("POST", "/v1/signals", &[(KEY, "k")], r#"{"title":"y"}"#).await;
    assert_eq!((first.status, second.status), (201, 201), "{second:?}");
    assert_ne!(first.id(), second.id());
}
