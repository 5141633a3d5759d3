//! How busy the machine was during a measurement: the share of a core that each process took, by its name.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::Serialize;

/// Between two looks; a process that lives shorter is missed.
const LOOK: Duration = Duration::from_millis(250);
/// Linux counts in hundredths of a second for all of user space.
const TICKS_PER_SECOND: f64 = 100.0;
/// Shares below this are not listed.
const LEAST_SHARE: f64 = 0.02;

/// Who used the machine.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Usage {
    /// How long it was looked at.
    pub seconds: f64,
    /// Shares of one core, by name of the program, 0.02 and more; 2 is the whole of a machine with two cores.
    pub cores: Vec<(String, f64)>,
    /// `/proc/loadavg` before.
    pub load_before: String,
    /// And after.
    pub load_after: String,
}

impl Usage {
    /// The share of one core that a program took.
    pub fn of(&self, name: &str) -> f64 {
        self.cores.iter().find(|(known, _)| known == name).map_or(0.0, |(_, share)| *share)
    }

    /// In one line.
    pub fn brief(&self) -> String {
        let percent = |(name, share): &(String, f64)| format!("{name} {:.0}%", share * 100.0);
        self.cores.iter().take(7).map(percent).collect::<Vec<_>>().join(" ")
    }
}

/// Does `work`, and looks at who uses the machine meanwhile.
pub async fn during<T>(work: impl Future<Output = T>) -> (T, Usage) {
    let load_before = load_average();
    let begin = Instant::now();
    let mut looks = Looks::default();
    looks.look(true);
    let mut work = std::pin::pin!(work);
    let output = loop {
        tokio::select! {
            output = &mut work => break output,
            () = tokio::time::sleep(LOOK) => looks.look(false),
        }
    };
    looks.look(false);
    let seconds = begin.elapsed().as_secs_f64();
    let usage = Usage { seconds, cores: looks.shares(seconds), load_before, load_after: load_average() };
    (output, usage)
}

/// `/proc/loadavg`.
pub fn load_average() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned()
}

#[derive(Debug)]
struct Seen {
    name: String,
    first: u64,
    last: u64,
}

#[derive(Debug, Default)]
struct Looks {
    /// By pid and start time.
    seen: HashMap<(u32, u64), Seen>,
}

impl Looks {
    fn look(&mut self, before: bool) {
        let Ok(entries) = std::fs::read_dir("/proc") else { return };
        for entry in entries.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let Some((start, ticks)) = times(pid) else { continue };
            match self.seen.get_mut(&(pid, start)) {
                Some(seen) => {
                    seen.last = ticks;
                    // A process is looked at between its fork and its exec, too.
                    if !before && seen.first == 0 {
                        seen.name = name_of(pid);
                    }
                }
                None => {
                    let first = if before { ticks } else { 0 };
                    self.seen.insert((pid, start), Seen { name: name_of(pid), first, last: ticks });
                }
            }
        }
    }

    fn shares(self, seconds: f64) -> Vec<(String, f64)> {
        let mut by_name: HashMap<String, u64> = HashMap::new();
        for seen in self.seen.into_values() {
            *by_name.entry(seen.name).or_default() += seen.last.saturating_sub(seen.first);
        }
        let share = |ticks: u64| (ticks as f64 / TICKS_PER_SECOND / seconds * 1_000.0).round() / 1_000.0;
        let mut shares: Vec<_> = by_name.into_iter().map(|(name, ticks)| (name, share(ticks))).collect();
        shares.retain(|(_, share)| *share >= LEAST_SHARE);
        shares.sort_by(|a, b| b.1.total_cmp(&a.1));
        shares
    }
}

/// Start time and processor time of a process, in ticks.
fn times(pid: u32) -> Option<(u64, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let field = |i: usize| fields.get(i)?.parse::<u64>().ok();
    Some((field(19)?, field(11)? + field(12)?))
}

/// The program's name; what tells JVMs and the roles of this executable apart is added.
fn name_of(pid: u32) -> String {
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
    let arguments = || {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect::<Vec<_>>()
    };
    match comm.as_str() {
        "java" => {
            let known = [("kafka.Kafka", "broker"), ("org.apache.kafka.connect.cli.ConnectStandalone", "connect")];
            let words = arguments();
            let name = known.iter().find(|(class, _)| words.iter().any(|word| word == class));
            name.map_or("java", |(_, name)| name).to_owned()
        }
        "peers" => match arguments().get(1) {
            Some(role) if !role.starts_with('-') => format!("peers {role}"),
            _ => comm,
        },
        _ => comm,
    }
}

/// Processor time that a process has taken, in seconds of one core; 0 when it is gone.
pub fn cpu_seconds(pid: u32) -> f64 {
    times(pid).map_or(0.0, |(_, ticks)| ticks as f64 / TICKS_PER_SECOND)
}

/// Memory that a process has resident, in MiB; 0 when it is gone.
pub fn resident_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}
