//! `doctor`: everything between here and the view, and what to do about what is broken.

use std::time::{Duration, Instant};

use contract::json::Json;
use contract::query::Resource;
use contract::time::Timestamp;
use http::{Method, StatusCode};

use super::args::{Connection, DoctorArgs};
use super::client::{Call, Client, Plane};
use super::error::CliError;
use super::output::{Format, parse, text_of};
use super::probe;
use super::read::{entity_path, get_with_token, path};
use super::status::{Check, report, view};
use super::write::{Planes, command};

/// `Date` has whole seconds: less than this says nothing.
const SKEW_SECONDS_MAX: i64 = 3;
/// A read-back slower than this is worth a look.
const ROUND_TRIP_SLOW: Duration = Duration::from_secs(1);

/// `doctor`
///
/// # Errors
/// [`CliError::Told`] with 1 when a check failed.
pub async fn doctor(
    planes: &mut Planes,
    settings: &Connection,
    format: Format,
    args: &DoctorArgs,
) -> Result<(), CliError> {
    let mut checks = vec![key_shape(settings)];
    let mut versions = vec![("nexus-cli", env!("CARGO_PKG_VERSION").to_owned())];
    let mut clocks = Vec::new();
    let mut alive = Vec::new();
    for client in [&mut planes.control, &mut planes.data] {
        let plane = client.plane();
        match probe::readiness(client).await {
            Ok((readiness, answer)) => {
                alive.push(plane);
                checks.push(ready(plane, &readiness, client.url()));
                if let Some(seconds) = probe::date(&answer) {
                    clocks.push((plane, Timestamp::now().0.div_euclid(1_000_000) - seconds));
                }
            }
            Err(error) => {
                checks.push(Check::fail(plane.title(), error.to_string(), ""));
                continue;
            }
        }
        match probe::version(client).await {
            Ok((name, version)) => {
                let expected = match plane {
                    Plane::Control => "nexus-control",
                    Plane::Data => "nexus-dataplane",
                };
                if !name.is_empty() && name != expected {
                    let found = format!("what answers at {} is {name}, not {expected}", client.url());
                    let (setting, flag) = (plane.setting(), plane.flag());
                    checks.push(Check::fail(
                        format!("{} address", plane.title()),
                        found,
                        format!("mend {setting} (--{flag}): are the two addresses swapped?"),
                    ));
                }
                versions.push((expected, version.split(' ').next().unwrap_or_default().to_owned()));
            }
            Err(error) => checks.push(Check::fail(format!("{} version", plane.title()), error.to_string(), "")),
        }
    }
    if !alive.is_empty() {
        checks.push(same_versions(&versions));
        checks.push(skew(&clocks));
    }
    let mut may_write = true;
    for client in [&mut planes.control, &mut planes.data] {
        if alive.contains(&client.plane()) {
            let check = key(client).await;
            may_write &= check.result != "fail";
            checks.push(check);
        }
    }
    if alive.contains(&Plane::Data) {
        checks.push(view(&mut planes.data).await);
    }
    if args.write {
        checks.push(if may_write && alive.len() == 2 {
            round_trip(planes).await
        } else {
            Check::fail("write and read back", "not tried", "mend what failed above first")
        });
    }
    report(&checks, format)
}

fn key_shape(settings: &Connection) -> Check {
    match settings.api_key.as_deref().map(str::trim).filter(|key| !key.is_empty()) {
        None => Check::fail(
            "API key setting",
            "no key is set",
            "set NEXUS_API_KEY (or --api-key): `. .nexus/env` after `make up`, or ask an admin for one",
        ),
        Some(key) if !key.starts_with("nxs_") => Check::fail(
            "API key setting",
            "NEXUS_API_KEY does not look like a key of Nexus",
            "it must begin with nxs_: copy the secret again, as it was shown when the key was made",
        ),
        Some(_) => Check::ok("API key setting", "a key is set"),
    }
}

fn ready(plane: Plane, readiness: &probe::Readiness, url: &str) -> Check {
    let detail = format!("{} at {url}; {}", readiness.status, readiness.reasons());
    let missing: Vec<&str> = readiness.missing().collect();
    let of = |word: &str| missing.iter().any(|name| name.contains(word));
    let advice = if of("postgres") || of("database") {
        "start Postgres, or mend NEXUS_DATABASE_URL of the control plane (`make up` starts what is missing)"
    } else if of("broker") || of("relay") || of("projector") {
        "start the broker, or mend NEXUS_BROKERS of the planes (`make up` starts what is missing); commands go on meanwhile, the view lags"
    } else if of("redis") {
        "start Redis, or mend NEXUS_REDIS_URL of the data plane (`make up` starts what is missing)"
    } else if of("view") || of("partition") {
        "the view is being filled from the topics: wait, `nexus-cli lag --watch` shows how far it is"
    } else {
        "look into the plane's log; `make status` shows what runs"
    };
    match readiness.status.as_str() {
        "ready" => Check::ok(plane.title(), detail),
        "degraded" => Check::warn(plane.title(), detail, advice),
        _ => Check::fail(plane.title(), detail, advice),
    }
}

fn same_versions(versions: &[(&str, String)]) -> Check {
    let told = versions.iter().map(|(name, version)| format!("{name} {version}")).collect::<Vec<_>>().join(", ");
    if versions.windows(2).all(|pair| pair[0].1 == pair[1].1) {
        Check::ok("versions", told)
    } else {
        Check::warn(
            "versions",
            told,
            "run the same version everywhere: build again and `make up` restarts what changed",
        )
    }
}

fn skew(clocks: &[(Plane, i64)]) -> Check {
    let told = clocks.iter().map(|(plane, ahead)| format!("{} {ahead:+} s", plane.title())).collect::<Vec<_>>();
    let told = format!("this machine's clock, seen from the planes: {}", told.join(", "));
    if clocks.is_empty() {
        Check::warn("clocks", "the planes' answers carry no Date", "a proxy in between may take it out")
    } else if clocks.iter().all(|(_, ahead)| ahead.abs() <= SKEW_SECONDS_MAX) {
        Check::ok("clocks", told)
    } else {
        Check::warn("clocks", told, "set the clocks (NTP): ages, expiries and measured latencies are off by that much")
    }
}

async fn key(client: &mut Client) -> Check {
    let name = format!("API key on the {}", client.plane().title());
    let answer = match client.call(&Call::get("/v1/me")).await {
        Ok(answer) => answer,
        Err(CliError::Problem(report)) if report.code == "unauthorized" && client.plane() == Plane::Data => {
            let advice = "a key made just now may not have arrived yet; else as the control plane says of it";
            return Check::fail(name, CliError::Problem(report).to_string(), advice);
        }
        Err(error) => return Check::fail(name, error.to_string(), ""),
    };
    match parse(&answer.body) {
        Ok(me) => {
            let (who, role, active) = (text_of(&me, "name"), text_of(&me, "role"), me.get("active"));
            let detail = format!("{who} ({role})");
            if active == Some(&Json::Bool(false)) {
                Check::fail(name, format!("{detail} is inactive"), "an admin must activate the identity")
            } else if role == "reader" {
                Check::ok(name, format!("{detail}: may read signals, not write them"))
            } else {
                Check::ok(name, detail)
            }
        }
        Err(error) => Check::fail(name, error.to_string(), ""),
    }
}

/// Creates a signal, reads it back with its token, deletes it, and sees that it is gone.
async fn round_trip(planes: &mut Planes) -> Check {
    const NAME: &str = "write and read back";
    let advice =
        "`nexus-cli lag --watch` shows whether events arrive; the control plane's log says why they do not leave";
    match try_round_trip(planes).await {
        Ok(took) => {
            let detail = format!("visible after {:.1} ms, gone again after its deletion", took.as_secs_f64() * 1000.0);
            if took > ROUND_TRIP_SLOW { Check::warn(NAME, detail, advice) } else { Check::ok(NAME, detail) }
        }
        Err(error @ CliError::NotYetConsistent(_)) => Check::fail(NAME, error.to_string(), advice),
        Err(error) => Check::fail(NAME, error.to_string(), ""),
    }
}

async fn try_round_trip(planes: &mut Planes) -> Result<Duration, CliError> {
    let body = r#"{"title":"nexus-cli doctor: may be deleted","priority":"low"}"#;
    let start = Instant::now();
    let created =
        command(&mut planes.control, Call::new(Method::POST, path(Resource::Signals)).json(body), None).await?;
    let id = text_of(&parse(&created.body)?, "id");
    let no_token = || CliError::Failed("the command's answer carries no Nexus-Token".to_owned());
    let seen = match created.token() {
        Some(token) => get_with_token(&mut planes.data, Resource::Signals, &id, &token, Duration::from_secs(10)).await,
        None => Err(no_token()),
    };
    let took = start.elapsed();
    // It is taken away again whatever the view says.
    let call = Call::new(Method::DELETE, entity_path(Resource::Signals, &id));
    let deleted = command(&mut planes.control, call, None).await?;
    let seen = seen?;
    if seen.body != created.body {
        return Err(CliError::Failed(format!("the view's {id} is not what the control plane answered")));
    }
    let token = deleted.token().ok_or_else(no_token)?;
    match get_with_token(&mut planes.data, Resource::Signals, &id, &token, Duration::from_secs(10)).await {
        Err(CliError::Problem(report)) if report.status == StatusCode::NOT_FOUND => Ok(took),
        Ok(_) => Err(CliError::Failed(format!("the view still shows {id} after its deletion, in spite of the token"))),
        Err(error) => Err(error),
    }
}
