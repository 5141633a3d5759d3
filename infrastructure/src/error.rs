//! What can go wrong when processes are started and stopped. One enum for the whole crate: every variant is something
//! the person at the keyboard can act on, so each names the program, the port or the setting to look at.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// A failure of the launcher.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A program that a server needs is not installed.
    #[error("{what} is missing: {hint}")]
    Missing {
        /// The program or file.
        what: String,
        /// How to get it.
        hint: String,
    },
    /// Another program listens on the port that a process should have.
    #[error(
        "port {port}, which {name} needs, is held by {holder}; stop that, or let free ports be picked: \
         NEXUS_PORTS=auto, in a shell that has not read another stack's env"
    )]
    PortBusy {
        /// The process that wanted the port.
        name: String,
        /// The port on 127.0.0.1.
        port: u16,
        /// Who has it, as far as `/proc` tells.
        holder: String,
    },
    /// A process was started and did not become what was waited for.
    #[error("waited {waited:.0?} for {what}{log}")]
    Timeout {
        /// The condition.
        what: String,
        /// How long it was waited for.
        waited: Duration,
        /// The last lines of the process' log, with a heading, or nothing.
        log: String,
    },
    /// A process ended while it was being waited for.
    #[error("{name} ended while it was starting{log}")]
    Ended {
        /// The process.
        name: String,
        /// The last lines of its log, with a heading.
        log: String,
    },
    /// A command that should have run to its end failed.
    #[error("{command} failed ({status}): {output}")]
    Command {
        /// The program and its arguments.
        command: String,
        /// Its exit status.
        status: String,
        /// What it printed on standard error, or else on standard output.
        output: String,
    },
    /// A setting has a value that can't be used.
    #[error("{name}: {reason}")]
    Setting {
        /// The environment variable.
        name: &'static str,
        /// What is wrong with its value.
        reason: String,
    },
    /// A file, directory or process could not be reached.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// Postgres refused a statement.
    #[error("{what}")]
    Postgres {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: sqlx::Error,
    },
}

/// The result of everything in this crate.
pub type Result<T, E = LaunchError> = std::result::Result<T, E>;

/// Names what was tried when an I/O operation fails.
pub(crate) trait IoContext<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| LaunchError::Io { what: what(), source })
    }
}

/// The last lines of a log with a heading, to be shown below an error; empty when there is no such file.
pub(crate) fn log_tail(path: &Path) -> String {
    const LINES: usize = 25;
    let Ok(bytes) = std::fs::read(path) else { return String::new() };
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let tail = &lines[lines.len().saturating_sub(LINES)..];
    let path: PathBuf = path.to_owned();
    if tail.is_empty() {
        return format!("; its log {} is empty", path.display());
    }
    format!("; the end of {}:\n{}", path.display(), tail.join("\n"))
}
