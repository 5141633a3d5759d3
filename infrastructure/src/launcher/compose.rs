//! `NEXUS_STACK=compose`: the same stack as containers, where a Docker engine answers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::home::Home;
use super::up::Up;
use crate::account::Account;
use crate::error::{LaunchError, Result};
use crate::probe;
use crate::process::run;

/// The ports of the planes in the compose file.
const CONTROL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8000);
const DATAPLANE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8001);

/// `docker compose up --wait` with both planes, then the first admin inside the control plane's container.
pub(crate) async fn up(request: &Up) -> Result<String> {
    run(&Account::Own, "docker", ["info"], &[]).await.map_err(|_| LaunchError::Missing {
        what: "a Docker engine, which NEXUS_STACK=compose needs,".to_owned(),
        hint: "start it, or leave NEXUS_STACK unset for the native stack".to_owned(),
    })?;
    let home = Home::make(&request.home)?;
    let file = compose_file()?;
    let compose = |args: &[&str]| words(&file, args);
    eprintln!("compose          building and starting; the first time takes minutes");
    // Before anything runs: what is up halfway has to come down as well.
    home.record_compose(&file)?;
    run(&Account::Own, "docker", compose(&["up", "--build", "--detach", "--wait"]), &[]).await?;
    let create = ["exec", "-T", "control", "nexus-control", "create-admin", "--name", "admin"];
    let mut key = run(&Account::Own, "docker", compose(&create), &[]).await?;
    let recorded = std::fs::read_to_string(home.path().join("compose-key")).unwrap_or_default();
    if key.is_empty() {
        key = recorded;
    }
    if key.is_empty() {
        key = run(&Account::Own, "docker", compose(&[&create[..], &["--new-key"]].concat()), &[]).await?;
    }
    crate::postgres::write_private(&home.path().join("compose-key"), &key)?;
    let variables = [
        ("NEXUS_CONTROL_URL", format!("http://{CONTROL}")),
        ("NEXUS_DATAPLANE_URL", format!("http://{DATAPLANE}")),
        ("NEXUS_API_KEY", key.clone()),
        ("NEXUS_HOME", home.path().display().to_string()),
    ];
    home.write_env(&variables.map(|(name, value)| (name.to_owned(), value)))?;
    Ok(format!(
        "\nNexus is up, in containers.\n  control plane  http://{CONTROL}\n  data plane     http://{DATAPLANE}\n  \
         admin's key    {key}\n  console        http://127.0.0.1:8080\n\n\
         Stop it with: make down\n"
    ))
}

/// `docker compose down` with both planes; with their data, the volumes go too.
pub(crate) async fn down(file: &Path, with_data: bool) -> Result<()> {
    eprintln!("compose          stopping");
    let args: &[&str] = if with_data { &["down", "--volumes"] } else { &["down"] };
    run(&Account::Own, "docker", words(file, args), &[]).await.map(drop)
}

/// `docker compose ps`, and whether both planes are ready.
pub(crate) async fn status(file: &Path) -> Result<(String, bool)> {
    let table = run(&Account::Own, "docker", words(file, &["ps"]), &[]).await?;
    Ok((format!("{table}\n"), probe::is_ready(CONTROL).await && probe::is_ready(DATAPLANE).await))
}

/// The words behind `docker`.
fn words(file: &Path, args: &[&str]) -> Vec<String> {
    let mut words = vec!["compose".to_owned(), "-f".to_owned(), file.display().to_string()];
    words.extend(["--profile", "planes"].map(str::to_owned));
    words.extend(args.iter().map(|word| (*word).to_owned()));
    words
}

/// The compose file of the checkout we stand in.
fn compose_file() -> Result<PathBuf> {
    let file = PathBuf::from("infrastructure/docker-compose.yml");
    file.canonicalize().map_err(|_| LaunchError::Missing {
        what: file.display().to_string(),
        hint: "run this from the top of the repository".to_owned(),
    })
}
