//! How the threads that take times get the processor when they want it.
//!
//! A thread that wakes late measures its own lateness. The best is `SCHED_FIFO`; then a nice value
//! of −15, which counts only within one session where the kernel groups tasks by session
//! (`sched_autogroup`), so that the session's own nice value is lowered as well.

use std::process::{Command, Stdio};

/// Nice value to ask for.
const NICE: i32 = -15;

/// What to ask the kernel for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Priority {
    /// `fifo`, or else `nice`.
    Auto,
    /// `SCHED_FIFO`, priority 1.
    Fifo,
    /// Nice −15.
    Nice,
    /// As it is.
    None,
}

impl Priority {
    /// Applies it to the calling thread; what it then has, in words.
    #[must_use]
    pub fn apply(self) -> String {
        if matches!(self, Self::Auto | Self::Fifo) && fifo() {
            return "SCHED_FIFO 1".to_owned();
        }
        if matches!(self, Self::Auto | Self::Nice) {
            let _ = rustix::process::setpriority_process(None, NICE);
            let _ = std::fs::write("/proc/self/autogroup", NICE.to_string());
        }
        let nice = rustix::process::getpriority_process(None).unwrap_or(0);
        let group = std::fs::read_to_string("/proc/self/autogroup").unwrap_or_default();
        match group.rsplit_once("nice ") {
            Some((_, group)) => format!("nice {nice}, session {}", group.trim()),
            None => format!("nice {nice}"),
        }
    }
}

/// Asks for `SCHED_FIFO` through `chrt` of util-linux: the system call has no safe wrapper.
fn fifo() -> bool {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    Command::new("chrt")
        .args(["--fifo", "--pid", "1", &thread])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
