//! Which value each setting has: what was given now, what was given before, or what follows from the ports.

use std::collections::BTreeMap;

use super::home::State;
use crate::ports::local;

/// What a plane is started with, in the order in which it is written to `env`.
pub(crate) const SETTINGS: [&str; 12] = [
    "NEXUS_CONTROL_ADDR",
    "NEXUS_DATAPLANE_ADDR",
    "NEXUS_DATABASE_URL",
    "NEXUS_MIGRATE_URL",
    "NEXUS_REPLICATION_URL",
    "NEXUS_BROKERS",
    "NEXUS_REDIS_URL",
    "NEXUS_SLOT",
    "NEXUS_TOPIC_PREFIX",
    "NEXUS_REDIS_PREFIX",
    "NEXUS_PARTITIONS",
    "NEXUS_CORS_ORIGINS",
];

/// Variables that are the launcher's or a client's, and no settings of a plane.
const NOT_FOR_PLANES: [&str; 9] = [
    "NEXUS_HOME",
    "NEXUS_PORTS",
    "NEXUS_STACK",
    "NEXUS_BROKER_PROFILE",
    "NEXUS_RELEASE_DIR",
    "NEXUS_CONTROL_URL",
    "NEXUS_DATAPLANE_URL",
    "NEXUS_API_KEY",
    "NEXUS_DATABASE_ADMIN_URL",
];

/// The settings of one start.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    values: BTreeMap<String, String>,
    given: BTreeMap<String, String>,
}

impl Settings {
    /// `now`: the environment. A value equal to the recorded one is none that was given now; an empty one takes back
    /// what was given before.
    pub fn resolve(state: &State, now: &BTreeMap<String, String>) -> Settings {
        let mut given = state.given.clone();
        for name in SETTINGS {
            match now.get(name) {
                Some(value) if state.settings.get(name) == Some(value) => {}
                Some(value) if value.is_empty() => drop(given.remove(name)),
                Some(value) => drop(given.insert(name.to_owned(), value.clone())),
                None => {}
            }
        }
        let mut values = BTreeMap::new();
        for name in SETTINGS {
            let value = given.get(name).cloned().unwrap_or_else(|| default(name, state, &values));
            values.insert(name.to_owned(), value);
        }
        for (name, value) in now {
            let name = name.as_str();
            if name.starts_with("NEXUS_") && !SETTINGS.contains(&name) && !NOT_FOR_PLANES.contains(&name) {
                values.insert(name.to_owned(), value.clone());
            }
        }
        Settings { values, given }
    }

    /// The value of a setting in [`SETTINGS`].
    pub fn get(&self, name: &str) -> &str {
        self.values.get(name).map_or("", String::as_str)
    }

    /// Whether a setting was given, now or before.
    pub fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// All of them, those of no concern to the launcher included, for a plane's environment.
    pub fn for_planes(&self) -> Vec<(String, String)> {
        self.values.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// Those in [`SETTINGS`], in that order.
    pub fn for_env_file(&self) -> Vec<(String, String)> {
        SETTINGS.iter().map(|name| ((*name).to_owned(), self.get(name).to_owned())).collect()
    }

    /// Puts them on record.
    pub fn remember(&self, state: &mut State) {
        state.given = self.given.clone();
        state.settings = self.for_env_file().into_iter().collect();
    }
}

/// What a setting is when nobody gave it. `before`: the settings that come earlier in [`SETTINGS`].
fn default(name: &str, state: &State, before: &BTreeMap<String, String>) -> String {
    let earlier = |name: &str| before.get(name).cloned().unwrap_or_default();
    let own_database = state_database_url(state);
    match name {
        "NEXUS_CONTROL_ADDR" => local(state.ports.control).to_string(),
        "NEXUS_DATAPLANE_ADDR" => local(state.ports.dataplane).to_string(),
        "NEXUS_DATABASE_URL" => own_database,
        // On a server of our own, the superuser migrates: only it may take a right from PUBLIC.
        "NEXUS_MIGRATE_URL" if earlier("NEXUS_DATABASE_URL") == own_database => database_admin_url(state),
        "NEXUS_MIGRATE_URL" | "NEXUS_REPLICATION_URL" => earlier("NEXUS_DATABASE_URL"),
        "NEXUS_BROKERS" => local(state.ports.broker).to_string(),
        "NEXUS_REDIS_URL" => format!("redis://{}/0", local(state.ports.redis)),
        "NEXUS_SLOT" => format!("nexus_{}", database_name(&earlier("NEXUS_DATABASE_URL"))),
        "NEXUS_TOPIC_PREFIX" => "nexus.".to_owned(),
        "NEXUS_REDIS_PREFIX" => "nexus:".to_owned(),
        "NEXUS_PARTITIONS" => "4".to_owned(),
        "NEXUS_CORS_ORIGINS" => format!("http://{}", earlier("NEXUS_DATAPLANE_ADDR")),
        _ => String::new(),
    }
}

fn state_database_url(state: &State) -> String {
    format!("postgres://nexus:{}@{}/nexus", state.password, local(state.ports.postgres))
}

/// The superuser's way into the stack's own Postgres.
pub(crate) fn database_admin_url(state: &State) -> String {
    format!("postgres://postgres:{}@{}/nexus", state.superuser_password, local(state.ports.postgres))
}

/// The database in a URL, in the letters that a slot's name may have.
fn database_name(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    let name = path.split(['?', '#']).next().unwrap_or_default();
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    if name.is_empty() { "postgres".to_owned() } else { name.chars().map(letter).collect() }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::launcher::home::Ports;

    fn state() -> State {
        State {
            ports: Ports {
                postgres: 5432,
                broker: 9092,
                broker_internal: 1,
                broker_admin: 2,
                redis: 6379,
                control: 8000,
                dataplane: 8001,
            },
            superuser_password: "s".to_owned(),
            password: "p".to_owned(),
            data: PathBuf::from("/nowhere"),
            given: BTreeMap::new(),
            settings: BTreeMap::new(),
            api_key: None,
            processes: BTreeMap::new(),
        }
    }

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_setting_equal_to_the_recorded_one_is_no_override() {
        let mut state = state();
        Settings::resolve(&state, &env(&[])).remember(&mut state);
        let sourced = state.settings.clone();
        let again = Settings::resolve(&state, &sourced);
        assert!(SETTINGS.iter().all(|name| !again.is_given(name)));
    }

    #[test]
    fn another_database_is_used_for_everything_until_it_is_taken_back() {
        let mut state = state();
        let theirs = "postgres://them@db.example/Shop-1?sslmode=disable";
        let settings = Settings::resolve(&state, &env(&[("NEXUS_DATABASE_URL", theirs)]));
        assert!(settings.is_given("NEXUS_DATABASE_URL"));
        assert_eq!(settings.get("NEXUS_MIGRATE_URL"), theirs);
        assert_eq!(settings.get("NEXUS_REPLICATION_URL"), theirs);
        assert_eq!(settings.get("NEXUS_SLOT"), "nexus_shop_1");
        settings.remember(&mut state);
        let without = Settings::resolve(&state, &env(&[]));
        assert_eq!(without.get("NEXUS_DATABASE_URL"), theirs, "what was recorded is kept");
        let back = Settings::resolve(&state, &env(&[("NEXUS_DATABASE_URL", "")]));
        assert!(!back.is_given("NEXUS_DATABASE_URL"));
        assert_eq!(back.get("NEXUS_DATABASE_URL"), "postgres://nexus:p@127.0.0.1:5432/nexus");
        assert_eq!(back.get("NEXUS_MIGRATE_URL"), "postgres://postgres:s@127.0.0.1:5432/nexus");
    }

    #[test]
    fn settings_that_the_launcher_does_not_know_reach_the_planes() {
        let settings = Settings::resolve(&state(), &env(&[("NEXUS_LOG", "debug"), ("NEXUS_API_KEY", "nxs_x")]));
        let planes = settings.for_planes();
        assert!(planes.contains(&("NEXUS_LOG".to_owned(), "debug".to_owned())));
        assert!(!planes.iter().any(|(name, _)| name == "NEXUS_API_KEY"));
    }
}
