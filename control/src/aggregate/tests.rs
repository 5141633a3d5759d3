use contract::problem::VALIDATION;
use contract::signal::{PAYLOAD_BYTES_MAX, Priority};
use proptest::prelude::*;

use super::*;

const ACTOR: Uuid = Uuid::from_u128(7);
const KNOWN: Uuid = Uuid::from_u128(8);

fn situation(now: i64) -> Situation<'static> {
    Situation { now: Timestamp(now), actor: ACTOR, random: 5, knows_identity: &|id| id == KNOWN, pointer: "" }
}

fn signal(payload: &str, status: Status) -> Signal {
    Signal {
        id: Uuid::from_u128(1),
        title: "t".into(),
        priority: Priority::Normal,
        status,
        payload: Payload::from_stored(payload.into()),
        target: None,
        created_by: ACTOR,
        created_at: Timestamp(10),
        updated_at: Timestamp(20),
        version: 3,
    }
}

fn update_of(state: &State, patch: PatchSignal, precondition: Precondition, now: i64) -> Result<Decision, Problem> {
    decide(state, &SignalCommand::Update(Uuid::from_u128(1), patch, precondition), situation(now))
}

#[test]
fn the_first_reason_that_applies_rejects() {
    let stale = Precondition::AnyOf(vec![2]);
    let patch = |target, payload: Option<&str>| PatchSignal {
        status: Some(Status::Active),
        target: Some(target),
        payload: payload.map(|text| PatchPayload::Merge(text.to_owned())),
        ..PatchSignal::default()
    };
    let big = format!("{{\"a\":\"{}\"}}", "x".repeat(PAYLOAD_BYTES_MAX - 8));
    let done = State::Live(signal(r#"{"b":1}"#, Status::Completed));
    let code = |state: &State, patch, precondition: &Precondition| {
        update_of(state, patch, precondition.clone(), 30).expect_err("rejected").kind.code
    };
    assert_eq!(code(&State::Missing, patch(Some(ACTOR), None), &stale), "validation");
    assert_eq!(code(&State::Missing, patch(Some(KNOWN), None), &stale), "not-found");
    assert_eq!(code(&done, patch(None, Some(&big)), &stale), "validation");
    assert_eq!(code(&done, patch(None, None), &stale), "precondition-failed");
    assert_eq!(code(&done, patch(None, None), &Precondition::Exists), "final-status");
    let gone = update_of(&State::Deleted(9), patch(None, None), stale, 30).expect_err("rejected");
    assert_eq!((gone.kind, gone.deleted_version), (&NOT_FOUND, Some(9)));
}

#[test]
fn rejections_point_into_the_body() {
    let in_batch = Situation { pointer: "/commands/4/signal", ..situation(30) };
    let big = format!("{{\"a\":\"{}\"}}", "x".repeat(PAYLOAD_BYTES_MAX - 8));
    let state = State::Live(signal(r#"{"b":1}"#, Status::Pending));
    let pointers = |patch| {
        let command = SignalCommand::Update(Uuid::from_u128(1), patch, Precondition::None);
        let problem = decide(&state, &command, in_batch).expect_err("rejected");
        assert_eq!(problem.kind, &VALIDATION);
        problem.errors.into_iter().map(|error| error.pointer).collect::<Vec<_>>()
    };
    let target = PatchSignal { target: Some(Some(ACTOR)), ..PatchSignal::default() };
    assert_eq!(pointers(target), ["/commands/4/signal/target"]);
    let payload = PatchSignal { payload: Some(PatchPayload::Merge(big)), ..PatchSignal::default() };
    assert_eq!(pointers(payload), ["/commands/4/signal/payload"]);
}

#[test]
fn a_final_status_lets_the_rest_change() {
    let state = State::Live(signal("{}", Status::Cancelled));
    let patch = PatchSignal { title: Some("u".into()), status: Some(Status::Cancelled), ..PatchSignal::default() };
    let Ok(Decision::Updated(new)) = update_of(&state, patch, Precondition::None, 30) else { panic!("accepted") };
    assert_eq!((new.title.as_str(), new.status, new.version), ("u", Status::Cancelled, 4));
}

#[test]
fn a_patch_that_says_what_is_there_changes_nothing() {
    let state = State::Live(signal(r#"{"a":1.0,"b":null}"#, Status::Pending));
    let patch = PatchSignal {
        title: Some("t".into()),
        priority: Some(Priority::Normal),
        payload: Some(PatchPayload::Merge(r#"{"a":1.0,"c":null}"#.into())),
        target: Some(None),
        ..PatchSignal::default()
    };
    assert_eq!(update_of(&state, patch, Precondition::None, 30), Ok(Decision::Unchanged));
}

#[test]
fn times_of_a_signal_never_go_back() {
    let state = State::Live(signal("{}", Status::Pending));
    let patch = PatchSignal { title: Some("u".into()), ..PatchSignal::default() };
    let Ok(Decision::Updated(new)) = update_of(&state, patch, Precondition::None, 15) else { panic!("accepted") };
    assert_eq!(new.updated_at, Timestamp(20));
}

fn precondition() -> impl Strategy<Value = Precondition> {
    prop_oneof![
        4 => Just(Precondition::None),
        1 => Just(Precondition::Exists),
        2 => proptest::collection::vec(1..6_u64, 1..3).prop_map(Precondition::AnyOf),
    ]
}

fn payload() -> impl Strategy<Value = String> {
    proptest::sample::select(&[r#"{"a":1}"#, r#"{"a":null}"#, r#"{"a":{"b":[1,2]},"c":"x"}"#, "{}"][..])
        .prop_map(str::to_owned)
}

fn command() -> impl Strategy<Value = SignalCommand> {
    let id = Uuid::from_u128(1);
    let target = proptest::sample::select(&[None, Some(KNOWN), Some(ACTOR)][..]);
    let create = (payload(), target.clone()).prop_map(|(payload, target)| {
        let payload = Payload::from_stored(payload);
        SignalCommand::Create(CreateSignal { title: "t".into(), priority: Priority::Low, payload, target })
    });
    let patch = (
        proptest::option::of(proptest::sample::select(&["t", "u"][..])),
        proptest::option::of(proptest::sample::select(Status::ALL)),
        proptest::option::of(prop_oneof![Just(PatchPayload::Reset), payload().prop_map(PatchPayload::Merge)]),
        proptest::option::of(target),
        precondition(),
    );
    let update = patch.prop_map(move |(title, status, payload, target, precondition)| {
        let title = title.map(str::to_owned);
        SignalCommand::Update(id, PatchSignal { title, priority: None, status, payload, target }, precondition)
    });
    prop_oneof![1 => create, 8 => update, 1 => precondition().prop_map(move |p| SignalCommand::Delete(id, p))]
}

proptest! {
    /// Whatever commands come: versions count the changes one by one, times never go back, a final
    /// status stays, a deleted signal stays deleted, and what is rejected or changes nothing has no event.
    #[test]
    fn a_signals_life_keeps_its_invariants(commands in proptest::collection::vec((command(), 0..50_i64), 1..40)) {
        let mut state = State::Missing;
        for (command, now) in commands {
            let create = matches!(command, SignalCommand::Create(_));
            if create && state != State::Missing {
                continue;
            }
            let decision = decide(&state, &command, situation(now));
            let before = state.clone();
            match (decision, &before) {
                (Ok(Decision::Created(new)), State::Missing) => {
                    prop_assert!(create);
                    prop_assert_eq!((new.version, new.status, new.created_at), (1, Status::Pending, new.updated_at));
                    prop_assert_eq!(contract::id::created_at(new.id), new.created_at);
                    prop_assert!(new.target.is_none_or(|target| target == KNOWN));
                    state = State::Live(new);
                }
                (Ok(Decision::Updated(new)), State::Live(old)) => {
                    prop_assert_eq!(new.version, old.version + 1);
                    prop_assert!(new.updated_at >= old.updated_at && new.updated_at >= new.created_at);
                    prop_assert_eq!((new.id, new.created_at, new.created_by), (old.id, old.created_at, old.created_by));
                    prop_assert!(!old.status.is_final() || new.status == old.status);
                    prop_assert!(Json::parse(new.payload.as_str().as_bytes()).is_ok());
                    let same = Signal { version: old.version, updated_at: old.updated_at, ..new.clone() };
                    prop_assert_ne!(&same, old);
                    state = State::Live(new);
                }
                (Ok(Decision::Deleted(version)), State::Live(old)) => {
                    prop_assert_eq!(version, old.version + 1);
                    state = State::Deleted(version);
                }
                (Ok(Decision::Unchanged), State::Live(_)) => {}
                (Err(problem), _) => prop_assert!(matches!(problem.kind.status, 404 | 409 | 412 | 422)),
                (decision, before) => prop_assert!(false, "{decision:?} in {before:?}"),
            }
        }
    }
}
