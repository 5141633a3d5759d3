//! The command line against a stub of both planes: exit codes, what goes where, and faults.

#[path = "cli/stub.rs"]
mod stub;

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use stub::{Fault, KEY, Stub};

const DEADLINE: Duration = Duration::from_secs(30);
const UNKNOWN: &str = "01920000-0000-7000-8000-ffffffffffff";
const FIRST: &str = "01920000-0000-7000-8000-000000000001";

/// A directory of this test's own, empty.
fn scratch(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).expect("a scratch directory");
    path
}

fn bare(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nexus-cli"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.current_dir(env!("CARGO_TARGET_TMPDIR"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("NEXUS_")) {
        command.env_remove(name);
    }
    command
}

fn cli(stub: &Stub, arguments: &[&str]) -> Command {
    let mut command = bare(arguments);
    command.env("NEXUS_CONTROL_URL", &stub.url).env("NEXUS_DATAPLANE_URL", &stub.url).env("NEXUS_API_KEY", KEY);
    command
}

async fn finish(mut command: Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } =
        timeout(DEADLINE, command.output()).await.expect("the command ends in time").expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("no signal ended it"), text(stdout), text(stderr))
}

async fn run(stub: &Stub, arguments: &[&str]) -> (i32, String, String) {
    finish(cli(stub, arguments)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_tell_what_happened() {
    let stub = Stub::start().await;
    stub.fill(3);
    for (arguments, code) in [
        (vec!["list"], 0),
        (vec!["get", FIRST], 0),
        (vec!["get", UNKNOWN], 4),
        (vec!["delete", UNKNOWN], 4),
        (vec!["update", UNKNOWN, "--title", "x"], 4),
        (vec!["update", FIRST], 2),
        (vec!["list", "--status", "open"], 2),
        (vec!["create", "--title", "x", "--payload", "[]"], 2),
        (vec!["create", "--title", " "], 1),
        (vec!["list", "--api-key", "nxs_bad"], 1),
        (vec!["wait", FIRST, "--version", "1"], 0),
        (vec!["wait", FIRST, "--version", "2", "--timeout", "50ms"], 5),
        (vec!["wait", UNKNOWN, "--version", "1", "--timeout", "50ms"], 5),
        (vec!["update", FIRST, "--title", "x", "--if-match", "9"], 1),
        (vec!["update", FIRST, "--title", "x", "--if-match", "1"], 0),
        (vec!["import", "no-such-file"], 1),
        (vec!["import", "x", "--identities"], 2),
        (vec!["--control-url", "nonsense", "create", "--title", "x"], 2),
        (vec!["status"], 0),
        (vec!["doctor", "--write"], 0),
        (vec!["lag"], 0),
        (vec!["--version"], 0),
        (vec!["--help"], 0),
    ] {
        let (got, out, err) = run(&stub, &arguments).await;
        assert_eq!(got, code, "{arguments:?}\n{out}\n{err}");
        assert!(code == 0 || (out.is_empty() && !err.is_empty()), "{arguments:?} wrote to stdout: {out}");
    }
    stub.state().stale_reads = 1;
    let (code, _, err) = run(&stub, &["get", FIRST, "--token", "tok-1"]).await;
    assert_eq!(code, 5, "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_at_its_timeout_though_the_server_is_frozen() {
    // The kernel takes the connection; nobody answers.
    let frozen = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", frozen.local_addr().expect("bound"));
    let mut command = bare(&["wait", FIRST, "--version", "1", "--timeout", "1500ms"]);
    command.env("NEXUS_DATAPLANE_URL", &url).env("NEXUS_API_KEY", KEY);
    let begun = Instant::now();
    let (code, out, err) = finish(command).await;
    assert_eq!((code, out.as_str()), (5, ""), "{err}");
    assert!(err.contains(&url) && err.contains("does not answer"), "{err}");
    assert!(begun.elapsed() < DEADLINE / 2, "it took {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_problem_is_one_line_with_pointers_and_advice() {
    let stub = Stub::start().await;
    let (_, _, err) = run(&stub, &["create", "--title", " ", "--target", "me"]).await;
    assert_eq!(err.lines().count(), 1, "{err}");
    for part in ["error: ", "/title must not be blank", "/target ", "422 validation", "request stub-1"] {
        assert!(err.contains(part), "{part} is not in {err}");
    }
    let (_, _, err) = run(&stub, &["list", "--api-key", ""]).await;
    assert!(err.contains("NEXUS_API_KEY") && err.lines().count() == 1, "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_server_is_named_with_its_setting() {
    // Nothing listens on the discard port of the loopback interface.
    for (arguments, setting) in [
        (vec!["list", "--dataplane-url", "http://127.0.0.1:9"], "NEXUS_DATAPLANE_URL"),
        (vec!["create", "--title", "x", "--control-url", "http://127.0.0.1:9"], "NEXUS_CONTROL_URL"),
        (vec!["import", "-", "--control-url", "http://127.0.0.1:9"], "NEXUS_CONTROL_URL"),
    ] {
        let mut command = bare(&arguments);
        command.stdin(Stdio::piped());
        let mut child = command.spawn().expect("it runs");
        let mut stdin = child.stdin.take().expect("piped");
        tokio::io::AsyncWriteExt::write_all(&mut stdin, b"{\"title\":\"a\"}\n").await.ok();
        drop(stdin);
        let output = timeout(DEADLINE, child.wait_with_output()).await.expect("in time").expect("ended");
        let err = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(1), "{err}");
        assert!(err.contains(setting) && err.contains("http://127.0.0.1:9") && err.contains("refused"), "{err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_go_through_pages_and_formats() {
    let stub = Stub::start().await;
    stub.fill(1203);
    let (_, out, err) = run(&stub, &["list", "-o", "name"]).await;
    assert_eq!(out.lines().count(), 50);
    assert!(err.contains("--cursor 50"), "{err}");
    let (_, out, err) = run(&stub, &["list", "-o", "name", "--limit", "700"]).await;
    assert!(out.lines().count() == 700 && err.contains("--cursor 700"), "{err}");
    let (_, out, err) =
        run(&stub, &["list", "--all", "-o", "jsonl", "--status", "pending,active", "--order=-created"]).await;
    assert!(out.lines().count() == 1203 && err.is_empty(), "{err}");
    assert!(
        stub.state()
            .asked
            .last()
            .expect("asked")
            .contains("status=pending,active&order=-created&limit=500&cursor=1000")
    );
    assert_eq!(out.lines().next(), stub.state().signals.values().next().map(|(_, text)| text.as_str()));
    stub.state().pages_away = 1;
    let (code, out, err) = run(&stub, &["export"]).await;
    assert!(code == 0 && err.contains("trying again in 1.0 s"), "{err}");
    assert_eq!(out.lines().collect::<HashSet<_>>().len(), 1203);
    let (_, out, _) = run(&stub, &["list", "--all", "-o", "json"]).await;
    let parsed: Vec<serde_json::Value> = serde_json::from_str(&out).expect("JSON");
    assert_eq!(parsed.len(), 1203);
    let (_, out, _) = run(&stub, &["list"]).await;
    assert!(out.starts_with("ID ") && !out.contains('\x1b'), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_pipe_is_no_error() {
    let stub = Stub::start().await;
    stub.fill(5000);
    let mut child = cli(&stub, &["export"]).spawn().expect("it runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    timeout(DEADLINE, lines.next_line()).await.expect("a first line in time").expect("readable").expect("a line");
    drop(lines);
    let output = timeout(DEADLINE, child.wait_with_output()).await.expect("it ends").expect("ended");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_waits_reads_with_its_token_until_it_is_visible() {
    let stub = Stub::start().await;
    stub.state().stale_reads = 3;
    let (code, out, err) =
        run(&stub, &["create", "--title", "x", "--payload", r#"{"b": 1.0}"#, "--wait", "-o", "json"]).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("\"b\": 1.0") && err.contains("visible after"), "{out}{err}");
    assert_eq!(stub.state().stale_reads, 0);
    stub.state().stale_reads = 1_000_000;
    let (code, out, err) = run(&stub, &["create", "--title", "x", "--wait=200ms"]).await;
    assert_eq!((code, out.as_str()), (5, ""), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_waits_ends_when_the_view_shows_it_no_more() {
    let stub = Stub::start().await;
    stub.fill(4);
    stub.state().stale_reads = 3;
    let (code, out, err) = run(&stub, &["delete", FIRST, "--wait"]).await;
    assert_eq!((code, out.as_str()), (0, ""), "{err}");
    assert!(err.starts_with(&format!("deleted {FIRST}; gone from the view after ")), "{err}");
    assert_eq!(stub.state().stale_reads, 0);

    let rest = [2, 3, 4].map(|n| format!("01920000-0000-7000-8000-{n:012x}"));
    let (code, _, err) = run(&stub, &["delete", "--wait", &rest[0], UNKNOWN, &rest[1]]).await;
    assert!(code == 4 && err.matches("gone from the view").count() == 2, "{err}");
    stub.state().stale_reads = 1_000_000;
    let (code, _, err) = run(&stub, &["delete", &rest[2], "--wait=200ms"]).await;
    assert!(code == 5 && err.contains("The command is done"), "{err}");
    assert!(stub.state().signals.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_usage_line_of_an_error_asks_for_nothing_that_is_set_already() {
    let stub = Stub::start().await;
    for (arguments, usage) in [
        (vec!["get"], "Usage: nexus-cli get [OPTIONS] <ID>\n"),
        (vec!["create"], "Usage: nexus-cli create [OPTIONS] --title <TITLE>\n"),
        (vec!["identities", "keys", "list"], "Usage: nexus-cli identities keys list [OPTIONS] <IDENTITY>\n"),
        (vec!["--no-such-flag"], "Usage: nexus-cli [OPTIONS] <COMMAND>\n"),
    ] {
        let (code, _, err) = run(&stub, &arguments).await;
        assert!(code == 2 && err.contains(usage), "{arguments:?}: {err}");
        let help: Vec<&str> =
            arguments.iter().filter(|word| !word.starts_with('-')).copied().chain(["--help"]).collect();
        assert!(run(&stub, &help).await.1.contains(usage), "{help:?}");
    }
}

/// A file of `count` lines with distinct titles, the `bad` ones (from 1) refused by the server or here.
fn write_lines(path: &std::path::Path, count: usize, bad: &[usize]) {
    let line = |i: usize| match bad.iter().position(|b| *b == i) {
        Some(which) if which % 2 == 0 => format!("{{\"title\":\"t{i}\",\"priority\":\"urgent\"}}\n"),
        Some(_) => "{\"title\":\n".to_owned(),
        None => format!("{{\"title\":\"t{i}\"}}\n"),
    };
    std::fs::write(path, (1..=count).map(line).collect::<String>()).expect("written");
}

fn titles(stub: &Stub) -> Vec<String> {
    let of = |text: &String| serde_json::from_str::<serde_json::Value>(text).expect("JSON")["title"].to_string();
    stub.state().signals.values().map(|(_, text)| of(text)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_killed_in_the_middle_and_run_again_creates_nothing_twice_and_misses_nothing() {
    let stub = Stub::start().await;
    let dir = scratch("resume");
    let file = dir.join("in.jsonl");
    write_lines(&file, 2350, &[700, 701, 2349]);
    let file = file.to_str().expect("UTF-8");
    // Each of the two connections gets stuck on a batch that is applied but never answered.
    stub.state().batch_faults.extend([Fault::AppliedButSilent, Fault::AppliedButSilent]);
    let arguments = ["import", file, "--batch-size", "200", "--in-flight", "2"];
    let mut child = cli(&stub, &arguments).spawn().expect("it runs");
    timeout(DEADLINE, async {
        loop {
            let came = stub.came.notified();
            if stub.state().batches >= 2 {
                return;
            }
            came.await;
        }
    })
    .await
    .expect("two batches came");
    child.kill().await.expect("killed");
    assert_eq!(titles(&stub).len(), 400);

    let (code, out, err) = run(&stub, &arguments).await;
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(err.contains("line 700: /priority must be one of") && err.contains("line 701: is not JSON"), "{err}");
    assert!(err.contains("line 2349: ") && !err.contains("/commands/"), "{err}");
    assert!(err.contains("1947 created, 400 were there from an earlier run, 3 rejected"), "{err}");
    assert!(err.contains("signals/s"), "{err}");
    let all = titles(&stub);
    assert_eq!((all.len(), all.iter().collect::<HashSet<_>>().len()), (2347, 2347));

    let rejects = dir.join("rejects.jsonl");
    let mut arguments = arguments.to_vec();
    arguments.extend(["--rejects", rejects.to_str().expect("UTF-8"), "-o", "json"]);
    let (code, out, _) = run(&stub, &arguments).await;
    let sum: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &sum["created"], &sum["replayed"]), (1, &0.into(), &2347.into()));
    assert_eq!(std::fs::read_to_string(&rejects).expect("written").lines().count(), 3);
    arguments.extend(["--run", "again"]);
    run(&stub, &arguments).await;
    assert_eq!(titles(&stub).len(), 2 * 2347);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_outlasts_a_server_that_is_away_or_cuts_the_line() {
    let stub = Stub::start().await;
    let file = scratch("away").join("in.jsonl");
    write_lines(&file, 90, &[]);
    let faults = [Fault::Away(1), Fault::Away(0), Fault::AppliedButCut];
    stub.state().batch_faults.extend(faults);
    let arguments = ["import", file.to_str().expect("UTF-8"), "--batch-size", "10", "--in-flight", "1", "-o", "name"];
    let (code, out, err) = run(&stub, &arguments).await;
    assert_eq!((code, out.lines().count()), (0, 90), "{err}");
    assert!(err.contains("trying again in 1.0 s") && err.contains("Postgres is away"), "{err}");
    assert_eq!(titles(&stub).into_iter().collect::<HashSet<_>>().len(), 90);
    assert_eq!(stub.state().signals.len(), 90);
    let mut ids: Vec<&str> = out.lines().collect();
    ids.sort_unstable();
    assert!(out.lines().eq(ids), "ids are in the order of the lines");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_after_its_last_event_when_the_connection_breaks() {
    let stub = Stub::start().await;
    let event = |kind: &str, id: u32, version: u32| {
        format!("event: {kind}\nid: e{id}\ndata: {{\"id\":\"s{version}\",\"version\":{version},\"title\":\"a\"}}\n\n")
    };
    stub.state().streams.extend([
        format!(
            "{}event: ready\nid: e1\ndata: {{}}\n\n: beat\n\n{}event: upd",
            event("created", 1, 1),
            event("updated", 2, 2)
        ),
        format!(": again\n\n{}{}", event("updated", 3, 3), event("deleted", 4, 4)),
    ]);
    let (code, out, err) = run(&stub, &["watch", "--status", "pending", "-o", "jsonl", "--count", "4"]).await;
    assert_eq!(code, 0, "{err}");
    let events: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let told: Vec<&str> = events.iter().map(|e| e["event"].as_str().expect("text")).collect();
    assert_eq!(told, ["created", "ready", "updated", "updated", "deleted"]);
    assert_eq!(events[4]["data"]["version"], 4);
    assert_eq!(stub.state().resumed_from, [None, Some("e2".to_owned())]);
    assert!(err.contains("the stream ended") && err.contains("connected again"), "{err}");

    stub.state().streams.push_back(format!("{}{}", event("created", 1, 1), event("deleted", 2, 2)));
    let (_, out, _) = run(&stub, &["watch", "--count", "2"]).await;
    assert!(out.lines().count() == 2 && out.starts_with("created   s1  v1"), "{out}");
    let (code, _, err) = run(&stub, &["watch", "--api-key", "nxs_bad"]).await;
    assert_eq!((code, err.lines().count()), (1, 1), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_come_from_flags_before_environment_before_the_env_file() {
    let stub = Stub::start().await;
    let dir = scratch("env");
    std::fs::write(dir.join(".env"), format!("NEXUS_DATAPLANE_URL={}\nNEXUS_API_KEY={KEY}\n", stub.url))
        .expect("written");
    let at = |arguments: &[&str]| {
        let mut command = bare(arguments);
        command.current_dir(&dir);
        command
    };
    assert_eq!(finish(at(&["list"])).await.0, 0);
    let mut command = at(&["list"]);
    command.env("NEXUS_API_KEY", "nxs_bad");
    assert_eq!(finish(command).await.0, 1);
    let mut command = at(&["list", "--api-key", KEY]);
    command.env("NEXUS_API_KEY", "nxs_bad");
    assert_eq!(finish(command).await.0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_what_to_do_about_each_failure() {
    let stub = Stub::start().await;
    let (code, out, _) = run(&stub, &["doctor", "--write"]).await;
    assert!(code == 0 && out.contains("visible after"), "{out}");
    assert!(stub.state().signals.is_empty(), "the doctor takes its signal away");
    let (code, out, _) =
        run(&stub, &["doctor", "--api-key", "bad", "--dataplane-url", "http://127.0.0.1:9", "-o", "json"]).await;
    assert_eq!(code, 1);
    let checks: Vec<serde_json::Value> = serde_json::from_str(&out).expect("JSON");
    let failed: Vec<&str> =
        checks.iter().filter(|c| c["result"] == "fail").map(|c| c["check"].as_str().expect("text")).collect();
    assert_eq!(failed, ["API key setting", "data plane", "API key on the control plane"], "{out}");
    let (_, out, _) = run(&stub, &["lag"]).await;
    assert!(out.contains("lag 2 events; freshness 0.002 s"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_alone_and_completions_are_data() {
    let stub = Stub::start().await;
    let keys =
        ["identities", "keys", "create", "01920000-0000-7000-8000-00000000aaaa", "--name", "ci", "--secret-only"];
    assert_eq!(run(&stub, &keys).await.1, "nxs_secret\n");
    for shell in ["bash", "zsh", "fish"] {
        let (code, out, _) = run(&stub, &["completions", shell]).await;
        assert!(code == 0 && out.contains("import") && out.contains("critical"), "{shell}");
    }
    let mut child = cli(&stub, &["completions", "zsh"]).spawn().expect("it runs");
    let mut stdout = child.stdout.take().expect("piped");
    let mut some = [0; 1];
    stdout.read_exact(&mut some).await.expect("a byte");
    drop(stdout);
    assert!(timeout(DEADLINE, child.wait()).await.expect("it ends").expect("ended").success());
}
