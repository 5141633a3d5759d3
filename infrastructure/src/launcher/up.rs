//! `nexus up`: starts what is not running, and says how to use it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sqlx::Connection;

use super::admin;
use super::compose;
use super::home::{Home, Recorded, State};
use super::plan::{self, PlanePlan};
use super::settings::{Settings, database_admin_url};
use crate::broker::{self, BrokerProfile};
use crate::error::Result;
use crate::planes::{CONTROL, DATAPLANE};
use crate::process::{Process, Signal};
use crate::server::{READY_DEADLINE, Recipe, kill_tree};
use crate::{ports, probe, wait};

/// How long a server that somebody else runs may take to answer.
const THEIRS_DEADLINE: Duration = Duration::from_secs(15);
const PLANE_STOP_DEADLINE: Duration = Duration::from_secs(15);

/// What `nexus up` was asked for.
#[derive(Clone, Debug)]
pub struct Up {
    /// `NEXUS_HOME`.
    pub home: PathBuf,
    /// The directory with the planes' executables.
    pub bin: PathBuf,
    /// Start the servers and no planes.
    pub servers_only: bool,
    /// Pick free ports where none are recorded, and for those that another program has taken.
    pub auto_ports: bool,
    /// How much memory the broker gets.
    pub broker_profile: BrokerProfile,
    /// `NEXUS_STACK=compose`.
    pub compose: bool,
    /// Every `NEXUS_*` of the environment.
    pub env: BTreeMap<String, String>,
}

/// Brings the stack up. Progress goes to standard error; returns what to print when all of it answers.
///
/// # Errors
/// A port is held by another program, a program is missing, or a process did not become ready; what had been started by
/// then stays up, and on record.
pub async fn up(request: &Up) -> Result<String> {
    if request.compose {
        return compose::up(request).await;
    }
    let home = Home::make(&request.home)?;
    let mut state = match home.state()? {
        Some(state) => state,
        None => home.new_state(request.auto_ports)?,
    };
    if request.auto_ports {
        replace_taken_ports(&mut state)?;
    }
    let settings = Settings::resolve(&state, &request.env);
    let servers = plan::own_servers(&home, &state, &settings, request.broker_profile)?;
    let planes = if request.servers_only { None } else { Some(plan::planes(&home, &settings, &request.bin)?) };
    stop_what_changed(&home, &mut state, &servers, planes.as_ref()).await?;
    check_ports(&state, &servers, planes.as_ref())?;
    home.save(&state)?;

    start_servers(&home, &mut state, &servers).await?;
    wait_for_theirs(&settings).await?;
    // Only now: a server that was given by mistake is not remembered.
    settings.remember(&mut state);
    home.save(&state)?;
    write_env(&home, &state, &settings)?;
    let Some([control, dataplane]) = planes else {
        return Ok(format!("The servers are up. To talk to them: . {}\n", home.path().join("env").display()));
    };
    admin::migrate(&control).await?;
    let first_key = admin::create(&control, state.api_key.is_none()).await?;
    if first_key.is_some() {
        state.api_key = first_key;
        home.save(&state)?;
        write_env(&home, &state, &settings)?;
    }
    start_planes(&home, &mut state, [&control, &dataplane]).await?;
    let mut key = state.api_key.clone().unwrap_or_default();
    if !admin::key_works(control.address, &key).await {
        say("admin", "the recorded key is not taken; making another");
        key = admin::create(&control, true).await?.unwrap_or_default();
        state.api_key = Some(key.clone());
        home.save(&state)?;
    }
    write_env(&home, &state, &settings)?;
    admin::key_arrives(dataplane.address, &key).await?;
    Ok(how_to_use(request, &home, &control, &dataplane, &key))
}

fn say(name: &str, what: &str) {
    eprintln!("{name:<16} {what}");
}

/// Picks new ports for processes of ours that don't run and whose port somebody has.
fn replace_taken_ports(state: &mut State) -> Result<()> {
    let alive: Vec<&str> = super::PROCESSES.into_iter().filter(|name| state.alive(name).is_some()).collect();
    let recorded = &mut state.ports;
    let own = [
        ("postgres", &mut recorded.postgres),
        ("broker", &mut recorded.broker),
        ("broker", &mut recorded.broker_internal),
        ("broker", &mut recorded.broker_admin),
        ("redis", &mut recorded.redis),
        (CONTROL, &mut recorded.control),
        (DATAPLANE, &mut recorded.dataplane),
    ];
    for (name, port) in own {
        if !alive.contains(&name) && !ports::is_free(*port) {
            *port = ports::pick()?;
        }
    }
    Ok(())
}

/// Stops the planes whose executable or settings changed, servers that are configured otherwise, and those of our own
/// in whose place another one is used now.
async fn stop_what_changed(
    home: &Home,
    state: &mut State,
    servers: &[Recipe],
    planes: Option<&[PlanePlan; 2]>,
) -> Result<()> {
    for plane in planes.into_iter().flatten() {
        let changed = state.processes.get(plane.name).is_some_and(|recorded| recorded.fingerprint != plane.fingerprint);
        if changed && let Some(process) = state.alive(plane.name) {
            say(plane.name, "has changed: stopping the old one");
            process.signal(Signal::TERM);
            if !process.wait_gone(PLANE_STOP_DEADLINE).await {
                kill_tree(process).await;
            }
            home.forget(state, plane.name)?;
        }
    }
    for name in ["redis", "broker", "postgres"] {
        let Some(process) = state.alive(name) else { continue };
        let wanted = servers.iter().find(|server| server.name() == name);
        let recorded = &state.processes[name].fingerprint;
        if wanted.is_some_and(|server| plan::server_fingerprint(server) == *recorded) {
            continue;
        }
        say(name, "has changed: stopping the old one");
        plan::server(name, home, state, BrokerProfile::default())?.stop(process).await;
        home.forget(state, name)?;
    }
    Ok(())
}

/// Before anything starts: every port that will be needed is free.
fn check_ports(state: &State, servers: &[Recipe], planes: Option<&[PlanePlan; 2]>) -> Result<()> {
    let servers = servers.iter().flat_map(|server| server.ports().into_iter().map(move |port| (server.name(), port)));
    let planes = planes.into_iter().flatten().map(|plane| (plane.name, plane.address.port()));
    for (name, port) in servers.chain(planes) {
        if state.alive(name).is_none() {
            ports::check(name, port)?;
        }
    }
    Ok(())
}

async fn start_servers(home: &Home, state: &mut State, servers: &[Recipe]) -> Result<()> {
    let begin = Instant::now();
    let mut waiting = tokio::task::JoinSet::new();
    // The slow part of a first start: initdb, jars and format, at the same time.
    let mut preparing = tokio::task::JoinSet::new();
    for server in servers {
        match state.alive(server.name()) {
            Some(process) => drop(waiting.spawn(become_ready(server.clone(), process, begin))),
            None => {
                say(server.name(), &format!("starting on 127.0.0.1:{}", server.port()));
                let server = server.clone();
                preparing.spawn(async move { server.prepare().await.map(|()| server) });
            }
        }
    }
    while let Some(prepared) = preparing.join_next().await {
        let server = prepared.expect("preparing a server does not panic")?;
        let process = server.launch().await?.spawn(None)?.process;
        let recorded = Recorded { process, fingerprint: plan::server_fingerprint(&server) };
        home.record(state, server.name(), recorded)?;
        waiting.spawn(become_ready(server, process, begin));
    }
    while let Some(ready) = waiting.join_next().await {
        ready.expect("waiting for a server does not panic")?;
    }
    Ok(())
}

async fn become_ready(server: Recipe, process: Process, begin: Instant) -> Result<()> {
    let (name, log) = (server.name(), server.log());
    wait::until_ready(name, READY_DEADLINE, log, || !process.is_alive(), || server.is_ready()).await?;
    server.furnish().await?;
    say(name, &format!("ready after {:.1} s (pid {})", begin.elapsed().as_secs_f64(), process.pid));
    Ok(())
}

/// Servers that somebody else runs must answer as well.
async fn wait_for_theirs(settings: &Settings) -> Result<()> {
    let given = |server: &str| {
        let name = plan::setting_of(server);
        settings.is_given(name).then(|| settings.get(name).to_owned())
    };
    if let Some(url) = given("postgres") {
        wait::until("the Postgres of NEXUS_DATABASE_URL to answer", THEIRS_DEADLINE, || async {
            sqlx::PgConnection::connect(&url).await.ok()
        })
        .await?;
        say("postgres", "the one of NEXUS_DATABASE_URL answers (NEXUS_DATABASE_URL= goes back to our own)");
    }
    if let Some(brokers) = given("broker") {
        wait::until("the broker of NEXUS_BROKERS to answer", THEIRS_DEADLINE, || async {
            broker::answers(brokers.clone()).await.then_some(())
        })
        .await?;
        say("broker", "the one of NEXUS_BROKERS answers (NEXUS_BROKERS= goes back to our own)");
    }
    if given("redis").is_some() {
        // Its URL may ask for more than a bare connection can show; the data plane's readiness tells.
        say("redis", "using the one of NEXUS_REDIS_URL (NEXUS_REDIS_URL= goes back to our own)");
    }
    Ok(())
}

async fn start_planes(home: &Home, state: &mut State, planes: [&PlanePlan; 2]) -> Result<()> {
    let begin = Instant::now();
    for plane in planes {
        if state.alive(plane.name).is_none() {
            say(plane.name, &format!("starting on {}", plane.address));
            let running = plane.launch.spawn(None)?;
            let recorded = Recorded { process: running.process, fingerprint: plane.fingerprint.clone() };
            home.record(state, plane.name, recorded)?;
        }
    }
    for plane in planes {
        let process = state.processes[plane.name].process;
        wait::until_ready(
            plane.name,
            READY_DEADLINE,
            &plane.launch.log,
            || !process.is_alive(),
            || async { probe::is_ready(plane.address).await },
        )
        .await?;
        say(plane.name, &format!("ready after {:.1} s (pid {})", begin.elapsed().as_secs_f64(), process.pid));
    }
    Ok(())
}

fn write_env(home: &Home, state: &State, settings: &Settings) -> Result<()> {
    let mut variables = settings.for_env_file();
    let mut add = |name: &str, value: String| variables.push((name.to_owned(), value));
    add("NEXUS_CONTROL_URL", url_of(settings.get("NEXUS_CONTROL_ADDR")));
    add("NEXUS_DATAPLANE_URL", url_of(settings.get("NEXUS_DATAPLANE_ADDR")));
    add("NEXUS_API_KEY", state.api_key.clone().unwrap_or_default());
    add("NEXUS_HOME", home.path().display().to_string());
    if !settings.is_given("NEXUS_DATABASE_URL") {
        add("NEXUS_DATABASE_ADMIN_URL", database_admin_url(state));
    }
    home.write_env(&variables)
}

/// How a client on this machine gets to a plane; one that listens everywhere listens on loopback too.
fn url_of(address: &str) -> String {
    match address.parse::<SocketAddr>() {
        Ok(everywhere) if everywhere.ip().is_unspecified() => format!("http://{}", ports::local(everywhere.port())),
        _ => format!("http://{address}"),
    }
}

fn how_to_use(request: &Up, home: &Home, control: &PlanePlan, dataplane: &PlanePlan, key: &str) -> String {
    let (control, dataplane) = (url_of(&control.address.to_string()), url_of(&dataplane.address.to_string()));
    let cli = request.bin.join("nexus-cli");
    // Shown from where the user stands, when it is below.
    let here = std::env::current_dir().unwrap_or_default();
    let shown = |path: &std::path::Path| path.strip_prefix(&here).unwrap_or(path).display().to_string();
    let (env, cli) = (shown(&home.path().join("env")), shown(&cli));
    // A shell's dot searches PATH for a bare name.
    let env = if env.contains('/') { env } else { format!("./{env}") };
    format!(
        "\nNexus is up.\n  \
         control plane  {control}\n  \
         data plane     {dataplane}\n  \
         admin's key    {key}\n\n\
         Try:\n  \
         curl -sS {control}/v1/signals -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' -d '{{\"title\":\"Hello\",\"priority\":\"high\"}}'\n  \
         curl -sS '{dataplane}/v1/signals?limit=5' -H 'Authorization: Bearer {key}'\n  \
         . {env} && {cli} list\n"
    )
}
