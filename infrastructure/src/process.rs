//! Processes by identity: a pid alone may belong to somebody else by the time it is used, so a process is a pid and the
//! time it was started, and signals go through a pidfd that was opened before the time was compared.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

pub use rustix::process::Signal;

use crate::account::Account;
use crate::error::{IoContext, LaunchError, Result, log_tail};
use crate::supervisor::Supervisor;

/// One process, never mistaken for a later one that was given the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The pid.
    pub pid: u32,
    /// When it was started, in clock ticks since boot (field 22 of `/proc/<pid>/stat`).
    pub start_time: u64,
}

impl Process {
    /// The process that has this pid now; `None` when there is none, or only a zombie.
    pub fn of(pid: u32) -> Option<Process> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the command in parentheses, and may itself hold spaces and parentheses.
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let state = fields.next()?;
        let start_time = fields.nth(18)?.parse().ok()?;
        (!matches!(state, "Z" | "X")).then_some(Process { pid, start_time })
    }

    /// Whether this very process still runs (a stopped one does, a zombie does not).
    pub fn is_alive(&self) -> bool {
        Process::of(self.pid) == Some(*self)
    }

    /// Sends a signal to this process and to no other. Returns whether it was there.
    pub fn signal(&self, signal: Signal) -> bool {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return false };
        let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
        self.is_alive() && pidfd_send_signal(fd, signal).is_ok()
    }

    /// The processes that this one has started itself and that still run.
    pub fn children(&self) -> Vec<Process> {
        let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
            .filter(|pid| parent_of(*pid) == Some(self.pid))
            .filter_map(Process::of)
            .collect()
    }

    /// Waits until this process has ended. Returns false when it has not by the deadline.
    pub async fn wait_gone(&self, deadline: Duration) -> bool {
        let end = Instant::now() + deadline;
        while self.is_alive() {
            if Instant::now() >= end {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        true
    }
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// A program to be started in the background.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub name: String,
    pub program: PathBuf,
    pub args: Vec<OsString>,
    /// Added to the environment, from which every `NEXUS_*` of ours has been taken.
    pub env: Vec<(String, String)>,
    pub directory: PathBuf,
    pub log: PathBuf,
    pub account: Account,
}

/// A process that was started here: its identity, and the handle that reaps it.
#[derive(Debug)]
pub(crate) struct Running {
    pub process: Process,
    child: Child,
}

impl Running {
    /// Reaps the process if it has ended. Returns whether it has.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) || !self.process.is_alive()
    }

    /// Waits, without yielding, for a process that has been killed.
    pub fn reap(&mut self) {
        let _ = self.child.wait();
    }

    /// Waits until the process has ended and reaps it. Returns false when it has not by the deadline.
    pub async fn wait_gone(&mut self, deadline: Duration) -> bool {
        let gone = self.process.wait_gone(deadline).await;
        if gone {
            // A zombie by now: this returns at once.
            let _ = self.child.wait();
        }
        gone
    }
}

/// Waits on a pipe for the word that the supervisor knows its pid, then becomes the program: whoever dies in between
/// leaves nothing behind.
const GATE: &str = r#"read -r go || exit 125; exec "$@" </dev/null"#;

impl Launch {
    /// Starts the program in a session of its own, so that neither Ctrl-C nor the end of the terminal reaches it, with
    /// its output appended to the log. With a supervisor it lives no longer than the supervisor's owner.
    pub fn spawn(&self, supervisor: Option<&Supervisor>) -> Result<Running> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .context(|| format!("can't open the log {}", self.log.display()))?;
        let also = log.try_clone().context(|| format!("can't open the log {}", self.log.display()))?;
        let mut command = Command::new(if supervisor.is_some() { "sh" } else { "setsid" });
        if supervisor.is_some() {
            command.args(["-c", GATE, "gate", "setsid"]);
        }
        command.args(self.account.prefix()).arg(&self.program).args(&self.args);
        for name in foreign_variables() {
            command.env_remove(name);
        }
        command
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.directory)
            .stdin(if supervisor.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(log)
            .stderr(also);
        let mut child = command.spawn().context(|| format!("can't start {}", self.name))?;
        let ended = || LaunchError::Ended { name: self.name.clone(), log: log_tail(&self.log) };
        let Some(process) = Process::of(child.id()) else {
            let _ = child.wait();
            return Err(ended());
        };
        if let Some(supervisor) = supervisor {
            supervisor.adopt(process)?;
            let mut gate = child.stdin.take().expect("its standard input was made a pipe above");
            gate.write_all(b"go\n").map_err(|_| ended())?;
        }
        Ok(Running { process, child })
    }
}

/// Settings of whoever started us, which must not reach a process that is given its own.
fn foreign_variables() -> impl Iterator<Item = OsString> {
    let foreign =
        |name: &OsString| name.to_str().is_some_and(|name| name.starts_with("NEXUS_") || name.starts_with("PG"));
    std::env::vars_os().map(|(name, _)| name).filter(foreign)
}

/// Runs a command to its end as the account. Returns what it printed on standard output.
pub(crate) async fn run(
    account: &Account,
    program: impl Into<OsString>,
    args: impl IntoIterator<Item = impl Into<OsString>>,
    env: &[(String, String)],
) -> Result<String> {
    let mut words: Vec<OsString> = account.prefix();
    words.push(program.into());
    words.extend(args.into_iter().map(Into::into));
    let shown = words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let mut command = tokio::process::Command::new(&words[0]);
    for name in foreign_variables() {
        command.env_remove(name);
    }
    command.args(&words[1..]).envs(env.iter().map(|(name, value)| (name, value)));
    command.current_dir("/").stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => LaunchError::Missing {
            what: words[0].to_string_lossy().into_owned(),
            hint: "run `make setup`, which installs what is needed".to_owned(),
        },
        _ => LaunchError::Io { what: format!("can't run {shown}"), source },
    })?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if !output.status.success() {
        let said = if output.stderr.is_empty() { text(&output.stdout) } else { text(&output.stderr) };
        return Err(LaunchError::Command { command: shown, status: output.status.to_string(), output: said });
    }
    Ok(text(&output.stdout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_pid_and_start_time() {
        let me = Process::of(std::process::id()).expect("this process runs");
        assert!(me.is_alive());
        let impostor = Process { start_time: me.start_time + 1, ..me };
        assert!(!impostor.is_alive());
        assert!(!impostor.signal(Signal::KILL), "a signal must not reach another process with the same pid");
    }

    #[test]
    fn a_zombie_is_not_alive() {
        let mut child = Command::new("true").spawn().expect("true runs");
        let pid = child.id();
        let end = Instant::now() + Duration::from_secs(5);
        while Process::of(pid).is_some() {
            assert!(Instant::now() < end, "waited for `true` to end");
            std::thread::yield_now();
        }
        child.wait().expect("it can be reaped");
    }
}
