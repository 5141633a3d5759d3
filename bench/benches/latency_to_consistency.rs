//! End to end, one command at a time: from the send to a read of the view with the command's token.
#![allow(missing_docs, clippy::unwrap_used)]

use std::cell::RefCell;
use std::time::{Duration, Instant};

use bench::report::Report;
use bench::{Client, create_body, servers};
use criterion::Criterion;
use infrastructure::{Namespace, Planes};

/// Both planes on servers of their own, and a connection to each.
struct Stack {
    namespace: Namespace,
    _planes: Planes,
    control: Client,
    view: Client,
    /// Commands so far.
    sent: u64,
}

impl Stack {
    async fn start() -> anyhow::Result<Self> {
        let namespace = servers::start().await?.namespace("bench").await;
        let planes = Planes::start(&namespace).await?;
        let control = Client::connect(planes.control.address(), planes.api_key()).await?;
        let view = Client::connect(planes.dataplane.address(), planes.api_key()).await?;
        Ok(Self { namespace, _planes: planes, control, view, sent: 0 })
    }

    /// How long it took until the view showed a command's effect.
    async fn create_and_see(&mut self) -> anyhow::Result<Duration> {
        self.sent += 1;
        let body = create_body(self.sent);
        let start = Instant::now();
        let json = "content-type: application/json\r\n";
        let created = self.control.send("POST", "/v1/signals", json, &body).await?;
        assert_eq!(created.status, 201, "{}", created.head);
        let path = created.header("location").expect("a location").to_owned();
        let token = created.header("nexus-token").expect("a token");
        let headers = format!("nexus-token: {token}\r\nprefer: wait=5\r\n");
        let seen = self.view.send("GET", &path, &headers, "").await?;
        let took = start.elapsed();
        assert_eq!((seen.status, &seen.body), (200, &created.body));
        Ok(took)
    }
}

fn main() -> anyhow::Result<()> {
    let report = Report::begin("latency_to_consistency");
    let mut criterion = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_secs(2))
        .measurement_time(Duration::from_secs(5))
        .configure_from_args();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let stack = RefCell::new(None);
    criterion.bench_function("latency_to_consistency", |b| {
        let mut stack = stack.borrow_mut();
        let stack = stack.get_or_insert_with(|| runtime.block_on(Stack::start()).expect("a stack"));
        b.iter_custom(|rounds| {
            runtime.block_on(async {
                let mut total = Duration::ZERO;
                for _ in 0..rounds {
                    total += stack.create_and_see().await.expect("an answer");
                }
                total
            })
        });
    });
    criterion.final_summary();
    // Without a stack nothing was measured: the filter named other benches.
    if let (Some(report), Some(stack)) = (report, stack.into_inner()) {
        report.end(runtime.block_on(servers::asked(&stack.namespace))?)?;
    }
    Ok(())
}
