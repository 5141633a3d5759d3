//! The checker names each kind of breach that a server can commit.

mod support;

use loadgen::summary::{Summary, Verdict};
use support::stub::Faults;
use support::{alone, go, go_on_both, stub, undisturbed};

fn sabotaged(faults: Faults) -> Summary {
    let _alone = alone();
    let stub = stub(faults);
    go(&stub, "--rate 400 --duration 2s --mix create=40,update=40,delete=20 --reads 100 --drain-timeout 10s").summary
}

#[test]
fn a_version_that_goes_back_is_named() {
    let summary = sabotaged(Faults { regress_every: Some(40), ..Faults::default() });
    assert_eq!(summary.verdict, Verdict::Incorrect);
    assert!(summary.violations.regressed > 0, "{:?}", summary.violations);
}

#[test]
fn a_watch_that_tells_before_reads_show_it_flatters_and_is_named() {
    let summary = sabotaged(Faults { reads_late: std::time::Duration::from_millis(20), ..Faults::default() });
    assert_eq!(summary.verdict, Verdict::Incorrect);
    assert!(summary.violations.regressed > 0, "{:?}", summary.violations);
    let check = summary.cross_check.unwrap();
    assert!(check.contradictions > 0 && !check.agree, "{check:?}");
}

#[test]
fn what_one_of_two_view_servers_never_shows_is_lost() {
    let _alone = alone();
    let stub = stub(Faults { second_loses_every: Some(100), ..Faults::default() });
    let summary = go_on_both(&stub, "--rate 400 --duration 2s --mix create=100 --drain-timeout 10s").summary;
    assert_eq!(summary.verdict, Verdict::Incorrect);
    let [first, second] = &summary.l2c_by_view[..] else { panic!("{:?}", summary.l2c_by_view) };
    assert_eq!((first.outstanding, second.outstanding), (0, summary.violations.lost));
    assert!(summary.violations.lost > 5, "{:?}", summary.violations);
    assert_eq!(summary.l2c.unwrap().count, summary.accepted);
}

#[test]
fn a_deleted_signal_that_comes_back_is_named() {
    let summary = sabotaged(Faults { resurrect_every: Some(7), ..Faults::default() });
    assert_eq!(summary.verdict, Verdict::Incorrect);
    assert!(summary.violations.resurrected > 0, "{:?}", summary.violations);
}

#[test]
fn a_document_that_nobody_wrote_is_named() {
    let summary = sabotaged(Faults { forge_every: Some(40), ..Faults::default() });
    assert_eq!(summary.verdict, Verdict::Incorrect);
    assert!(summary.violations.phantom > 0, "{:?}", summary.violations);
}

#[test]
fn a_read_that_ignores_its_token_is_named() {
    let summary = sabotaged(Faults { ignore_tokens: true, ..Faults::default() });
    assert_eq!(summary.verdict, Verdict::Incorrect);
    assert!(summary.violations.stale_with_token > 0, "{:?}", summary.violations);
}

#[test]
fn a_view_that_differs_from_postgres_is_named() {
    let summary = sabotaged(Faults { corrupt_every: Some(97), ..Faults::default() });
    assert_eq!(summary.verdict, Verdict::Incorrect);
    assert!(summary.violations.view_mismatch > 0, "{:?}", summary.violations);
    assert!(summary.examples.iter().any(|text| text.contains("differs in its bytes")), "{:?}", summary.examples);
}

#[test]
fn a_version_that_two_accepted_writes_were_given_is_named() {
    let summary = sabotaged(Faults { same_version_every: Some(20), ..Faults::default() });
    assert_eq!(summary.verdict, Verdict::Incorrect);
    assert!(summary.violations.same_version > 0, "{:?}", summary.violations);
    assert!(summary.examples.iter().any(|text| text.starts_with("same_version: ")), "{:?}", summary.examples);
}

#[test]
fn an_accepted_update_without_effect_is_named() {
    let summary = sabotaged(Faults { ineffective_every: Some(20), ..Faults::default() });
    assert_eq!(summary.verdict, Verdict::Incorrect);
    assert!(summary.unchanged > 0 && summary.violations.lost >= summary.unchanged, "{:?}", summary.violations);
    assert_eq!(summary.violations.total(), summary.violations.lost, "{:?}", summary.examples);
    assert!(summary.examples.iter().any(|text| text.contains("is another one's")), "{:?}", summary.examples);
}

#[test]
fn a_lost_event_is_named() {
    let summary = sabotaged(Faults { lose_every: Some(100), ..Faults::default() });
    assert_eq!(summary.verdict, Verdict::Incorrect);
    assert!(summary.violations.lost > 0, "{:?}", summary.violations);
}

#[test]
fn answers_that_never_come_are_settled_by_their_idempotency_keys() {
    let _alone = alone();
    let faults = Faults { cut_every: Some(20), ..Faults::default() };
    let line = "--rate 400 --duration 2s --mix create=40,update=40,delete=20 --reads 100 --drain-timeout 10s";
    let summary = undisturbed(&faults, line).1.summary;
    assert_eq!(summary.verdict, Verdict::Pass, "{:?} {:?}", summary.reasons, summary.examples);
    assert!(summary.settled > 10, "{}", summary.settled);
    assert_eq!((summary.unknown, summary.accepted), (0, summary.sent));
}

#[test]
fn without_idempotency_keys_they_stay_unknown_and_are_no_phantoms() {
    let _alone = alone();
    let stub = stub(Faults { cut_every: Some(20), ..Faults::default() });
    let summary = go(&stub, "--rate 400 --duration 2s --preload 0 --no-idempotency").summary;
    assert!(summary.unknown > 10, "{}", summary.unknown);
    assert_eq!(summary.violations.total(), 0, "{:?}", summary.examples);
}
