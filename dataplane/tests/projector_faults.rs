//! The projector while Redis fails in every way it knows.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "projector_faults/lying_broker.rs"]
mod lying_broker;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use contract::partition::{Partition, Topic};
use contract::signal::{Priority, Status};
use dataplane::consumer::LogClient;
use dataplane::settings::ProjectSettings;
use futures_util::StreamExt as _;
use infrastructure::TestStack;
use lying_broker::LyingBroker;
use rdkafka::{Message as _, Offset};
use redis::AsyncCommands;
use support::{DEADLINE, Log, Projector, Reads, assert_same, connect, expected, id, settings, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Passes bytes to Redis; while armed, a connection that carries a batch loses its answer and is cut.
struct Proxy {
    url: String,
    armed: Arc<AtomicBool>,
    cut: Arc<AtomicU32>,
}

impl Proxy {
    async fn before(redis_url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}/0", listener.local_addr().unwrap());
        let server = redis_url.trim_start_matches("redis://").trim_end_matches("/0").to_owned();
        let (armed, cut) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (flag, count) = (Arc::clone(&armed), Arc::clone(&cut));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (flag, count) = (Arc::clone(&flag), Arc::clone(&count));
                let server = TcpStream::connect(&server).await.unwrap();
                tokio::spawn(pass(client, server, flag, count));
            }
        });
        Self { url, armed, cut }
    }
}

async fn pass(client: TcpStream, server: TcpStream, armed: Arc<AtomicBool>, cut: Arc<AtomicU32>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let doomed = Arc::new(AtomicBool::new(false));
    let doom = Arc::clone(&doomed);
    let up = tokio::spawn(async move {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from_client.read(&mut bytes).await {
            let carries_a_document = bytes[..count].windows(9).any(|window| window == b"\"payload\"");
            if carries_a_document && armed.load(Ordering::SeqCst) {
                doom.store(true, Ordering::SeqCst);
            }
            if to_server.write_all(&bytes[..count]).await.is_err() {
                return;
            }
        }
    });
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from_server.read(&mut bytes).await {
        // Redis has answered, so it has applied; the projector never hears of it.
        if doomed.load(Ordering::SeqCst) {
            cut.fetch_add(1, Ordering::SeqCst);
            break;
        }
        if to_client.write_all(&bytes[..count]).await.is_err() {
            break;
        }
    }
    up.abort();
}

fn changes(log: &mut Log, from: u64, count: u64, version: u64, status: Status) {
    for n in from..from + count {
        log.signal(id(n), version, Priority::ALL[((n + version) % 4) as usize], status);
    }
    log.flush();
}

#[tokio::test(flavor = "multi_thread")]
async fn projector_resumes_from_checkpoint_after_redis_drops_the_reply() {
    let place = TestStack::shared().await.namespace("dropped").await;
    let mut log = Log::create(&place).await;
    let mut reads = Reads::of(&place).await;
    let proxy = Proxy::before(place.redis_url()).await;
    let projector = Projector::start(ProjectSettings { redis_url: proxy.url.clone(), ..settings(&place) });
    changes(&mut log, 0, 50, 1, Status::Pending);
    reads.caught_up(&log).await;
    for round in 0..5 {
        proxy.armed.store(true, Ordering::SeqCst);
        let before = proxy.cut.load(Ordering::SeqCst);
        changes(&mut log, 0, 50, 2 + round, if round % 2 == 0 { Status::Active } else { Status::Pending });
        let lost =
            until("an answer to be lost", DEADLINE, async || (proxy.cut.load(Ordering::SeqCst) > before).then_some(()));
        lost.await.unwrap();
        proxy.armed.store(false, Ordering::SeqCst);
        reads.caught_up(&log).await;
        assert_same(&reads.content().await, &expected(&log));
    }
    // Each number is in the feed once: what was applied is not applied again.
    for partition in Partition::all(4).into_iter().filter(|partition| partition.topic == Topic::Signals) {
        let mut last = None;
        for (_, from, to, _) in reads.feed(partition).await {
            assert!(last.is_none_or(|last| from == last + 1), "{partition}: {from} after {last:?}");
            last = Some(to);
        }
    }
    projector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_runs_out_of_memory_holds_the_line_and_loses_nothing() {
    let stack = TestStack::start().await.unwrap();
    let place = stack.namespace("memory").await;
    let mut log = Log::create(&place).await;
    let mut reads = Reads::of(&place).await;
    let projector = Projector::start(settings(&place));
    changes(&mut log, 0, 100, 1, Status::Pending);
    reads.caught_up(&log).await;
    let mut redis = connect(place.redis_url()).await;
    let limit = async |redis: &mut redis::aio::MultiplexedConnection, bytes: &str| {
        let mut set = redis::cmd("CONFIG");
        set.arg("SET").arg("maxmemory").arg(bytes);
        let () = set.query_async(redis).await.unwrap();
    };
    limit(&mut redis, "1mb").await;
    changes(&mut log, 0, 100, 2, Status::Active);
    let mut status = projector.status.clone();
    let full = status.wait_for(|status| status.redis_error.as_ref().is_some_and(|error| error.contains("OOM")));
    tokio::time::timeout(DEADLINE, full).await.expect("the status says that Redis is full").unwrap();
    limit(&mut redis, "0").await;
    reads.caught_up(&log).await;
    assert_same(&reads.content().await, &expected(&log));
    let mut status = projector.status.clone();
    let well = status.wait_for(|status| status.redis_error.is_none());
    tokio::time::timeout(DEADLINE, well).await.expect("the status is well again").unwrap();
    projector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_forgot_its_tail_is_not_served_until_the_tail_is_applied_again() {
    let stack = TestStack::start().await.unwrap();
    let place = stack.namespace("tail").await;
    let mut log = Log::create(&place).await;
    let mut reads = Reads::of(&place).await;
    let projector = Projector::start(settings(&place));
    changes(&mut log, 0, 100, 1, Status::Pending);
    reads.caught_up(&log).await;
    let mut before = Vec::new();
    for partition in Partition::all(4) {
        before.push((partition, reads.header(partition).await.unwrap()));
    }
    // From here on nothing reaches the disk: what follows is forgotten by the next run.
    let mut redis = connect(place.redis_url()).await;
    let () = redis::cmd("CONFIG").arg("SET").arg("appendonly").arg("no").query_async(&mut redis).await.unwrap();
    changes(&mut log, 0, 100, 2, Status::Active);
    changes(&mut log, 200, 50, 1, Status::Pending);
    reads.caught_up(&log).await;
    projector.stop().await;
    place.servers().redis.kill().await;
    place.servers().redis.start().await.unwrap();

    // Whoever reads now finds headers of another run, and must not serve.
    reads.redis = connect(place.redis_url()).await;
    let info: String = redis::cmd("INFO").arg("server").query_async(&mut reads.redis).await.unwrap();
    let run_id = info.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap().trim().to_owned();
    for (partition, before) in &before {
        let header = reads.header(*partition).await.unwrap();
        assert_eq!(header.seq, before.seq, "{partition} forgot its tail");
        assert!(!header.serves_on(&run_id), "{partition}");
    }
    let projector = Projector::start(settings(&place));
    reads.caught_up(&log).await;
    for (partition, before) in &before {
        let header = reads.header(*partition).await.unwrap();
        assert_eq!(header.generation, before.generation, "{partition}: caught up, not filled anew");
        assert!(header.serves_on(&run_id), "{partition}");
    }
    assert_same(&reads.content().await, &expected(&log));

    // And once more under a running projector, with nothing forgotten.
    place.servers().redis.kill().await;
    changes(&mut log, 300, 50, 1, Status::Pending);
    place.servers().redis.start().await.unwrap();
    reads.redis = connect(place.redis_url()).await;
    reads.caught_up(&log).await;
    assert_same(&reads.content().await, &expected(&log));
    projector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_evicts_is_refused_at_the_start() {
    let stack = TestStack::start().await.unwrap();
    let place = stack.namespace("evicts").await;
    let mut redis = connect(place.redis_url()).await;
    let mut set = redis::cmd("CONFIG");
    set.arg("SET").arg("maxmemory-policy").arg("allkeys-lru");
    let () = set.query_async(&mut redis).await.unwrap();
    let (status, _) = tokio::sync::watch::channel(Default::default());
    let shutdown = runtime::shutdown::Shutdown::new();
    let refused = tokio::time::timeout(DEADLINE, dataplane::project(settings(&place), status, shutdown)).await.unwrap();
    let error = refused.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("allkeys-lru") && cause.contains("noeviction"), "{cause}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_comes_back_is_read_on_from_the_checkpoint() {
    let stack = TestStack::start().await.unwrap();
    let place = stack.namespace("broker").await;
    let mut log = Log::create(&place).await;
    let mut reads = Reads::of(&place).await;
    let projector = Projector::start(settings(&place));
    changes(&mut log, 0, 100, 1, Status::Pending);
    reads.caught_up(&log).await;
    place.servers().broker.stop().await;
    let mut status = projector.status.clone();
    let away = status.wait_for(|status| status.broker_error.is_some());
    tokio::time::timeout(DEADLINE, away).await.expect("the status says that the broker is away").unwrap();
    let header = reads.header("s0".parse().unwrap()).await.unwrap();
    assert!(header.ready, "reads go on");
    place.servers().broker.start().await.unwrap();
    changes(&mut log, 0, 100, 2, Status::Active);
    reads.caught_up(&log).await;
    assert_same(&reads.content().await, &expected(&log));
    let well = status.wait_for(|status| status.broker_error.is_none());
    tokio::time::timeout(Duration::from_secs(20), well).await.expect("the status is well again").unwrap();
    let _: Option<String> = reads.redis.get("nothing").await.unwrap();
    projector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_finds_no_broker_is_replaced_and_reads_on() {
    let place = TestStack::shared().await.namespace("replaced").await;
    let mut log = Log::create(&place).await;
    changes(&mut log, 0, 20, 1, Status::Pending);
    let bootstrap = LyingBroker::before(place.brokers()).await;
    let client = LogClient::new(&ProjectSettings { brokers: bootstrap.address.clone(), ..settings(&place) }).unwrap();
    let idle = client.open("k0".parse().unwrap(), Offset::Beginning).unwrap();
    let told = until("a lie", DEADLINE, async || (bootstrap.lies() > 0).then_some(()));
    told.await.unwrap();
    // While nobody finds a broker, a new client would find as little.
    let replaced = tokio::time::timeout(Duration::from_secs(20), idle.replaced()).await;
    assert!(replaced.is_err(), "replaced while there was no broker");
    bootstrap.be_honest();
    tokio::time::timeout(DEADLINE, idle.replaced()).await.expect("who waits for records is told");
    drop(idle);
    let reader = client.open("s0".parse().unwrap(), Offset::Beginning).unwrap();
    let mut stream = reader.stream();
    let record = async {
        loop {
            if let Some(Ok(record)) = stream.next().await {
                return record.offset();
            }
        }
    };
    let first = tokio::time::timeout(DEADLINE, record).await.expect("a record comes");
    assert_eq!(first, 0, "the same client reads on, by a new connection");
    let partitions = ["s0", "s1", "k0"].map(|name| name.parse().unwrap());
    let ends = client.ends(&partitions).await.unwrap();
    for partition in partitions {
        assert_eq!(ends[&partition], client.bounds(partition).await.unwrap().1, "{partition}: told at once or alone");
    }
    assert!(ends[&partitions[0]] > 0, "{ends:?}");
}
