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
        let (redis_before, own_before) = (redis_cpu(&mut reads.redis).await, own_cpu());
        let begun = Instant::now();
        let projector = Projector::start(settings(&place));
        reads.caught_up(&log).await;
        let took = begun.elapsed();
        println!(
            "round {round}: 200,000 events in {took:?}, {:.0} events/s; CPU: Redis {:.2} s, projector {:.2} s",
            200_000.0 / took.as_secs_f64(),
            redis_cpu(&mut reads.redis).await - redis_before,
            own_cpu() - own_before,
        );
        projector.stop().await;
    }
}

/// Seconds of CPU that Redis' main thread has used.
async fn redis_cpu(redis: &mut redis::aio::MultiplexedConnection) -> f64 {
    let info: String = redis::cmd("INFO").arg("cpu").query_async(redis).await.unwrap();
    let line =
        |name: &str| -> f64 { info.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().parse().unwrap() };
    line("used_cpu_sys_main_thread:") + line("used_cpu_user_main_thread:")
}

/// Seconds of CPU that this process has used, at 100 ticks a second.
fn own_cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}
