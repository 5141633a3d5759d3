//! What this process itself holds in memory, so that a long run shows whether it grows.

/// Resident memory in MiB, at three times of the measured phase. 0: not looked.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Memory {
    /// At its start.
    pub start: f64,
    /// When a quarter of it is over.
    pub quarter: f64,
    /// At its end.
    pub end: f64,
}

impl Memory {
    /// Looks where it is time to; times are those of the run's clock.
    pub fn look(&mut self, now: u64, measure_from: u64, measure_to: u64) {
        if now < measure_from {
            return;
        }
        if self.start == 0.0 {
            self.start = resident_mib();
        }
        if self.quarter == 0.0 && now >= measure_from + (measure_to - measure_from) / 4 {
            self.quarter = resident_mib();
        }
        if self.end == 0.0 && now >= measure_to {
            self.end = resident_mib();
        }
    }
}

impl Memory {
    /// What was seen; the end is now where the phase was cut short.
    #[must_use]
    pub fn ended(self) -> Self {
        Self { end: if self.end == 0.0 { resident_mib() } else { self.end }, ..self }
    }
}

/// Resident memory of this process in MiB, to a tenth; 0 where the system does not tell.
#[must_use]
pub fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse().ok());
    (kib.unwrap_or(0.0_f64) / 102.4).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_once_at_each_of_the_three_times() {
        assert!(resident_mib() > 0.5);
        let mut memory = Memory::default();
        memory.look(5, 10, 50);
        assert_eq!(memory, Memory::default());
        memory.look(10, 10, 50);
        assert!(memory.start > 0.0 && memory.quarter == 0.0);
        memory.look(20, 10, 50);
        assert!(memory.quarter > 0.0 && memory.end == 0.0);
        let before = memory;
        memory.look(50, 10, 50);
        assert!(memory.end > 0.0 && (memory.start, memory.quarter) == (before.start, before.quarter));
    }
}
