//! `NEXUS_HOME`: what a stack remembers between two commands.
//!
//! `state.json` is the record (ports, passwords, settings that were given, processes); `env` is made from it, for shells;
//! `run/*.pid` and `log/*.log` are for people.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::account::{Account, is_root};
use crate::error::{IoContext, LaunchError, Result};
use crate::kafka_jars::hash;
use crate::postgres::write_private;
use crate::process::Process;
use crate::{ports, secret};

/// Where root puts what the servers' accounts could not reach in `NEXUS_HOME`.
const ROOTS_DATA: &str = "/var/lib/nexus";

/// The ports of a stack's own processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ports {
    pub postgres: u16,
    pub broker: u16,
    pub broker_internal: u16,
    pub broker_admin: u16,
    pub redis: u16,
    pub control: u16,
    pub dataplane: u16,
}

impl Ports {
    fn usual() -> Result<Ports> {
        // Nobody talks to the broker's own two: any free ones will do.
        let (broker_internal, broker_admin) = (ports::pick()?, ports::pick()?);
        Ok(Ports {
            postgres: 5432,
            broker: 9092,
            broker_internal,
            broker_admin,
            redis: 6379,
            control: 8000,
            dataplane: 8001,
        })
    }

    fn picked() -> Result<Ports> {
        Ok(Ports {
            postgres: ports::pick()?,
            broker: ports::pick()?,
            broker_internal: ports::pick()?,
            broker_admin: ports::pick()?,
            redis: ports::pick()?,
            control: ports::pick()?,
            dataplane: ports::pick()?,
        })
    }
}

/// A process that was started, and what it was started from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Recorded {
    #[serde(flatten)]
    pub process: Process,
    /// Changes when the executable or a setting does.
    pub fingerprint: String,
}

/// What is remembered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub ports: Ports,
    pub superuser_password: String,
    pub password: String,
    /// Where the servers keep their data.
    pub data: PathBuf,
    /// The settings that were given, by name; the others follow from the ports.
    pub given: BTreeMap<String, String>,
    /// The value of every setting at the last start.
    pub settings: BTreeMap<String, String>,
    pub api_key: Option<String>,
    pub processes: BTreeMap<String, Recorded>,
}

/// The directory of a stack. While this value lives, no other command changes the stack.
#[derive(Debug)]
pub struct Home {
    path: PathBuf,
    _lock: Option<File>,
}

impl Home {
    /// Makes the directory unless it is there, and waits for its lock.
    ///
    /// # Errors
    /// It can't be made or locked.
    pub fn make(path: &Path) -> Result<Home> {
        std::fs::create_dir_all(path).context(|| format!("can't make {}", path.display()))?;
        // Others may pass, for the servers' accounts; what is secret is protected file by file.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o711))
            .context(|| format!("can't open up {}", path.display()))?;
        let home = Home::find(path)?.ok_or_else(|| LaunchError::Setting {
            name: "NEXUS_HOME",
            reason: format!("{} can't be used", path.display()),
        })?;
        for dir in ["run", "log"] {
            let dir = home.path.join(dir);
            std::fs::create_dir_all(&dir).context(|| format!("can't make {}", dir.display()))?;
        }
        Ok(home)
    }

    /// The directory where there is one, locked.
    ///
    /// # Errors
    /// It is there and can't be locked.
    pub fn find(path: &Path) -> Result<Option<Home>> {
        let Some(mut home) = Home::look(path) else { return Ok(None) };
        let file = home.path.join("lock");
        let lock = File::create(&file).context(|| format!("can't open {}", file.display()))?;
        if lock.try_lock().is_err() {
            eprintln!("waiting for another nexus command on {}", home.path.display());
            lock.lock().context(|| format!("can't lock {}", file.display()))?;
        }
        home._lock = Some(lock);
        Ok(Some(home))
    }

    /// The directory where there is one, without its lock: for looking only.
    pub fn look(path: &Path) -> Option<Home> {
        Some(Home { path: path.canonicalize().ok().filter(|path| path.is_dir())?, _lock: None })
    }

    /// The absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.path.join("log").join(format!("{name}.log"))
    }

    fn pid_file(&self, name: &str) -> PathBuf {
        self.path.join("run").join(format!("{name}.pid"))
    }

    fn state_file(&self) -> PathBuf {
        self.path.join("state.json")
    }

    /// The record, where there is one.
    pub(crate) fn state(&self) -> Result<Option<State>> {
        let file = self.state_file();
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context(|| format!("can't read {}", file.display())),
        };
        serde_json::from_str(&text).map(Some).map_err(|error| LaunchError::Setting {
            name: "NEXUS_HOME",
            reason: format!("{}: {error}", file.display()),
        })
    }

    /// A record for a stack that is to be made here.
    pub(crate) fn new_state(&self, auto_ports: bool) -> Result<State> {
        Ok(State {
            ports: if auto_ports { Ports::picked()? } else { Ports::usual()? },
            superuser_password: secret::password()?,
            password: secret::password()?,
            data: self.data_dir()?,
            given: BTreeMap::new(),
            settings: BTreeMap::new(),
            api_key: None,
            processes: BTreeMap::new(),
        })
    }

    fn data_dir(&self) -> Result<PathBuf> {
        let reached = |name: &str| Ok::<_, LaunchError>(Account::for_server(name)?.reaches(&self.path));
        if !is_root() || (reached("postgres")? && reached("redis")?) {
            return Ok(self.path.join("data"));
        }
        let name = format!("{:016x}", hash(self.path.as_os_str().as_encoded_bytes()));
        Ok(Path::new(ROOTS_DATA).join(name))
    }

    /// Writes the record.
    pub(crate) fn save(&self, state: &State) -> Result<()> {
        let text = serde_json::to_string_pretty(state).expect("strings and numbers only");
        write_private(&self.state_file(), &text)
    }

    /// Writes the lines that a shell reads to talk to the stack.
    pub(crate) fn write_env(&self, variables: &[(String, String)]) -> Result<()> {
        let line = |(name, value): &(String, String)| format!("export {name}={}\n", shell_word(value));
        write_private(&self.path.join("env"), &variables.iter().map(line).collect::<String>())
    }

    /// Puts a process on record, with its pid file.
    pub(crate) fn record(&self, state: &mut State, name: &str, recorded: Recorded) -> Result<()> {
        let file = self.pid_file(name);
        std::fs::write(&file, format!("{}\n", recorded.process.pid))
            .context(|| format!("can't write {}", file.display()))?;
        state.processes.insert(name.to_owned(), recorded);
        self.save(state)
    }

    /// Takes a process that has ended off the record.
    pub(crate) fn forget(&self, state: &mut State, name: &str) -> Result<()> {
        let _ = std::fs::remove_file(self.pid_file(name));
        state.processes.remove(name);
        self.save(state)
    }

    /// Puts on record that containers are started from this compose file.
    pub(crate) fn record_compose(&self, file: &Path) -> Result<()> {
        let record = self.compose_record();
        std::fs::write(&record, file.display().to_string()).context(|| format!("can't write {}", record.display()))
    }

    /// The compose file that containers were started from, where there were any.
    pub(crate) fn recorded_compose(&self) -> Result<Option<PathBuf>> {
        let record = self.compose_record();
        match std::fs::read_to_string(&record) {
            Ok(text) => Ok(Some(PathBuf::from(text))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context(|| format!("can't read {}", record.display())),
        }
    }

    fn compose_record(&self) -> PathBuf {
        self.path.join("compose")
    }

    /// Removes everything that a stack keeps, and the directory if nothing else is in it.
    pub(crate) fn remove(&self, state: Option<&State>) -> Result<()> {
        let ours = [self.path.join("data"), Path::new(ROOTS_DATA).join("")];
        let is_ours = |state: &&State| ours.iter().any(|ours| state.data.starts_with(ours));
        if let Some(state) = state.filter(is_ours) {
            remove_dir(&state.data)?;
        }
        for dir in ["data", "log", "run"] {
            remove_dir(&self.path.join(dir))?;
        }
        for file in ["env", "state.json", "lock", "compose", "compose-key"] {
            let _ = std::fs::remove_file(self.path.join(file));
        }
        // What somebody else put there stays, and so does the directory then.
        let _ = std::fs::remove_dir(&self.path);
        Ok(())
    }
}

fn remove_dir(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context(|| format!("can't remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// A value as a shell reads it back.
fn shell_word(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+,=".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', r"'\''"))
}

impl State {
    /// The process of this name, if it is still the one that was started.
    pub(crate) fn alive(&self, name: &str) -> Option<Process> {
        self.processes.get(name).map(|recorded| recorded.process).filter(Process::is_alive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_what_was_written() {
        assert_eq!(shell_word("postgres://nexus:0a@127.0.0.1:5432/nexus"), "postgres://nexus:0a@127.0.0.1:5432/nexus");
        assert_eq!(shell_word("a b"), "'a b'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(shell_word("x?a=1&b=2"), "'x?a=1&b=2'");
        assert_eq!(shell_word(""), "''");
    }
}
