//! Between stage 2 and 5: a signal is rendered, framed for the WAL, and read from the frame again.

use std::hint::black_box;

use contract::event::{Change, Event};
use contract::partition::Topic;
use contract::signal::Signal;
use criterion::Criterion;

use crate::signals::signal;

/// The event of a signal's creation.
pub fn created<'a>(signal: &Signal, document: &'a [u8]) -> Event<'a> {
    Event {
        topic: Topic::Signals,
        id: signal.id,
        change: Change::Created,
        version: signal.version,
        time: signal.updated_at,
        traceparent: "",
        value: document,
    }
}

pub fn bench(c: &mut Criterion) {
    let signal = signal(7);
    let document = signal.render();
    assert!((380..430).contains(&document.len()), "{}", document.len());
    let read: serde_json::Value = serde_json::from_slice(&document).expect("JSON");
    assert_eq!((read["id"].as_str(), &read["version"]), (Some(signal.id.to_string().as_str()), &1.into()));
    c.bench_function("event/render", |b| b.iter(|| black_box(&signal).render()));

    let event = created(&signal, &document);
    let frame = event.encode();
    assert_eq!(Event::decode(&frame), Ok(event.clone()));
    c.bench_function("event/encode", |b| b.iter(|| black_box(&event).encode()));
    c.bench_function("event/decode", |b| b.iter(|| Event::decode(black_box(&frame)).expect("an event").version));
}
