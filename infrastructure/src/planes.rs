//! Both planes as processes, against a namespace: for tests that kill, freeze and restart them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::account::Account;
use crate::error::{LaunchError, Result};
use crate::launcher::admin;
use crate::process::{Launch, Process, Running, Signal, run};
use crate::server::{READY_DEADLINE, kill_tree};
use crate::stack::Namespace;
use crate::{ports, probe, wait};

/// Longer than a plane may take to drain.
const STOP_DEADLINE: Duration = Duration::from_secs(15);

/// The control plane's executable.
pub const CONTROL: &str = "nexus-control";
/// The data plane's executable.
pub const DATAPLANE: &str = "nexus-dataplane";

/// One control plane and one data plane, ready, with an admin.
#[derive(Debug)]
pub struct Planes {
    /// `nexus-control serve`.
    pub control: Plane,
    /// `nexus-dataplane serve`.
    pub dataplane: Plane,
    api_key: String,
}

impl Planes {
    /// Migrates the namespace's database, makes the admin, and starts both planes. Returns when both are ready and
    /// know the key.
    ///
    /// # Errors
    /// An executable has not been built, or a step failed; with its output or the end of its log.
    pub async fn start(namespace: &Namespace) -> Result<Planes> {
        Planes::start_with(namespace, &[]).await
    }

    /// As [`start`](Self::start), with further settings for both planes.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_with(namespace: &Namespace, env: &[(&str, &str)]) -> Result<Planes> {
        migrate(namespace).await?;
        let api_key = create_admin(namespace).await?;
        let control = Plane::control(namespace).envs(env).start();
        let dataplane = Plane::dataplane(namespace).envs(env).start();
        let (control, dataplane) = tokio::try_join!(control, dataplane)?;
        admin::key_arrives(dataplane.address(), &api_key).await?;
        Ok(Planes { control, dataplane, api_key })
    }

    /// The admin's API key.
    pub fn api_key(&self) -> &str {
        &self.api_key
    }
}

/// Runs `nexus-control migrate` against the namespace: tables, rights, and the replication slot.
///
/// # Errors
/// The executable is missing or ended with a failure, which is shown.
pub async fn migrate(namespace: &Namespace) -> Result<()> {
    run(&Account::Own, executable(CONTROL)?, ["migrate"], &namespace.env()).await.map(drop)
}

/// Runs `nexus-control create-admin --name admin --new-key`. Returns the API key.
///
/// # Errors
/// The executable is missing or ended with a failure, which is shown.
pub async fn create_admin(namespace: &Namespace) -> Result<String> {
    run(&Account::Own, executable(CONTROL)?, ["create-admin", "--name", "admin", "--new-key"], &namespace.env()).await
}

/// An executable of this workspace, beside the one that runs: `target/<profile>/<name>`.
///
/// # Errors
/// It has not been built.
pub fn executable(name: &str) -> Result<PathBuf> {
    let missing = || LaunchError::Missing {
        what: format!("the executable {name}"),
        hint: "build it first: cargo build --workspace --bins (with --release for benches)".to_owned(),
    };
    let own = std::env::current_exe().map_err(|_| missing())?;
    let beside = own.parent().ok_or_else(missing)?;
    // Tests and benches are in `deps`, one deeper.
    let dirs = [Some(beside), beside.parent()];
    let found = dirs.into_iter().flatten().map(|dir| dir.join(name)).find(|program| program.is_file());
    found.ok_or_else(missing)
}

/// What to start, before it is started.
#[derive(Clone, Debug)]
pub struct PlaneBuilder {
    namespace: Namespace,
    executable: &'static str,
    command: String,
    name: String,
    env: Vec<(String, String)>,
}

impl PlaneBuilder {
    /// A subcommand other than `serve`, such as `project` or `read`.
    #[must_use]
    pub fn command(mut self, command: &str) -> PlaneBuilder {
        command.clone_into(&mut self.command);
        self
    }

    /// A name for logs, where a namespace has several planes of a kind: `control-b`.
    #[must_use]
    pub fn name(mut self, name: &str) -> PlaneBuilder {
        name.clone_into(&mut self.name);
        self
    }

    /// A further setting, over those of the namespace.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> PlaneBuilder {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Further settings.
    #[must_use]
    pub fn envs(self, env: &[(&str, &str)]) -> PlaneBuilder {
        env.iter().fold(self, |builder, (name, value)| builder.env(name, value))
    }

    /// Starts the process. Returns when `/readyz` answers 200.
    ///
    /// # Errors
    /// The executable has not been built, the process ended, or it was not ready in 90 s; with the end of its log.
    pub async fn start(self) -> Result<Plane> {
        let plane = self.start_unready()?;
        plane.wait_ready().await?;
        Ok(plane)
    }

    /// Starts the process and returns at once: for tests in which a server is away.
    ///
    /// # Errors
    /// The executable has not been built or can't be started.
    pub fn start_unready(self) -> Result<Plane> {
        let address = ports::local(ports::pick()?);
        let dir = self.namespace.servers().dir();
        let mut env = self.namespace.env();
        let own_address = if self.executable == CONTROL { "NEXUS_CONTROL_ADDR" } else { "NEXUS_DATAPLANE_ADDR" };
        env.push((own_address.to_owned(), address.to_string()));
        env.extend(self.env);
        let launch = Launch {
            program: executable(self.executable)?,
            args: vec![self.command.into()],
            env,
            // Away from any `.env` of the developer's.
            directory: dir.to_owned(),
            log: dir.join(format!("{}-{}.log", self.namespace.id(), self.name)),
            account: Account::Own,
            name: self.name,
        };
        let plane = Plane { namespace: self.namespace, launch, address, running: Mutex::new(None) };
        plane.spawn()?;
        Ok(plane)
    }
}

/// A plane as a process, on a port that it keeps over restarts. It is ended with the stack, or when it is dropped.
#[derive(Debug)]
pub struct Plane {
    namespace: Namespace,
    launch: Launch,
    address: SocketAddr,
    running: Mutex<Option<Running>>,
}

impl Plane {
    /// A control plane to be started with [`PlaneBuilder::start`].
    pub fn control(namespace: &Namespace) -> PlaneBuilder {
        Plane::builder(namespace, CONTROL, "control")
    }

    /// A data plane to be started with [`PlaneBuilder::start`].
    pub fn dataplane(namespace: &Namespace) -> PlaneBuilder {
        Plane::builder(namespace, DATAPLANE, "dataplane")
    }

    fn builder(namespace: &Namespace, executable: &'static str, name: &str) -> PlaneBuilder {
        PlaneBuilder {
            namespace: namespace.clone(),
            executable,
            command: "serve".to_owned(),
            name: name.to_owned(),
            env: Vec::new(),
        }
    }

    /// `http://127.0.0.1:<port>`, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The pid while the process is there (a paused one is), else `None`.
    pub fn pid(&self) -> Option<u32> {
        self.process().map(|process| process.pid)
    }

    /// The file that has the plane's output, of all its runs.
    pub fn log(&self) -> &Path {
        &self.launch.log
    }

    /// Everything it has logged so far.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.launch.log).unwrap_or_default()
    }

    /// Starts the process again, unless it runs, on the same port and with the same settings. Returns when it is ready.
    ///
    /// # Errors
    /// As [`PlaneBuilder::start`].
    pub async fn start(&self) -> Result<()> {
        self.spawn()?;
        self.wait_ready().await
    }

    /// Starts the process again, unless it runs, and returns at once.
    ///
    /// # Errors
    /// Its port was taken meanwhile, or it can't be started.
    pub fn spawn(&self) -> Result<()> {
        if self.process().is_some() {
            return Ok(());
        }
        ports::check(&self.launch.name, self.address.port())?;
        *self.lock() = Some(self.launch.spawn(Some(self.namespace.servers().supervisor()))?);
        Ok(())
    }

    /// Waits until `/readyz` answers 200.
    ///
    /// # Errors
    /// The process ended, or it was not ready in 90 s; with the end of its log.
    pub async fn wait_ready(&self) -> Result<()> {
        wait::until_ready(
            &self.launch.name,
            READY_DEADLINE,
            &self.launch.log,
            || self.lock().as_mut().is_none_or(Running::has_ended),
            || async { self.ready_status().await == Some(200) },
        )
        .await
    }

    /// The status of `/readyz`; `None` when nothing answers.
    pub async fn ready_status(&self) -> Option<u16> {
        Some(probe::http_get(self.address, "/readyz", None).await?.status)
    }

    /// Sends SIGTERM and waits for the end. Returns whether it came within 15 s; else the process is killed.
    pub async fn stop(&self) -> bool {
        let Some(process) = self.process() else { return true };
        process.signal(Signal::TERM);
        let in_order = process.wait_gone(STOP_DEADLINE).await;
        self.kill().await;
        in_order
    }

    /// Sends signal 9. Returns when the process is gone.
    pub async fn kill(&self) {
        if let Some(process) = self.process() {
            kill_tree(process).await;
        }
        let running = self.lock().take();
        if let Some(mut running) = running {
            running.wait_gone(STOP_DEADLINE).await;
        }
    }

    /// Sends a signal and returns at once. False when the process was not there.
    pub fn signal(&self, signal: Signal) -> bool {
        self.process().is_some_and(|process| process.signal(signal))
    }

    /// Freezes the process (SIGSTOP): connections stay open and nobody answers.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Thaws what [`pause`](Self::pause) froze.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn process(&self) -> Option<Process> {
        let process = self.lock().as_ref()?.process;
        process.is_alive().then_some(process)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().expect("no holder of this lock panics")
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        if let Some(mut running) = self.lock().take() {
            running.reap();
        }
    }
}
