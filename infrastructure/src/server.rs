//! One server: how it is prepared, started, watched and stopped, whichever of the three it is.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::broker::Broker;
use crate::error::{LaunchError, Result};
use crate::ports;
use crate::postgres::Postgres;
use crate::process::{Launch, Process, Running, Signal};
use crate::redis::Redis;
use crate::supervisor::Supervisor;
use crate::wait;

/// Generous: on a machine that also compiles, a JVM takes its time.
pub(crate) const READY_DEADLINE: Duration = Duration::from_secs(90);
const STOP_DEADLINE: Duration = Duration::from_secs(30);
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Clone, Debug)]
pub(crate) enum Recipe {
    Postgres(Postgres),
    Broker(Broker),
    Redis(Redis),
}

impl Recipe {
    pub fn name(&self) -> &'static str {
        match self {
            Recipe::Postgres(_) => "postgres",
            Recipe::Broker(_) => "broker",
            Recipe::Redis(_) => "redis",
        }
    }

    pub fn port(&self) -> u16 {
        match self {
            Recipe::Postgres(postgres) => postgres.port,
            Recipe::Broker(broker) => broker.port,
            Recipe::Redis(redis) => redis.port,
        }
    }

    /// The port, and those that it needs for itself.
    pub fn ports(&self) -> Vec<u16> {
        match self {
            Recipe::Broker(broker) => broker.ports(),
            Recipe::Postgres(_) | Recipe::Redis(_) => vec![self.port()],
        }
    }

    pub fn log(&self) -> &Path {
        match self {
            Recipe::Postgres(postgres) => &postgres.log,
            Recipe::Broker(broker) => &broker.log,
            Recipe::Redis(redis) => &redis.log,
        }
    }

    pub async fn prepare(&self) -> Result<()> {
        match self {
            Recipe::Postgres(postgres) => postgres.prepare().await,
            Recipe::Broker(broker) => broker.prepare().await,
            Recipe::Redis(redis) => redis.prepare().await,
        }
    }

    pub async fn launch(&self) -> Result<Launch> {
        match self {
            Recipe::Postgres(postgres) => postgres.launch(),
            Recipe::Broker(broker) => broker.launch().await,
            Recipe::Redis(redis) => redis.launch(),
        }
    }

    pub async fn is_ready(&self) -> bool {
        match self {
            Recipe::Postgres(postgres) => postgres.is_ready().await,
            Recipe::Broker(broker) => broker.is_ready().await,
            Recipe::Redis(redis) => redis.is_ready().await,
        }
    }

    /// What is to be done each time the server has become ready.
    pub async fn furnish(&self) -> Result<()> {
        match self {
            Recipe::Postgres(postgres) => postgres.make_role().await,
            Recipe::Broker(_) | Recipe::Redis(_) => Ok(()),
        }
    }

    /// Asks a process of this recipe to end, in order and soon, and waits; kills it when it does not.
    pub async fn stop(&self, process: Process) -> bool {
        // Postgres takes INT for its fast shutdown; TERM would wait for every client to leave.
        let signal = if matches!(self, Recipe::Postgres(_)) { Signal::INT } else { Signal::TERM };
        resume(process);
        process.signal(signal);
        let in_order = process.wait_gone(STOP_DEADLINE).await;
        if in_order {
            if let Recipe::Broker(broker) = self {
                broker.stopped().await;
            }
        } else {
            kill_tree(process).await;
        }
        in_order
    }
}

/// Kills a process and what it has started, and waits until all of it is gone.
pub(crate) async fn kill_tree(process: Process) {
    let children = process.children();
    process.signal(Signal::KILL);
    for child in &children {
        child.signal(Signal::KILL);
    }
    for gone in std::iter::once(&process).chain(&children) {
        gone.wait_gone(KILL_DEADLINE).await;
    }
}

/// Freezes a process and what it has started; the parent first, so that it starts nothing more.
pub(crate) fn pause(process: Process) {
    process.signal(Signal::STOP);
    for child in process.children() {
        child.signal(Signal::STOP);
    }
}

/// Thaws a process and what it has started.
pub(crate) fn resume(process: Process) {
    for child in process.children() {
        child.signal(Signal::CONT);
    }
    process.signal(Signal::CONT);
}

/// A server of a test stack. All methods may be called from any thread; those that start and stop take turns.
#[derive(Debug)]
pub struct Server {
    recipe: Recipe,
    supervisor: Arc<Supervisor>,
    running: Mutex<Option<Running>>,
    turn: tokio::sync::Mutex<()>,
}

impl Server {
    pub(crate) fn new(recipe: Recipe, supervisor: Arc<Supervisor>) -> Server {
        Server { recipe, supervisor, running: Mutex::new(None), turn: tokio::sync::Mutex::new(()) }
    }

    /// `postgres`, `broker` or `redis`.
    pub fn name(&self) -> &'static str {
        self.recipe.name()
    }

    /// The port on 127.0.0.1, the same for the whole life of the stack.
    pub fn port(&self) -> u16 {
        self.recipe.port()
    }

    /// The pid while the process is there (a paused one is), else `None`.
    pub fn pid(&self) -> Option<u32> {
        self.process().map(|process| process.pid)
    }

    /// The file that has the server's output.
    pub fn log(&self) -> PathBuf {
        self.recipe.log().to_owned()
    }

    /// Starts the server unless it runs, on the same port and data as before. Returns when it answers real requests.
    ///
    /// # Errors
    /// The port has been taken meanwhile, the process ended, or it was not ready in 90 s; with the end of its log.
    pub async fn start(&self) -> Result<()> {
        let _turn = self.turn.lock().await;
        if self.process().is_some() {
            return Ok(());
        }
        self.recipe.prepare().await?;
        let mut tries = 0;
        loop {
            match self.start_once().await {
                // What a killed Postgres' children hold is theirs for a moment longer.
                Err(LaunchError::Ended { .. }) if tries < 3 && matches!(self.recipe, Recipe::Postgres(_)) => tries += 1,
                outcome => return outcome,
            }
        }
    }

    async fn start_once(&self) -> Result<()> {
        ports::check(self.name(), self.port())?;
        *self.lock() = Some(self.recipe.launch().await?.spawn(Some(&self.supervisor))?);
        wait::until_ready(
            self.name(),
            READY_DEADLINE,
            self.recipe.log(),
            || self.lock().as_mut().is_none_or(Running::has_ended),
            || self.recipe.is_ready(),
        )
        .await?;
        self.recipe.furnish().await
    }

    /// Stops the server in order (killed when that takes over 30 s). Returns when it is gone; its data stays.
    pub async fn stop(&self) {
        let _turn = self.turn.lock().await;
        if let Some(process) = self.process() {
            self.recipe.stop(process).await;
        }
        self.reap().await;
    }

    /// Kills the server and its children with signal 9. Returns when they are gone; what it had not synced may be lost.
    pub async fn kill(&self) {
        let _turn = self.turn.lock().await;
        if let Some(process) = self.process() {
            kill_tree(process).await;
        }
        self.reap().await;
    }

    /// Freezes the server and its children (SIGSTOP): connections stay open and nobody answers.
    pub fn pause(&self) {
        if let Some(process) = self.process() {
            pause(process);
        }
    }

    /// Thaws what [`pause`](Self::pause) froze.
    pub fn resume(&self) {
        if let Some(process) = self.process() {
            resume(process);
        }
    }

    fn process(&self) -> Option<Process> {
        let process = self.lock().as_ref()?.process;
        process.is_alive().then_some(process)
    }

    async fn reap(&self) {
        let running = self.lock().take();
        if let Some(mut running) = running {
            running.wait_gone(KILL_DEADLINE).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().expect("no holder of this lock panics")
    }
}
