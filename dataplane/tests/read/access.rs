//! Who may read what.

use contract::identity::{KeyRecord, Role};
use contract::partition::Topic;
use contract::signal::{Priority, Status};
use contract::time::Timestamp;

use crate::world::{Change, World, identity, signal};

#[tokio::test]
async fn each_role_reads_what_it_may() {
    let world = World::start().await;
    let one = signal(Priority::Low, Status::Pending);
    world.apply(&[Change::signal(&one)]).await;
    let callers = [world.admin.clone(), world.known(Role::Operator).await, world.known(Role::Reader).await];
    for caller in &callers {
        for path in ["/v1/signals", "/v1/me", "/v1/status", "/v1/identities", &format!("/v1/signals/{}", one.id)] {
            assert_eq!(world.read_as(caller, path, &[]).await.status, 200, "{path}");
        }
        let me = world.read_as(caller, "/v1/me", &[]).await;
        assert_eq!(me.body, identity(caller).render());
        assert_eq!(me.headers["etag"], "\"1\"");
        let own = world.read_as(caller, &format!("/v1/identities/{}", caller.identity), &[]).await;
        assert_eq!(own.body, me.body);
        let listed = world.read_as(caller, "/v1/identities", &[]).await.json();
        let listed: Vec<_> = listed["items"].as_array().unwrap().iter().map(|item| item["id"].clone()).collect();
        let is_admin = caller.record.role == Role::Admin;
        assert_eq!(listed.len(), if is_admin { 3 } else { 1 });
        assert!(listed.contains(&caller.identity.to_string().into()));
        let other = callers.iter().find(|other| other.identity != caller.identity).unwrap();
        let answer = world.read_as(caller, &format!("/v1/identities/{}", other.identity), &[]).await;
        if is_admin { assert_eq!(answer.status, 200) } else { answer.is(403, "forbidden") }
    }
    let walk = world.read("/v1/identities?order=-created&limit=2", &[]).await;
    let ids: Vec<_> = walk.json()["items"].as_array().unwrap().iter().map(|item| item["id"].clone()).collect();
    let mut expected: Vec<_> = callers.iter().map(|caller| caller.identity).collect();
    expected.sort();
    expected.reverse();
    assert_eq!(ids, expected[..2].iter().map(ToString::to_string).collect::<Vec<_>>());
    world.read("/v1/identities?status=active", &[]).await.is(400, "bad-query");
}

#[tokio::test]
async fn a_key_that_is_not_good_is_401_and_an_inactive_identity_403() {
    let world = World::start().await;
    for headers in [&[][..], &[("authorization", "Bearer nxs_x")], &[("authorization", "Basic x")]] {
        let answer = world.get("/v1/signals", headers).await;
        answer.is(401, "unauthorized");
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
    }
    let stranger = World::caller(Role::Admin);
    world.read_as(&stranger, "/v1/me", &[]).await.is(401, "unauthorized");
    // 401 comes before what is wrong with the rest.
    world.read_as(&stranger, "/v1/signals?x=1", &[("nexus-token", "x")]).await.is(401, "unauthorized");

    let mut caller = world.known(Role::Reader).await;
    assert_eq!(world.read_as(&caller, "/v1/me", &[]).await.status, 200);
    let good = caller.record.clone();
    let write = async |change: KeyRecord| world.write_key(&change).await;
    write(KeyRecord { active: false, version: 2, ..good.clone() }).await;
    world.read_as(&caller, "/v1/me", &[]).await.is(403, "forbidden");
    write(KeyRecord { expires_at: Some(Timestamp::now().0), version: 3, ..good.clone() }).await;
    world.read_as(&caller, "/v1/me", &[]).await.is(401, "unauthorized");
    write(KeyRecord { version: 4, ..good.clone() }).await;
    assert_eq!(world.read_as(&caller, "/v1/me", &[]).await.status, 200);
    world.apply(&[Change::delete(Topic::Keys, good.id, 5)]).await;
    world.read_as(&caller, "/v1/me", &[]).await.is(401, "unauthorized");
    caller.secret = world.admin.secret.replace("nxs_", "nxs_A");
    world.read_as(&caller, "/v1/me", &[]).await.is(401, "unauthorized");
}

#[tokio::test]
async fn what_needs_no_key_needs_none() {
    let world = World::start().await;
    for path in ["/", "/livez", "/readyz", "/metrics", "/version", "/openapi.json", "/problems/", "/problems/bad-token"]
    {
        assert_eq!(world.get(path, &[]).await.status, 200, "{path}");
    }
    let metrics = String::from_utf8(world.get("/metrics", &[]).await.body.to_vec()).unwrap();
    assert!(metrics.contains("nexus_view_round_reads"), "{metrics}");
}

#[tokio::test]
async fn the_key_of_a_token_is_waited_for_before_the_caller_is_refused() {
    let world = World::start().await;
    let caller = World::caller(Role::Reader);
    let token = world.token(Topic::Keys, caller.record.id, 1).encode();
    let no_wait = [("nexus-token", token.as_str()), ("prefer", "wait=0")];
    world.read_as(&caller, "/v1/me", &no_wait).await.is(503, "not-yet-consistent");
    let waits = [("nexus-token", token.as_str()), ("prefer", "wait=20")];
    let (answer, ()) = tokio::join!(world.read_as(&caller, "/v1/me", &waits), async {
        // Not before the read is there; a wait that came too late would be met at once, which is right too.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        world.write_caller(&caller).await;
    });
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["preference-applied"], "wait=20");
    // Met, but it is not the caller's key.
    let stranger = World::caller(Role::Reader);
    world.read_as(&stranger, "/v1/me", &waits).await.is(401, "unauthorized");
}

#[tokio::test]
async fn the_api_description_names_every_route_and_nothing_that_is_not_there() {
    let world = World::start().await;
    let text = world.get("/openapi.json", &[]).await;
    let description = text.json();
    let paths = description["paths"].as_object().unwrap();
    let id = world.admin.identity.to_string();
    for path in paths.keys().filter(|path| !path.starts_with("/v1/signals/")) {
        let path = path.replace("{id}", &id).replace("{code}", "bad-token");
        assert_eq!(world.read(&path, &[]).await.status, 200, "{path}");
    }
    for path in ["/v1/signals", "/v1/signals/{id}", "/v1/identities", "/v1/identities/{id}", "/v1/me", "/v1/status"] {
        assert!(paths.contains_key(path), "{path}");
    }
    for reference in std::str::from_utf8(&text.body).unwrap().split("\"$ref\": \"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(description.pointer(pointer).is_some(), "{pointer}");
    }
}
