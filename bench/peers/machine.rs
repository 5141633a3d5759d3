//! The machine, and which core whom.

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::{Value, json};

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// What figures depend on; runs are comparable where this is equal.
pub fn fingerprint() -> Value {
    let after = |path: &str, name: &str| {
        let text = read(path)?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim_start_matches([' ', '\t', ':']).trim().to_owned())
    };
    json!({
        "cpu": after("/proc/cpuinfo", "model name"),
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "memory": after("/proc/meminfo", "MemTotal"),
        "cgroup_cpu_max": read("/sys/fs/cgroup/cpu.max"),
        "cgroup_memory_max": read("/sys/fs/cgroup/memory.max"),
        "kernel": read("/proc/sys/kernel/osrelease"),
    })
}

fn set_of(core: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(core);
    set
}

/// Does `work` with this thread on one core. Programs that are started meanwhile stay there, and count one core.
///
/// # Errors
/// The kernel refuses, or `work` fails.
pub fn on_core<T>(core: usize, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let before = sched_getaffinity(None)?;
    sched_setaffinity(None, &set_of(core))?;
    let outcome = work();
    sched_setaffinity(None, &before)?;
    outcome
}

/// Puts every thread of a running process on one core.
///
/// # Errors
/// It is gone, or the kernel refuses.
pub fn pin(pid: u32, core: usize) -> anyhow::Result<()> {
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        let id = thread.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        if let Some(id) = id.and_then(Pid::from_raw) {
            sched_setaffinity(Some(id), &set_of(core))?;
        }
    }
    Ok(())
}
