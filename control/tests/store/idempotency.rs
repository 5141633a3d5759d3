//! The first answer again, and never a second effect.

use std::time::Instant;

use contract::command::{CreateKey, Precondition};
use control::request::Work;
use sqlx::Executor;

use crate::support::{Place, create, creation, id_of, json, keyed, request, retitle, store};

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_gets_the_first_answer() {
    let place = Place::new("replay").await;
    let first = place.try_run(keyed(create("once"), "k1", 1)).await.unwrap();
    let again = place.try_run(keyed(create("once"), "k1", 1)).await.unwrap();
    assert!(!first.replayed && again.replayed);
    assert_eq!(control::request::Answer { replayed: false, ..again }, first);
    assert_eq!(place.events().await.len(), 1);
    // Another identity's key of the same spelling is another key.
    let mut stranger = keyed(create("once"), "k1", 1);
    stranger.caller.identity = uuid::Uuid::from_u128(77);
    assert_ne!(id_of(&place.try_run(stranger).await.unwrap()), id_of(&first));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_good_for_one_request_alone() {
    let place = Place::new("reused").await;
    place.try_run(keyed(create("once"), "k1", 1)).await.unwrap();
    let other = place.try_run(keyed(create("twice"), "k1", 2)).await.unwrap();
    assert_eq!((other.status, json(&other)["code"].as_str()), (422, Some("idempotency-key-reused")));
    // The key is judged before the rule that the request breaks.
    let broken = contract::problem::Problem::validation(Vec::new());
    let invalid = place.try_run(keyed(Work::Invalid(broken.clone()), "k1", 3)).await.unwrap();
    assert_eq!(json(&invalid)["code"], "idempotency-key-reused");
    let invalid = place.try_run(keyed(Work::Invalid(broken), "k2", 3)).await.unwrap();
    assert_eq!(json(&invalid)["code"], "validation");
    let mended = place.try_run(keyed(create("mended"), "k2", 4)).await.unwrap();
    assert_eq!(mended.status, 201, "a 422 is not kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn rejections_that_last_are_kept() {
    let place = Place::new("kept").await;
    let id = place.create("here").await;
    let stale = || keyed(Work::Signal(retitle(id, "x", Precondition::AnyOf(vec![2]))), "k", 1);
    let first = place.try_run(stale()).await.unwrap();
    assert_eq!(first.status, 412);
    place.run(Work::Signal(retitle(id, "now version 2", Precondition::None))).await;
    let again = place.try_run(stale()).await.unwrap();
    assert_eq!((again.status, again.replayed, &again.body), (412, true, &first.body));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_replays_as_a_whole() {
    let place = Place::new("batch_replay").await;
    let batch = || keyed(Work::Batch(vec![Ok(creation("a")), Ok(creation("b"))]), "k", 1);
    let first = place.try_run(batch()).await.unwrap();
    let again = place.try_run(batch()).await.unwrap();
    assert_eq!((again.replayed, &again.body, &again.token), (true, &first.body, &first.token));
    assert_eq!(place.rows().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_key_creation_omits_the_secret() {
    let place = Place::new("secret").await;
    let identity = crate::administration::identity(&place, "owner").await;
    let make = || keyed(Work::CreateKey(identity, CreateKey { name: "laptop".into(), expires_at: None }), "k", 1);
    let first = place.try_run(make()).await.unwrap();
    let again = place.try_run(make()).await.unwrap();
    assert!(json(&first)["secret"].as_str().unwrap().starts_with("nxs_"));
    assert_eq!(json(&again).get("secret"), None);
    assert_eq!((again.status, again.replayed, json(&again)["id"].clone()), (201, true, json(&first)["id"].clone()));
    assert_eq!(again.token, first.token);
    assert_eq!(place.store.list_keys(identity).await.unwrap().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_apply_a_key_once() {
    let place = Place::new("two_processes").await;
    for round in 0..20 {
        let stores = [place.store.clone(), store(&place.namespace.database_url())];
        let key = format!("k{round}");
        let tasks = stores.map(|store| {
            // A neighbour each, which must not be harmed by the conflict.
            let requests = [request(create("neighbour")), keyed(create("once"), &key, 1)];
            tokio::spawn(async move { store.execute(&requests, Instant::now()).await })
        });
        let mut ids = Vec::new();
        for task in tasks {
            let answers = task.await.unwrap();
            assert_eq!(answers[0].as_ref().unwrap().status, 201);
            ids.push(id_of(answers[1].as_ref().unwrap()));
        }
        assert_eq!(ids[0], ids[1], "the second gets the first answer");
    }
    assert_eq!(place.rows().await.len(), 20 * 3);
    assert_eq!(place.events().await.len(), 20 * 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_forgotten_after_a_day_and_not_before() {
    let place = Place::new("prune").await;
    for (key, age) in [("old", "26 hours"), ("young", "24 hours")] {
        place.try_run(keyed(create(key), key, 1)).await.unwrap();
        let back =
            format!("UPDATE nexus.idempotency_keys SET created_at = now() - interval '{age}' WHERE key = '{key}'");
        place.admin().await.execute(sqlx::AssertSqlSafe(back)).await.unwrap();
    }
    place.admin().await.execute("UPDATE nexus.batches SET at = now() - interval '11 minutes'").await.unwrap();
    assert_eq!(place.store.prune().await.unwrap(), 2 + 1);
    assert!(!place.try_run(keyed(create("old"), "old", 1)).await.unwrap().replayed);
    assert!(place.try_run(keyed(create("young"), "young", 1)).await.unwrap().replayed);
}
