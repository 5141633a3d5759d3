//! Commands on signals: one transaction, one outcome each.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use contract::command::{CreateSignal, PatchPayload, PatchSignal, Precondition, SignalCommand};
use contract::event::Change;
use contract::partition::{Partition, Topic};
use contract::problem::{FieldError, Problem};
use contract::query::{ListQuery, Order, Resource};
use contract::signal::{Payload, Priority, Status};
use contract::token::{ServerRun, Token};
use control::batcher::CommandMetrics;
use control::request::{Refusal, Work};
use control::store::{Lookup, Store, StoreError, StoreSettings};
use sqlx::{Connection, Executor, PgConnection};
use uuid::Uuid;

use crate::support::{PARTITIONS, Place, create, creation, id_of, json, request, retitle};

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_in_a_batch_rejects_one_command() {
    let place = Place::new("conflict").await;
    let (one, two) = (place.create("one").await, place.create("two").await);
    let done = PatchSignal { status: Some(Status::Completed), ..PatchSignal::default() };
    let reopen = PatchSignal { status: Some(Status::Active), ..PatchSignal::default() };
    let requests = [
        request(Work::Signal(SignalCommand::Update(one, done, Precondition::None))),
        request(Work::Signal(SignalCommand::Update(one, reopen, Precondition::None))),
        request(Work::Signal(retitle(two, "stale", Precondition::AnyOf(vec![7])))),
        request(Work::Signal(retitle(two, "fresh", Precondition::AnyOf(vec![1])))),
        request(Work::Signal(retitle(Uuid::from_u128(9), "nobody", Precondition::None))),
        request(create("three")),
    ];
    let answers = place.store.execute(&requests, Instant::now()).await;
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.as_ref().unwrap().status).collect();
    assert_eq!(statuses, [200, 409, 412, 200, 404, 201]);
    let codes = [(1, "final-status"), (2, "precondition-failed"), (4, "not-found")];
    for (i, code) in codes {
        let document = json(answers[i].as_ref().unwrap());
        assert_eq!((document["code"].as_str(), document["request_id"].as_str()), (Some(code), Some("test")));
        assert_eq!(answers[i].as_ref().unwrap().token, None);
    }
    assert_eq!(place.events().await.len(), 2 + 3, "rejected commands emit nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_patches_of_one_signal_in_one_batch_both_count() {
    let place = Place::new("two_patches").await;
    let id = place.create("first").await;
    let patch = |payload: &str| PatchSignal {
        payload: Some(PatchPayload::Merge(payload.to_owned())),
        ..PatchSignal::default()
    };
    let requests: Vec<_> = (0..50)
        .map(|i| patch(&format!("{{\"k{i}\":{i}.0}}")))
        .map(|patch| request(Work::Signal(SignalCommand::Update(id, patch, Precondition::None))))
        .collect();
    let answers = place.store.execute(&requests, Instant::now()).await;
    for (i, answer) in answers.iter().enumerate() {
        let answer = answer.as_ref().unwrap();
        assert_eq!((answer.status, answer.etag), (200, Some(i as u64 + 2)));
        assert_eq!(json(answer)["payload"].as_object().unwrap().len(), i + 2);
    }
    let rows = place.rows().await;
    assert_eq!(rows[0].1, answers[49].as_ref().unwrap().body, "the row is the last answer, number spelling and all");
    let events = place.events().await;
    assert_eq!(events.iter().map(|event| event.version).collect::<Vec<_>>(), (1..=51).collect::<Vec<_>>());
    for (event, answer) in events[1..].iter().zip(&answers) {
        assert_eq!(event.value, answer.as_ref().unwrap().body, "an event carries what its command was answered");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn update_and_delete_of_one_signal_fold_into_one_write() {
    let place = Place::new("folding").await;
    let id = place.create("short-lived").await;
    let other = place.create("other").await;
    let work = Work::Batch(vec![
        Ok(retitle(id, "changed", Precondition::None)),
        Ok(SignalCommand::Delete(id, Precondition::AnyOf(vec![2]))),
        Ok(retitle(id, "too late", Precondition::None)),
        Err(Problem::validation(vec![FieldError::new("/commands/3/op", "is required")])),
        Ok(SignalCommand::Delete(other, Precondition::AnyOf(vec![3]))),
        Ok(creation("new")),
    ]);
    let answer = place.run(work).await;
    assert_eq!(answer.status, 200);
    let results = json(&answer)["results"].clone();
    let statuses: Vec<_> = results.as_array().unwrap().iter().map(|r| r["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [200, 204, 404, 422, 412, 201]);
    assert_eq!(results[1], serde_json::json!({"status": 204, "id": id.to_string(), "version": 3}));
    assert_eq!(results[2]["error"]["deleted_version"], 3);
    assert_eq!(results[2]["error"].get("request_id"), None);
    let created: Uuid = results[5]["id"].as_str().unwrap().parse().unwrap();

    let token = Token::decode(&answer.token.unwrap()).unwrap();
    let mut named: Vec<_> = token.entries.iter().map(|entry| (entry.id, entry.version)).collect();
    let shared = Partition::of(Topic::Signals, id, PARTITIONS) == Partition::of(Topic::Signals, created, PARTITIONS);
    let mut expected = if shared { vec![(created, 1)] } else { vec![(id, 3), (created, 1)] };
    named.sort();
    expected.sort();
    assert_eq!(named, expected, "the last event of each partition");

    let events: Vec<_> = place.events().await.into_iter().map(|e| (e.id, e.change, e.version)).collect();
    let emitted = [(id, Change::Updated, 2), (id, Change::Deleted, 3), (created, Change::Created, 1)];
    assert_eq!(events[2..], emitted);
    assert_eq!(place.store.load_signal(id).await.unwrap(), Lookup::Deleted { version: 3 });
    let again = place.run(Work::Signal(SignalCommand::Delete(id, Precondition::None))).await;
    assert_eq!((again.status, json(&again)["deleted_version"].as_u64()), (404, Some(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_accepts_nothing_has_no_token() {
    let place = Place::new("nothing").await;
    let answer = place.run(Work::Batch(vec![Ok(retitle(Uuid::from_u128(1), "x", Precondition::None))])).await;
    assert_eq!((answer.status, answer.token), (200, None));
    assert!(place.events().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_that_changes_nothing_has_no_event_but_a_token() {
    let place = Place::new("unchanged").await;
    let id = place.create("same").await;
    let answer = place.run(Work::Signal(retitle(id, "same", Precondition::AnyOf(vec![1])))).await;
    assert_eq!((answer.status, answer.etag), (200, Some(1)));
    let token = Token::decode(&answer.token.unwrap()).unwrap();
    assert_eq!((token.history, token.epoch), (900, 1000));
    assert_eq!((token.entries[0].id, token.entries[0].version), (id, 1));
    assert_eq!(place.events().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_must_exist() {
    let place = Place::new("target").await;
    let create = |target| {
        let (title, payload) = ("t".into(), Payload::empty());
        SignalCommand::Create(CreateSignal { title, priority: Priority::High, payload, target: Some(target) })
    };
    let answer = place.run(Work::Signal(create(Uuid::from_u128(5)))).await;
    assert_eq!((answer.status, json(&answer)["errors"][0]["pointer"].as_str()), (422, Some("/target")));
    let identity = crate::administration::identity(&place, "owner").await;
    let entries = vec![Ok(create(identity)), Ok(create(Uuid::from_u128(5)))];
    let results = json(&place.run(Work::Batch(entries)).await)["results"].clone();
    assert_eq!(results[0]["status"], 201);
    assert_eq!(results[1]["error"]["errors"][0]["pointer"], "/commands/1/signal/target");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_and_events_agree_under_concurrent_batches() {
    let place = Place::new("agree").await;
    let mut ids = Vec::new();
    for i in 0..20 {
        ids.push(place.create(&format!("s{i}")).await);
    }
    let mut tasks = Vec::new();
    for worker in 0..4_usize {
        let (store, ids) = (place.store.clone(), ids.clone());
        tasks.push(tokio::spawn(async move {
            for round in 0..25_usize {
                let requests: Vec<_> = (0..16_usize)
                    .map(|i| {
                        let id = ids[(worker * 7 + round * 5 + i * 3) % ids.len()];
                        match (round + i) % 13 {
                            0 => request(Work::Signal(SignalCommand::Delete(id, Precondition::AnyOf(vec![60])))),
                            1 => request(create("more")),
                            _ => {
                                request(Work::Signal(retitle(id, &format!("{worker}-{round}-{i}"), Precondition::None)))
                            }
                        }
                    })
                    .collect();
                for answer in store.execute(&requests, Instant::now()).await {
                    answer.expect("no lock order makes two batches wait for each other");
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let mut last: HashMap<Uuid, (u64, Option<Vec<u8>>)> = HashMap::new();
    for event in place.events().await {
        let version = last.get(&event.id).map_or(0, |(version, _)| *version);
        assert_eq!(event.version, version + 1, "commit order is version order");
        last.insert(event.id, (event.version, (event.change != Change::Deleted).then_some(event.value)));
    }
    let mut live: Vec<_> = last.into_iter().filter_map(|(id, (_, value))| Some((id, value?))).collect();
    live.sort();
    assert_eq!(place.rows().await, live);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_waits_for_the_opening_of_an_epoch_and_belongs_to_the_new_one() {
    let place = Place::new("epoch").await;
    let mut opener = place.admin().await;
    opener.execute("BEGIN; LOCK TABLE nexus.epoch IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let store = place.store.clone();
    let waiting = tokio::spawn(async move { store.execute(&[request(create("late"))], Instant::now()).await });
    // It waits for the lock before it goes on.
    let blocked = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'relation' AND datname = current_database()";
    let mut watcher = place.admin().await;
    let began = Instant::now();
    while watcher.fetch_optional(blocked).await.unwrap().is_none() {
        assert!(!waiting.is_finished(), "the batch did not wait");
        assert!(began.elapsed().as_secs() < 10, "the batch to wait for the lock");
    }
    opener.execute("UPDATE nexus.epoch SET epoch = 1001 WHERE epoch = 1000; COMMIT").await.unwrap();
    let answer = waiting.await.unwrap().remove(0).unwrap();
    assert_eq!(Token::decode(&answer.token.unwrap()).unwrap().epoch, 1001);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_says_whether_its_server_run_is_proven() {
    let place = Place::new("proven").await;
    let token = Token::decode(&place.run(create("a")).await.token.unwrap()).unwrap();
    let run: ServerRun = token.unproven.expect("nobody proved it yet");
    let prove = sqlx::query("UPDATE nexus.epoch SET timeline = $1, started = $2");
    prove.bind(run.timeline as i32).bind(run.started).execute(&mut place.admin().await).await.unwrap();
    let token = Token::decode(&place.run(create("b")).await.token.unwrap()).unwrap();
    assert_eq!(token.unproven, None);
    place.admin().await.execute("UPDATE nexus.epoch SET started = started - 1").await.unwrap();
    let token = Token::decode(&place.run(create("c")).await.token.unwrap()).unwrap();
    assert_eq!(token.unproven, Some(run));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_runs_again_leaves_no_error_in_the_log_of_postgres() {
    let place = Place::new("quiet").await;
    let registry = prometheus::Registry::new();
    let url = place.namespace.database_url();
    let metrics = CommandMetrics::register(&registry).unwrap();
    let store = Store::new(StoreSettings::new(&url, PARTITIONS), metrics).unwrap();
    let run = async || store.execute(&[request(create("a"))], Instant::now()).await.remove(0).expect("an answer");
    let reruns = || -> f64 {
        let families = registry.gather();
        let of_reruns = families.iter().filter(|family| family.name() == "nexus_store_reruns_total");
        of_reruns.flat_map(|family| family.get_metric()).map(|metric| metric.get_counter().get_value()).sum()
    };
    // What the store remembers of the epoch is no longer so; on a slow machine it has forgotten it by then.
    let mut admin = place.admin().await;
    for _ in 0..20 {
        run().await;
        admin.execute("UPDATE nexus.epoch SET epoch = epoch + 1").await.unwrap();
        let epoch: i64 = sqlx::query_scalar("SELECT epoch FROM nexus.epoch").fetch_one(&mut admin).await.unwrap();
        assert_eq!(Token::decode(&run().await.token.unwrap()).unwrap().epoch, epoch as u64);
        if reruns() > 0.0 {
            break;
        }
    }
    assert_eq!(reruns(), 1.0, "the batch was refused and ran again");

    // Other errors of the same role are logged as ever, so this one stands last.
    let mut serving = PgConnection::connect(&url).await.unwrap();
    serving.execute("SELECT 1 / 0").await.expect_err("refused");
    let database = url.rsplit_once('/').unwrap().1;
    let log = place.namespace.servers().postgres.log();
    let errors = infrastructure::wait::until("the division to be logged", Duration::from_secs(10), || async {
        let text = std::fs::read_to_string(&log).unwrap();
        let of_ours = |line: &&str| line.contains(&format!("@{database} ERROR:"));
        let errors: Vec<String> = text.lines().filter(of_ours).map(str::to_owned).collect();
        errors.iter().any(|line| line.contains("division by zero")).then_some(errors)
    });
    let errors = errors.await.unwrap();
    assert_eq!(errors.len(), 1, "{errors:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_an_older_migration_is_not_ready_until_it_is_migrated() {
    let place = Place::new("older").await;
    let rename = async |from, to| {
        let rename = format!("ALTER FUNCTION nexus.{from}() RENAME TO {to}");
        place.admin().await.execute(sqlx::AssertSqlSafe(rename)).await.unwrap();
    };
    rename("refuse_batch", "not_yet").await;
    assert!(matches!(place.store.ping().await, Err(StoreError::Unmigrated)));
    let refusal = place.try_run(request(create("x"))).await.expect_err("refused");
    assert!(matches!(refusal, Refusal::Unavailable { .. }), "{refusal:?}");
    rename("not_yet", "refuse_batch").await;
    place.store.ping().await.expect("migrated");
    assert_eq!(place.try_run(request(create("x"))).await.expect("an answer").status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_epoch_commands_are_refused() {
    let place = Place::new("unmigrated").await;
    place.admin().await.execute("DELETE FROM nexus.epoch").await.unwrap();
    let refusal = place.try_run(request(create("x"))).await.expect_err("refused");
    assert!(matches!(refusal, Refusal::Unavailable { .. }), "{refusal:?}");
    assert!(matches!(place.store.ping().await, Err(StoreError::Unmigrated)));
    place.admin().await.execute("DROP SCHEMA nexus CASCADE").await.unwrap();
    let refusal = place.try_run(request(create("x"))).await.expect_err("refused");
    assert!(matches!(refusal, Refusal::Unavailable { .. }), "{refusal:?}");
    assert!(matches!(place.store.load_signal(Uuid::nil()).await, Err(StoreError::Unmigrated)));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_serving_role_may_emit() {
    let place = Place::new("rights").await;
    let (admin_url, url) = (place.namespace.database_admin_url(), place.namespace.database_url());
    control::migrate::migrate_tables(&admin_url, &url).await.expect("again: nothing");
    let mut admin = place.admin().await;
    let role = format!("stranger_{}", place.namespace.id());
    admin.execute(sqlx::AssertSqlSafe(format!("CREATE ROLE {role}"))).await.unwrap();
    admin.execute(sqlx::AssertSqlSafe(format!("SET ROLE {role}"))).await.unwrap();
    for content in ["'x'", "'x'::bytea"] {
        let emit = format!("SELECT pg_logical_emit_message(true, 'nexus.event', {content})");
        let error = admin.execute(sqlx::AssertSqlSafe(emit)).await.expect_err("refused");
        assert_eq!(error.as_database_error().unwrap().code().unwrap(), "42501");
    }
    let mut serving = PgConnection::connect(&place.namespace.database_url()).await.unwrap();
    serving.execute("SELECT pg_logical_emit_message(true, 'other', 'x')").await.expect("the serving role may");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_join_without_gap_or_repetition() {
    let place = Place::new("pages").await;
    let entries = (0..25).map(|i| {
        let mut command = creation(&format!("p{i}"));
        if let SignalCommand::Create(create) = &mut command {
            create.priority = Priority::ALL[i % 4];
        }
        Ok(command)
    });
    place.run(Work::Batch(entries.collect())).await;
    let all: Vec<Vec<u8>> = place.rows().await.into_iter().map(|(_, body)| body).collect();
    let orders = [Order::Created, Order::CreatedDescending, Order::Priority];
    for order in orders {
        let mut seen: Vec<Vec<u8>> = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut parameters = vec![("order", order.as_str()), ("limit", "7"), ("priority", "critical,low,high")];
            parameters.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let query = ListQuery::parse(Resource::Signals, parameters, Order::Created, &orders, &[]).unwrap();
            let page = place.store.list_signals(&query).await.unwrap();
            seen.extend(page.items.iter().map(|item| item.to_vec()));
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        let priority = |body: &Vec<u8>| {
            let value: serde_json::Value = serde_json::from_slice(body).unwrap();
            Priority::parse(value["priority"].as_str().unwrap()).unwrap()
        };
        let mut expected: Vec<_> = all.iter().filter(|body| priority(body) != Priority::Normal).cloned().collect();
        match order {
            Order::Created => {}
            Order::CreatedDescending => expected.reverse(),
            Order::Priority => expected.sort_by_key(|body| std::cmp::Reverse(priority(body))),
        }
        assert_eq!(seen, expected, "{order:?}");
    }
    assert_eq!(id_of(&place.run(create("last")).await).get_version_num(), 7);
}
