//! `make test` and `make bench` that are interrupted take everything along that they have started.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use infrastructure::{Process, Signal, wait};
use rustix::process::{Pid, kill_process_group};

const SOON: Duration = Duration::from_secs(30);

/// In place of cargo: builds nothing, and its tests and benches are a process in its group, and one in a session of its own that ends
/// a while later by itself, as the shells do that end servers.
const CARGO: &str = r#"#!/bin/sh
[ "$1" = test ] || [ "$1" = bench ] || exit 0
sleep 60 & echo $! >"$PIDS/member"
setsid sleep 3 & echo $! >"$PIDS/stray"
echo $$ >"$PIDS/cargo"
wait
"#;

fn script(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

/// Runs `make` with that cargo, sends `signal` to make, or to its whole group as a terminal does, and returns when
/// all has ended.
async fn interrupt(target_name: &str, signal: Signal, to_group: bool) {
    let dir = tempfile::tempdir().unwrap();
    let (bin, target, temporary) = (dir.path().join("bin"), dir.path().join("target"), dir.path().join("tmp"));
    script(&bin.join("cargo"), CARGO);
    for profile in ["debug", "release"] {
        script(&target.join(profile).join("nexus"), "#!/bin/sh\n");
    }
    std::fs::create_dir(&temporary).unwrap();
    // Who started this test in the background had it ignore the signals, and what is ignored can't be trapped.
    let mut command = Command::new("env");
    command.args(["--default-signal=HUP,INT,TERM", "make"]);
    // This test may itself run below a `make test`.
    for name in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL"] {
        command.env_remove(name);
    }
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut make = command
        .args(["-C", concat!(env!("CARGO_MANIFEST_DIR"), "/.."), target_name])
        .env("PATH", path)
        .env("PIDS", dir.path())
        .env("CARGO_TARGET_DIR", &target)
        .env("TMPDIR", &temporary)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let pid_of = |name: &str| std::fs::read_to_string(dir.path().join(name)).ok()?.trim().parse().ok();
    let started = wait::until("the tests to run", SOON, || async {
        let processes = ["member", "stray", "cargo"].map(|name| pid_of(name).and_then(Process::of));
        processes.iter().all(Option::is_some).then(|| processes.map(Option::unwrap))
    });
    let started = started.await.unwrap();
    let pid = make.id();
    if to_group {
        kill_process_group(Pid::from_child(&make), signal).unwrap();
    } else {
        Process::of(pid).unwrap().signal(signal);
    }
    wait::until("make to end", SOON, || {
        let ended = make.try_wait().unwrap();
        async move { ended }
    })
    .await
    .unwrap();
    for process in started {
        assert!(!process.is_alive(), "{process:?} outlives make");
    }
    let left: Vec<_> = std::fs::read_dir(&temporary).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn make_test_that_is_told_to_end_leaves_nothing_running() {
    interrupt("test", Signal::TERM, false).await;
}

#[tokio::test]
async fn make_test_whose_terminal_goes_away_or_sends_ctrl_c_leaves_nothing_running() {
    interrupt("test", Signal::HUP, true).await;
    interrupt("test", Signal::INT, true).await;
}

#[tokio::test]
async fn make_bench_that_is_interrupted_leaves_nothing_running() {
    interrupt("bench", Signal::INT, true).await;
    interrupt("bench", Signal::TERM, false).await;
}
