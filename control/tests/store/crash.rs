//! Postgres killed under load: what was acknowledged is there, what was refused is not.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use contract::command::Precondition;
use contract::event::Change;
use control::batcher::{Batcher, BatcherSettings};
use control::request::{Refusal, Work};
use infrastructure::{TestStack, wait};
use uuid::Uuid;

use crate::support::{Place, create, id_of, json, metrics, request, retitle};

#[derive(Default)]
struct Seen {
    /// The last title that was acknowledged, by signal.
    acknowledged: HashMap<Uuid, (u64, String)>,
    /// Titles of commands that were refused with the promise that nothing happened.
    refused: HashSet<String>,
    unknown: usize,
}

#[derive(Default)]
struct Progress {
    stop: AtomicBool,
    acknowledged: AtomicUsize,
}

impl Progress {
    /// Waits until some more commands were acknowledged.
    async fn more(&self) {
        let enough = self.acknowledged.load(Ordering::Relaxed) + 200;
        wait::until("200 more acknowledged commands", Duration::from_secs(30), || async {
            (self.acknowledged.load(Ordering::Relaxed) >= enough).then_some(())
        })
        .await
        .expect("Postgres to serve again");
    }
}

async fn load(batcher: Batcher, worker: usize, progress: Arc<Progress>) -> Seen {
    let mut seen = Seen::default();
    let mut mine = Vec::new();
    for round in 0.. {
        if progress.stop.load(Ordering::Relaxed) {
            break;
        }
        let title = format!("{worker}-{round}");
        let work = match mine.last() {
            Some(id) if round % 3 > 0 => Work::Signal(retitle(*id, &title, Precondition::None)),
            _ => create(&title),
        };
        let result = match batcher.submit(request(work)) {
            Ok(receiver) => receiver.await.expect("a result"),
            Err(refusal) => Err(refusal),
        };
        match result {
            Ok(answer) => {
                assert!(answer.status < 300, "{answer:?}");
                progress.acknowledged.fetch_add(1, Ordering::Relaxed);
                let id = id_of(&answer);
                if answer.status == 201 {
                    mine.push(id);
                }
                seen.acknowledged.insert(id, (json(&answer)["version"].as_u64().expect("a version"), title));
            }
            Err(Refusal::OutcomeUnknown) => seen.unknown += 1,
            Err(Refusal::Internal) => panic!("no fault of ours"),
            Err(Refusal::Overloaded | Refusal::Unavailable { .. }) => {
                seen.refused.insert(title);
            }
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_killed_postgres_and_what_was_refused_never_shows() {
    let stack = TestStack::start().await.expect("servers of its own");
    let place = Place::new_in(&stack, "crash").await;
    let batcher = Batcher::start(place.store.clone(), BatcherSettings::default(), metrics());
    let progress = Arc::new(Progress::default());
    let tasks: Vec<_> = (0..24).map(|i| tokio::spawn(load(batcher.clone(), i, Arc::clone(&progress)))).collect();
    let postgres = &stack.servers().postgres;
    for _ in 0..4 {
        progress.more().await;
        postgres.kill().await;
        postgres.start().await.expect("Postgres again");
    }
    progress.more().await;
    progress.stop.store(true, Ordering::Relaxed);
    let (mut acknowledged, mut refused, mut unknown) = (HashMap::new(), HashSet::new(), 0);
    for task in tasks {
        let seen = task.await.expect("a load without a panic");
        acknowledged.extend(seen.acknowledged);
        refused.extend(seen.refused);
        unknown += seen.unknown;
    }
    assert!(batcher.drain(Duration::from_secs(5)).await);
    assert!(acknowledged.len() > 100, "only {} signals were made", acknowledged.len());

    let rows: HashMap<Uuid, Vec<u8>> = place.rows().await.into_iter().collect();
    for (id, (version, title)) in &acknowledged {
        let row: serde_json::Value = serde_json::from_slice(&rows[id]).expect("JSON");
        let (now, named) = (row["version"].as_u64().expect("a version"), row["title"].as_str().expect("a title"));
        // Past it only where an outcome is unknown.
        assert!(now == *version && named == title || now > *version && unknown > 0, "{id}: {version} {title}, {row}");
    }
    let mut last: HashMap<Uuid, (u64, Vec<u8>)> = HashMap::new();
    for event in place.events().await {
        let title = serde_json::from_slice::<serde_json::Value>(&event.value).expect("JSON")["title"].to_string();
        assert!(!refused.contains(title.trim_matches('"')), "{title} was refused, and has an event");
        let before = last.insert(event.id, (event.version, event.value)).map_or(0, |(version, _)| version);
        assert_eq!((event.version, event.change == Change::Created), (before + 1, before == 0));
    }
    let last: HashMap<Uuid, Vec<u8>> = last.into_iter().map(|(id, (_, value))| (id, value)).collect();
    assert!(rows == last, "rows and events agree");
    println!("{} acknowledged, {} refused, {unknown} unknown", acknowledged.len(), refused.len());
}
