use contract::bundle::{BUNDLE_PREFIX, Bundles};
use contract::event::{Change, EVENT_PREFIX, Event, TYPE_POISON};
use contract::partition::{Partition, Topic};
use contract::time::Timestamp;
use control::relay_status::RelayState;
use sqlx::{Connection, Executor, PgConnection};

use crate::place::{Place, assert_unbroken, emit, event, new_id, try_emit};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_no_event_goes_out_as_a_marker_and_the_line_goes_on() {
    let place = Place::new("poison").await;
    let mut relay = place.relay();
    relay.is(RelayState::Streaming).await;
    let mut sql = place.sql().await;
    let (strange, large, fine) = (new_id(), new_id(), new_id());

    let mut unknown = event(strange, 1);
    unknown[17] = 99;
    emit(&mut sql, EVENT_PREFIX, &unknown).await;
    emit(&mut sql, EVENT_PREFIX, b"?").await;
    let value = vec![b' '; 2 * 1024 * 1024];
    let too_large = Event {
        topic: Topic::Signals,
        id: large,
        change: Change::Created,
        version: 1,
        time: Timestamp::now(),
        traceparent: "",
        value: &value,
    };
    emit(&mut sql, EVENT_PREFIX, &too_large.encode()).await;
    emit(&mut sql, EVENT_PREFIX, &event(fine, 1)).await;

    let records = place.committed(4).await;
    assert_unbroken(&records);
    let all: Vec<_> = records.iter().flat_map(|(at, seen)| seen.iter().map(move |record| (*at, record))).collect();
    for (key, home) in [
        (strange, Partition::of(Topic::Signals, strange, 4)),
        (uuid::Uuid::nil(), Partition { topic: Topic::Signals, index: 0 }),
        (large, Partition::of(Topic::Signals, large, 4)),
    ] {
        let (at, marker) = all.iter().find(|(_, record)| record.key == key.to_string()).expect("a marker");
        assert_eq!((*at, marker.ce_type.as_str()), (home, TYPE_POISON));
        let value: serde_json::Value = serde_json::from_slice(marker.value.as_ref().expect("not null")).expect("JSON");
        assert!(value["reason"].is_string(), "{value}");
    }
    let (_, last) = all.iter().find(|(_, record)| record.key == fine.to_string()).expect("the line went on");
    assert_eq!(last.ce_type, "nexus.signal.created");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_bundle_take_a_number_each_and_so_does_what_is_no_event_in_it() {
    let place = Place::new("bundled").await;
    let mut relay = place.relay();
    relay.is(RelayState::Streaming).await;
    let mut sql = place.sql().await;
    let ids = [new_id(), new_id(), new_id()];
    let mut bundles = Bundles::default();
    let encoded = ids.map(|id| event(id, 1));
    for one in &encoded {
        bundles.push(&Event::decode(one).expect("an event"));
    }
    let whole = &bundles.contents()[0];
    emit(&mut sql, BUNDLE_PREFIX, whole).await;
    // The same once more, cut short: two events and a rest that is none.
    emit(&mut sql, BUNDLE_PREFIX, &whole[..whole.len() - 1]).await;
    emit(&mut sql, BUNDLE_PREFIX, b"").await;

    let records = place.committed(7).await;
    assert_unbroken(&records);
    let times = |key: &str| {
        let seen = records.values().flatten().filter(|record| record.key == key);
        seen.map(|record| record.ce_type == TYPE_POISON).collect::<Vec<_>>()
    };
    assert_eq!(ids.map(|id| times(&id.to_string())), [vec![false; 2], vec![false; 2], vec![false]]);
    assert_eq!(times(&uuid::Uuid::nil().to_string()), [true, true]);

    // A successor proves its place by a bundle as by any message.
    relay.stop().await;
    let mut successor = place.relay();
    successor.is(RelayState::Streaming).await;
    emit(&mut sql, BUNDLE_PREFIX, whole).await;
    let records = place.committed(10).await;
    assert_unbroken(&records);
    assert_eq!(records.values().map(Vec::len).sum::<usize>(), 10);
    successor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unprivileged_role_can_not_forge_events() {
    let place = Place::new("forged").await;
    let mut admin = place.admin().await;
    let role = format!("forger_{}", place.namespace.id());
    let make = format!("CREATE ROLE {role} LOGIN PASSWORD 'forger'");
    admin.execute(sqlx::AssertSqlSafe(make)).await.expect("made");
    let url = place.namespace.database_admin_url();
    let (_, server) = url.split_once('@').expect("a URL with a password");
    let mut forger = PgConnection::connect(&format!("postgres://{role}:forger@{server}")).await.expect("connected");
    let refused = try_emit(&mut forger, EVENT_PREFIX, &event(new_id(), 1)).await.expect_err("refused");
    let refused = refused.into_database_error().expect("by Postgres");
    assert_eq!(refused.code().as_deref(), Some("42501"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_only_replicate_makes_the_slot_for_one_that_may_not() {
    let place = Place::new("replicator").await;
    let (slot, id) = (&place.settings.slot, place.namespace.id());
    let mut migrating = place.admin().await;
    // As it is before the first slot; then the session of a role that has the tables and no more.
    for sql in [
        format!("SELECT pg_drop_replication_slot('{slot}')"),
        "DELETE FROM nexus.epoch".to_owned(),
        format!("CREATE ROLE replicator_{id} LOGIN REPLICATION PASSWORD 'replicator'"),
        format!("CREATE ROLE migrator_{id}"),
        format!("GRANT USAGE ON SCHEMA nexus TO migrator_{id}"),
        format!("GRANT SELECT, INSERT ON nexus.epoch TO migrator_{id}"),
        format!("SET ROLE migrator_{id}"),
    ] {
        migrating.execute(sqlx::AssertSqlSafe(sql)).await.expect("done");
    }
    assert!(control::slot::establish(&mut migrating, None, slot).await.is_err(), "it may not replicate");
    let url = place.namespace.database_admin_url();
    let (_, server) = url.split_once('@').expect("a URL with a password");
    let url = format!("postgres://replicator_{id}:replicator@{server}");
    let mut replicating = PgConnection::connect(&url).await.expect("connected");
    assert!(control::slot::establish(&mut migrating, Some(&mut replicating), slot).await.expect("made"));
    assert!(control::slot::look_up(&mut migrating, slot).await.expect("looked").is_some());
    assert!(!control::slot::establish(&mut migrating, Some(&mut replicating), slot).await.expect("looked"));
}
