use contract::partition::Topic;
use contract::position::LastRecord;
use contract::token::ServerRun;
use proptest::prelude::*;

use super::*;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
const NOW_MS: i64 = 1_790_000_000_000;

fn at(index: u16) -> Partition {
    Partition { topic: Topic::Signals, index }
}

/// An unbroken chain in the middle of its life: published, copied and confirmed up to LSN 500.
fn whole() -> Facts {
    let partitions = Partition::all(2);
    let position = Position {
        epoch: 7,
        history: 0,
        system: "1".into(),
        run: ServerRun { timeline: 1, started: 1 },
        begin: partitions.iter().map(|partition| (*partition, 0)).collect(),
        end_lsn: Lsn(500),
        last: Some(LastMessage { index: 1, hash: fnv1a(b"last") }),
        partitions: BTreeMap::from([
            (at(0), LastRecord { offset: 20, seq: 11, deleted: None }),
            (at(1), LastRecord { offset: 30, seq: 12, deleted: Some(NOW_MS - 8 * DAY_MS) }),
        ]),
    };
    let record = |index, seq| ReadBack::Record(Some(RecordId { epoch: 7, partition: index, seq }));
    Facts {
        epoch: Epoch { epoch: 7, history: 0, system: "1".into(), first_lsn: Lsn(100) },
        copy: Some(Copy { record_offset: 40, position: position.clone() }),
        confirmed: Lsn(500),
        system: "1".into(),
        wal_end: Lsn(900),
        partitions,
        found: Some(Found { offset: 40, position }),
        records: BTreeMap::from([(at(0), record(0, 11)), (at(1), record(1, 12))]),
        occupied: vec![at(0), at(1)],
        now_ms: NOW_MS,
        delete_retention_ms: 7 * DAY_MS,
    }
}

/// An epoch that was opened and nothing more.
fn new() -> Facts {
    Facts { copy: None, confirmed: Lsn(100), found: None, records: BTreeMap::new(), occupied: Vec::new(), ..whole() }
}

fn found(facts: &mut Facts) -> &mut Position {
    &mut facts.found.as_mut().expect("a position").position
}

#[test]
fn an_unbroken_chain_continues() {
    let facts = whole();
    let Ok(Chain::Continues(position, redelivery)) = prove(&facts) else { panic!("{:?}", prove(&facts)) };
    assert_eq!(Some(*position), facts.found.map(|found| found.position));
    assert!(redelivery.is_over());
}

#[test]
fn a_new_epoch_begins() {
    assert_eq!(prove(&new()), Ok(Chain::First));
}

#[test]
fn a_position_without_a_copy_yet_continues() {
    let mut facts = whole();
    facts.copy = None;
    assert!(matches!(prove(&facts), Ok(Chain::Continues(..))));
}

#[test]
fn a_lower_slot_must_deliver_the_last_event_again() {
    let mut facts = whole();
    facts.confirmed = Lsn(300);
    let Ok(Chain::Continues(_, redelivery)) = prove(&facts) else { panic!("{:?}", prove(&facts)) };
    assert!(!redelivery.is_over());
    // The epoch's first position has no event by which the stream could prove itself.
    found(&mut facts).last = None;
    facts.copy = None;
    assert!(matches!(prove(&facts), Err(Broken::SlotBehindEpoch { .. })));
}

#[test]
fn every_damage_is_a_broken_chain() {
    type Damage = (&'static str, fn(&mut Facts), fn(&Broken) -> bool);
    let damages: [Damage; 17] = [
        ("a slot past the position", |f| f.confirmed = Lsn(501), |b| matches!(b, Broken::SlotAhead { .. })),
        ("a slot before the epoch", |f| f.confirmed = Lsn(99), |b| matches!(b, Broken::SlotBehindEpoch { .. })),
        ("a shorter WAL", |f| f.wal_end = Lsn(499), |b| matches!(b, Broken::WalBehind { .. })),
        ("another cluster", |f| f.system = "2".into(), |b| matches!(b, Broken::OtherSystem { .. })),
        (
            "a position of another cluster",
            |f| found(f).system = "2".into(),
            |b| matches!(b, Broken::OtherSystem { .. }),
        ),
        ("a later epoch in the topic", |f| found(f).epoch = 8, |b| matches!(b, Broken::OtherEpoch { .. })),
        ("an earlier epoch in the topic", |f| found(f).epoch = 6, |b| matches!(b, Broken::OtherEpoch { .. })),
        ("another history in the topic", |f| found(f).history = 7, |b| matches!(b, Broken::OtherEpoch { .. })),
        (
            "a copy of another epoch",
            |f| f.copy.as_mut().expect("a copy").position.epoch = 6,
            |b| matches!(b, Broken::CopyOfOtherEpoch { .. }),
        ),
        (
            "a topic behind the copy",
            |f| f.copy.as_mut().expect("a copy").position.end_lsn = Lsn(501),
            |b| matches!(b, Broken::PositionBehindCopy { .. }),
        ),
        (
            "another record at the copy's offset",
            |f| f.copy.as_mut().expect("a copy").position.last = None,
            |b| matches!(b, Broken::PositionBehindCopy { .. }),
        ),
        (
            "a position before the copy's offset",
            |f| f.found.as_mut().expect("a position").offset = 39,
            |b| matches!(b, Broken::PositionBehindCopy { .. }),
        ),
        ("no position", |f| f.found = None, |b| matches!(b, Broken::PositionLost { .. })),
        ("more partitions", |f| f.partitions = Partition::all(3), |b| matches!(b, Broken::OtherPartitions { .. })),
        (
            "another record at an offset",
            |f| {
                let other = RecordId { epoch: 7, partition: 0, seq: 10 };
                f.records.insert(at(0), ReadBack::Record(Some(other)));
            },
            |b| matches!(b, Broken::RecordLost { .. }),
        ),
        (
            "a strange record at an offset",
            |f| _ = f.records.insert(at(0), ReadBack::Record(None)),
            |b| matches!(b, Broken::RecordLost { .. }),
        ),
        (
            "a shorter log",
            |f| _ = f.records.insert(at(1), ReadBack::BehindLogEnd),
            |b| matches!(b, Broken::RecordLost { .. }),
        ),
    ];
    for (what, damage, is_expected) in damages {
        let mut facts = whole();
        damage(&mut facts);
        match prove(&facts) {
            Err(broken) if is_expected(&broken) => {}
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn only_an_old_deletion_may_be_gone() {
    let mut facts = whole();
    facts.records.insert(at(1), ReadBack::Gone);
    assert!(matches!(prove(&facts), Ok(Chain::Continues(..))));
    facts.delete_retention_ms = 9 * DAY_MS;
    assert!(matches!(prove(&facts), Err(Broken::RecordLost { .. })));
    facts = whole();
    facts.records.insert(at(0), ReadBack::Gone);
    assert!(matches!(prove(&facts), Err(Broken::RecordLost { .. })));
    facts = whole();
    facts.records.remove(&at(0));
    assert!(matches!(prove(&facts), Err(Broken::RecordLost { .. })));
}

#[test]
fn a_new_epoch_with_a_past_is_broken() {
    let mut facts = new();
    facts.confirmed = Lsn(101);
    assert!(matches!(prove(&facts), Err(Broken::SlotAhead { .. })));
    facts = new();
    facts.confirmed = Lsn(99);
    assert!(matches!(prove(&facts), Err(Broken::SlotBehindEpoch { .. })));
    facts = new();
    facts.wal_end = Lsn(50);
    assert!(matches!(prove(&facts), Err(Broken::WalBehind { .. })));
    facts = new();
    facts.occupied = vec![at(1)];
    assert!(matches!(prove(&facts), Err(Broken::RecordsWithoutPosition(_))));
}

/// A transaction of the stream: the contents of our messages and its end.
type Transaction = (Vec<Vec<u8>>, u64);

fn feed(redelivery: &mut Redelivery, (messages, end): &Transaction) -> Result<(), Broken> {
    messages.iter().for_each(|content| redelivery.message(content));
    redelivery.commit(Lsn(*end))
}

fn until((messages, end): &Transaction) -> Redelivery {
    let last = messages.last().expect("a published transaction has a message of ours");
    Redelivery::until(Lsn(*end), LastMessage { index: messages.len() as u32 - 1, hash: fnv1a(last) })
}

fn streams() -> impl Strategy<Value = Vec<Transaction>> {
    let messages = proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..6), 0..4);
    proptest::collection::vec((messages, 1..50_u64), 1..12).prop_map(|transactions| {
        let mut end = 0;
        transactions
            .into_iter()
            .map(|(messages, length)| {
                end += length;
                (messages, end)
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn redelivery_ends_exactly_behind_the_published_transaction(stream in streams(), chosen: prop::sample::Index) {
        let ours: Vec<usize> = (0..stream.len()).filter(|i| !stream[*i].0.is_empty()).collect();
        prop_assume!(!ours.is_empty());
        let published = ours[chosen.index(ours.len())];
        let mut redelivery = until(&stream[published]);
        for (i, transaction) in stream.iter().enumerate().take(published + 1) {
            prop_assert!(!redelivery.is_over());
            prop_assert_eq!(redelivery.passed(Lsn(transaction.1 - 1)), Ok(()));
            prop_assert_eq!(feed(&mut redelivery, transaction), Ok(()), "{}", i);
        }
        prop_assert!(redelivery.is_over());
    }

    #[test]
    fn a_stream_without_the_published_event_is_never_accepted(
        stream in streams(),
        chosen: prop::sample::Index,
        damage in 0..3,
    ) {
        let ours: Vec<usize> = (0..stream.len()).filter(|i| !stream[*i].0.is_empty()).collect();
        prop_assume!(!ours.is_empty());
        let published = ours[chosen.index(ours.len())];
        let mut redelivery = until(&stream[published]);
        let mut other = stream.clone();
        match damage {
            0 => drop(other.remove(published)),
            1 => other[published].0.last_mut().expect("a message").push(0),
            _ => other[published].0.push(b"one more".to_vec()),
        }
        let end = other.last().map_or(0, |last| last.1).max(stream[published].1) + 1;
        let mut outcome = Ok(());
        for transaction in &other {
            outcome = outcome.and_then(|()| feed(&mut redelivery, transaction));
        }
        prop_assert!(!redelivery.is_over());
        // Whatever else it sends, what it says it has sent is past the event.
        let said = outcome.and_then(|()| redelivery.passed(Lsn(end)));
        let is_passed = matches!(said, Err(Broken::StreamPassed { .. }));
        prop_assert!(is_passed, "{:?}", said);
    }
}
