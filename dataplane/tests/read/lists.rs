//! Lists, against a model.

use std::collections::{BTreeMap, BTreeSet};

use contract::partition::Topic;
use contract::signal::{Priority, Signal, Status};
use uuid::Uuid;

use crate::world::{Change, World, random, signal};

fn pick<T: Copy>(all: &[T]) -> T {
    all[usize::try_from(random() % all.len() as u64).unwrap()]
}

fn any_signal() -> Signal {
    signal(pick(Priority::ALL), pick(Status::ALL))
}

/// A walk over all pages: ids in their order.
async fn walk(world: &World, query: &str, between: impl AsyncFn(usize)) -> Vec<Uuid> {
    let mut path = format!("/v1/signals?{query}");
    let mut ids = Vec::new();
    for page in 0.. {
        let answer = world.read(&path, &[]).await;
        assert_eq!(answer.status, 200, "{path}: {:?}", answer.body);
        let json = answer.json();
        for item in json["items"].as_array().unwrap() {
            ids.push(item["id"].as_str().unwrap().parse().unwrap());
        }
        match json["next_cursor"].as_str() {
            None => {
                assert_eq!(answer.header("link"), None);
                break;
            }
            Some(cursor) => {
                let link = answer.header("link").unwrap();
                assert!(link.contains(cursor) && link.ends_with("; rel=\"next\""), "{link}");
                path = link.strip_prefix('<').unwrap().split('>').next().unwrap().to_owned();
            }
        }
        between(page).await;
    }
    ids
}

/// What a list must be.
fn expected(model: &BTreeMap<Uuid, Signal>, keep: impl Fn(&Signal) -> bool, order: &str) -> Vec<Uuid> {
    let mut kept: Vec<&Signal> = model.values().filter(|signal| keep(signal)).collect();
    match order {
        "created" => kept.sort_by_key(|signal| (signal.created_at, signal.id)),
        "-created" => kept.sort_by_key(|signal| std::cmp::Reverse((signal.created_at, signal.id))),
        _ => kept.sort_by_key(|signal| (std::cmp::Reverse(signal.priority), signal.created_at, signal.id)),
    }
    kept.into_iter().map(|signal| signal.id).collect()
}

#[tokio::test]
async fn every_list_is_what_a_model_says() {
    let world = World::start().await;
    let mut model: BTreeMap<Uuid, Signal> = BTreeMap::new();
    for _ in 0..12 {
        let mut changes = Vec::new();
        for _ in 0..30 {
            let change = match random() % 4 {
                0 if !model.is_empty() => {
                    let id = pick(&model.keys().copied().collect::<Vec<_>>());
                    let gone = model.remove(&id).unwrap();
                    Change::delete(Topic::Signals, id, gone.version + 1)
                }
                1 if !model.is_empty() => {
                    let id = pick(&model.keys().copied().collect::<Vec<_>>());
                    let changed = model.get_mut(&id).unwrap();
                    (changed.priority, changed.status) = (pick(Priority::ALL), pick(Status::ALL));
                    changed.version += 1;
                    Change::signal(changed)
                }
                _ => {
                    let made = any_signal();
                    model.insert(made.id, made.clone());
                    Change::signal(&made)
                }
            };
            changes.push(change);
        }
        for change in changes {
            world.apply(&[change]).await;
        }
        for order in ["", "created", "-created", "priority"] {
            let statuses: BTreeSet<Status> = (0..random() % 3).map(|_| pick(Status::ALL)).collect();
            let priorities: BTreeSet<Priority> = (0..random() % 3).map(|_| pick(Priority::ALL)).collect();
            let mut query = format!("limit={}", 1 + random() % 40);
            let words = |words: Vec<&str>| words.join(if random().is_multiple_of(2) { "," } else { "%2C" });
            if !order.is_empty() {
                query.push_str(&format!("&order={order}"));
            }
            if !statuses.is_empty() {
                query.push_str(&format!("&status={}", words(statuses.iter().map(|s| s.as_str()).collect())));
            }
            if !priorities.is_empty() {
                query.push_str(&format!("&priority={}", words(priorities.iter().map(|p| p.as_str()).collect())));
            }
            let keep = |signal: &Signal| {
                (statuses.is_empty() || statuses.contains(&signal.status))
                    && (priorities.is_empty() || priorities.contains(&signal.priority))
            };
            assert_eq!(walk(&world, &query, async |_| ()).await, expected(&model, keep, order), "{query}");
        }
    }
    let page = world.read("/v1/signals?limit=500", &[]).await;
    for item in page.json()["items"].as_array().unwrap() {
        let id: Uuid = item["id"].as_str().unwrap().parse().unwrap();
        let rendered = String::from_utf8(model[&id].render()).unwrap();
        assert!(std::str::from_utf8(&page.body).unwrap().contains(&rendered), "the bytes of the event");
    }
}

#[tokio::test]
async fn an_item_that_does_not_change_during_a_walk_appears_exactly_once() {
    let world = World::start().await;
    for order in ["created", "-created", "priority"] {
        let still: Vec<Signal> = (0..60).map(|_| any_signal()).collect();
        let mut moving: Vec<Signal> = (0..60).map(|_| any_signal()).collect();
        world.apply(&still.iter().chain(&moving).map(Change::signal).collect::<Vec<_>>()).await;
        let moving = tokio::sync::Mutex::new(&mut moving);
        let ids = walk(&world, &format!("order={order}&limit=7"), async |_| {
            let mut changes = vec![Change::signal(&any_signal())];
            for signal in moving.lock().await.iter_mut() {
                if random().is_multiple_of(4) {
                    signal.version += 1;
                    (signal.priority, signal.status) = (pick(Priority::ALL), pick(Status::ALL));
                    changes.push(Change::signal(signal));
                }
            }
            world.apply(&changes).await;
        })
        .await;
        for signal in &still {
            assert_eq!(ids.iter().filter(|id| **id == signal.id).count(), 1, "{order}: {}", signal.id);
        }
        let place = |id: Uuid| ids.iter().position(|other| *other == id).unwrap();
        let model = still.iter().map(|signal| (signal.id, signal.clone())).collect();
        let ordered = expected(&model, |_| true, order);
        assert!(ordered.windows(2).all(|pair| place(pair[0]) < place(pair[1])), "{order}");
    }
}

#[tokio::test]
async fn an_id_whose_document_has_changed_or_gone_leaves_no_gap_in_the_page() {
    let world = World::start().await;
    let mut signals: Vec<Signal> = (0..30).map(|_| signal(Priority::High, Status::Pending)).collect();
    world.apply(&signals.iter().map(Change::signal).collect::<Vec<_>>()).await;
    // What a reader between the two round trips sees: the index is older than the documents.
    for signal in &mut signals[..25] {
        let partition = contract::partition::Partition::of(Topic::Signals, signal.id, 4);
        let key = world.keys.document(partition, crate::world::EPOCH, signal.id);
        signal.version = 2;
        signal.status = Status::Active;
        let stored = format!("0000000000000002j{}", String::from_utf8(signal.render()).unwrap());
        let () = world.redis(redis::cmd("SET").arg(key).arg(stored)).await;
    }
    let ids = walk(&world, "status=pending&limit=3", async |_| ()).await;
    assert_eq!(ids, signals[25..].iter().map(|signal| signal.id).collect::<Vec<_>>());
    let page = world.read("/v1/signals?status=pending&limit=3", &[]).await;
    assert_eq!(page.json()["items"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn bad_queries_and_foreign_cursors_are_400() {
    let world = World::start().await;
    world.apply(&(0..3).map(|_| Change::signal(&any_signal())).collect::<Vec<_>>()).await;
    for bad in
        ["x=1", "limit=0", "limit=501", "limit=5&limit=5", "order=title", "status=", "priority=urgent", "from=now"]
    {
        world.read(&format!("/v1/signals?{bad}"), &[]).await.is(400, "bad-query");
    }
    let page = world.read("/v1/signals?limit=1", &[]).await.json();
    let cursor = page["next_cursor"].as_str().unwrap();
    assert_eq!(world.read(&format!("/v1/signals?limit=2&cursor={cursor}"), &[]).await.status, 200);
    for bad in [
        format!("order=created&cursor={cursor}"),
        format!("status=active&cursor={cursor}"),
        "cursor=nowhere".to_owned(),
        format!("cursor={cursor}A"),
    ] {
        world.read(&format!("/v1/signals?{bad}"), &[]).await.is(400, "bad-cursor");
    }
    world.read(&format!("/v1/identities?cursor={cursor}"), &[]).await.is(400, "bad-cursor");
    // It outlives a rebuild.
    world.fill(crate::world::EPOCH).await;
    world.write_caller(&world.admin).await;
    assert_eq!(world.read(&format!("/v1/signals?cursor={cursor}"), &[]).await.json()["items"], serde_json::json!([]));
}
