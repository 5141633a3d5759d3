//! Tests of the tester: planes that break a promise on purpose are found out by `loadgen`'s checker, by the right name,
//! and planes that merely meet the faults which the promises are about are not.
//!
//! Needs executables that can be sabotaged: `cargo build --workspace --bins --features sabotage`, as `make test` does.

mod run;

use std::time::Duration;

use infrastructure::{Namespace, Plane, TestStack, wait};
use run::{Load, Verdict, planes, turn};
use runtime::sabotage::Sabotage;
use sqlx::Connection as _;

/// Each sabotage, with the fault that its guard is there for, and what it must be called.
const NAMED: [(&str, &str); 13] = [
    ("drop-version-fence,old-events-again", "regressed"),
    ("reorder-events,drop-version-fence", "regressed"),
    // Every third batch, because on a busy machine there are few: at every seventh one such run lost nothing.
    ("checkpoint-first,fail-midway=3", "lost"),
    ("resurrect-on-replay,old-events-again", "resurrected"),
    ("delete-without-version", "regressed"),
    ("corrupt-value", "phantom"),
    ("wrong-document", "phantom"),
    ("skip-index", "view_mismatch"),
    ("ignore-token", "stale_with_token"),
    ("stale-cache", "regressed"),
    ("lose-event=100", "lost"),
    ("answer-before-commit", "lost"),
    (CONFIRM, "lost"),
];
const CONFIRM: &str = "confirm-before-publish";
/// The faults, with no guard taken away.
const FAULTS: [&str; 2] = ["fail-midway", "old-events-again,reorder-events"];

/// Starts the planes with the sabotage whose line begins with `name`, runs a load, and looks how it was called.
async fn is_named(name: &str) {
    let (armed, violation) = *NAMED.iter().find(|(armed, _)| armed.starts_with(name)).expect("in the list");
    let _turn = turn(armed == CONFIRM).await;
    let (namespace, planes) = planes(armed).await;
    let verdict = if armed == CONFIRM {
        let second = Plane::control(&namespace).name("control-b").env("NEXUS_SABOTAGE", armed);
        let second = second.start().await.expect("a second control plane");
        let load = Load::start(&second, &planes.dataplane, planes.api_key()).await;
        let broker = &TestStack::shared().await.servers().broker;
        broker.pause();
        unpublished_is_confirmed(&namespace).await;
        planes.control.kill().await;
        broker.resume();
        load.verdict().await
    } else {
        Load::start(&planes.control, &planes.dataplane, planes.api_key()).await.verdict().await
    };
    let Verdict { exit_code, summary } = &verdict;
    let found = summary["violations"][violation].as_u64().unwrap_or(0);
    println!("{armed}: {} {}", summary["violations"], summary["examples"]);
    assert_eq!((*exit_code, verdict.word()), (Some(4), "INCORRECT"), "{armed} went unnoticed: {summary:#}");
    assert!(found > 0, "{armed} was not called {violation}: {summary:#}");
}

/// Returns once the slot has passed what was written while the broker was away.
async fn unpublished_is_confirmed(namespace: &Namespace) {
    let mut admin = sqlx::PgConnection::connect(&namespace.database_admin_url()).await.expect("Postgres");
    let now: String =
        sqlx::query_scalar("SELECT pg_current_wal_lsn()::text").fetch_one(&mut admin).await.expect("an LSN");
    let admin = tokio::sync::Mutex::new(admin);
    wait::until("the slot to pass what is unpublished", Duration::from_secs(10), || async {
        let passed = "SELECT confirmed_flush_lsn > $1::text::pg_lsn FROM pg_replication_slots WHERE slot_name = $2";
        let passed = sqlx::query_scalar(passed).bind(&now).bind(namespace.slot());
        let passed: bool = passed.fetch_one(&mut *admin.lock().await).await.expect("the slot");
        passed.then_some(())
    })
    .await
    .expect("confirmed too early");
}

macro_rules! named {
    ($($test:ident: $name:literal;)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            is_named($name).await;
        })*
    };
}

named! {
    an_old_event_over_a_newer_one_is_named: "drop-version-fence";
    an_event_that_overtook_another_is_named: "reorder-events";
    a_checkpoint_before_its_documents_is_named: "checkpoint-first";
    a_deletion_undone_by_a_replay_is_named: "resurrect-on-replay";
    a_deletion_without_its_version_is_named: "delete-without-version";
    a_value_that_nobody_wrote_is_named: "corrupt-value";
    a_document_in_the_place_of_another_is_named: "wrong-document";
    a_document_missing_in_lists_is_named: "skip-index";
    a_read_that_ignores_its_token_is_named: "ignore-token";
    a_view_server_that_never_looks_again_is_named: "stale-cache";
    a_lost_event_is_named: "lose-event";
    an_answer_without_a_commit_is_named: "answer-before-commit";
    a_slot_confirmed_before_the_broker_has_it_is_named: "confirm-before-publish";
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planes_that_keep_their_promises_pass() {
    let _turn = turn(true).await;
    let (_namespace, planes) = planes("").await;
    let mut said = Vec::new();
    // A machine that is busy with something else makes the generator late, which it says.
    for _ in 0..3 {
        let verdict = Load::start(&planes.control, &planes.dataplane, planes.api_key()).await.verdict().await;
        assert_eq!(verdict.violations(), 0, "{:#}", verdict.summary);
        if verdict.word() == "PASS" {
            assert_eq!(verdict.exit_code, Some(0));
            return;
        }
        assert_eq!(verdict.word(), "INVALID", "{:#}", verdict.summary);
        said.push(verdict.summary["reasons"].clone());
    }
    panic!("no run was valid: {said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_scripts_and_a_killed_relay_break_no_promise() {
    let _turn = turn(false).await;
    let (namespace, planes) = planes(FAULTS[0]).await;
    let second = Plane::control(&namespace).name("control-b").start().await.expect("a second control plane");
    let load = Load::start(&second, &planes.dataplane, planes.api_key()).await;
    planes.control.kill().await;
    is_harmless(&load.verdict().await);
    assert!(planes.dataplane.log_text().contains("failed midway"), "no script failed: {}", planes.dataplane.log_text());
}

// Without a kill: what such a relay numbers and holds back is not in the WAL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_events_and_late_ones_break_no_promise() {
    let _turn = turn(false).await;
    let (_namespace, planes) = planes(FAULTS[1]).await;
    is_harmless(&Load::start(&planes.control, &planes.dataplane, planes.api_key()).await.verdict().await);
}

fn is_harmless(verdict: &Verdict) {
    assert_eq!(verdict.violations(), 0, "{:#}", verdict.summary);
    assert_eq!(verdict.summary["outstanding"], 0, "{:#}", verdict.summary);
}

#[test]
fn every_sabotage_has_its_test() {
    let mut tried: Vec<&str> = NAMED.iter().flat_map(|(armed, _)| armed.split(',')).collect();
    tried.extend(FAULTS.iter().flat_map(|faults| faults.split(',')));
    for sabotage in Sabotage::ALL {
        let name = sabotage.name();
        assert!(tried.iter().any(|armed| armed.split('=').next() == Some(name)), "{name} is never tried");
    }
}
