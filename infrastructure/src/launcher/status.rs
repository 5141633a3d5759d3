//! `nexus status`: a table of what runs and whether it answers; of containers, Docker's own.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

use sqlx::Connection;

use super::home::{Home, State};
use super::plan;
use super::{PROCESSES, compose};
use crate::broker::{self, BrokerProfile};
use crate::error::Result;
use crate::probe;

/// Returns the table, and whether everything is up.
///
/// # Errors
/// The record can't be read, or Docker does not answer.
pub async fn status(path: &Path) -> Result<(String, bool)> {
    let none = || Ok((format!("no stack in {}\n", path.display()), false));
    let Some(home) = Home::look(path) else { return none() };
    let Some(state) = home.state()? else {
        return match home.recorded_compose()? {
            Some(file) => compose::status(&file).await,
            None => none(),
        };
    };
    let mut table = format!("{:<16} {:<12} {:<8} {}\n", "PROCESS", "STATE", "PID", "ADDRESS");
    let mut all_up = true;
    for name in PROCESSES {
        let (word, pid, address) = row(name, &home, &state).await?;
        all_up &= matches!(word, "ready" | "external");
        writeln!(table, "{name:<16} {word:<12} {pid:<8} {address}").expect("writing to a string does not fail");
    }
    Ok((table, all_up))
}

async fn row(name: &str, home: &Home, state: &State) -> Result<(&'static str, String, String)> {
    let pid = state.alive(name).map(|process| process.pid.to_string());
    let shown = pid.clone().unwrap_or_else(|| "-".to_owned());
    let word = |ready: bool| match (&pid, ready) {
        (None, _) => "stopped",
        (Some(_), true) => "ready",
        (Some(_), false) => "not ready",
    };
    let plane_setting = match name {
        "nexus-control" => Some("NEXUS_CONTROL_ADDR"),
        "nexus-dataplane" => Some("NEXUS_DATAPLANE_ADDR"),
        _ => None,
    };
    if let Some(setting) = plane_setting {
        let address = state.settings.get(setting).cloned().unwrap_or_default();
        let ready = match address.parse::<SocketAddr>() {
            Ok(address) => probe::is_ready(address).await,
            Err(_) => false,
        };
        return Ok((word(ready), shown, address));
    }
    let setting = plan::setting_of(name);
    if let Some(given) = state.given.get(setting) {
        // Without what may be a password.
        let address = given.rsplit_once('@').map_or(given.as_str(), |(_, address)| address);
        let word = if theirs_answers(name, given).await { "external" } else { "no answer" };
        return Ok((word, "-".to_owned(), address.to_owned()));
    }
    let server = plan::server(name, home, state, BrokerProfile::default())?;
    let ready = pid.is_some() && server.is_ready().await;
    Ok((word(ready), shown, format!("127.0.0.1:{}", server.port())))
}

/// Whether the server of a setting, which somebody else runs, answers.
async fn theirs_answers(name: &str, given: &str) -> bool {
    match name {
        "postgres" => {
            let connected = tokio::time::timeout(probe::PATIENCE, sqlx::PgConnection::connect(given)).await;
            matches!(connected, Ok(Ok(_)))
        }
        "broker" => broker::answers(given.to_owned()).await,
        _ => probe::redis_is_there(given).await,
    }
}
