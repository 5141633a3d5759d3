//! How fast an empty view is filled. Run by hand, in release mode:
//! `cargo test --release -p dataplane --test projector_replay -- --ignored --nocapture`.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::time::Instant;

use contract::signal::{Priority, Status};
use infrastructure::TestStack;
use support::{Log, Projector, Reads, id, settings};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn a_replay_of_200_000_events() {
    let place = TestStack::shared().await.namespace("replay").await;
    let mut log = Log::create(&place).await;
    let mut reads = Reads::of(&place).await;
    for n in 0..120_000 {
        log.signal(id(n), 1, Priority::ALL[(n % 4) as usize], Status::Pending);
    }
    log.flush();
    for n in 0..60_000 {
        log.signal(id(n * 2), 2, Priority::ALL[(n / 3 % 4) as usize], Status::Active);
    }
    for n in 0..20_000 {
        log.delete(id(n * 6), 3);
    }
    log.flush();
    log.position();
    log.flush();
    for round in 0..3 {
        reads.forget_everything().await;
        let begun = Instant::now();
        let projector = Projector::start(settings(&place));
        reads.caught_up(&log).await;
        let took = begun.elapsed();
        println!("round {round}: 200,000 events in {took:?}, {:.0} events/s", 200_000.0 / took.as_secs_f64());
        projector.stop().await;
    }
}
