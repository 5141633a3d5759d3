//! Everything that is refused before it is a command, in its order of precedence.

use super::*;

fn known(collection: &str) -> String {
    format!("/v1/{collection}/{KNOWN}")
}

#[tokio::test]
async fn a_body_of_another_type_is_415_and_a_patch_says_what_it_takes() {
    let bench = Bench::new();
    for (method, path) in [
        ("POST", "/v1/signals".to_owned()),
        ("POST", "/v1/signals:batch".to_owned()),
        ("POST", "/v1/identities".to_owned()),
        ("POST", known("identities") + "/keys"),
        ("PATCH", known("signals")),
        ("PATCH", known("identities")),
    ] {
        for media in ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin1"] {
            let reply = bench.call(method, &path).header("content-type", media).body("{}").send().await;
            assert_eq!(reply.status, 415, "{method} {path} {media}");
            let accept_patch = (method == "PATCH").then_some("application/merge-patch+json, application/json");
            assert_eq!(reply.header("accept-patch"), accept_patch);
        }
        let untyped = bench.call(method, &path).send().await;
        assert_eq!(untyped.status, 415, "{method} {path} without a type");
    }
    for media in ["application/json", "application/merge-patch+json", "application/json; charset=utf-8"] {
        let reply = bench.call("PATCH", &known("signals")).header("content-type", media).body("{}").send().await;
        assert_eq!(reply.status, 200, "{media}");
    }
}

#[tokio::test]
async fn bodies_have_1_mib_and_batches_8() {
    let bench = Bench::new();
    for (method, path, limit) in [
        ("POST", "/v1/signals".to_owned(), 1 << 20),
        ("POST", "/v1/identities".to_owned(), 1 << 20),
        ("PATCH", known("signals"), 1 << 20),
        ("DELETE", known("signals"), 1 << 20),
        ("POST", "/v1/signals:batch".to_owned(), 8 << 20),
    ] {
        let over = bench.call(method, &path).body(vec![b' '; limit + 1]).send().await;
        assert_eq!((over.status, over.code().as_str()), (413, "payload-too-large"), "{method} {path}");
        let at = bench.call(method, &path).body(vec![b' '; limit]).send().await;
        let expected = if method == "DELETE" { 200 } else { 400 };
        assert_eq!(at.status, expected, "{method} {path}: {}", at.text);
    }
}

#[tokio::test]
async fn broken_json_and_malformed_headers_are_400_even_where_the_content_would_be_422() {
    let bench = Bench::new();
    let post = |body: &str| bench.call("POST", "/v1/signals").body(body.to_owned());
    for body in
        ["", "{", "{\"title\":\"x\"", "{\"title\":\"a\",\"title\":\"b\"}", "{\"title\":'x'}", "\u{feff}{}", "nul"]
    {
        let reply = post(body).send().await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "bad-json"), "{body}");
    }
    let not_utf8 = bench.call("POST", "/v1/signals").body(&b"{\"title\":\"\xff\"}"[..]).send().await;
    assert_eq!(not_utf8.code(), "bad-json");
    assert_eq!(post("{}").header("idempotency-key", "").send().await.status, 400);
    assert_eq!(post("{}").header("idempotency-key", &"x".repeat(129)).send().await.status, 400);
    let query = bench.call("POST", "/v1/signals?dry_run=1").body("{}").send().await;
    assert_eq!((query.status, query.code().as_str()), (400, "bad-query"));
    for tag in ["W/\"3\"", "3", "", "*, \"3\""] {
        let reply = bench.call("PATCH", &known("signals")).header("if-match", tag).body("{\"x\":1}").send().await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "bad-request"), "{tag}");
        let reply = bench.call("DELETE", &known("identities")).header("if-match", tag).send().await;
        assert_eq!(reply.status, 400, "{tag}");
    }
    assert!(bench.asked().is_empty());
}

#[tokio::test]
async fn every_broken_rule_is_422_with_its_pointer() {
    let bench = Bench::new();
    let signals = "/v1/signals".to_owned();
    let identities = "/v1/identities".to_owned();
    let deep = format!("{{\"title\":\"x\",\"payload\":{}1{}}}", "{\"a\":".repeat(65), "}".repeat(65));
    let large = format!("{{\"title\":\"x\",\"payload\":{{\"a\":\"{}\"}}}}", "x".repeat(64 << 10));
    let long = format!("{{\"title\":\"{}\"}}", "é".repeat(201));
    let bottomless = format!("{{\"title\":\"x\",\"payload\":{}", "[".repeat(1000));
    for (method, path, body, expected) in [
        ("POST", signals.clone(), "[]", &[""][..]),
        ("POST", signals.clone(), "{}", &["/title"]),
        ("POST", signals.clone(), r#"{"title":" "}"#, &["/title"]),
        ("POST", signals.clone(), &long, &["/title"]),
        ("POST", signals.clone(), r#"{"title":"\u0000"}"#, &["/title"]),
        ("POST", signals.clone(), r#"{"title":"\ud800"}"#, &["/title"]),
        ("POST", signals.clone(), r#"{"title":7,"priority":"urgent","colour":1}"#, &["/title", "/priority", "/colour"]),
        ("POST", signals.clone(), r#"{"title":"x","payload":[]}"#, &["/payload"]),
        ("POST", signals.clone(), r#"{"title":"x","payload":{"a":{"b~/c":["\u0000"]}}}"#, &["/payload/a/b~0~1c/0"]),
        ("POST", signals.clone(), &deep, &["/payload"]),
        ("POST", signals.clone(), &large, &["/payload"]),
        ("POST", signals.clone(), &bottomless, &[""]),
        ("POST", signals.clone(), r#"{"title":"x","target":"me"}"#, &["/target"]),
        ("POST", signals.clone(), r#"{"title":"x","status":"active"}"#, &["/status"]),
        (
            "POST",
            signals,
            r#"{"title":"x","id":"1","version":1,"created_by":null}"#,
            &["/id", "/version", "/created_by"],
        ),
        ("PATCH", known("signals"), r#"{"title":null,"status":null}"#, &["/title", "/status"]),
        ("PATCH", known("signals"), r#"{"status":"done"}"#, &["/status"]),
        ("PATCH", known("signals"), r#"{"updated_at":"now"}"#, &["/updated_at"]),
        ("PATCH", known("signals"), "null", &[""]),
        ("POST", "/v1/signals:batch".into(), "{}", &["/commands"]),
        ("POST", "/v1/signals:batch".into(), r#"{"commands":[],"atomic":true}"#, &["/commands", "/atomic"]),
        ("POST", identities.clone(), r#"{"name":"Not this"}"#, &["/name"]),
        ("POST", identities, r#"{"name":"x","role":"root","kind":"robot","active":1}"#, &["/kind", "/role", "/active"]),
        ("PATCH", known("identities"), r#"{"name":null,"email":"x"}"#, &["/name", "/email"]),
        ("POST", known("identities") + "/keys", r#"{"expires_at":"2000-01-01T00:00:00Z"}"#, &["/name", "/expires_at"]),
        ("POST", known("identities") + "/keys", r#"{"name":"x","secret":"mine"}"#, &["/secret"]),
    ] {
        let reply = bench.call(method, &path).body(body.to_owned()).send().await;
        let shown = &body[..body.len().min(80)];
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (422, "validation"),
            "{method} {path} {shown}: {}",
            reply.text
        );
        let (mut found, mut expected) = (reply.pointers(), expected.to_vec());
        found.sort();
        expected.sort_unstable();
        assert_eq!(found, expected, "{method} {path} {shown}");
        assert_eq!(reply.json()["request_id"], "r1");
    }
    assert!(bench.asked().is_empty(), "what is refused reaches no batch");
}

#[tokio::test]
async fn too_many_commands_in_a_batch_are_refused_as_a_whole() {
    let bench = Bench::new();
    let of = |count: usize| {
        let entries = vec![r#"{"op":"create","signal":{"title":"x"}}"#; count];
        format!("{{\"commands\":[{}]}}", entries.join(","))
    };
    let reply = bench.call("POST", "/v1/signals:batch").body(of(1001)).send().await;
    assert_eq!((reply.status, reply.pointers()), (422, vec!["/commands".to_owned()]));
    assert_eq!(bench.call("POST", "/v1/signals:batch").body(of(1000)).send().await.status, 200);
}

#[tokio::test]
async fn an_id_that_is_no_uuid_is_404_after_the_body_is_judged() {
    let bench = Bench::new();
    for (method, path, body) in [
        ("GET", "/v1/signals/7", None),
        ("GET", "/v1/identities/..", None),
        ("GET", "/v1/identities/x/keys", None),
        ("DELETE", "/v1/signals/7", None),
        ("DELETE", "/v1/identities/7", None),
        ("DELETE", "/v1/identities/7/keys/8", None),
        ("PATCH", "/v1/signals/7", Some("{}")),
        ("PATCH", "/v1/identities/7", Some("{}")),
        ("POST", "/v1/identities/7/keys", Some(r#"{"name":"x"}"#)),
    ] {
        let call = bench.call(method, path);
        let reply = match body {
            Some(body) => call.body(body).send().await,
            None => call.send().await,
        };
        assert_eq!((reply.status, reply.code().as_str()), (404, "not-found"), "{method} {path}");
    }
    let both = bench.call("PATCH", "/v1/signals/7").body(r#"{"title":""}"#).send().await;
    assert_eq!(both.status, 422);
    assert!(bench.asked().is_empty());
}

#[tokio::test]
async fn with_an_idempotency_key_even_a_refused_request_is_judged_by_its_key_first() {
    let bench = Bench::new();
    for (path, body, status) in [("/v1/signals", "{}", 422), ("/v1/identities/7/keys", r#"{"name":"x"}"#, 404)] {
        let reply = bench.call("POST", path).header("idempotency-key", "k").body(body).send().await;
        assert_eq!(reply.status, status);
        let asked = bench.asked();
        assert!(matches!(&asked[0].work, Work::Invalid(problem) if problem.kind.status == status), "{asked:?}");
        assert_eq!(asked[0].idempotency.as_ref().map(|i| i.key.as_str()), Some("k"));
    }
    let broken = bench.call("POST", "/v1/signals").header("idempotency-key", "k").body("{").send().await;
    assert_eq!((broken.status, bench.asked().len()), (400, 0), "400 comes before idempotency");
}

#[tokio::test]
async fn an_accept_that_can_not_be_met_is_406() {
    let bench = Bench::new();
    for (method, path, body) in [
        ("GET", "/v1/signals".to_owned(), ""),
        ("GET", known("signals"), ""),
        ("GET", "/v1/me".to_owned(), ""),
        ("POST", "/v1/signals".to_owned(), "{}"),
    ] {
        let call = bench.call(method, &path).header("accept", "text/html;q=1, application/json;q=0");
        let reply = call.body(body).send().await;
        assert_eq!((reply.status, reply.code().as_str()), (406, "not-acceptable"), "{method} {path}");
    }
    let stream = bench.call("GET", "/v1/signals").header("accept", "text/event-stream").send().await;
    assert_eq!(stream.status, 406, "watches are the data plane's");
}

#[tokio::test]
async fn lists_refuse_unknown_repeated_and_impossible_parameters() {
    let bench = Bench::new();
    for (path, code) in [
        ("/v1/signals?limit=0", "bad-query"),
        ("/v1/signals?limit=501", "bad-query"),
        ("/v1/signals?limit=1&limit=1", "bad-query"),
        ("/v1/signals?colour=red", "bad-query"),
        ("/v1/signals?status=done", "bad-query"),
        ("/v1/signals?priority=", "bad-query"),
        ("/v1/signals?order=priority", "bad-query"),
        ("/v1/signals?order=%zz", "bad-query"),
        ("/v1/signals?cursor=nowhere", "bad-cursor"),
        ("/v1/identities?status=pending", "bad-query"),
        ("/v1/identities?cursor=x", "bad-cursor"),
        ("/v1/me?x=1", "bad-query"),
    ] {
        let reply = bench.call("GET", path).send().await;
        assert_eq!((reply.status, reply.code().as_str()), (400, code), "{path}");
        assert_eq!(reply.header("cache-control"), Some("private, no-cache"), "{path}");
        assert!(!path.contains("order=priority") || reply.text.contains("the data plane has priority"), "{path}");
    }
}
