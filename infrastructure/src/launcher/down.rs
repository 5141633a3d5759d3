//! `nexus down` and `nexus clean-data`.

use std::path::Path;
use std::time::Duration;

use super::compose;
use super::home::{Home, State};
use super::plan;
use crate::broker::BrokerProfile;
use crate::error::Result;
use crate::planes::{CONTROL, DATAPLANE};
use crate::process::Signal;
use crate::server::kill_tree;

/// Longer than a plane may take to drain.
const DRAIN_DEADLINE: Duration = Duration::from_secs(15);

/// Stops the planes, then the servers, by the pids on record; a pid that belongs to another process by now is left
/// alone; and the containers, where the stack was started as such. Data, ports and keys stay. Returns when all are gone.
///
/// # Errors
/// The record can't be read or written, or Docker does not stop the containers.
pub async fn down(path: &Path) -> Result<()> {
    let Some(home) = Home::find(path)? else { return Ok(()) };
    if let Some(mut state) = home.state()? {
        stop_all(&home, &mut state).await?;
    }
    if let Some(file) = home.recorded_compose()? {
        compose::down(&file, false).await?;
    }
    Ok(())
}

async fn stop_all(home: &Home, state: &mut State) -> Result<()> {
    // The planes first: a command that was accepted is answered, and its event can still be published.
    let mut planes = Vec::new();
    for name in [CONTROL, DATAPLANE] {
        if let Some(process) = state.alive(name) {
            process.signal(Signal::CONT);
            process.signal(Signal::TERM);
            planes.push((name, process));
        }
    }
    for (name, process) in planes {
        if !process.wait_gone(DRAIN_DEADLINE).await {
            eprintln!("{name:<16} did not end in {} s: killed", DRAIN_DEADLINE.as_secs());
            kill_tree(process).await;
        }
        eprintln!("{name:<16} stopped");
    }
    let mut stopping = tokio::task::JoinSet::new();
    for name in ["redis", "broker", "postgres"] {
        if let Some(process) = state.alive(name) {
            let server = plan::server(name, home, state, BrokerProfile::default())?;
            stopping.spawn(async move {
                let in_order = server.stop(process).await;
                eprintln!("{name:<16} {}", if in_order { "stopped" } else { "did not end in time: killed" });
            });
        }
    }
    while let Some(stopped) = stopping.join_next().await {
        stopped.expect("stopping a server does not panic");
    }
    for name in super::PROCESSES {
        home.forget(state, name)?;
    }
    Ok(())
}

/// Stops everything and removes what the stack keeps: data, keys, ports and logs.
///
/// # Errors
/// As [`down`], or a directory can't be removed.
pub async fn clean_data(path: &Path) -> Result<()> {
    let Some(home) = Home::find(path)? else { return Ok(()) };
    let (mut state, file) = (home.state()?, home.recorded_compose()?);
    if state.is_none() && file.is_none() {
        return Ok(());
    }
    if let Some(state) = &mut state {
        stop_all(&home, state).await?;
    }
    if let Some(file) = file {
        compose::down(&file, true).await?;
    }
    home.remove(state.as_ref())
}
