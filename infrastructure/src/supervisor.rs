//! Nothing a test starts outlives the test, not even when it is killed with signal 9. A shell holds the reading end of a
//! pipe whose writing end only this process has: when the pipe closes, the shell ends every process that was put on its
//! list and removes the scratch directory. It needs no unsafe code, no executable of ours, and no exit handler.

use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use crate::error::{IoContext, Result};
use crate::process::Process;

const SCRIPT: &str = include_str!("supervisor.sh");

/// The shell that outlives this process by a moment. Dropping it ends all that it has adopted.
#[derive(Debug)]
pub(crate) struct Supervisor {
    child: Child,
    list: Mutex<Option<ChildStdin>>,
}

impl Supervisor {
    /// Starts the shell. It will remove `scratch`, where given, after it has ended everything.
    pub fn start(scratch: Option<&Path>) -> Result<Supervisor> {
        let mut child = Command::new("setsid")
            .args(["sh", "-c", SCRIPT, "nexus-supervisor"])
            .arg(scratch.unwrap_or(Path::new("")))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context(|| "can't start the shell that ends what a test leaves".to_owned())?;
        let list = Mutex::new(child.stdin.take());
        Ok(Supervisor { child, list })
    }

    /// Puts a process on the list of those that end with this one.
    pub fn adopt(&self, process: Process) -> Result<()> {
        let mut list = self.list.lock().expect("no holder of this lock panics");
        let closed = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let pipe = list.as_mut().ok_or_else(closed);
        pipe.and_then(|pipe| writeln!(pipe, "{} {}", process.pid, process.start_time))
            .context(|| format!("can't hand process {} to the supervisor", process.pid))
    }

    /// Closes the pipe and waits until everything is gone. Returns false when it is not by the deadline.
    pub async fn finish(&self, deadline: Duration) -> bool {
        self.list.lock().expect("no holder of this lock panics").take();
        match Process::of(self.child.id()) {
            Some(shell) => shell.wait_gone(deadline).await,
            None => true,
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // Closing the pipe is enough; the shell goes on by itself. It is reaped when it has already ended.
        self.list.lock().expect("no holder of this lock panics").take();
        let _ = self.child.try_wait();
    }
}
