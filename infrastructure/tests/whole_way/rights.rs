//! Who may do what, on both planes.

use infrastructure::{Planes, TestStack};
use serde_json::json;

use crate::client::Client;

#[tokio::test]
async fn roles_decide_route_by_route_and_keys_reach_the_view() {
    let namespace = TestStack::shared().await.namespace("rights").await;
    let planes = Planes::start(&namespace).await.expect("planes");
    let mut admin = Client::new(&planes.control, planes.api_key());
    let signal = admin.create("a signal").await.id();
    let mut own = Vec::new();
    for role in ["reader", "operator", "admin"] {
        let body = json!({"name": format!("the-{role}"), "role": role, "kind": "service"}).to_string();
        let identity = admin.send("POST", "/v1/identities", &[], Some(&body)).await.expect(201).id();
        let key = admin
            .send("POST", &format!("/v1/identities/{identity}/keys"), &[], Some(r#"{"name":"test"}"#))
            .await
            .expect(201);
        own.push((role, identity, key));
    }
    for (role, identity, key) in &own {
        let secret = key.json()["secret"].as_str().expect("a secret").to_owned();
        assert!(secret.starts_with("nxs_"));
        let mut control = Client::new(&planes.control, &secret);
        let mut view = Client::new(&planes.dataplane, &secret);
        // The key's own token makes the view wait for the key.
        let me = view.get_with("/v1/me", &key.token()).await.expect(200);
        assert_eq!(me.json()["id"], json!(identity));
        assert_eq!(control.get("/v1/me").await.expect(200).json()["id"], json!(identity));
        let may_write = *role != "reader";
        let is_admin = *role == "admin";
        let allowed = |yes: bool, status: u16| if yes { status } else { 403 };
        let path = format!("/v1/signals/{signal}");
        control.get(&path).await.expect(200);
        control.get("/v1/signals").await.expect(200);
        view.get(&path).await.expect(200);
        view.get("/v1/signals").await.expect(200);
        control.send("POST", "/v1/signals", &[], Some(r#"{"title":"x"}"#)).await.expect(allowed(may_write, 201));
        control.send("PATCH", &path, &[], Some("{}")).await.expect(allowed(may_write, 200));
        let batch = r#"{"commands":[{"op":"create","signal":{"title":"x"}}]}"#;
        control.send("POST", "/v1/signals:batch", &[], Some(batch)).await.expect(allowed(may_write, 200));
        control.get("/v1/identities").await.expect(allowed(is_admin, 200));
        control.send("POST", "/v1/identities", &[], Some("{}")).await.expect(allowed(is_admin, 422));
        let keys = format!("/v1/identities/{identity}/keys");
        control.get(&keys).await.expect(allowed(is_admin, 200));
        control.send("POST", &keys, &[], Some("{}")).await.expect(allowed(is_admin, 422));
        // In the view, others than admins see only themselves.
        let seen = view.get("/v1/identities").await.expect(200).json()["items"].as_array().map(Vec::len);
        assert_eq!(seen, Some(if is_admin { 4 } else { 1 }), "{role}");
        view.get(&format!("/v1/identities/{identity}")).await.expect(200);
        let stranger = &own[if *role == "reader" { 1 } else { 0 }].1;
        let status = view.get(&format!("/v1/identities/{stranger}")).await.status;
        assert!(if is_admin { status == 200 } else { matches!(status, 403 | 404) }, "{role}: {status}");
    }

    // Revoked means refused, on both planes.
    let (_, identity, key) = &own[1];
    let secret = key.json()["secret"].as_str().expect("a secret").to_owned();
    let key_id = key.json()["id"].as_str().expect("an id").to_owned();
    let revoked =
        admin.send("DELETE", &format!("/v1/identities/{identity}/keys/{key_id}"), &[], None).await.expect(204);
    Client::new(&planes.control, &secret).get("/v1/me").await.expect(401);
    let mut other = Client::new(&planes.dataplane, planes.api_key());
    other.get_with("/v1/me", &revoked.token()).await.expect(200);
    let refused = Client::new(&planes.dataplane, &secret).get("/v1/me").await.expect(401);
    assert!(refused.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer")));

    // An inactive identity is known but refused.
    let (_, identity, key) = &own[0];
    let secret = key.json()["secret"].as_str().expect("a secret").to_owned();
    let changed =
        admin.send("PATCH", &format!("/v1/identities/{identity}"), &[], Some(r#"{"active":false}"#)).await.expect(200);
    other.get_with("/v1/me", &changed.token()).await.expect(200);
    Client::new(&planes.control, &secret).get("/v1/me").await.expect(403);
    Client::new(&planes.dataplane, &secret).get("/v1/me").await.expect(403);

    // The last active admin stays.
    let (_, second_admin, _) = &own[2];
    admin.send("DELETE", &format!("/v1/identities/{second_admin}"), &[], None).await.expect(204);
    let me = admin.get("/v1/me").await.expect(200).id();
    for (method, body) in
        [("DELETE", None), ("PATCH", Some(r#"{"role":"reader"}"#)), ("PATCH", Some(r#"{"active":false}"#))]
    {
        let refused = admin.send(method, &format!("/v1/identities/{me}"), &[], body).await.expect(409);
        assert_eq!(refused.json()["code"], "last-admin");
    }
}

#[tokio::test]
async fn bad_input_gets_the_right_status_and_harms_nobody_else() {
    let namespace = TestStack::shared().await.namespace("badinput").await;
    let planes = Planes::start(&namespace).await.expect("planes");
    let mut control = Client::new(&planes.control, planes.api_key());
    let mut view = Client::new(&planes.dataplane, planes.api_key());
    let id = control.create("good").await.id();
    let path = format!("/v1/signals/{id}");
    let huge = format!(r#"{{"title":"x","payload":{{"a":"{}"}}}}"#, "x".repeat(2 << 20));
    let unknown = "/v1/signals/01923456-789a-7bcd-8123-456789abcdef";
    let json_type = ("content-type", "application/json");
    for (method, path, headers, body, status, code) in [
        ("POST", "/v1/signals", vec![], Some(r#"{"title":"x","colour":1}"#), 422, "validation"),
        ("POST", "/v1/signals", vec![], Some(huge.as_str()), 413, "payload-too-large"),
        ("POST", "/v1/signals", vec![], Some(r#"{"title":"#), 400, "bad-json"),
        ("POST", "/v1/signals", vec![], Some(r#"{"title":"x","title":"y"}"#), 400, "bad-json"),
        ("POST", "/v1/signals", vec![("content-type", "text/plain")], Some("{}"), 415, "unsupported-media-type"),
        ("POST", "/v1/signals", vec![], Some(r#"{"title":"x","payload":{"a":"\u0000"}}"#), 422, "validation"),
        ("POST", "/v1/signals", vec![], Some(r#"{"title":"\ud800"}"#), 422, "validation"),
        (
            "POST",
            "/v1/signals",
            vec![],
            Some(r#"{"title":"x","target":"01923456-789a-7bcd-8123-456789abcdef"}"#),
            422,
            "validation",
        ),
        ("PATCH", path.as_str(), vec![("if-match", "\"9\"")], Some("{}"), 412, "precondition-failed"),
        ("PATCH", path.as_str(), vec![("if-match", "W/\"1\"")], Some("{}"), 400, "bad-request"),
        ("PATCH", unknown, vec![], Some("{}"), 404, "not-found"),
        ("PATCH", "/v1/signals/42", vec![], Some("{}"), 404, "not-found"),
        ("PUT", path.as_str(), vec![json_type], Some("{}"), 405, "method-not-allowed"),
        ("GET", "/v1/signals/", vec![], None, 404, "not-found"),
        ("GET", "/v1/signals?cursor=nowhere", vec![], None, 400, "bad-cursor"),
        ("GET", "/v1/signals?limit=0", vec![], None, 400, "bad-query"),
        ("GET", "/v1/signals?limit=1&limit=1", vec![], None, 400, "bad-query"),
        ("GET", "/v1/signals?colour=red", vec![], None, 400, "bad-query"),
        ("GET", path.as_str(), vec![("accept", "image/png")], None, 406, "not-acceptable"),
    ] {
        let planes: &mut [&mut Client] =
            if method == "GET" { &mut [&mut control, &mut view] } else { &mut [&mut control] };
        for client in planes {
            let answer = client.send(method, path, &headers, body).await;
            assert_eq!(answer.status, status, "{method} {path} {body:.80?}: {:?}", answer.body);
            assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{method} {path}");
            let problem = answer.json();
            assert_eq!(problem["code"], code, "{method} {path}");
            assert_eq!(problem["type"], format!("/problems/{code}"));
            assert_eq!(problem["request_id"].as_str(), answer.header("x-request-id"));
        }
    }
    for (key, status) in [("", 401), ("nxs_wrong", 401)] {
        Client::new(&planes.control, key).get(&path).await.expect(status);
        Client::new(&planes.dataplane, key).get(&path).await.expect(status);
    }
    let token = view.send("GET", &path, &[("nexus-token", "rubbish")], None).await.expect(400);
    assert_eq!(token.json()["code"], "bad-token");
    assert_eq!(control.get("/v1/signals").await.expect(200).json()["items"].as_array().map(Vec::len), Some(1));
}
