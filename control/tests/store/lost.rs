//! Connections that are lost, at the worst moment above all.

use std::time::{Duration, Instant};

use contract::identity::Role;
use control::request::{Answer, Refusal};
use control::store::{Store, StoreSettings};
use sqlx::Executor as _;

use crate::support::proxy::{Mode, Proxy};
use crate::support::{PARTITIONS, Place, create, id_of, metrics, request};

async fn through_proxy(place: &Place) -> (Proxy, Store) {
    let port = place.namespace.servers().postgres.port();
    let proxy = Proxy::start(port).await;
    let url = place.namespace.database_url().replace(&format!(":{port}/"), &format!(":{}/", proxy.port));
    let settings = StoreSettings {
        outcome_deadline: Duration::from_secs(3),
        away_after: Duration::from_secs(1),
        ..StoreSettings::new(url, PARTITIONS)
    };
    (proxy, Store::new(settings, metrics()).unwrap())
}

async fn create_one(store: &Store) -> Result<Answer, Refusal> {
    store.execute(&[request(create("x"))], Instant::now()).await.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_after_commit_was_sent_ends_in_the_true_outcome() {
    let place = Place::new("cut_after").await;
    let (proxy, store) = through_proxy(&place).await;
    for round in 1..=10 {
        proxy.set(Mode::CutAfterCommit);
        let answer = create_one(&store).await.unwrap();
        assert_eq!((answer.status, proxy.cuts()), (201, round));
        let rows = place.rows().await;
        assert_eq!(rows.len(), round, "applied once, not again");
        assert!(rows.iter().any(|(id, body)| *id == id_of(&answer) && *body == answer.body));
    }
    assert_eq!(place.events().await.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_before_commit_arrived_ends_in_the_true_outcome() {
    let place = Place::new("cut_before").await;
    let (proxy, store) = through_proxy(&place).await;
    for round in 1..=10 {
        proxy.set(Mode::CutBeforeCommit);
        let answer = create_one(&store).await.unwrap();
        assert_eq!((answer.status, proxy.cuts()), (201, round));
        assert_eq!(place.rows().await.len(), round, "nothing had happened, so it was run again");
    }
    assert_eq!(place.events().await.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_commit_of_an_identity_ends_in_the_true_outcome() {
    let place = Place::new("cut_identity").await;
    let (proxy, store) = through_proxy(&place).await;
    for (round, mode) in [Mode::CutBeforeCommit, Mode::CutAfterCommit].into_iter().enumerate() {
        proxy.set(mode);
        let answer = store
            .execute(&[request(crate::administration::create(&format!("one-{round}"), Role::Reader))], Instant::now())
            .await
            .remove(0);
        assert_eq!((answer.unwrap().status, proxy.cuts()), (201, round + 1));
        assert!(store.identity_named(&format!("one-{round}")).await.unwrap().is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_outcome_is_asked_for_until_the_lost_session_is_over() {
    let place = Place::new("cut_waiting").await;
    let (proxy, store) = through_proxy(&place).await;
    assert_eq!(create_one(&store).await.unwrap().status, 201);
    let mut holder = place.admin().await;
    holder.execute("BEGIN; LOCK TABLE nexus.epoch IN ACCESS EXCLUSIVE MODE").await.unwrap();
    proxy.set(Mode::CutAfterCommit);
    let asked = tokio::spawn(async move { create_one(&store).await });
    let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'
                 AND application_name = 'nexus-control commands' AND datname = current_database())";
    let begun = Instant::now();
    while !sqlx::query_scalar::<_, bool>(waits).fetch_one(&mut place.admin().await).await.unwrap() {
        assert!(begun.elapsed() < Duration::from_secs(2), "no session waits for the lock");
    }
    // The connection is gone, the row is not there, and yet the transaction is on its way: no answer may come now.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!asked.is_finished() && proxy.cuts() == 1);
    holder.execute("COMMIT").await.unwrap();
    assert_eq!(asked.await.unwrap().unwrap().status, 201);
    assert_eq!((place.rows().await.len(), place.events().await.len()), (2, 2), "applied once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_cannot_be_learned_is_said_to_be_unknown() {
    let place = Place::new("unknown").await;
    let (proxy, store) = through_proxy(&place).await;
    proxy.set(Mode::CutAfterCommitAndRefuse);
    let began = Instant::now();
    assert_eq!(create_one(&store).await, Err(Refusal::OutcomeUnknown));
    assert!(began.elapsed() < Duration::from_secs(5), "by the deadline");
    assert_eq!(place.rows().await.len(), 1);
    proxy.set(Mode::Pass);
    assert_eq!(create_one(&store).await.unwrap().status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_away_is_said_soon_and_all_recovers_by_itself() {
    let place = Place::new("away").await;
    let (proxy, store) = through_proxy(&place).await;
    assert_eq!(create_one(&store).await.unwrap().status, 201);
    // Behind a connection that was idle for so long nothing is sent that would commit by itself: a command sent into
    // a connection that died a moment ago has an unknown outcome.
    tokio::time::sleep(Duration::from_millis(150)).await;
    proxy.set(Mode::Refuse);
    let began = Instant::now();
    let refusal = create_one(&store).await.expect_err("away");
    assert!(matches!(refusal, Refusal::Unavailable { .. }), "{refusal:?}");
    assert!(began.elapsed() < Duration::from_secs(2), "took {:?}", began.elapsed());
    assert!(store.ping().await.is_err());
    proxy.set(Mode::Pass);
    assert_eq!(create_one(&store).await.unwrap().status, 201);
    store.ping().await.unwrap();
    assert_eq!(place.rows().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_died_while_idle_costs_no_command() {
    let place = Place::new("idle_death").await;
    assert_eq!(create_one(&place.store).await.unwrap().status, 201);
    let kill = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name = 'nexus-control commands'";
    sqlx::query(kill).execute(&mut place.admin().await).await.unwrap();
    assert_eq!(create_one(&place.store).await.unwrap().status, 201);
}
