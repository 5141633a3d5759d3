//! `POST /v1/signals:batch`.

use contract::token::Token;

use crate::support::control;

#[tokio::test]
async fn each_command_of_a_batch_is_accepted_or_rejected_by_itself() {
    let control = control("batch").await;
    let client = &control.client;
    let id = client.post("/v1/signals", r#"{"title":"x"}"#).await.id();
    let body = format!(
        r#"{{"commands":[
            {{"op":"create","signal":{{"title":"a"}}}},
            {{"op":"update","id":"{id}","if_match":7,"signal":{{"title":"stale"}}}},
            {{"op":"update","id":"{id}","if_match":1,"signal":{{"payload":{{"a":1}}}}}},
            {{"op":"update","id":"{id}","signal":{{"payload":{{"b":2}}}}}},
            {{"op":"create","signal":{{"title":"a","payload":{{"x":"\u0000"}}}}}},
            {{"op":"delete","id":"nowhere"}},
            {{"op":"update","id":"{id}","signal":{{"status":"completed"}}}},
            {{"op":"update","id":"{id}","signal":{{"status":"active"}}}},
            {{"op":"delete","id":"{id}"}},
            {{"op":"delete","id":"{id}"}}
        ]}}"#
    );
    let reply = client.post("/v1/signals:batch", &body).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let results = reply.json()["results"].as_array().unwrap().clone();
    let statuses: Vec<u64> = results.iter().map(|result| result["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [201, 412, 200, 200, 422, 404, 200, 409, 204, 404]);
    let versions: Vec<Option<u64>> = results.iter().map(|result| result["version"].as_u64()).collect();
    assert_eq!(versions, [Some(1), None, Some(2), Some(3), None, None, Some(4), None, Some(5), None]);
    assert_eq!(results[4]["error"]["errors"][0]["pointer"], "/commands/4/signal/payload/x");
    assert_eq!(results[1]["error"]["code"], "precondition-failed");

    let token = Token::decode(reply.header("nexus-token").unwrap()).unwrap();
    assert!(!token.entries.is_empty() && token.entries.len() <= 2);
    assert_eq!(client.get(&format!("/v1/signals/{id}")).await.json()["deleted_version"], 5);
    assert_eq!(client.get(&format!("/v1/signals/{}", results[0]["id"].as_str().unwrap())).await.status, 200);
}

#[tokio::test]
async fn a_batch_of_a_thousand_is_one_token_and_one_of_nothing_has_none() {
    let control = control("thousand").await;
    let client = &control.client;
    let entries = vec![r#"{"op":"create","signal":{"title":"x","payload":{"k":"0123456789"}}}"#; 1000];
    let reply = client.post("/v1/signals:batch", &format!(r#"{{"commands":[{}]}}"#, entries.join(","))).await;
    assert_eq!(reply.status, 200);
    let results = reply.json()["results"].as_array().unwrap().clone();
    assert!(results.len() == 1000 && results.iter().all(|result| result["status"] == 201));
    assert!(reply.header("nexus-token").unwrap().len() <= 1024);
    let reply = client.post("/v1/signals:batch", r#"{"commands":[{"op":"delete","id":"x"}]}"#).await;
    assert_eq!((reply.status, reply.header("nexus-token")), (200, None));
}
