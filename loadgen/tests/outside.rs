//! The executable as its users and other tools meet it.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::stub::{API_KEY, Faults, Stub};
use support::{alone, go, stub};

fn loadgen(stub: Option<&Stub>, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(line.split_whitespace()).stdin(Stdio::null());
    for name in ["NEXUS_CONTROL_URL", "NEXUS_DATAPLANE_URL", "NEXUS_API_KEY"] {
        command.env_remove(name);
    }
    if let Some(stub) = stub {
        command.env("NEXUS_CONTROL_URL", &stub.control).env("NEXUS_DATAPLANE_URL", &stub.view);
        command.env("NEXUS_API_KEY", API_KEY);
    }
    command
}

fn ends(stub: Option<&Stub>, line: &str) -> (i32, String) {
    let Output { status, stderr, stdout } = loadgen(stub, line).output().unwrap();
    let text = String::from_utf8_lossy(&stderr).into_owned() + &String::from_utf8_lossy(&stdout);
    (status.code().unwrap(), text)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn bad_input_ends_in_a_clear_line_and_the_right_code() {
    let _alone = alone();
    let stub = stub(Faults::default());
    let usage = [
        "run --rate 0",
        "run --rate 1e12",
        "run --rate fast",
        "run --slo l2c:p101<1ms",
        "run --slo lost",
        "run --mix create=0",
        "run --duration -1s",
        "sprint",
    ];
    for line in usage {
        let (code, text) = ends(Some(&stub), line);
        assert_eq!(code, 2, "{line}: {text}");
        assert!(text.starts_with("error: "), "{line}: {text}");
    }
    let set_up = [
        ("run --control-url http://127.0.0.1:9", "does not answer"),
        ("run --control-url ftp://127.0.0.1", "only http://"),
        ("run --dataplane-url http://no.such.host.invalid:1", "does not resolve"),
        ("run --api-key nxs_wrong", "does not know this API key"),
        ("run --duration 1s --out /proc/nowhere", "can't be made"),
        ("report /tmp/no-such-folder-of-runs", "no-such-folder-of-runs"),
    ];
    for (line, expected) in set_up {
        let (code, text) = ends(Some(&stub), line);
        assert_eq!(code, 1, "{line}: {text}");
        assert!(text.contains(expected), "{line}: {text}");
        assert_eq!(text.lines().count(), 1, "{line}: {text}");
    }
    let (code, text) = ends(None, "run");
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("no API key"), "{text}");
}

#[test]
fn a_run_leaves_a_whole_report_that_other_tools_read() {
    let _alone = alone();
    let stub = stub(Faults::default());
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let line = format!("run --rate 400 --duration 2s --warmup 1s --preload 50 --reads 50 --out {}", out.display());
    let (code, text) = ends(Some(&stub), &line);
    assert_eq!(code, 0, "{text}");
    assert!(text.lines().any(|line| line.starts_with("measuring ") && line.ends_with('Z')), "{text}");
    let summary = json(&out.join("summary.json"));
    for member in [
        "verdict",
        "reasons",
        "interrupted",
        "offered_per_s",
        "achieved_per_s",
        "sent",
        "accepted",
        "refused",
        "rejected",
        "failed",
        "timed_out",
        "unknown",
        "preloaded",
        "warmup_s",
        "measured_s",
        "drain_s",
        "command",
        "read",
        "l2c",
        "send_delay",
        "outstanding",
        "lag_slope_per_s",
        "violations",
    ] {
        assert!(summary.get(member).is_some(), "{member}");
    }
    for measure in ["command", "read", "l2c", "send_delay"] {
        for member in ["count", "p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms"] {
            assert!(summary[measure][member].is_number(), "{measure}.{member}");
        }
    }
    let kinds = ["lost", "regressed", "resurrected", "phantom", "stale_with_token", "view_mismatch", "same_version"];
    for kind in kinds {
        assert_eq!(summary["violations"][kind], 0, "{kind}");
    }
    let manifest = std::fs::read_to_string(out.join("manifest.json")).unwrap();
    assert!(!manifest.contains(API_KEY));
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("PASS"));
    assert!(!page.contains("<script src") && !page.contains("<link"), "the page needs nothing but itself");

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/read_hlog.py");
    let read = |file: &str| -> Value {
        let output = Command::new("python3").arg(&script).arg(out.join(file)).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let totals = read("total.hlog");
    for (measure, name, member) in
        [("l2c", "p50", "p50_ms"), ("l2c", "p99", "p99_ms"), ("command", "max", "max_ms"), ("read", "p99", "p99_ms")]
    {
        let (theirs, ours) =
            (totals[measure][name].as_f64().unwrap() / 1e6, summary[measure][member].as_f64().unwrap());
        assert!((theirs - ours).abs() < 0.002 + ours / 1_000.0, "{measure} {name}: {theirs} and {ours}");
    }
    let intervals = read("run.hlog");
    assert_eq!(intervals["command"]["count"], 1_200, "warm-up and measurement");

    std::fs::remove_file(out.join("report.html")).unwrap();
    assert_eq!(ends(None, &format!("report {}", out.display())).0, 0);
    assert_eq!(std::fs::read_to_string(out.join("report.html")).unwrap(), page, "rendered again, it is the same");
    assert_eq!(ends(None, &format!("report {}", folder.path().display())).0, 0);
    assert!(std::fs::read_to_string(folder.path().join("README.md")).unwrap().contains("[run](run/report.html)"));
}

#[test]
fn ctrl_c_ends_a_run_early_with_a_valid_report() {
    let _alone = alone();
    let stub = stub(Faults::default());
    let folder = tempfile::tempdir().unwrap();
    let line = format!("run --rate 200 --duration 60s --warmup 0s --preload 10 --out {}", folder.path().display());
    let mut child = loadgen(Some(&stub), &line).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    let started = Instant::now();
    let mut killed = false;
    for line in lines {
        // The second row after the beginning: there is something to report.
        if !killed && line.unwrap().contains("3 s  measure") {
            killed = true;
            let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
            assert!(status.success());
        }
    }
    let status = child.wait().unwrap();
    assert!(started.elapsed() < Duration::from_secs(20), "the run went on after the signal");
    let summary = json(&folder.path().join("summary.json"));
    assert_eq!((status.code(), summary["interrupted"].as_bool()), (Some(0), Some(true)), "{summary}");
    let measured = summary["measured_s"].as_f64().unwrap();
    assert!((2.0..15.0).contains(&measured), "{measured}");
    assert_eq!(summary["sent"], summary["accepted"]);
    assert_eq!(summary["outstanding"], 0);
    assert!(folder.path().join("report.html").is_file());
}

#[test]
fn ctrl_c_in_a_sweep_leaves_a_report_of_what_was_tried_and_why_it_did_not_hold() {
    let _alone = alone();
    // 100 hold; of the commands of 400/s, some wait for more than 100 ms.
    let stub = stub(Faults::default());
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().display();
    let sweep = |slo: &str| {
        let line =
            format!("sweep --from 100 --factor 2 --duration 2s --warmup 0s --preload 20 --slo {slo} --out {out}");
        let mut child = loadgen(Some(&stub), &line).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut told = String::new();
        for line in std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap())) {
            told.push_str(&line.unwrap());
            told.push('\n');
            // In the measured phase of the third run.
            if told.ends_with("Z\n") && told.matches("measuring ").count() == 3 {
                assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
            }
        }
        let output = child.wait_with_output().unwrap();
        let headline = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), headline, told, json(&folder.path().join("sweep.json")))
    };

    // On a machine that stands still for a moment a run says nothing, for the generator's own lateness, and its rate is run
    // again. What is tested is what an interruption leaves, not the rates: the repetition can't make a wrong report right.
    let mut tried = Vec::new();
    let (code, headline, told, kept) = loop {
        let (code, headline, told, kept) = sweep("l2c:p99<5s");
        if headline.starts_with("interrupted on the way up, at 400 commands/s") {
            break (code, headline, told, kept);
        }
        tried.push(format!("{headline}{told}"));
        assert!(tried.len() < 5, "100 and 200 did not hold in one of five sweeps: {tried:#?}");
    };
    assert_eq!(code, Some(0), "{headline}{told}");
    assert!(headline.trim_end().ends_with("commands/s that held: 100, 200"), "{headline}");
    assert_eq!((kept["interrupted"].as_bool(), kept["points"].as_array().unwrap().len()), (Some(true), 3));
    let partial = json(&folder.path().join("03-400/summary.json"));
    assert_eq!(partial["interrupted"], true, "{partial}");
    let page = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
    assert!(page.contains("03-400/report.html") && folder.path().join("03-400/report.html").is_file());

    let (code, headline, told, kept) = sweep("l2c:p99<0.1ms");
    assert_eq!(code, Some(99), "{headline}{told}");
    assert!(headline.contains("100 (SLO_FAILED)"), "{headline}");
    assert!(told.contains("did not hold: l2c:p99<0.1ms does not hold: it was"), "{told}");
    let told_why = |point: &Value| point["why"][0].as_str().is_some_and(|why| why.starts_with("l2c:p99<0.1ms"));
    assert!(kept["points"].as_array().unwrap().iter().any(told_why), "{kept}");
}

#[test]
fn verify_tells_equal_planes_from_different_ones() {
    let _alone = alone();
    for (faults, expected) in [(Faults::default(), 0), (Faults { corrupt_every: Some(50), ..Faults::default() }, 4)] {
        let stub = stub(faults);
        go(&stub, "--rate 300 --duration 1s --no-verify");
        let (code, text) = ends(Some(&stub), "verify");
        assert_eq!(code, expected, "{text}");
    }
}

#[test]
fn verify_compares_each_view_server_with_postgres() {
    let _alone = alone();
    let stub = stub(Faults { second_lists_less: true, ..Faults::default() });
    go(&stub, "--rate 300 --duration 1s --no-verify");
    let host = |url: &str| url.trim_start_matches("http://").to_owned();
    let (code, text) = ends(Some(&stub), &format!("verify --dataplane-url {},{}", stub.view, stub.second_view));
    assert_eq!(code, 4, "{text}");
    assert!(text.contains(&format!(" 0 differ in the view of {}", host(&stub.view))), "{text}");
    assert!(text.contains(&format!(" differ in the view of {}", host(&stub.second_view))), "{text}");
}

#[test]
fn an_independent_prober_sees_the_same_latency() {
    let _alone = alone();
    let stub = stub(Faults::default());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/prober.py");
    let host = |url: &str| url.trim_start_matches("http://").to_owned();
    let prober = Command::new("python3")
        .arg(script)
        .args([&host(&stub.control), &host(&stub.view), API_KEY, "6", "20"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let summary = go(&stub, "--rate 200 --duration 5s").summary;
    let output = prober.wait_with_output().unwrap();
    let theirs: Value = serde_json::from_slice(&output.stdout).unwrap();
    println!("prober: {theirs}");
    assert!(theirs["samples"].as_u64().unwrap() >= 100);
    let (theirs, ours) = (theirs["p50_ms"].as_f64().unwrap(), summary.l2c.unwrap().p50_ms);
    assert!((theirs - ours).abs() < 1.0, "the prober says {theirs} ms, we say {ours} ms");
}

#[test]
fn a_sweep_finds_the_knee_of_a_server_of_known_capacity() {
    let _alone = alone();
    // One command at a time, 2 ms each: 500 a second, less what sleeping overshoots.
    let stub = stub(Faults { service: Duration::from_millis(2), ..Faults::default() });
    let folder = tempfile::tempdir().unwrap();
    let line = format!(
        "sweep --from 100 --to 2000 --factor 2 --precision 20 --repeats 1 --duration 2s --warmup 0.5s --preload 20 --drain-timeout 10s --slo l2c:p99<100ms --out {}",
        folder.path().display()
    );
    // A machine that stands still makes the knee too low, and never too high.
    let mut tried = Vec::new();
    loop {
        let (code, text) = ends(Some(&stub), &line);
        let knee = json(&folder.path().join("sweep.json"))["knee_per_s"].as_f64().unwrap_or(0.0);
        assert!(knee <= 500.0, "{knee}: {text}");
        if code == 0 && knee >= 100.0 {
            break;
        }
        tried.push(text);
        assert!(tried.len() < 3, "no sweep of three found the knee: {tried:#?}");
    }
    assert!(folder.path().join("sweep.svg").is_file() && folder.path().join("report.html").is_file());
}
