use control::relay_status::RelayState;
use infrastructure::TestStack;

use crate::place::{Place, assert_unbroken, emit_many};

/// Broker and Postgres away in turn: the line starts again by itself, and nothing is lost or twice.
#[tokio::test(flavor = "multi_thread")]
async fn the_line_starts_again_when_broker_and_postgres_are_back() {
    let stack = TestStack::start().await.expect("a stack");
    let place = Place::within(stack.namespace("faults").await).await;
    let mut relay = place.relay();
    relay.is(RelayState::Streaming).await;
    let mut sql = place.sql().await;
    emit_many(&mut sql, 300).await;
    place.committed(300).await;

    stack.servers().broker.kill().await;
    emit_many(&mut sql, 300).await;
    stack.servers().broker.start().await.expect("started");
    place.committed(600).await;

    stack.servers().postgres.kill().await;
    relay.is(RelayState::Retrying).await;
    stack.servers().postgres.start().await.expect("started");
    relay.is(RelayState::Streaming).await;
    let mut sql = place.sql().await;
    emit_many(&mut sql, 300).await;
    let records = place.committed(900).await;
    assert_unbroken(&records);
    assert_eq!(records.values().map(Vec::len).sum::<usize>(), 900);
    relay.stop().await;
}
