//! End to end, one command at a time: from the send to a read of the view with the command's token.
#![allow(missing_docs, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use bench::{Client, create_body};
use criterion::{Criterion, criterion_group, criterion_main};
use infrastructure::{Planes, TestStack};

fn latency_to_consistency(c: &mut Criterion) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let (_stack, _planes, mut control, mut view) = runtime.block_on(async {
        let stack = TestStack::start().await.expect("servers");
        let planes = Planes::start(&stack.namespace("bench").await).await.expect("planes");
        let control = Client::connect(planes.control.address(), planes.api_key()).await.expect("control");
        let view = Client::connect(planes.dataplane.address(), planes.api_key()).await.expect("the view server");
        (stack, planes, control, view)
    });
    let mut i = 0;
    c.bench_function("latency_to_consistency", |b| {
        b.iter_custom(|rounds| {
            runtime.block_on(async {
                let mut total = Duration::ZERO;
                for _ in 0..rounds {
                    i += 1;
                    let body = create_body(i);
                    let start = Instant::now();
                    let json = "content-type: application/json\r\n";
                    let created = control.send("POST", "/v1/signals", json, &body).await.expect("an answer");
                    assert_eq!(created.status, 201, "{}", created.head);
                    let path = created.header("location").expect("a location").to_owned();
                    let token = created.header("nexus-token").expect("a token");
                    let headers = format!("nexus-token: {token}\r\nprefer: wait=5\r\n");
                    let seen = view.send("GET", &path, &headers, "").await.expect("an answer");
                    total += start.elapsed();
                    assert_eq!((seen.status, &seen.body), (200, &created.body));
                }
                total
            })
        });
    });
}

criterion_group!(benches, latency_to_consistency);
criterion_main!(benches);
