//! Stage 7: a record's document becomes what the index needs: with simd-json, as the projector does it, and with
//! serde_json, side by side; and the projector's whole step with its checks.

use std::hint::black_box;

use contract::event::{Change, RecordId};
use contract::id::Uuid;
use contract::partition::Topic;
use contract::signal::{Payload, Priority, Signal, Status};
use criterion::{BenchmarkId, Criterion, Throughput};
use dataplane::decode::{Decoder, RecordHeaders};
use dataplane::projector::Effect;
use dataplane::view::keys::signal_code;
use serde::Deserialize;

use crate::signals::signal;

/// The same members as the projector reads.
#[derive(Debug, Deserialize)]
struct Part<'a> {
    #[serde(borrow)]
    id: &'a str,
    version: u64,
    status: Status,
    priority: Priority,
}

impl Part<'_> {
    fn what(&self) -> (Option<Uuid>, u64, Status, Priority) {
        (contract::id::parse(self.id), self.version, self.status, self.priority)
    }
}

/// A signal whose payload is a list of small objects, some four kilobytes of them.
fn large() -> Signal {
    let items: Vec<String> =
        (0..64).map(|i| format!(r#"{{"name":"item {i}","value":{i}.25,"tags":["a","b"]}}"#)).collect();
    Signal { payload: Payload::from_stored(format!(r#"{{"items":[{}]}}"#, items.join(","))), ..signal(7) }
}

pub fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    for (size, signal) in [("400_bytes", signal(7)), ("4_kilobytes", large())] {
        let document = signal.render();
        let expected = (Some(signal.id), signal.version, signal.status, signal.priority);
        group.throughput(Throughput::Bytes(document.len() as u64));

        let (mut text, mut buffers) = (Vec::new(), simd_json::Buffers::default());
        let mut simd = |document: &[u8]| {
            // It works in place; the document itself is stored as it came.
            text.clear();
            text.extend_from_slice(document);
            let part: Part<'_> = simd_json::serde::from_slice_with_buffers(&mut text, &mut buffers).expect("JSON");
            part.what()
        };
        assert_eq!(simd(&document), expected);
        group.bench_function(BenchmarkId::new("simd_json", size), |b| b.iter(|| simd(black_box(&document))));

        let serde = |document: &[u8]| serde_json::from_slice::<Part<'_>>(document).expect("JSON").what();
        assert_eq!(serde(&document), expected);
        group.bench_function(BenchmarkId::new("serde_json", size), |b| b.iter(|| serde(black_box(&document))));

        let key = signal.id.to_string();
        let headers = RecordHeaders {
            id: Some(RecordId { epoch: 1, partition: 0, seq: 1 }),
            ce_type: Change::Created.ce_type(Topic::Signals).as_bytes(),
            version: Some(signal.version),
            repair: false,
        };
        let mut decoder = Decoder::default();
        let mut decode =
            |document: &[u8]| decoder.decode(Topic::Signals, headers, Some(key.as_bytes()), Some(document));
        let code = signal_code(signal.priority, signal.status);
        assert_eq!(decode(&document), Effect::Change { id: signal.id, version: 1, code, repair: false });
        group.bench_function(BenchmarkId::new("record", size), |b| b.iter(|| decode(black_box(&document))));
    }
    group.finish();
}
