//! Stage 2: sixteen commands of one batch, folded on one signal: its creation, fourteen changes, its deletion.

use std::hint::black_box;

use contract::command::{PatchPayload, PatchSignal, Precondition, SignalCommand};
use contract::id::Uuid;
use contract::signal::{Priority, Status};
use contract::time::Timestamp;
use control::aggregate::{Decision, Situation, State, decide};
use criterion::{Criterion, Throughput};

use crate::signals::creation;

const COMMANDS: u64 = 16;

/// The state after each command was accepted in its turn.
fn fold(commands: &[SignalCommand]) -> State {
    let mut state = State::Missing;
    for command in commands {
        let situation = Situation {
            now: Timestamp(1_790_000_000_000_000),
            actor: Uuid::from_u128(42),
            random: 7,
            knows_identity: &|_| true,
            pointer: "",
        };
        state = match decide(&state, command, situation).expect("accepted") {
            Decision::Created(signal) | Decision::Updated(signal) => State::Live(signal),
            Decision::Deleted(version) => State::Deleted(version),
            Decision::Unchanged => panic!("every command changes something"),
        };
    }
    state
}

fn commands() -> Vec<SignalCommand> {
    // The state stands for the entity; the id chooses it, which is the store's part.
    let id = Uuid::nil();
    let mut commands = vec![SignalCommand::Create(creation(7))];
    for i in 1..COMMANDS - 1 {
        let mut patch = PatchSignal::default();
        match i % 3 {
            0 => patch.title = Some(format!("title {i}")),
            1 => patch.payload = Some(PatchPayload::Merge(format!(r#"{{"n":{i},"at":{{"k{i}":true}}}}"#))),
            _ => {
                patch.status = Some(Status::Active);
                patch.priority = Some(Priority::ALL[usize::try_from(i / 3 % 4).expect("below 4")]);
            }
        }
        commands.push(SignalCommand::Update(id, patch, Precondition::AnyOf(vec![i])));
    }
    commands.push(SignalCommand::Delete(id, Precondition::AnyOf(vec![COMMANDS - 1])));
    commands
}

pub fn bench(c: &mut Criterion) {
    let commands = commands();
    let State::Live(last) = fold(&commands[..commands.len() - 1]) else { panic!("not yet deleted") };
    assert_eq!((last.title.as_str(), last.status, last.version), ("title 12", Status::Active, COMMANDS - 1));
    assert!(last.payload.as_str().contains(r#""n":13,"at":{"k1":true,"k4":true,"#), "{}", last.payload.as_str());
    assert_eq!(fold(&commands), State::Deleted(COMMANDS));
    let mut group = c.benchmark_group("aggregate");
    group.throughput(Throughput::Elements(COMMANDS));
    group.bench_function("fold_16_on_one_entity", |b| b.iter(|| fold(black_box(&commands))));
    group.finish();
}
