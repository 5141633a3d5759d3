use contract::event::EVENT_PREFIX;
use contract::partition::Topic;
use control::relay_status::RelayState;
use control::topics;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

use crate::place::{Place, emit, emit_many, event, new_id, wait_for};

/// A place where 200 events are published, confirmed and copied, and no relay runs.
async fn published(name: &str) -> Place {
    let place = Place::new(name).await;
    let mut relay = place.relay();
    relay.is(RelayState::Streaming).await;
    let mut sql = place.sql().await;
    emit_many(&mut sql, 200).await;
    place.committed(200).await;
    wait_for("the copy to hold the events", async || {
        let text: Option<String> = sqlx::query_scalar("SELECT record::text FROM nexus.position")
            .fetch_optional(&mut sql)
            .await
            .expect("asked");
        let Some(text) = text else { return false };
        let position: contract::position::Position = serde_json::from_str(&text).expect("a position");
        position.partitions.values().map(|last| last.seq).sum::<u64>() == 200
    })
    .await;
    relay.stop().await;
    place.free_slot().await;
    place
}

fn admin(place: &Place) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", &place.settings.topics.brokers).create().expect("an admin client")
}

async fn delete_topic(place: &Place, topic: &str) {
    let admin = admin(place);
    for result in admin.delete_topics(&[topic], &AdminOptions::new()).await.expect("deleted") {
        result.expect("deleted");
    }
    wait_for("the topic to be gone", async || {
        let metadata = admin.inner().fetch_metadata(None, std::time::Duration::from_secs(5)).expect("metadata");
        metadata.topics().iter().all(|known| known.name() != topic)
    })
    .await;
}

/// The relay stops, says why, and neither publishes nor confirms.
async fn assert_broken(place: &Place, why: &str) {
    let confirmed = place.confirmed().await;
    let mut sql = place.sql().await;
    emit(&mut sql, EVENT_PREFIX, &event(new_id(), 1)).await;
    let mut relay = place.relay();
    let status = relay.is(RelayState::Broken).await;
    assert!(status.detail.contains(why), "{}", status.detail);
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(relay.status.borrow().state, RelayState::Broken);
    assert_eq!(place.confirmed().await, confirmed);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_advanced_by_hand_is_a_broken_chain() {
    let place = published("advanced").await;
    let mut admin = place.admin().await;
    emit_many(&mut admin, 10).await;
    sqlx::query("SELECT pg_replication_slot_advance($1, pg_current_wal_lsn())")
        .bind(&place.settings.slot)
        .execute(&mut admin)
        .await
        .expect("advanced");
    let before = place.records(false).await;
    assert_broken(&place, "the slot has confirmed").await;
    assert_eq!(place.records(false).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_made_again_is_a_broken_chain() {
    let place = published("made_again").await;
    let mut admin = place.admin().await;
    emit_many(&mut admin, 10).await;
    for sql in ["SELECT pg_drop_replication_slot($1)", "SELECT pg_create_logical_replication_slot($1, 'pgoutput')"] {
        sqlx::query(sql).bind(&place.settings.slot).execute(&mut admin).await.expect("done");
    }
    assert_broken(&place, "the slot has confirmed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_slot_is_a_broken_chain_and_migrate_makes_none() {
    let place = published("lost_slot").await;
    let mut admin = place.admin().await;
    sqlx::query("SELECT pg_drop_replication_slot($1)")
        .bind(&place.settings.slot)
        .execute(&mut admin)
        .await
        .expect("dropped");
    let url = place.namespace.database_admin_url();
    assert!(!control::slot::establish_at(&url, &place.settings.slot).await.expect("looked"));
    let mut relay = place.relay();
    let status = relay.is(RelayState::Broken).await;
    assert!(status.detail.contains("is gone"), "{}", status.detail);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_lost_its_end_is_a_broken_chain() {
    let place = published("lost_tail").await;
    let topic = place.settings.topics.name(Topic::Signals);
    delete_topic(&place, &topic).await;
    let new = NewTopic::new(&topic, 4, TopicReplication::Fixed(1));
    wait_for("the topic to be made again", async || {
        let made = admin(&place).create_topics([&new], &AdminOptions::new()).await.expect("asked");
        made.iter().all(Result::is_ok)
    })
    .await;
    assert_broken(&place, "the log ends before it").await;
    assert!(place.records(false).await.values().all(Vec::is_empty));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_topic_is_a_broken_chain_and_not_made_again() {
    let place = published("lost_topic").await;
    let topic = place.settings.topics.name(Topic::Keys);
    delete_topic(&place, &topic).await;
    assert_broken(&place, "is gone").await;
    let missing = topics::check(&place.settings.topics).await.expect_err("still gone");
    assert!(missing.to_string().contains(&topic), "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_positions_are_a_broken_chain() {
    let place = published("lost_positions").await;
    let topic = place.settings.topics.watermarks();
    delete_topic(&place, &topic).await;
    let new = NewTopic::new(&topic, 1, TopicReplication::Fixed(1));
    wait_for("the topic to be made again", async || {
        let made = admin(&place).create_topics([&new], &AdminOptions::new()).await.expect("asked");
        made.iter().all(Result::is_ok)
    })
    .await;
    assert_broken(&place, "is not in the topic of watermarks any more").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_of_another_epoch_are_a_broken_chain() {
    let place = published("other_epoch").await;
    let mut admin = place.admin().await;
    // As a database made anew beside the old topics: its epoch is another one, and there is no copy.
    sqlx::query("UPDATE nexus.epoch SET epoch = epoch + 1").execute(&mut admin).await.expect("changed");
    sqlx::query("DELETE FROM nexus.position").execute(&mut admin).await.expect("deleted");
    assert_broken(&place, "the topics hold epoch").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mended_chain_is_taken_up_again() {
    let place = published("mended").await;
    let mut admin = place.admin().await;
    sqlx::query("UPDATE nexus.epoch SET system = 'x' || system").execute(&mut admin).await.expect("changed");
    let mut relay = place.relay();
    let status = relay.is(RelayState::Broken).await;
    assert!(status.detail.contains("database system"), "{}", status.detail);
    sqlx::query("UPDATE nexus.epoch SET system = substr(system, 2)").execute(&mut admin).await.expect("changed");
    relay.is(RelayState::Streaming).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_number_of_partitions_is_refused() {
    let mut place = published("partitions").await;
    place.settings.topics.partitions = 5;
    let mut relay = place.relay();
    let status = relay.is(RelayState::Retrying).await;
    assert!(status.detail.contains("has 4 partitions"), "{}", status.detail);
    relay.stop().await;
}
