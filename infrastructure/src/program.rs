//! Further programs beside the servers, for benches and tests: they end with the servers, however the process ends.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::account::Account;
use crate::error::Result;
use crate::process::{Launch, Process, Running, Signal};
use crate::servers::Servers;
use crate::wait;

/// Longer than a program may take to end after SIGTERM.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// A program that runs beside the servers and no longer than they do. Dropping it kills it.
#[derive(Debug)]
pub struct Program {
    launch: Launch,
    running: Mutex<Option<Running>>,
}

impl Servers {
    /// Starts a program with its output in `<name>.log` of the servers' directory, in which it also runs. It gets the
    /// environment of this process without `NEXUS_*` and `PG*`, and `env`.
    ///
    /// # Errors
    /// It can't be started.
    pub fn start_program(
        &self,
        name: &str,
        program: &Path,
        args: impl IntoIterator<Item = impl Into<OsString>>,
        env: &[(String, String)],
    ) -> Result<Program> {
        let launch = Launch {
            name: name.to_owned(),
            program: program.to_owned(),
            args: args.into_iter().map(Into::into).collect(),
            env: env.to_vec(),
            directory: self.dir().to_owned(),
            log: self.dir().join(format!("{name}.log")),
            account: Account::Own,
        };
        let running = launch.spawn(Some(self.supervisor()))?;
        Ok(Program { launch, running: Mutex::new(Some(running)) })
    }
}

impl Program {
    /// The pid while it runs, else `None`.
    pub fn pid(&self) -> Option<u32> {
        self.process().map(|process| process.pid)
    }

    /// The file with its output.
    pub fn log(&self) -> &PathBuf {
        &self.launch.log
    }

    /// Everything it has printed so far.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.launch.log).unwrap_or_default()
    }

    /// Waits until `ready` says so.
    ///
    /// # Errors
    /// The program ended, or was not ready by the deadline; with the end of its log.
    pub async fn wait_ready<F: Future<Output = bool>>(&self, deadline: Duration, ready: impl Fn() -> F) -> Result<()> {
        let has_ended = || self.lock().as_mut().is_none_or(Running::has_ended);
        wait::until_ready(&self.launch.name, deadline, &self.launch.log, has_ended, ready).await
    }

    /// Sends SIGTERM and waits for the end; kills what has not ended after 10 s. Returns whether that was not needed.
    pub async fn stop(&self) -> bool {
        let Some(process) = self.process() else { return true };
        process.signal(Signal::TERM);
        let in_order = process.wait_gone(STOP_DEADLINE).await;
        if !in_order {
            process.signal(Signal::KILL);
        }
        let running = self.lock().take();
        if let Some(mut running) = running {
            running.wait_gone(STOP_DEADLINE).await;
        }
        in_order
    }

    fn process(&self) -> Option<Process> {
        let process = self.lock().as_ref()?.process;
        process.is_alive().then_some(process)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().expect("no holder of this lock panics")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(process) = self.process() {
            process.signal(Signal::KILL);
        }
        if let Some(mut running) = self.lock().take() {
            running.reap();
        }
    }
}
