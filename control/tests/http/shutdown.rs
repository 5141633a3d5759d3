//! SIGTERM, and the exit codes.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use infrastructure::{CONTROL, Signal, TestStack, executable, migrate};
use tokio::process::Command;

use crate::support::control;

#[tokio::test]
async fn on_sigterm_every_accepted_command_is_answered_and_the_process_is_gone_in_5_s() {
    let control = control("drain").await;
    let stopping = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..16)
        .map(|_| {
            let (client, stopping) = (control.client.clone(), Arc::clone(&stopping));
            let answered = Arc::clone(&answered);
            tokio::spawn(async move {
                let mut accepted = 0;
                loop {
                    match client.try_call("POST", "/v1/signals", &[], r#"{"title":"x"}"#).await {
                        Ok(reply) if reply.status == 201 => {
                            accepted += 1;
                            answered.fetch_add(1, Ordering::SeqCst);
                        }
                        Ok(reply) => assert!(reply.status == 503 && stopping.load(Ordering::SeqCst), "{reply:?}"),
                        // Refused, or never taken off the listener's queue.
                        Err(error) => {
                            assert!(stopping.load(Ordering::SeqCst), "{error}");
                            return accepted;
                        }
                    }
                }
            })
        })
        .collect();
    infrastructure::wait::until("commands to be under way", Duration::from_secs(20), || async {
        (answered.load(Ordering::SeqCst) >= 100).then_some(())
    })
    .await
    .unwrap();
    stopping.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    assert!(control.plane.signal(Signal::TERM));
    infrastructure::wait::until("the process to be gone", Duration::from_secs(5), || async {
        control.plane.pid().is_none().then_some(())
    })
    .await
    .unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5));
    let mut accepted = 0;
    for caller in callers {
        accepted += caller.await.unwrap();
    }
    assert!(control.plane.log_text().contains("stopped"), "{}", control.plane.log_text());
    control.plane.start().await.unwrap();
    let mut stored = 0;
    let mut path = "/v1/signals?limit=500".to_owned();
    loop {
        let page = control.client.get(&path).await;
        stored += page.json()["items"].as_array().unwrap().len();
        let Some(link) = page.header("link") else { break };
        path = link.trim_start_matches('<').split_once('>').unwrap().0.to_owned();
    }
    assert_eq!(stored, accepted, "each command that was applied had its answer, and the other way round");
}

#[tokio::test]
async fn the_subcommands_speak_by_exit_code_and_print_the_secret_alone() {
    let namespace = TestStack::shared().await.namespace("commands").await;
    let run = |args: &'static [&'static str], url: Option<&'static str>| {
        let mut command = Command::new(executable(CONTROL).unwrap());
        command.args(args).envs(namespace.env()).stdin(Stdio::null()).current_dir(std::env::temp_dir());
        if let Some(url) = url {
            command.env("NEXUS_DATABASE_URL", url);
        }
        async move {
            let output = command.output().await.unwrap();
            let text = |bytes| String::from_utf8(bytes).unwrap();
            (output.status.code(), text(output.stdout), text(output.stderr))
        }
    };
    let (code, out, err) = run(&["create-admin"], None).await;
    assert_eq!((code, out.as_str()), (Some(1), ""), "before migrate: {err}");
    assert!(err.contains("migrate"), "{err}");
    migrate(&namespace).await.unwrap();
    assert_eq!(run(&["migrate"], None).await.0, Some(0), "again");
    let (code, out, _) = run(&["create-admin", "--name", "root"], None).await;
    assert_eq!(code, Some(0));
    assert!(out.starts_with("nxs_") && out.ends_with('\n') && out.lines().count() == 1, "{out}");
    let (code, out, _) = run(&["create-admin", "--name", "root"], None).await;
    assert_eq!((code, out.as_str()), (Some(0), ""), "again: nothing");
    let (code, out, _) = run(&["create-admin", "--name", "root", "--new-key"], None).await;
    assert_eq!((code, out.lines().count()), (Some(0), 1));
    for args in [
        &["create-admin", "--name", "Not a name"][..],
        &["serve", "--no-such"],
        &[],
        &["migrate", "--partitions", "25"],
    ] {
        assert_eq!(run(args, None).await.0, Some(2), "{args:?}");
    }
    let (code, _, err) = run(&["migrate"], Some("postgres://nobody@127.0.0.1:1/x")).await;
    // NEXUS_MIGRATE_URL still reaches the database: the role does not exist.
    assert_eq!(code, Some(1), "{err}");
    let (code, help, _) = run(&["serve", "--help"], None).await;
    assert_eq!(code, Some(0));
    assert!(help.contains("[default: 127.0.0.1:8000]") && help.contains("NEXUS_TOPIC_PREFIX"), "{help}");
    assert!(
        !help.contains("postgres://nexus:nexus@") || !help.contains(&namespace.database_url()),
        "no secrets of the environment"
    );
}
