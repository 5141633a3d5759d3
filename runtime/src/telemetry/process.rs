//! What `/proc/self` says of this process, under the names that Prometheus' own clients use.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge};

/// `USER_HZ`, the unit of times in `/proc/self/stat`; 100 on every Linux architecture we build for (proc(5)).
const TICKS_PER_SECOND: f64 = 100.0;

pub(super) struct Process {
    resident: Gauge,
    cpu: Counter,
    fds: Gauge,
    threads: Gauge,
}

impl Process {
    pub(super) fn new() -> Self {
        let gauge = |name: &str, help: &str| Gauge::new(name, help).expect("a valid metric name");
        Self {
            resident: gauge("process_resident_memory_bytes", "Resident memory in bytes"),
            cpu: Counter::new("process_cpu_seconds_total", "User and system CPU time in seconds")
                .expect("a valid metric name"),
            fds: gauge("process_open_fds", "Open file descriptors"),
            threads: gauge("process_threads", "Threads"),
        }
    }

    fn read(&self) {
        if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
            if let Some(kib) = field(&status, "VmRSS:") {
                self.resident.set(kib * 1024.0);
            }
            if let Some(threads) = field(&status, "Threads:") {
                self.threads.set(threads);
            }
        }
        if let Some(seconds) = std::fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(cpu_seconds) {
            let grown = seconds - self.cpu.get();
            if grown > 0.0 {
                self.cpu.inc_by(grown);
            }
        }
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            #[allow(clippy::cast_precision_loss)]
            self.fds.set(entries.count() as f64);
        }
    }
}

fn field(status: &str, name: &str) -> Option<f64> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// `utime` + `stime`: fields 14 and 15. The second field is a name in parentheses that may hold spaces.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        [self.resident.desc(), self.cpu.desc(), self.fds.desc(), self.threads.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.read();
        [self.resident.collect(), self.cpu.collect(), self.fds.collect(), self.threads.collect()].concat()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a b) c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20";
        assert_eq!(super::cpu_seconds(stat), Some(2.0));
    }
}
