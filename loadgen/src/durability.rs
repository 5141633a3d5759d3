//! What makes the measured commits durable, as the planes' own sessions have it.
//!
//! A session of ours would tell its own settings: a role's, a database's and a session's options differ. So the control plane
//! is asked, which counts the sessions of its batches by what Postgres said in them, and its producers by their `acks`.
//! Each figure carries its source, and what nobody said is called assumed.

use serde_json::{Value, json};

use crate::client::{Endpoint, Exchange};
use crate::options::Targets;

/// Sessions of batches, by their settings.
const SESSIONS: &str = "nexus_store_sessions_total";
/// Producers of the relay, by their `acks`.
const PRODUCERS: &str = "nexus_relay_producers_total";

/// The settings that figures depend on, for the manifest: `{"value", "source"}` each. To be asked after the run, when there
/// have been sessions.
#[must_use]
pub fn settings(targets: &Targets) -> Value {
    let metrics = targets.control().ok().map(|control| get(control, "", "/metrics")).unwrap_or_default();
    let partitions = targets.views().ok().and_then(|views| views.into_iter().next());
    let partitions = partitions.map(|view| get(view, &targets.api_key, "/v1/status")).unwrap_or_default();
    let environment = |name: &str| std::env::var(name).ok();
    said(&metrics, &partitions, &ask_postgres, &environment)
}

/// A page of a plane; empty where there is none.
fn get(endpoint: Endpoint, api_key: &str, path: &str) -> String {
    let reply = Exchange::new(endpoint, api_key).get(path).ok().filter(|reply| reply.status == 200);
    reply.map(|reply| String::from_utf8_lossy(&reply.body).into_owned()).unwrap_or_default()
}

/// One row of a query in a session of our own.
fn ask_postgres(query: &str) -> Option<String> {
    let url = std::env::var("NEXUS_DATABASE_URL").ok()?;
    let output = std::process::Command::new("psql").args([url.as_str(), "-XAtc", query]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

fn said(
    metrics: &str,
    status: &str,
    ask: &dyn Fn(&str) -> Option<String>,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Value {
    let of_sessions = |name: &str| {
        let by_control = values(metrics, SESSIONS, name)
            .map(|value| (value, "said by Postgres in the control plane's own sessions of its batches"));
        by_control.or_else(|| {
            let source = "assumed: asked in a session of this process, for the control plane does not say";
            Some((ask(&format!("show {name}"))?, source))
        })
    };
    let acks = values(metrics, PRODUCERS, "acks").map(|value| (value, "said by the control plane of its producers"));
    json!({
        "synchronous_commit": item(of_sessions("synchronous_commit")),
        "fsync": item(of_sessions("fsync")),
        "postgres": item(of_sessions("server_version")),
        "acks": item(acks),
        "partitions": item(partitions(status).map(|count| (count.to_string(), "said by the view server"))),
        "brokers": item(environment("NEXUS_BROKERS").map(|brokers| (brokers, "assumed: a variable of this process"))),
    })
}

fn item(said: Option<(String, &str)>) -> Value {
    match said {
        Some((value, source)) => json!({ "value": value, "source": source }),
        None => json!({ "value": null, "source": "not known: nobody said" }),
    }
}

/// The values of a label, with commas between where there were several; `None` where the metric has none.
fn values(metrics: &str, metric: &str, label: &str) -> Option<String> {
    let mut found: Vec<&str> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix(metric)?.strip_prefix('{')?.split_once('}'))
        .filter(|(_, count)| count.trim().parse::<f64>().is_ok_and(|count| count > 0.0))
        .filter_map(|(labels, _)| labels.split(&format!("{label}=\"")).nth(1)?.split('"').next())
        .collect();
    found.sort_unstable();
    found.dedup();
    (!found.is_empty()).then(|| found.join(", "))
}

/// How many partitions of signals a view server's `/v1/status` lists: those named `s0`, `s1` and on.
fn partitions(status: &str) -> Option<usize> {
    let status: Value = serde_json::from_str(status).ok()?;
    let names = status["partitions"].as_array()?.iter().filter_map(|partition| partition["partition"].as_str());
    Some(names.filter(|name| name.starts_with('s')).count()).filter(|count| *count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "# HELP nexus_store_sessions_total x\n\
        nexus_store_sessions_total{fsync=\"on\",server_version=\"15.8 (Debian 15.8-1)\",synchronous_commit=\"off\"} 3\n\
        nexus_relay_producers_total{acks=\"all\"} 1\n";

    fn none(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn what_the_planes_say_of_their_own_sessions_is_what_is_written() {
        let status = r#"{"partitions":[{"partition":"s0"},{"partition":"s1"},{"partition":"i"},{"partition":"k"}]}"#;
        let settings = said(METRICS, status, &|_| Some("on".to_owned()), &none);
        assert_eq!(settings["synchronous_commit"]["value"], "off", "whatever another session has");
        assert_eq!((&settings["fsync"]["value"], &settings["acks"]["value"]), (&json!("on"), &json!("all")));
        assert_eq!(settings["postgres"]["value"], "15.8 (Debian 15.8-1)");
        assert_eq!(settings["partitions"]["value"], "2");
        let changed = METRICS
            .replace("# HELP nexus_store_sessions_total x", "nexus_store_sessions_total{synchronous_commit=\"on\"} 1");
        assert_eq!(said(&changed, "", &none, &none)["synchronous_commit"]["value"], "off, on");
    }

    #[test]
    fn what_no_plane_says_is_called_assumed_or_not_known() {
        let settings = said("", "", &|query| (query == "show fsync").then(|| "on".to_owned()), &none);
        assert_eq!(settings["fsync"]["value"], "on");
        assert!(settings["fsync"]["source"].as_str().is_some_and(|source| source.starts_with("assumed")));
        for name in ["synchronous_commit", "acks", "partitions", "brokers"] {
            assert_eq!(settings[name]["value"], Value::Null, "{name}");
            assert!(settings[name]["source"].as_str().is_some_and(|source| source.starts_with("not known")), "{name}");
        }
    }
}
