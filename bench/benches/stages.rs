//! The pure stages of a command's way, each checked once before it is timed.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;

use bench::create_body;
use contract::command::CreateSignal;
use contract::event::{Change, Event};
use contract::id;
use contract::json::Json;
use contract::partition::Topic;
use contract::signal::{Priority, Signal, Status};
use contract::time::Timestamp;
use criterion::{Criterion, criterion_group, criterion_main};

fn parse(body: &str) -> CreateSignal {
    CreateSignal::from_json(&Json::parse(body.as_bytes()).expect("JSON"), "").expect("valid")
}

fn stages(c: &mut Criterion) {
    let body = create_body(7);
    let command = parse(&body);
    assert_eq!(command.title, "bench 7");
    c.bench_function("command/parse_and_validate", |b| b.iter(|| parse(black_box(&body))));

    let time = Timestamp(1_790_000_000_000_000);
    let signal = Signal {
        id: id::v7(time, 7),
        title: command.title,
        priority: Priority::High,
        status: Status::Pending,
        payload: command.payload,
        target: None,
        created_by: id::v7(time, 8),
        created_at: time,
        updated_at: time,
        version: 1,
    };
    let document = signal.render();
    assert!((380..430).contains(&document.len()), "{}", document.len());
    c.bench_function("event/render", |b| b.iter(|| black_box(&signal).render()));

    let event = Event {
        topic: Topic::Signals,
        id: signal.id,
        change: Change::Created,
        version: 1,
        time,
        traceparent: "",
        value: &document,
    };
    let frame = event.encode();
    assert_eq!(Event::decode(&frame).expect("an event"), event);
    c.bench_function("event/encode", |b| b.iter(|| black_box(&event).encode()));
    c.bench_function("event/decode", |b| b.iter(|| Event::decode(black_box(&frame)).expect("an event").version));

    c.bench_function("document/serde_json", |b| {
        b.iter(|| serde_json::from_slice::<serde_json::Value>(black_box(&document)).expect("JSON")["version"].as_u64())
    });
    c.bench_function("document/simd_json", |b| {
        b.iter(|| {
            let mut bytes = black_box(&document).clone();
            let value = simd_json::to_borrowed_value(&mut bytes).expect("JSON");
            simd_json::prelude::ValueObjectAccessAsScalar::get_u64(&value, "version")
        })
    });
}

criterion_group!(benches, stages);
criterion_main!(benches);
