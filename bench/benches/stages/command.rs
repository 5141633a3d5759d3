//! Stage 1: the bytes of a body become a command that is known to be valid.

use std::hint::black_box;

use bench::create_body;
use criterion::Criterion;

use crate::signals::parse;

pub fn bench(c: &mut Criterion) {
    let body = create_body(7);
    let command = parse(&body);
    assert_eq!((command.title.as_str(), command.payload.as_str().len()), ("bench 7", 117));
    c.bench_function("command/parse_and_validate", |b| b.iter(|| parse(black_box(&body))));
}
