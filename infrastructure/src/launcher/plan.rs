//! From the record and the settings to what has to run: which servers are our own, and how each process is started.

use std::net::SocketAddr;
use std::path::Path;

use super::home::{Home, State};
use super::settings::Settings;
use crate::account::Account;
use crate::broker::{Broker, BrokerProfile};
use crate::error::{IoContext, LaunchError, Result};
use crate::kafka_jars::hash;
use crate::planes::{CONTROL, DATAPLANE};
use crate::postgres::Postgres;
use crate::process::Launch;
use crate::redis::Redis;
use crate::server::Recipe;

/// The servers that this stack runs itself.
pub(crate) fn own_servers(
    home: &Home,
    state: &State,
    settings: &Settings,
    profile: BrokerProfile,
) -> Result<Vec<Recipe>> {
    let mut servers = Vec::new();
    for name in ["postgres", "broker", "redis"] {
        if !settings.is_given(setting_of(name)) {
            servers.push(server(name, home, state, profile)?);
        }
    }
    Ok(servers)
}

/// The setting that names a server somebody else runs.
pub(crate) fn setting_of(server: &str) -> &'static str {
    match server {
        "postgres" => "NEXUS_DATABASE_URL",
        "broker" => "NEXUS_BROKERS",
        _ => "NEXUS_REDIS_URL",
    }
}

/// One server as this stack would run it.
pub(crate) fn server(name: &str, home: &Home, state: &State, profile: BrokerProfile) -> Result<Recipe> {
    let ports = &state.ports;
    let (dir, log) = (state.data.join(name), home.log(name));
    Ok(match name {
        "postgres" => Recipe::Postgres(Postgres {
            port: ports.postgres,
            home: dir,
            log,
            superuser_password: state.superuser_password.clone(),
            password: state.password.clone(),
            account: Account::for_server("postgres")?,
            scratch: false,
        }),
        "broker" => Recipe::Broker(Broker {
            port: ports.broker,
            internal_port: ports.broker_internal,
            admin_port: ports.broker_admin,
            home: dir,
            log,
            profile,
        }),
        _ => Recipe::Redis(Redis { port: ports.redis, home: dir, log, account: Account::for_server("redis")? }),
    })
}

/// Changes when a running server has to be started anew.
pub(crate) fn server_fingerprint(recipe: &Recipe) -> String {
    match recipe {
        Recipe::Broker(broker) => format!("{}/{:?}", broker.port, broker.profile).to_lowercase(),
        other => other.port().to_string(),
    }
}

/// A plane as this stack runs it.
#[derive(Clone, Debug)]
pub(crate) struct PlanePlan {
    pub name: &'static str,
    pub address: SocketAddr,
    pub launch: Launch,
    pub fingerprint: String,
}

/// Both planes, from the executables in `bin`.
pub(crate) fn planes(home: &Home, settings: &Settings, bin: &Path) -> Result<[PlanePlan; 2]> {
    Ok([
        plane(CONTROL, "NEXUS_CONTROL_ADDR", home, settings, bin)?,
        plane(DATAPLANE, "NEXUS_DATAPLANE_ADDR", home, settings, bin)?,
    ])
}

fn plane(name: &'static str, setting: &'static str, home: &Home, settings: &Settings, bin: &Path) -> Result<PlanePlan> {
    let program = bin.join(name);
    let built = std::fs::metadata(&program).map_err(|_| LaunchError::Missing {
        what: program.display().to_string(),
        hint: "build it first: cargo build --release --bins (`make up` does)".to_owned(),
    })?;
    let changed = built.modified().context(|| format!("can't look at {}", program.display()))?;
    let env = settings.for_planes();
    let text = format!("{} {} {changed:?} {env:?}", program.display(), built.len());
    let address = settings.get(setting).parse().map_err(|_| LaunchError::Setting {
        name: setting,
        reason: format!("`{}` is no address such as 127.0.0.1:8000", settings.get(setting)),
    })?;
    let launch = Launch {
        name: name.to_owned(),
        program,
        args: vec!["serve".into()],
        env,
        // Where no `.env` is: the settings come from here alone.
        directory: home.path().to_owned(),
        log: home.log(name),
        account: Account::Own,
    };
    Ok(PlanePlan { name, address, launch, fingerprint: format!("{:016x}", hash(text.as_bytes())) })
}
