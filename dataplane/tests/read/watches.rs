//! Watches.

use std::collections::HashMap;
use std::time::Duration;

use contract::identity::Role;
use contract::partition::{Partition, Topic};
use contract::signal::{Priority, Signal, Status};
use dataplane::view::header::Header;
use dataplane::watch::position::Position;
use dataplane::watch::replay::MISSED_MAX;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;

use crate::world::{Caller, Change, DEADLINE, EPOCH, World, random, send, signal, until};

/// One server-sent event.
#[derive(Debug, Clone, PartialEq)]
struct Event {
    name: String,
    id: String,
    data: Value,
}

impl Event {
    fn version(&self) -> u64 {
        self.data["version"].as_u64().unwrap()
    }

    fn of(&self) -> &str {
        self.data["id"].as_str().unwrap()
    }
}

struct Stream {
    body: Incoming,
    text: String,
    comments: usize,
    last_id: String,
}

impl Stream {
    async fn open(world: &World, caller: &Caller, path: &str, headers: &[(&str, &str)]) -> Self {
        let bearer = format!("Bearer {}", caller.secret);
        let mut all = vec![("authorization", bearer.as_str()), ("accept", "text/event-stream")];
        all.extend_from_slice(headers);
        let response = send(world.address, path, &all).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "private, no-cache");
        Self { body: response.into_body(), text: String::new(), comments: 0, last_id: String::new() }
    }

    /// The next event; `None` at the stream's end.
    async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let (mut name, mut id, mut data) = (String::new(), None, None);
                for line in block.lines() {
                    match line.split_once(": ") {
                        Some(("", _)) => self.comments += 1,
                        Some(("event", value)) => name = value.to_owned(),
                        Some(("id", value)) => id = Some(value.to_owned()),
                        Some(("data", value)) => data = Some(serde_json::from_str(value).unwrap()),
                        _ => panic!("a line of no meaning: {line}"),
                    }
                }
                self.text = rest.to_owned();
                self.last_id = id.unwrap_or(std::mem::take(&mut self.last_id));
                if let Some(data) = data {
                    return Some(Event { name, id: self.last_id.clone(), data });
                }
            }
            let frame = tokio::time::timeout(DEADLINE, self.body.frame()).await.expect("something on the stream");
            match frame {
                Some(Ok(frame)) => self.text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap()),
                _ => return None,
            }
        }
    }

    async fn event(&mut self) -> Event {
        self.next().await.expect("the stream goes on")
    }

    /// Events up to and without the one named `name`.
    async fn up_to(&mut self, name: &str) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let event = self.event().await;
            if event.name == name {
                return events;
            }
            events.push(event);
        }
    }

    /// What a client knows after following the stream until it knows `expected`.
    async fn follow(&mut self, known: &mut HashMap<String, u64>, expected: &HashMap<String, u64>) {
        // Who broke off between two events of one batch may get the first of them once more.
        let mut versions: HashMap<String, u64> = HashMap::new();
        let begun = std::time::Instant::now();
        while known != expected {
            let event = tokio::time::timeout(DEADLINE.saturating_sub(begun.elapsed()), self.event()).await;
            let event = event.unwrap_or_else(|_| panic!("known is {known:?}, not {expected:?}"));
            match event.name.as_str() {
                "reset" => {
                    known.clear();
                    versions.clear();
                }
                "ready" => {}
                "created" | "updated" => {
                    let last = versions.insert(event.of().to_owned(), event.version());
                    assert!(last.is_none_or(|last| last < event.version()), "{last:?} then {event:?}");
                    let last = known.insert(event.of().to_owned(), event.version());
                    assert!(last.is_none_or(|last| last <= event.version()), "{last:?} then {event:?}");
                }
                "deleted" => {
                    versions.insert(event.of().to_owned(), event.version());
                    known.remove(event.of());
                }
                _ => panic!("{event:?}"),
            }
        }
    }
}

fn changed(signal: &mut Signal, status: Status) -> Change {
    signal.version += 1;
    signal.status = status;
    Change::signal(signal)
}

#[tokio::test]
async fn a_watch_tells_what_there_is_and_then_what_changes() {
    let world = World::start().await;
    let mut inside: Vec<Signal> = (0..250).map(|_| signal(Priority::Low, Status::Pending)).collect();
    let mut outside = signal(Priority::High, Status::Active);
    world.apply(&inside.iter().chain([&outside]).map(Change::signal).collect::<Vec<_>>()).await;
    let mut stream = Stream::open(&world, &world.admin, "/v1/signals?status=pending", &[]).await;
    let first = stream.up_to("ready").await;
    assert_eq!(first.len(), 250);
    assert!(first.iter().all(|event| event.name == "created" && !event.id.is_empty()));
    assert_eq!(first[0].data, serde_json::from_slice::<Value>(&inside[0].render()).unwrap());

    world.apply(&[changed(&mut inside[0], Status::Pending)]).await;
    let event = stream.event().await;
    assert_eq!((event.name.as_str(), event.version()), ("updated", 2));
    world.apply(&[changed(&mut inside[0], Status::Active)]).await;
    let event = stream.event().await;
    assert_eq!(event.name, "deleted");
    assert_eq!(event.data, serde_json::json!({"id": inside[0].id, "version": 3, "reason": "filter"}));
    world.apply(&[changed(&mut outside, Status::Pending)]).await;
    let event = stream.event().await;
    assert_eq!((event.name.as_str(), event.of()), ("created", outside.id.to_string().as_str()));
    world.apply(&[changed(&mut inside[0], Status::Completed), Change::delete(Topic::Signals, outside.id, 3)]).await;
    let event = stream.event().await;
    assert_eq!(event.name, "deleted");
    assert_eq!(event.data, serde_json::json!({"id": outside.id, "version": 3}));
}

#[tokio::test]
async fn a_watch_from_now_and_one_of_a_single_signal() {
    let world = World::start().await;
    let mut one = signal(Priority::Low, Status::Pending);
    let other = signal(Priority::Low, Status::Pending);
    world.apply(&[Change::signal(&one), Change::signal(&other)]).await;
    let path = format!("/v1/signals/{}", one.id);
    let mut now = Stream::open(&world, &world.admin, "/v1/signals?from=now", &[]).await;
    assert!(now.up_to("ready").await.is_empty());
    let mut single = Stream::open(&world, &world.admin, &path, &[]).await;
    assert_eq!(single.up_to("ready").await.len(), 1);
    world.apply(&[Change::delete(Topic::Signals, other.id, 2), changed(&mut one, Status::Active)]).await;
    let event = single.event().await;
    assert_eq!((event.name.as_str(), event.data), ("updated", serde_json::from_slice(&one.render()).unwrap()));
    let both = [now.event().await, now.event().await];
    assert!(both.iter().any(|event| event.name == "deleted" && event.of() == other.id.to_string()));
    world.apply(&[Change::delete(Topic::Signals, one.id, 3)]).await;
    assert_eq!(single.event().await.name, "deleted");

    let stream = [("accept", "text/event-stream")];
    world.read(&path, &stream).await.is(404, "not-found");
    world.read("/v1/signals/x", &stream).await.is(404, "not-found");
    for bad in ["limit=5", "order=created", "cursor=x", "from=then"] {
        let code = world.read(&format!("/v1/signals?{bad}"), &stream).await.code();
        assert!(code == "bad-query" || code == "bad-cursor", "{bad}: {code}");
    }
}

#[tokio::test]
async fn a_watch_resumes_without_a_gap() {
    let world = World::start().await;
    let mut signals: Vec<Signal> = (0..20).map(|_| signal(Priority::Low, Status::Pending)).collect();
    world.apply(&signals.iter().map(Change::signal).collect::<Vec<_>>()).await;
    let mut known = HashMap::new();
    let mut expected: HashMap<String, u64> =
        signals.iter().map(|signal| (signal.id.to_string(), signal.version)).collect();
    let mut stream = Stream::open(&world, &world.admin, "/v1/signals?status=pending", &[]).await;
    stream.follow(&mut known, &expected).await;
    while stream.event().await.name != "ready" {}
    for _ in 0..30 {
        let last = stream.last_id.clone();
        drop(stream);
        for _ in 0..random() % 8 {
            let place = usize::try_from(random() % signals.len() as u64).unwrap();
            let signal = &mut signals[place];
            let id = signal.id.to_string();
            match random() % 6 {
                0 => {
                    world.apply(&[Change::delete(Topic::Signals, signal.id, signal.version + 1)]).await;
                    expected.remove(&id);
                    signals.swap_remove(place);
                    let new = crate::world::signal(Priority::Low, Status::Pending);
                    world.apply(&[Change::signal(&new)]).await;
                    expected.insert(new.id.to_string(), 1);
                    signals.push(new);
                }
                1 => {
                    world.apply(&[changed(signal, Status::Active)]).await;
                    expected.remove(&id);
                }
                _ => {
                    world.apply(&[changed(signal, Status::Pending)]).await;
                    expected.insert(id, signal.version);
                }
            }
        }
        stream = Stream::open(&world, &world.admin, "/v1/signals?status=pending", &[("last-event-id", &last)]).await;
        // As a browser does: until an event comes, the last id is still that of the stream before.
        stream.last_id = last;
        stream.follow(&mut known, &expected).await;
    }
}

#[tokio::test]
async fn where_history_is_gone_a_watch_starts_over() {
    let world = World::start().await;
    let mut one = signal(Priority::Low, Status::Pending);
    world.apply(&[Change::signal(&one)]).await;
    let mut stream = Stream::open(&world, &world.admin, "/v1/signals", &[]).await;
    stream.up_to("ready").await;
    world.apply(&[changed(&mut one, Status::Active)]).await;
    let last = stream.event().await.id;
    world.apply(&[changed(&mut one, Status::Active)]).await;
    stream.event().await;
    let partition = Partition::of(Topic::Signals, one.id, 4);
    let () = world.redis(redis::cmd("XTRIM").arg(world.keys.feed(partition)).arg("MAXLEN").arg(0)).await;
    for id in [last.as_str(), "nowhere", &stream.last_id[1..]] {
        let mut resumed = Stream::open(&world, &world.admin, "/v1/signals", &[("last-event-id", id)]).await;
        assert_eq!(resumed.event().await.name, "reset");
        let first = resumed.up_to("ready").await;
        assert_eq!((first.len(), first[0].version()), (1, 3));
    }
    // Nothing was missed: no reset.
    let mut resumed = Stream::open(&world, &world.admin, "/v1/signals", &[("last-event-id", &stream.last_id)]).await;
    world.apply(&[changed(&mut one, Status::Pending)]).await;
    assert_eq!(resumed.event().await.version(), 4);
    assert_eq!(stream.event().await.version(), 4);

    // A hole in the feed, and then a flip to a generation of another epoch, reset open watches. One that began from now
    // is told what there is as well: nobody knows what it missed.
    let mut from_now = Stream::open(&world, &world.admin, "/v1/signals?from=now", &[]).await;
    assert!(from_now.up_to("ready").await.is_empty());
    world.set_headers(|header| header.seq += 5).await;
    world.apply(&[changed(&mut one, Status::Pending)]).await;
    assert!(stream.up_to("reset").await.len() <= 1);
    assert_eq!(stream.up_to("ready").await[0].version(), 5);
    assert!(from_now.up_to("reset").await.len() <= 1);
    assert_eq!(from_now.up_to("ready").await[0].version(), 5);
    world.fill(EPOCH + 1).await;
    world.write_caller(&world.admin).await;
    stream.up_to("reset").await;
    assert!(stream.up_to("ready").await.is_empty());
    world.apply(&[Change::signal(&one)]).await;
    assert_eq!(stream.event().await.name, "created");
}

#[tokio::test]
async fn a_watch_that_missed_more_than_a_page_gets_each_change_once() {
    let world = World::start().await;
    let mut signals: Vec<Signal> = (0..2000).map(|_| signal(Priority::Low, Status::Pending)).collect();
    world.apply(&signals.iter().map(Change::signal).collect::<Vec<_>>()).await;
    let mut stream = Stream::open(&world, &world.admin, "/v1/signals?from=now", &[]).await;
    stream.up_to("ready").await;
    drop(stream.body);
    for _ in 0..2 {
        world.apply(&signals.iter_mut().map(|signal| changed(signal, Status::Active)).collect::<Vec<_>>()).await;
    }
    let headers = [("last-event-id", stream.last_id.as_str())];
    let mut resumed = Stream::open(&world, &world.admin, "/v1/signals", &headers).await;
    let mut known = HashMap::new();
    while known.len() < signals.len() {
        let event = resumed.event().await;
        assert_eq!(event.name, "updated");
        if let Some(last) = known.insert(event.of().to_owned(), event.version()) {
            assert!(last < event.version(), "{event:?} after {last}");
        }
    }
    // The position went along: who breaks off now has missed nothing.
    world.apply(&[changed(&mut signals[0], Status::Pending)]).await;
    let last = loop {
        let event = resumed.event().await;
        if event.version() == 4 {
            break event.id;
        }
    };
    world.apply(&[changed(&mut signals[0], Status::Pending)]).await;
    let mut again = Stream::open(&world, &world.admin, "/v1/signals", &[("last-event-id", &last)]).await;
    assert_eq!(again.event().await.version(), 5);
}

#[tokio::test]
async fn who_resumes_after_a_call_that_failed_midway_is_told_of_its_repetition() {
    let world = World::start().await;
    let mut one = signal(Priority::Low, Status::Pending);
    let mut other = signal(Priority::Low, Status::Pending);
    let partition = Partition::of(Topic::Signals, one.id, 4);
    while Partition::of(Topic::Signals, other.id, 4) == partition {
        other = signal(Priority::Low, Status::Pending);
    }
    world.apply(&[Change::signal(&one), Change::signal(&other)]).await;
    let mut stream = Stream::open(&world, &world.admin, "/v1/signals", &[]).await;
    stream.up_to("ready").await;
    let before = Position::decode(&stream.last_id).unwrap().marks[usize::from(partition.index)];
    // The entry is there, its document and the header are not.
    let mut add = redis::cmd("XADD");
    add.arg(world.keys.feed(partition)).arg("*").arg("e").arg(before.epoch);
    add.arg("f").arg(before.seq + 1).arg("t").arg(before.seq + 3);
    add.arg("k").arg(format!("{}{:016x}uaa", one.id, 2));
    let _: String = world.redis(&add).await;
    world.apply(&[changed(&mut other, Status::Active)]).await;
    let last = stream.event().await;
    assert_eq!(last.of(), other.id.to_string());
    drop(stream);
    world.apply(&[changed(&mut one, Status::Active)]).await;
    let mut resumed = Stream::open(&world, &world.admin, "/v1/signals", &[("last-event-id", &last.id)]).await;
    let told = resumed.event().await;
    assert_eq!((told.of(), told.version()), (one.id.to_string().as_str(), 2));
}

#[tokio::test]
async fn a_watch_that_missed_more_than_is_replayed_starts_over() {
    let world = World::start().await;
    let mut one = signal(Priority::Low, Status::Pending);
    world.apply(&[Change::signal(&one)]).await;
    let mut stream = Stream::open(&world, &world.admin, "/v1/signals", &[]).await;
    let first = stream.up_to("ready").await;
    assert_eq!(first.len(), 1);
    world.apply(&[changed(&mut one, Status::Active)]).await;
    let last = stream.event().await.id;
    drop(stream);
    // The feed as a bulk load leaves it.
    let partition = Partition::of(Topic::Signals, one.id, 4);
    let index = usize::from(partition.index);
    let seq = Position::decode(&last).unwrap().marks[index].seq;
    let (entries, each) = (MISSED_MAX as u64 / 2000 + 1, 2000);
    for n in 0..entries {
        let key = |n| format!("{}0000000000000001c-a", uuid::Uuid::from_u64_pair(9, n));
        let keys: String = (0..each).map(|change| key(n * each + change)).collect();
        let mut add = redis::cmd("XADD");
        add.arg(world.keys.feed(partition)).arg("*").arg("e").arg(EPOCH);
        add.arg("f").arg(seq + n * each + 1).arg("t").arg(seq + (n + 1) * each).arg("k").arg(keys);
        let _: String = world.redis(&add).await;
    }
    let key = world.keys.header(partition);
    let stored: String = world.redis(redis::cmd("GET").arg(&key)).await;
    let mut header = Header::parse(stored.as_bytes()).unwrap();
    header.seq = seq + entries * each;
    let () = world.redis(redis::cmd("SET").arg(&key).arg(header.to_string())).await;
    until("the view server has read the feed", async || {
        let mut now = Stream::open(&world, &world.admin, "/v1/signals?from=now", &[]).await;
        now.up_to("ready").await;
        (Position::decode(&now.last_id).unwrap().marks[index].seq == seq + entries * each).then_some(())
    })
    .await;
    let mut resumed = Stream::open(&world, &world.admin, "/v1/signals", &[("last-event-id", &last)]).await;
    assert_eq!(resumed.event().await.name, "reset");
    let first = resumed.up_to("ready").await;
    assert_eq!((first.len(), first[0].version()), (1, 2));
}

#[tokio::test]
async fn a_watch_ends_with_its_permission() {
    let world = World::start().await;
    let reader = world.known(Role::Reader).await;
    let mut signals = Stream::open(&world, &reader, "/v1/signals", &[]).await;
    signals.up_to("ready").await;
    let mut myself = Stream::open(&world, &reader, "/v1/identities", &[]).await;
    assert_eq!(myself.up_to("ready").await[0].of(), reader.identity.to_string());
    let mut all = Stream::open(&world, &world.admin, "/v1/identities", &[]).await;
    assert_eq!(all.up_to("ready").await.len(), 2);
    let mut other = world.known(Role::Operator).await.identity.to_string();
    assert_eq!(all.event().await.of(), other);
    other = format!("/v1/identities/{other}");
    world.read_as(&reader, &other, &[("accept", "text/event-stream")]).await.is(403, "forbidden");
    world.apply(&[Change::delete(Topic::Keys, reader.record.id, 2)]).await;
    assert_eq!(signals.next().await, None);
    assert_eq!(myself.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_watches_of_many_changes_end_in_the_same_state_and_versions_only_rise() {
    let world = std::sync::Arc::new(World::start().await);
    let mut signals: Vec<Signal> = (0..40).map(|_| signal(Priority::Low, Status::Pending)).collect();
    world.apply(&signals.iter().map(Change::signal).collect::<Vec<_>>()).await;
    // One in each partition tells each client that it has seen all: they are changed last of all.
    let mut ends = HashMap::new();
    while ends.len() < 4 {
        let end = signal(Priority::Critical, Status::Pending);
        ends.insert(Partition::of(Topic::Signals, end.id, 4), end);
    }
    let end_ids: Vec<String> = ends.values().map(|end| end.id.to_string()).collect();
    let mut watches = tokio::task::JoinSet::new();
    for n in 0..40 {
        let (world, end_ids) = (world.clone(), end_ids.clone());
        watches.spawn(async move {
            if n % 2 == 1 {
                tokio::time::sleep(Duration::from_millis(n * 5)).await;
            }
            let filter = if n % 4 < 2 { "" } else { "?status=pending" };
            let admin = world.admin.clone();
            let mut stream = Stream::open(&world, &admin, &format!("/v1/signals{filter}"), &[]).await;
            let (mut known, mut versions) = (HashMap::new(), HashMap::new());
            loop {
                let event = stream.event().await;
                match event.name.as_str() {
                    "created" | "updated" => {
                        let last = versions.insert(event.of().to_owned(), event.version());
                        assert!(last.is_none_or(|last| last < event.version()), "{last:?} then {event:?}");
                        known.insert(event.of().to_owned(), event.version());
                        if end_ids.iter().all(|end| known.contains_key(end)) {
                            return (n, known);
                        }
                    }
                    "deleted" => {
                        versions.insert(event.of().to_owned(), event.version());
                        known.remove(event.of());
                    }
                    "ready" => {}
                    _ => panic!("{event:?}"),
                }
            }
        });
    }
    for _ in 0..400 {
        let mut changes: HashMap<uuid::Uuid, Change> = HashMap::new();
        for _ in 0..5 {
            let place = usize::try_from(random() % signals.len() as u64).unwrap();
            let status = if random().is_multiple_of(2) { Status::Pending } else { Status::Active };
            let change = changed(&mut signals[place], status);
            changes.insert(change.id, change);
        }
        world.apply(&changes.into_values().collect::<Vec<_>>()).await;
    }
    world.apply(&ends.values().map(Change::signal).collect::<Vec<_>>()).await;
    while let Some(watch) = watches.join_next().await {
        let (n, mut known) = watch.unwrap();
        known.retain(|id, _| !end_ids.contains(id));
        let all = signals.iter().filter(|signal| n % 4 < 2 || signal.status == Status::Pending);
        let expected: HashMap<String, u64> = all.map(|signal| (signal.id.to_string(), signal.version)).collect();
        assert_eq!(known, expected, "watch {n}");
    }
}
