use super::*;

const HASH: u64 = 99;

fn write(id: u128, version: u32) -> Write {
    Write {
        id,
        version,
        op: u64::from(version),
        hash: HASH + u64::from(version),
        delete: false,
        intended: 1_000,
        phase: Phase::Measured,
        sampled: false,
    }
}

fn sight(id: u128, version: u32, at: u64) -> Sighting {
    Sighting {
        sight: Sight::Present,
        view: 0,
        id,
        version,
        op: Some(u64::from(version)),
        hash: HASH + u64::from(version),
        at,
    }
}

fn delete(id: u128, version: u32) -> Write {
    Write { delete: true, hash: 0, ..write(id, version) }
}

fn gone(id: u128, version: u32, at: u64) -> Sighting {
    Sighting { sight: Sight::Deleted, op: None, hash: 7, ..sight(id, version, at) }
}

fn none(_: Option<u64>, _: u128) -> bool {
    false
}

fn times(checker: &mut Checker) -> Vec<(u32, u64)> {
    let mut times: Vec<_> = checker.take_visible().iter().map(|visible| (visible.write.version, visible.at)).collect();
    times.sort_unstable();
    times
}

#[test]
fn a_write_is_visible_when_its_version_is_seen() {
    let mut checker = Checker::new();
    checker.accepted(write(1, 1));
    assert_eq!(checker.outstanding(), 1);
    checker.seen(sight(1, 1, 5_000));
    assert_eq!(times(&mut checker), [(1, 5_000)]);
    assert_eq!(checker.outstanding(), 0);
    assert!(checker.open.is_empty(), "nothing is kept of a settled key but the key");
}

#[test]
fn an_event_may_overtake_the_answer() {
    let mut checker = Checker::new();
    checker.seen(sight(1, 1, 2_000));
    checker.seen(sight(1, 2, 3_000));
    checker.seen(sight(1, 3, 4_000));
    checker.accepted(write(1, 2));
    checker.accepted(write(1, 1));
    checker.accepted(write(1, 3));
    assert_eq!(times(&mut checker), [(1, 2_000), (2, 3_000), (3, 4_000)]);
    assert!(checker.open.is_empty());
    assert_eq!(checker.finish(true, &none).len(), 0);
    assert_eq!(checker.violations(), Violations::default());
}

#[test]
fn a_later_version_covers_the_ones_that_were_coalesced() {
    let mut checker = Checker::new();
    for version in 1..=4 {
        checker.accepted(write(1, version));
    }
    checker.seen(sight(1, 4, 9_000));
    assert_eq!(times(&mut checker), [(1, 9_000), (2, 9_000), (3, 9_000), (4, 9_000)]);
}

#[test]
fn a_deletion_covers_everything() {
    let mut checker = Checker::new();
    checker.accepted(write(1, 1));
    checker.accepted(delete(1, 2));
    checker.seen(gone(1, 2, 9_000));
    assert_eq!(times(&mut checker).len(), 2);
    let mut unknown_version = Checker::new();
    unknown_version.accepted(delete(1, 0));
    unknown_version.seen(gone(1, 8, 9_000));
    assert_eq!(times(&mut unknown_version).len(), 1);
    assert_eq!(unknown_version.outstanding(), 0);
}

/// Canaries of every partition are accepted, and those that `shows` says are seen.
fn send_canaries(checker: &mut Checker, shows: impl Fn(u128) -> bool) {
    for id in 1_000..1_512 {
        checker.accepted(Write { phase: Phase::Canary, ..write(id, 1) });
        if shows(id) {
            checker.seen(sight(id, 1, 9_000));
        }
    }
}

#[test]
fn what_is_never_seen_is_lost() {
    let mut checker = Checker::new();
    checker.accepted(write(1, 1));
    checker.accepted(write(2, 1));
    checker.seen(sight(2, 1, 5_000));
    send_canaries(&mut checker, |_| true);
    assert_eq!(checker.finish(true, &none).len(), 1);
    assert_eq!(checker.violations().lost, 1);
    assert!(checker.examples()[0].starts_with("lost: "), "{:?}", checker.examples());
}

#[test]
fn what_no_later_write_of_its_partition_has_overtaken_is_late_and_not_lost() {
    let stands_still = |id: u128| canaries::place(id) % 6 == 2;
    let unseen = || {
        let mut checker = Checker::new();
        for id in 1..=60 {
            checker.accepted(write(id, 1));
        }
        checker
    };
    let late = (1..=60).filter(|&id| stands_still(id)).count() as u64;
    assert!((1..60).contains(&late));
    // One of six partitions stands still: that is a sixth of the canaries.
    let mut checker = unseen();
    send_canaries(&mut checker, |id| !stands_still(id));
    assert!(checker.overtaken().iter().all(|write| !stands_still(write.id)));
    checker.finish(true, &none);
    assert_eq!(checker.violations().lost, 60 - late);
    // No canary was accepted.
    let mut checker = unseen();
    assert_eq!((checker.finish(true, &none).len(), checker.violations().lost), (60, 0));
    // All are visible, but the watch has just started over.
    let mut checker = unseen();
    send_canaries(&mut checker, |_| true);
    checker.reset();
    assert_eq!(checker.overtaken().len(), 0);
}

#[test]
fn a_canary_is_no_proof_that_another_one_is_lost() {
    let mut checker = Checker::new();
    send_canaries(&mut checker, |id| id % 50 != 0);
    assert_eq!(checker.outstanding(), 11);
    assert_eq!(checker.overtaken().len(), 0);
    // Where something else is lost, so are they.
    let mut checker = Checker::new();
    checker.accepted(write(1, 1));
    send_canaries(&mut checker, |id| id % 50 != 0);
    assert_eq!(checker.overtaken().len(), 12);
}

#[test]
fn a_version_that_goes_back_is_a_regression() {
    let mut checker = Checker::new();
    checker.accepted(write(1, 1));
    checker.accepted(write(1, 2));
    checker.seen(sight(1, 2, 5_000));
    checker.seen(sight(1, 1, 6_000));
    assert_eq!(checker.violations().regressed, 1);
}

#[test]
fn a_deleted_key_that_comes_back_is_resurrected() {
    let mut checker = Checker::new();
    checker.accepted(write(1, 1));
    checker.accepted(delete(1, 2));
    checker.seen(gone(1, 2, 5_000));
    checker.seen(sight(1, 1, 6_000));
    assert_eq!(checker.violations().resurrected, 1);
}

#[test]
fn a_document_that_differs_from_the_answer_is_a_phantom() {
    for seen_first in [false, true] {
        let mut checker = Checker::new();
        let other = Sighting { hash: 1, ..sight(1, 1, 5_000) };
        if seen_first {
            checker.seen(other);
            checker.accepted(write(1, 1));
        } else {
            checker.accepted(write(1, 1));
            checker.seen(other);
        }
        assert_eq!(checker.violations().phantom, 1, "seen first: {seen_first}");
    }
}

#[test]
fn a_version_that_nobody_wrote_is_a_phantom_unless_an_outcome_is_open() {
    let mut checker = Checker::new();
    checker.accepted(write(1, 1));
    checker.seen(sight(1, 1, 5_000));
    checker.seen(sight(1, 2, 6_000));
    checker.finish(true, &|op, _| op == Some(2));
    assert_eq!(checker.violations().phantom, 0);
    checker.finish(true, &none);
    assert_eq!(checker.violations().phantom, 1);
}

#[test]
fn a_deletion_with_the_wrong_version_is_a_phantom() {
    let mut checker = Checker::new();
    checker.accepted(write(1, 1));
    checker.seen(sight(1, 1, 5_000));
    checker.accepted(delete(1, 2));
    checker.seen(Sighting { sight: Sight::Present, ..gone(1, 2, 6_000) });
    assert_eq!(checker.violations().phantom, 1);
}

#[test]
fn what_others_write_is_no_business_of_ours() {
    let mut checker = Checker::new();
    checker.seen(Sighting { op: None, ..sight(7, 3, 5_000) });
    checker.seen(gone(8, 3, 5_000));
    assert_eq!(checker.foreign(), 2);
    assert_eq!(checker.keys(), 0);
    checker.finish(true, &none);
    assert_eq!(checker.violations().total(), 0);
}

#[test]
fn after_a_reset_a_missing_key_is_a_visible_deletion() {
    let mut checker = Checker::new();
    checker.accepted(write(1, 1));
    checker.seen(sight(1, 1, 5_000));
    checker.accepted(delete(1, 2));
    checker.reset();
    checker.ready(9_000);
    assert_eq!(checker.outstanding(), 0);
    assert_eq!(checker.violations().total(), 0);
}

#[test]
fn a_deletion_that_a_snapshot_showed_may_come_as_an_event_as_well() {
    let mut checker = Checker::new();
    checker.accepted(write(1, 1));
    checker.seen(sight(1, 1, 5_000));
    checker.accepted(delete(1, 2));
    checker.reset();
    checker.ready(9_000);
    checker.seen(gone(1, 2, 9_001));
    assert_eq!((checker.outstanding(), checker.repeated()), (0, 1));
    assert_eq!(checker.violations().total(), 0, "{:?}", checker.examples());
    checker.seen(sight(1, 1, 9_002));
    assert_eq!(checker.violations().resurrected, 1, "gone is gone");
}

/// A signal that was created and deleted, both accepted, and never seen when a snapshot was complete.
fn never_seen_in_a_snapshot() -> Checker {
    let mut checker = Checker::new();
    checker.accepted(write(1, 1));
    checker.accepted(delete(1, 2));
    checker.reset();
    checker.ready(8_000);
    assert_eq!(checker.outstanding(), 2, "it may be on its way");
    checker
}

#[test]
fn a_key_that_was_never_seen_is_not_deleted_for_being_absent_from_a_snapshot() {
    let mut checker = never_seen_in_a_snapshot();
    checker.seen(sight(1, 1, 9_100));
    checker.seen(gone(1, 2, 9_200));
    assert_eq!((checker.outstanding(), checker.violations().total()), (0, 0), "{:?}", checker.examples());
    assert_eq!(times(&mut checker), [(1, 9_100), (2, 9_200)]);
}

#[test]
fn what_a_canary_overtook_was_deleted_before_the_snapshot() {
    let mut checker = never_seen_in_a_snapshot();
    // It was absent from the first one already.
    checker.reset();
    checker.ready(8_500);
    send_canaries(&mut checker, |_| true);
    assert_eq!((checker.outstanding(), checker.overtaken().len()), (0, 0));
    let visible = checker.take_visible();
    let deletion = visible.iter().find(|visible| visible.write.delete).map(|visible| visible.at);
    assert_eq!(deletion, Some(8_000), "since the snapshot, not since the canary");
    checker.finish(true, &none);
    assert_eq!(checker.violations().total(), 0, "{:?}", checker.examples());
}

#[test]
fn a_key_that_changes_while_the_snapshot_is_read_may_be_absent_from_it() {
    let mut checker = Checker::new();
    checker.accepted(write(1, 1));
    checker.seen(sight(1, 1, 5_000));
    checker.accepted(write(1, 2));
    checker.accepted(delete(1, 3));
    checker.reset();
    checker.ready(8_000);
    checker.seen(sight(1, 2, 8_100));
    checker.seen(gone(1, 3, 8_200));
    assert_eq!((checker.outstanding(), checker.violations().total()), (0, 0), "{:?}", checker.examples());
}

#[test]
fn a_creation_that_a_canary_overtook_is_lost_after_a_snapshot_as_before() {
    let mut checker = Checker::new();
    checker.accepted(write(1, 1));
    checker.reset();
    checker.ready(9_000);
    send_canaries(&mut checker, |_| true);
    checker.finish(true, &none);
    assert_eq!(checker.violations().lost, 1);
}

/// Room for what does not depend on the number of keys: a piece of records, keys with something open.
const FIXED_BYTES: usize = 128 * 1024;

#[test]
fn memory_per_key_stays_under_64_bytes_at_any_number_of_keys() {
    let mut checker = Checker::new();
    let mut at = 0;
    for n in 1..=100_000_u64 {
        // As in a run: some events come before the answers, some keys are updated, some deleted.
        let id = u128::from(crate::random::mix(n)) << 64 | u128::from(n);
        at += 1_000;
        let mut pairs = vec![(write(id, 1), sight(id, 1, at))];
        if n % 3 == 0 {
            pairs.push((write(id, 2), sight(id, 2, at)));
        }
        if n % 5 == 0 {
            let version = pairs.len() as u32 + 1;
            pairs.push((delete(id, version), gone(id, version, at)));
        }
        for (write, sighting) in pairs {
            if n % 2 == 0 {
                checker.accepted(write);
                checker.seen(sighting);
            } else {
                checker.seen(sighting);
                checker.accepted(write);
            }
        }
        checker.take_visible();
        let limit = n as usize * 64 + FIXED_BYTES;
        assert!(checker.heap_bytes() <= limit, "{} bytes for {n} keys", checker.heap_bytes());
    }
    assert_eq!((checker.keys(), checker.outstanding(), checker.open.len()), (100_000, 0, 0));
    assert_eq!(checker.violations().total(), 0);
}

#[test]
fn a_settled_key_keeps_every_promise() {
    let settled = || {
        let mut checker = Checker::new();
        for version in 1..=2 {
            checker.accepted(write(1, version));
            checker.seen(sight(1, version, 5_000));
        }
        assert!(checker.open.is_empty());
        checker
    };
    let mut checker = settled();
    checker.seen(sight(1, 1, 6_000));
    assert_eq!(checker.violations().regressed, 1);
    checker.seen(Sighting { hash: 1, ..sight(1, 2, 6_000) });
    assert_eq!(checker.violations().phantom, 1, "another document at the same version");
    let mut checker = settled();
    checker.seen(sight(1, 3, 6_000));
    assert_eq!(checker.expectations().collect::<Vec<_>>(), [(1, Expected { version: 2, deleted: false })]);
    checker.finish(true, &none);
    assert_eq!(checker.violations().phantom, 1, "a version that nobody wrote");
    let mut checker = settled();
    checker.accepted(delete(1, 3));
    send_canaries(&mut checker, |_| true);
    assert_eq!((checker.finish(true, &none).len(), checker.violations().lost), (1, 1));
    let mut checker = settled();
    checker.accepted(delete(1, 3));
    checker.seen(gone(1, 3, 6_000));
    assert!(checker.open.is_empty());
    assert_eq!(checker.expectations().collect::<Vec<_>>(), [(1, Expected { version: 3, deleted: true })]);
    checker.seen(gone(1, 3, 6_500));
    assert_eq!((checker.repeated(), checker.violations().total()), (1, 0));
    checker.seen(sight(1, 2, 7_000));
    assert_eq!(checker.violations().resurrected, 1);
    checker.accepted(Write { op: 9, ..write(1, 4) });
    assert_eq!(checker.outstanding(), 0, "a deletion covers everything");
}

#[test]
fn a_version_that_two_accepted_writes_were_given_is_named_whether_or_not_it_was_settled() {
    // Settled; answered out of order, with a version missing; not seen yet.
    let given: [&[u32]; 4] = [&[1, 2, 2], &[1, 3, 3], &[2, 2, 1], &[1, 5, 3, 3]];
    for versions in given {
        for seen in [false, true] {
            let mut checker = Checker::new();
            for (op, &version) in (1..).zip(versions) {
                checker.accepted(Write { op, ..write(1, version) });
                if seen && version == op as u32 {
                    checker.seen(sight(1, version, 5_000));
                }
            }
            assert_eq!(checker.violations().same_version, 1, "{versions:?}, seen: {seen}");
            assert!(checker.examples()[0].starts_with("same_version: "), "{:?}", checker.examples());
        }
    }
    let mut checker = Checker::new();
    for version in [4, 1, 3, 2, 9, 7, 8, 5, 6, 0] {
        checker.accepted(write(1, version));
    }
    assert_eq!(checker.violations().same_version, 0, "each once, in any order; a version that is not known is none");
}

#[test]
fn a_write_that_a_settled_key_covers_was_not_visible_before_it_was_sent() {
    // Of a settled key it is not kept when it was seen. What is said instead may be too late, and never too early.
    let mut checker = Checker::new();
    checker.accepted(write(1, 1));
    checker.seen(sight(1, 1, 5_000));
    checker.accepted(write(2, 1));
    checker.seen(sight(2, 1, 7_000));
    checker.take_visible();
    checker.accepted(Write { op: 9, ..write(1, 1) });
    assert_eq!(times(&mut checker), [(1, 7_000)]);
    assert_eq!((checker.outstanding(), checker.violations().same_version), (0, 1));
    // A second deletion whose version is not known, of a key whose deletion is settled.
    checker.accepted(delete(2, 2));
    checker.seen(gone(2, 2, 8_000));
    assert!(checker.open.is_empty());
    checker.take_visible();
    checker.accepted(delete(2, 0));
    assert_eq!(times(&mut checker), [(0, 8_000)]);
    assert_eq!(checker.violations().same_version, 1);
}

#[test]
fn a_deletion_that_nobody_asked_for_is_a_phantom() {
    let mut checker = Checker::new();
    checker.accepted(write(1, 1));
    checker.seen(sight(1, 1, 5_000));
    checker.seen(gone(1, 2, 6_000));
    checker.finish(true, &|_, id| id == 1);
    assert_eq!(checker.violations().phantom, 0, "a delete without an answer may have been applied");
    checker.finish(true, &none);
    assert_eq!(checker.violations().phantom, 1);
}

#[test]
fn a_signal_may_be_gone_before_the_answer_to_its_creation_is_heard() {
    let mut checker = Checker::new();
    checker.seen(gone(1, 3, 5_000));
    checker.accepted(write(1, 1));
    checker.accepted(write(1, 2));
    checker.accepted(delete(1, 3));
    assert_eq!(times(&mut checker), [(1, 5_000), (2, 5_000), (3, 5_000)]);
    assert_eq!((checker.foreign(), checker.outstanding()), (0, 0));
    checker.finish(true, &none);
    assert_eq!(checker.violations().total(), 0);
}
