//! `manifest.json`: what was run, on what, beside whom.

use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::client::Exchange;
use crate::durability;
use crate::options::{RunOptions, Targets};

/// The state of the machine before a run, to be completed after it.
#[derive(Debug)]
pub struct Manifest {
    value: Value,
    targets: Targets,
}

impl Manifest {
    /// Looks at the machine and asks the planes for their versions.
    #[must_use]
    pub fn before(options: &RunOptions) -> Self {
        let load = &options.load;
        let planes: Vec<Value> = std::iter::once(&options.targets.control_url)
            .chain(&options.targets.dataplane_url)
            .map(|url| json!({ "url": url, "version": version_of(url) }))
            .collect();
        let value = json!({
            "command": command_line(),
            "started": rfc3339(SystemTime::now()),
            "load": {
                "rate_per_s": options.rate,
                "duration_s": load.duration.as_secs_f64(),
                "warmup_s": load.warmup.as_secs_f64(),
                "preload": load.preload,
                "mix": load.mix.to_string(),
                "batch_size": load.batch_size,
                "reads_per_s": load.reads,
                "connections": load.connections,
                "arrivals": format!("{:?}", load.arrivals).to_lowercase(),
                "closed": load.closed,
                "keys": load.keys.to_string(),
                "payload_bytes": [load.payload.0, load.payload.1],
                "timeout_s": load.timeout.as_secs_f64(),
                "drain_timeout_s": load.drain_timeout.as_secs_f64(),
                "idempotency_keys": !load.no_idempotency,
                "auth": "API key (Bearer) on every request",
                "slo": options.slos.iter().map(crate::slo::Slo::text).collect::<Vec<_>>(),
            },
            "source": source(),
            "build": {
                "version": env!("CARGO_PKG_VERSION"),
                "profile": if cfg!(debug_assertions) { "debug" } else { "release" },
                "compiler": output("rustc", &["--version"]),
            },
            "machine": machine(),
            "servers": { "planes": planes },
            "load_average_before": load_average(),
            "shared_with": busiest(),
        });
        Self { value, targets: options.targets.clone() }
    }

    /// Adds what is known after the run, and writes `manifest.json`.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write(mut self, folder: &Path, seed: u64, priority: &str, measured: SystemTime) -> std::io::Result<()> {
        self.value["seed"] = json!(seed);
        self.value["priority"] = json!(priority);
        self.value["measured_from"] = json!(rfc3339(measured));
        self.value["ended"] = json!(rfc3339(SystemTime::now()));
        // The control plane opens its sessions when there are commands.
        self.value["servers"]["settings"] = durability::settings(&self.targets);
        self.value["load_average_after"] = json!(load_average());
        let text = serde_json::to_vec_pretty(&self.value).map_err(std::io::Error::other)?;
        std::fs::write(folder.join("manifest.json"), text)
    }
}

/// The command line, without the API key.
fn command_line() -> Vec<String> {
    let mut hide = false;
    std::env::args()
        .map(|argument| {
            if std::mem::take(&mut hide) {
                return "…".to_owned();
            }
            hide = argument == "--api-key";
            if argument.starts_with("--api-key=") { "--api-key=…".to_owned() } else { argument }
        })
        .collect()
}

fn rfc3339(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).map(|time| time.strftime("%FT%T.%3fZ").to_string()).unwrap_or_default()
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// The commit, whether the tree was changed, and a hash of the lock file.
#[must_use]
pub fn source() -> Value {
    use sha2::Digest as _;
    let lock = output("git", &["rev-parse", "--show-toplevel"])
        .and_then(|top| std::fs::read(Path::new(&top).join("Cargo.lock")).ok())
        .map(|bytes| sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    json!({
        "commit": output("git", &["rev-parse", "HEAD"]),
        "dirty": Command::new("git")
            .args(["status", "--porcelain"])
            .output()
            .ok()
            .filter(|output| output.status.success())
            .map(|output| !output.stdout.is_empty()),
        "lock_sha256": lock,
    })
}

/// What the figures depend on; runs are comparable where this is equal.
#[must_use]
pub fn machine() -> Value {
    let cpu = read("/proc/cpuinfo").and_then(|text| {
        text.lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
            .map(|(_, name)| name.trim().to_owned())
    });
    let memory = read("/proc/meminfo").and_then(|text| {
        text.lines().find_map(|line| line.strip_prefix("MemTotal:")).map(|line| line.trim().to_owned())
    });
    json!({
        "cpu": cpu,
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "memory": memory,
        "cgroup_cpu_max": read("/sys/fs/cgroup/cpu.max"),
        "cgroup_memory_max": read("/sys/fs/cgroup/memory.max"),
        "kernel": read("/proc/sys/kernel/osrelease"),
        "disk": output("df", &["--output=fstype,source", "."]).and_then(|text| {
            text.lines().nth(1).map(|line| line.split_whitespace().next().unwrap_or("").to_owned())
        }),
    })
}

fn version_of(url: &str) -> Value {
    crate::client::Endpoint::parse(url)
        .ok()
        .and_then(|endpoint| Exchange::new(endpoint, "").get("/version").ok())
        .filter(|reply| reply.status == 200)
        .and_then(|reply| serde_json::from_slice(&reply.body).ok())
        .unwrap_or(Value::Null)
}

/// `/proc/loadavg`.
#[must_use]
pub fn load_average() -> Option<String> {
    read("/proc/loadavg")
}

/// The other busy processes: name and share of a core since they started.
#[must_use]
pub fn busiest() -> Value {
    let text = output("ps", &["-eo", "pcpu,comm", "--sort=-pcpu", "--no-headers"]).unwrap_or_default();
    text.lines()
        .take(10)
        .filter_map(|line| {
            let (share, name) = line.trim().split_once(char::is_whitespace)?;
            let share: f64 = share.parse().ok()?;
            (share >= 1.0 && name.trim() != "ps" && name.trim() != "loadgen")
                .then(|| json!({ "process": name.trim(), "cpu_percent": share }))
        })
        .collect()
}
