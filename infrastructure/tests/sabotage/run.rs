//! One run of `loadgen` against planes that are sabotaged.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use infrastructure::{Namespace, Plane, Planes, TestStack, executable, probe};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Runs at the same time: each has planes and a generator of its own.
const AT_ONCE: u32 = 2;
static TURNS: Semaphore = Semaphore::const_new(AT_ONCE as usize);

/// Half creates and half changes of few keys, so that many versions follow one another closely.
const LOAD: &str = "--rate 250 --duration 3s --warmup 0.5s --preload 150 --reads 200 --mix create=40,update=40,delete=20 \
                    --keys zipf=1.2 --connections 16 --timeout 5s --drain-timeout 30s --quiet";

/// What the run left behind.
pub struct Verdict {
    pub exit_code: Option<i32>,
    pub summary: Value,
}

impl Verdict {
    pub fn word(&self) -> &str {
        self.summary["verdict"].as_str().expect("a verdict")
    }

    pub fn violations(&self) -> u64 {
        self.summary["violations"].as_object().expect("violations").values().filter_map(Value::as_u64).sum()
    }
}

/// A turn: alone, or with [`AT_ONCE`] others.
pub async fn turn(alone: bool) -> SemaphorePermit<'static> {
    TURNS.acquire_many(if alone { AT_ONCE } else { 1 }).await.expect("never closed")
}

/// Both planes, with what `NEXUS_SABOTAGE` says.
pub async fn planes(armed: &str) -> (Namespace, Planes) {
    let name = armed.split([',', '=']).next().unwrap_or_default();
    let namespace = TestStack::shared().await.namespace(name).await;
    let planes = Planes::start_with(&namespace, &[("NEXUS_SABOTAGE", armed)]).await.expect("planes");
    for plane in [&planes.control, &planes.dataplane] {
        let answer = probe::http_get(plane.address(), "/version", None).await.expect("/version");
        let version: Value = serde_json::from_str(&answer.body).expect("JSON");
        let expected = if armed.is_empty() { "none" } else { armed };
        let hint = "build the executables for this test: cargo build --workspace --bins --features sabotage";
        assert_eq!(version["sabotage"], expected, "{hint}");
        assert!(plane.log_text().contains("BREAK ITS PROMISES"), "no warning in the log");
    }
    (namespace, planes)
}

/// `loadgen run`, up to the beginning of the measured phase.
pub struct Load {
    child: Child,
    folder: tempfile::TempDir,
}

impl Load {
    pub async fn start(control: &Plane, dataplane: &Plane, api_key: &str) -> Load {
        let folder = tempfile::tempdir().expect("a folder");
        let mut child = Command::new(executable("loadgen").expect("loadgen"))
            .arg("run")
            .args(LOAD.split_whitespace())
            .args(["--control-url", &control.url(), "--dataplane-url", &dataplane.url(), "--api-key", api_key])
            .arg("--out")
            .arg(folder.path())
            .current_dir(folder.path())
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("loadgen starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let measuring = async {
            let mut said = Vec::new();
            while let Some(line) = lines.next_line().await.expect("text") {
                if line.starts_with("measuring") {
                    return;
                }
                said.push(line);
            }
            panic!("loadgen ended before it measured: {said:?}");
        };
        tokio::time::timeout(Duration::from_secs(60), measuring).await.expect("the measured phase within 60 s");
        // Whatever else it says must not fill the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Load { child, folder }
    }

    pub async fn verdict(mut self) -> Verdict {
        let ended = tokio::time::timeout(Duration::from_secs(90), self.child.wait()).await;
        let status = ended.expect("loadgen to end within 90 s").expect("a status");
        Verdict { exit_code: status.code(), summary: summary(self.folder.path()) }
    }
}

fn summary(folder: &Path) -> Value {
    let text = std::fs::read_to_string(folder.join("summary.json")).expect("summary.json");
    serde_json::from_str(&text).expect("JSON")
}
