//! A relay in a process of its own, which a test can kill and pause: this test binary again, told by an
//! environment variable to be the relay.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use control::relay::Relay;
use infrastructure::{Process, Signal};
use tokio_util::sync::CancellationToken;

use crate::place::{Place, settings};

const TOLD: &str = "RELAY_TEST_CHILD";

/// Kills the process when dropped.
pub struct RelayProcess(Child);

impl RelayProcess {
    pub fn start(place: &Place) -> Self {
        let child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "child::relay_process", "--nocapture"])
            .env(TOLD, "1")
            .envs(place.namespace.env())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("started");
        Self(child)
    }

    pub fn pause(&self) {
        assert!(self.process().signal(Signal::STOP), "the relay's process is there");
    }

    pub fn thaw(&self) {
        assert!(self.process().signal(Signal::CONT), "the relay's process is there");
    }

    pub fn kill(mut self) {
        self.0.kill().expect("killed");
        self.0.wait().expect("gone");
    }

    /// The processor time that it has taken.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("the process is there");
        let fields: Vec<&str> = stat.rsplit_once(") ").expect("a name").1.split(' ').collect();
        let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum();
        // The kernel counts in hundredths of a second (USER_HZ).
        Duration::from_millis(ticks * 10)
    }

    fn process(&self) -> Process {
        Process::of(self.0.id()).expect("the relay's process is there")
    }
}

impl Drop for RelayProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test: what [`RelayProcess`] runs. By itself it does nothing.
#[test]
fn relay_process() {
    if std::env::var_os(TOLD).is_none() {
        return;
    }
    if std::env::var_os("NEXUS_LOG").is_some() {
        runtime::telemetry::init().expect("logs");
    }
    let settings = settings(&std::env::vars().collect::<Vec<_>>());
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    executor.block_on(Relay::new(settings).run(CancellationToken::new())).expect("the settings work");
}
