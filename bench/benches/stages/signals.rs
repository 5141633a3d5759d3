//! The documents of the stages: signals of some 400 bytes, as a store of theirs would have them.

use bench::create_body;
use contract::command::CreateSignal;
use contract::id;
use contract::json::Json;
use contract::signal::{Priority, Signal, Status};
use contract::time::Timestamp;

/// A command as a client sends it, read and checked.
pub fn creation(i: u64) -> CreateSignal {
    parse(&create_body(i))
}

/// What the control plane makes of a body.
pub fn parse(body: &str) -> CreateSignal {
    CreateSignal::from_json(&Json::parse(body.as_bytes()).expect("JSON"), "").expect("valid")
}

/// Signal number `i`: created a microsecond after the one before, its priority that of its number.
pub fn signal(i: u64) -> Signal {
    let time = Timestamp(1_790_000_000_000_000 + i64::try_from(i).expect("a small number"));
    let CreateSignal { title, payload, target, .. } = creation(i);
    Signal {
        // A multiplication by an odd number never gives the same twice.
        id: id::v7(time, i.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        title,
        priority: Priority::ALL[usize::try_from(i % 4).expect("below 4")],
        status: Status::Pending,
        payload,
        target,
        created_by: id::v7(time, 8),
        created_at: time,
        updated_at: time,
        version: 1,
    }
}
