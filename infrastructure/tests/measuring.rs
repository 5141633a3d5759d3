//! What `loadgen` says of a whole stack, against what others see of it.
//!
//! Needs the executables: `cargo build --workspace --bins`.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use infrastructure::{Namespace, Plane, Planes, TestStack, executable};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Latencies are measured by one test at a time.
static ALONE: Mutex<()> = Mutex::const_new(());
/// A machine that is busy with something else makes generator and prober late.
const ATTEMPTS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(120);

async fn planes(name: &str, env: &[(&str, &str)]) -> (Namespace, Planes) {
    let namespace = TestStack::shared().await.namespace(name).await;
    let planes = Planes::start_with(&namespace, env).await.expect("planes");
    (namespace, planes)
}

/// What a run of `loadgen` left behind.
struct Run {
    summary: Value,
    manifest: Value,
}

impl Run {
    fn p50_ms(&self) -> f64 {
        self.summary["l2c"]["p50_ms"].as_f64().expect("a median")
    }
}

async fn loadgen(planes: &Planes, views: &[&Plane], line: &str) -> Run {
    let views: Vec<String> = views.iter().map(|view| view.url()).collect();
    Load::start(planes, &views, line).await.run().await
}

/// A run of `loadgen` that measures.
struct Load {
    child: Child,
    said: JoinHandle<Vec<String>>,
    folder: tempfile::TempDir,
}

impl Load {
    /// Returns when the measured phase begins.
    async fn start(planes: &Planes, views: &[String], line: &str) -> Load {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new(executable("loadgen").expect("loadgen"));
        command.arg("run").args(line.split_whitespace()).args(["--preload", "100", "--quiet", "--plain"]);
        command.args(["--control-url", &planes.control.url(), "--dataplane-url", &views.join(",")]);
        command.args(["--api-key", planes.api_key()]).arg("--out").arg(folder.path()).current_dir(folder.path());
        command.env_remove("NEXUS_DATABASE_URL").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().expect("loadgen starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let measuring = async {
            let mut said = Vec::new();
            while let Some(line) = lines.next_line().await.expect("text") {
                if line.starts_with("measuring") {
                    return said;
                }
                said.push(line);
            }
            panic!("loadgen ended before it measured: {said:?}");
        };
        let mut said = tokio::time::timeout(PATIENCE, measuring).await.expect("the measured phase within two minutes");
        // Whatever else it says must not fill the pipe.
        let said = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                said.push(line);
            }
            said
        });
        Load { child, said, folder }
    }

    /// Its end, and what it left behind.
    async fn run(mut self) -> Run {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.expect("an end within two minutes").expect("a status");
        let said = self.said.await.expect("text");
        let read = |name: &str| -> Value {
            let text = std::fs::read_to_string(self.folder.path().join(name));
            serde_json::from_str(&text.unwrap_or_else(|_| panic!("no {name}: {said:?}"))).expect("JSON")
        };
        let run = Run { summary: read("summary.json"), manifest: read("manifest.json") };
        let violations = run.summary["violations"].as_object().cloned().expect("violations");
        assert!(violations.values().all(|count| count == 0), "{:#}", run.summary);
        run
    }
}

/// What a watch shows while the view is filled again: keys that are absent because they are not there yet, deletions that
/// come twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_emptied_under_load_breaks_no_promise_and_none_is_said_to_be_broken() {
    let _alone = ALONE.lock().await;
    let stack = TestStack::start().await.expect("servers");
    let planes = Planes::start(&stack.namespace("emptied").await).await.expect("planes");
    let client = redis::Client::open(stack.servers().redis_url()).expect("a client");
    let mut connection = client.get_multiplexed_async_connection().await.expect("Redis");
    let line = "--rate 200 --duration 8s --mix create=50,update=20,delete=30";
    let load = Load::start(&planes, &[planes.dataplane.url()], line).await;
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        redis::cmd("FLUSHALL").query_async::<()>(&mut connection).await.expect("flushed");
    }
    let run = load.run().await;
    let resets = run.summary["watch_resets"].as_u64();
    assert!(resets.is_some_and(|resets| (1..=2).contains(&resets)), "one reset for each: {:#}", run.summary);
}

/// Medians of the prober, in ms.
#[derive(Debug)]
struct Probed {
    l2c: f64,
    /// How finely it can tell.
    resolution: f64,
    /// How late it was itself.
    late: f64,
}

impl Probed {
    /// By how much a figure may differ from the prober's. Of planes in the dev profile on a busy machine a read takes
    /// milliseconds: nobody can tell more finely than that, and the prober's own turns come late by a part of what
    /// everything waits for there. What is wrong by more than a third is found on every machine.
    fn allowed(&self) -> f64 {
        f64::max(1.0, self.resolution + self.late).max(self.l2c / 3.0)
    }

    fn agrees(&self, ours: f64) -> bool {
        (ours - self.l2c).abs() < self.allowed()
    }
}

/// 20 signals a second beside the load, from a script that shares nothing with the generator.
async fn prober(planes: &Planes) -> Probed {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../loadgen/tests/support/prober.py");
    let (control, view) = (planes.control.address().to_string(), planes.dataplane.address().to_string());
    let mut python = Command::new("python3");
    python.arg(script).args([&control, &view, planes.api_key(), "8", "20"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let output = python.kill_on_drop(true).spawn().expect("python3 starts").wait_with_output();
    let output = tokio::time::timeout(PATIENCE, output).await.expect("an end within two minutes").expect("output");
    let said: Value = serde_json::from_slice(&output.stdout).expect("what the prober found");
    assert!(said["samples"].as_u64() >= Some(100), "{said}");
    let median = |name: &str| said[name].as_f64().expect("a median");
    Probed { l2c: median("p50_ms"), resolution: median("resolution_p50_ms"), late: median("late_p50_ms") }
}

/// Stands before a view server, and passes on what it says so much later.
async fn late(view: &Plane, delay: Duration) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (address, view) = (listener.local_addr().expect("an address"), view.address());
    let accepting = tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let server = TcpStream::connect(view).await.expect("the view server");
                client.set_nodelay(true).and_then(|()| server.set_nodelay(true)).expect("no delay but ours");
                let ((mut asking, mut told), (mut says, mut asked)) = (client.into_split(), server.into_split());
                let (queue, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(1024);
                let listen = async {
                    let mut piece = vec![0; 64 * 1024];
                    while let Ok(length @ 1..) = says.read(&mut piece).await {
                        let _ = queue.send((Instant::now() + delay, piece[..length].to_vec())).await;
                    }
                };
                let tell = async {
                    while let Some((at, bytes)) = due.recv().await {
                        tokio::time::sleep_until(at).await;
                        if told.write_all(&bytes).await.is_err() {
                            return;
                        }
                    }
                };
                let ask = tokio::io::copy(&mut asking, &mut asked);
                tokio::select! { () = listen => {}, () = tell => {}, _ = ask => {} }
            });
        }
    });
    (format!("http://{address}"), accepting)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_independent_prober_sees_the_same_latency_at_the_median_and_would_see_a_wrong_one() {
    let _alone = ALONE.lock().await;
    let (_namespace, planes) = planes("prober", &[]).await;
    // Poisson, as the prober's: only then do both meet the stack in the same states.
    let line = "--rate 200 --arrivals poisson --duration 9s --warmup 2s";
    let view = planes.dataplane.url();
    let mut said = Vec::new();
    // Both measure the same seconds: latency is not the same in all of them.
    let both = async |views: &[String], what: &str| {
        let load = Load::start(&planes, views, line).await;
        let theirs = prober(&planes).await;
        let run = load.run().await;
        let (ours, verdict) = (run.p50_ms(), run.summary["verdict"].clone());
        let allowed = theirs.allowed();
        let line = format!(
            "{what}, {verdict}: loadgen {ours:.3} ms, {theirs:?}, {allowed:.3} ms allowed, {:?}",
            run.summary["reasons"]
        );
        println!("{line}");
        (verdict == "PASS", ours, theirs, line)
    };
    let mut found = None;
    for _ in 0..ATTEMPTS {
        let (valid, ours, theirs, line) = both(std::slice::from_ref(&view), "the same").await;
        said.push(line);
        if valid && theirs.agrees(ours) {
            found = Some(theirs);
            break;
        }
    }
    let Some(right) = found else { panic!("never within what was allowed: {said:#?}") };

    // The same with a fault that only the generator meets, of the size of what is measured: were the figure wrong by
    // that, it would be told from a right one.
    let planted = f64::max(20.0, right.l2c);
    let (through, accepting) = late(&planes.dataplane, Duration::from_secs_f64(planted / 1e3)).await;
    let mut said = Vec::new();
    for _ in 0..ATTEMPTS {
        let what = format!("the generator sees it {planted:.3} ms late");
        let (_, ours, theirs, line) = both(std::slice::from_ref(&through), &what).await;
        said.push(line);
        if !theirs.agrees(ours) && theirs.agrees(ours - planted) {
            accepting.abort();
            return;
        }
    }
    panic!("a figure that is too high was never found, or not by how much: {said:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_says_what_the_planes_own_sessions_have() {
    let _alone = ALONE.lock().await;
    for (setting, name) in [("on", "durable"), ("off", "loose")] {
        let (_namespace, planes) = planes(name, &[("NEXUS_SYNCHRONOUS_COMMIT", setting)]).await;
        let run = loadgen(&planes, &[&planes.dataplane], "--rate 50 --duration 1s --warmup 0s --no-verify").await;
        let settings = &run.manifest["servers"]["settings"];
        for (member, expected) in
            [("synchronous_commit", setting), ("fsync", "on"), ("acks", "all"), ("partitions", "4")]
        {
            let source = settings[member]["source"].as_str().unwrap_or_default();
            assert_eq!(settings[member]["value"], expected, "{member}: {settings:#}");
            assert!(source.starts_with("said by"), "{member}: {settings:#}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_view_servers_both_are_watched() {
    let _alone = ALONE.lock().await;
    let (namespace, planes) = planes("views", &[]).await;
    let second =
        Plane::dataplane(&namespace).command("read").name("view-b").start().await.expect("a second view server");
    let run = loadgen(&planes, &[&planes.dataplane, &second], "--rate 200 --duration 3s --reads 100").await;
    let by_view = run.summary["l2c_by_view"].as_array().expect("both");
    assert_eq!(by_view.len(), 2, "{:#}", run.summary);
    for (view, plane) in by_view.iter().zip([&planes.dataplane, &second]) {
        assert_eq!(view["view"], plane.address().to_string());
        assert_eq!((&view["l2c"]["count"], &view["outstanding"]), (&run.summary["accepted"], &0.into()));
        assert!(view["l2c"]["p50_ms"].as_f64() <= Some(run.p50_ms()), "the slower one is the latency: {by_view:?}");
    }
}
