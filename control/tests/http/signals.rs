//! The life of a signal, and lists of them.

use std::collections::BTreeSet;

use contract::token::Token;

use crate::support::control;

#[tokio::test]
async fn a_signal_lives_from_its_creation_to_its_deletion() {
    let control = control("life").await;
    let client = &control.client;
    let me = client.get("/v1/me").await;
    assert_eq!((me.status, me.json()["name"].as_str()), (200, Some("admin")));

    let body = r#"{"title":"Zürich 🚨","payload":{"b":1.50,"a":[ 1 , 2 ]},"priority":"high"}"#;
    let made = client.post("/v1/signals", body).await;
    assert_eq!((made.status, made.header("etag")), (201, Some("\"1\"")), "{made:?}");
    assert!(made.text.contains(r#""payload":{"b":1.50,"a":[1,2]}"#), "{}", made.text);
    assert_eq!(made.json()["created_by"], me.json()["id"]);
    let path = format!("/v1/signals/{}", made.id());
    assert_eq!(made.header("location"), Some(path.as_str()));
    let token = made.header("nexus-token").unwrap();
    assert!(token.len() <= 128);
    assert_eq!(Token::decode(token).unwrap().entries[0].id.to_string(), made.id());

    let read = client.get(&path).await;
    assert_eq!((read.status, read.text.as_str(), read.header("etag")), (200, made.text.as_str(), Some("\"1\"")));
    assert_eq!(client.call("GET", &path, &[("If-None-Match", "\"1\"")], "").await.status, 304);

    let patched =
        client.call("PATCH", &path, &[("If-Match", "\"1\"")], r#"{"status":"active","payload":{"b":null}}"#).await;
    assert_eq!((patched.status, patched.header("etag")), (200, Some("\"2\"")), "{patched:?}");
    assert!(patched.text.contains(r#""payload":{"a":[1,2]}"#));
    let same = client.patch(&path, r#"{"status":"active"}"#).await;
    assert_eq!((same.status, same.header("etag")), (200, Some("\"2\"")), "a patch that changes nothing");
    assert!(same.header("nexus-token").is_some());
    let stale = client.call("PATCH", &path, &[("If-Match", "\"1\"")], r#"{"title":"y"}"#).await;
    assert_eq!((stale.status, stale.code().as_str()), (412, "precondition-failed"));
    assert_eq!(client.patch(&path, r#"{"status":"completed"}"#).await.status, 200);
    let closed = client.patch(&path, r#"{"status":"active"}"#).await;
    assert_eq!((closed.status, closed.code().as_str()), (409, "final-status"));

    let nobody = uuid::Uuid::from_u64_pair(1, 1);
    let target = client.patch(&path, &format!(r#"{{"target":"{nobody}"}}"#)).await;
    assert_eq!((target.status, target.json()["errors"][0]["pointer"].as_str()), (422, Some("/target")));

    let gone = client.delete(&path).await;
    assert_eq!((gone.status, gone.text.as_str()), (204, ""));
    assert!(gone.header("nexus-token").is_some());
    assert_eq!(client.delete(&path).await.status, 404);
    assert_eq!(client.patch(&path, "{}").await.status, 404);
    let after = client.get(&path).await;
    assert_eq!((after.status, after.json()["deleted_version"].as_u64()), (404, Some(4)));
}

#[tokio::test]
async fn a_walk_over_pages_meets_everything_once_in_order() {
    let control = control("walk").await;
    let client = &control.client;
    let priorities = ["low", "normal", "high", "critical"];
    let entry =
        |i: usize| format!(r#"{{"op":"create","signal":{{"title":"{i}","priority":"{}"}}}}"#, priorities[i % 4]);
    let entries: Vec<String> = (0..40).map(entry).collect();
    let made = client.post("/v1/signals:batch", &format!(r#"{{"commands":[{}]}}"#, entries.join(","))).await;
    assert_eq!(made.status, 200, "{made:?}");
    for (query, expected, first) in [
        ("limit=7", 40, "0"),
        ("limit=7&order=-created", 40, "39"),
        ("limit=3&priority=high,critical", 20, "2"),
        ("limit=500&status=pending", 40, "0"),
        ("limit=1&status=completed", 0, ""),
    ] {
        let (mut path, mut titles) = (format!("/v1/signals?{query}"), Vec::new());
        loop {
            let page = client.get(&path).await;
            assert_eq!(page.status, 200, "{page:?}");
            let json = page.json();
            titles.extend(
                json["items"].as_array().unwrap().iter().map(|item| item["title"].as_str().unwrap().to_owned()),
            );
            let Some(link) = page.header("link") else {
                assert!(json["next_cursor"].is_null());
                break;
            };
            assert!(link.contains(json["next_cursor"].as_str().unwrap()));
            path = link.trim_start_matches('<').split_once('>').unwrap().0.to_owned();
        }
        assert_eq!(titles.len(), expected, "{query}");
        assert_eq!(titles.iter().collect::<BTreeSet<_>>().len(), expected, "{query}: nothing twice");
        assert_eq!(titles.first().map_or("", String::as_str), first, "{query}");
    }
    let foreign = client.get("/v1/signals?limit=2").await.json()["next_cursor"].as_str().unwrap().to_owned();
    let reply = client.get(&format!("/v1/signals?order=-created&cursor={foreign}")).await;
    assert_eq!((reply.status, reply.code().as_str()), (400, "bad-cursor"));
}

#[tokio::test]
async fn a_command_goes_on_when_its_caller_hangs_up() {
    let control = control("hang_up").await;
    for i in 0..20 {
        control.client.send_and_leave("POST", "/v1/signals", &format!(r#"{{"title":"{i}"}}"#)).await;
    }
    let count = || async {
        let page = control.client.get("/v1/signals?limit=500").await.json();
        (page["items"].as_array().unwrap().len() == 20).then_some(())
    };
    let deadline = std::time::Duration::from_secs(10);
    infrastructure::wait::until("all commands of callers that hung up", deadline, count).await.unwrap();
}
