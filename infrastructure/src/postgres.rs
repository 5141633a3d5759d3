//! Debian's PostgreSQL in a data directory of its own: a superuser for the launcher, and a role `nexus` that may log in,
//! replicate and make databases, which owns the database `nexus`.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::account::Account;
use crate::error::{IoContext, LaunchError, Result};
use crate::probe::PATIENCE;
use crate::process::{Launch, Process, run};
use crate::wait::until;

const OLDEST_MAJOR: u32 = 15;
/// How long a killed server may stay a zombie.
const REAPED: Duration = Duration::from_secs(10);
const SUPERUSER: &str = "postgres";
/// The role and the database of the planes.
pub(crate) const ROLE: &str = "nexus";
/// Longest path of a Unix socket that the kernel takes, less the name that Postgres adds.
const SOCKET_DIR_MAX: usize = 107 - "/.s.PGSQL.65535".len();

/// How to run one Postgres.
#[derive(Clone, Debug)]
pub(crate) struct Postgres {
    pub port: u16,
    /// Holds the data directory `data` and nothing else.
    pub home: PathBuf,
    pub log: PathBuf,
    pub superuser_password: String,
    pub password: String,
    pub account: Account,
    /// For tests: more slots, and no synced initdb.
    pub scratch: bool,
}

impl Postgres {
    pub fn admin_url(&self, database: &str) -> String {
        format!("postgres://{SUPERUSER}:{}@127.0.0.1:{}/{database}", self.superuser_password, self.port)
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://{ROLE}:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    /// Makes the cluster unless it is there, and writes its settings.
    pub async fn prepare(&self) -> Result<()> {
        let data = self.data();
        if !data.join("PG_VERSION").exists() {
            self.account.make_dir(&self.home)?;
            self.make_cluster(&data).await?;
        }
        let settings = data.join("nexus.conf");
        std::fs::write(&settings, self.settings()).context(|| format!("can't write {}", settings.display()))?;
        self.account.own(&settings)?;
        self.wait_for_the_killed().await;
        Ok(())
    }

    /// A killed server is a zombie until its parent has taken note, and Postgres takes that for one that runs: it refuses to
    /// start. Waits until it is gone; where nobody ever takes note, Postgres' own message tells.
    async fn wait_for_the_killed(&self) {
        let pid = || -> Option<u32> {
            let text = std::fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
            text.lines().next()?.trim().parse().ok()
        };
        let is_zombie = |pid: u32| Path::new(&format!("/proc/{pid}")).exists() && Process::of(pid).is_none();
        let _gone_or_not = until("the killed Postgres to be gone", REAPED, async || match pid() {
            Some(pid) if is_zombie(pid) => None,
            _ => Some(()),
        })
        .await;
    }

    async fn make_cluster(&self, data: &Path) -> Result<()> {
        // Made beside and moved: a directory that is half made is never taken for a cluster.
        let making = self.home.join("making");
        if making.exists() {
            std::fs::remove_dir_all(&making).context(|| format!("can't remove {}", making.display()))?;
        }
        let password_file = self.home.join("password");
        write_private(&password_file, &self.superuser_password)?;
        self.account.own(&password_file)?;
        let mut args: Vec<OsString> = vec!["--pgdata".into(), making.clone().into()];
        args.extend(["--username", SUPERUSER, "--auth", "scram-sha-256", "--encoding", "UTF8"].map(OsString::from));
        args.extend(["--locale", "C.UTF-8", "--pwfile"].map(OsString::from));
        args.push(password_file.clone().into());
        if self.scratch {
            args.push("--no-sync".into());
        }
        let made = run(&self.account, executable("initdb", None)?, args, &[]).await;
        std::fs::remove_file(&password_file).context(|| format!("can't remove {}", password_file.display()))?;
        made?;
        let main = making.join("postgresql.conf");
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .open(&main)
            .context(|| format!("can't open {}", main.display()))?;
        file.write_all(b"\ninclude = 'nexus.conf'\n").context(|| format!("can't write {}", main.display()))?;
        std::fs::rename(&making, data).context(|| format!("can't move {}", making.display()))
    }

    fn settings(&self) -> String {
        let data = self.data();
        let socket = if data.as_os_str().len() <= SOCKET_DIR_MAX { data.display().to_string() } else { String::new() };
        let (slots, connections) = if self.scratch { (256, 400) } else { (16, 200) };
        // A killed Postgres leaves its files in /dev/shm; in the scratch directory they go with the rest.
        let shared_memory = if self.scratch { "mmap" } else { "posix" };
        format!(
            "# Written by the launcher at every start; changes belong in postgresql.auto.conf (ALTER SYSTEM).\n\
             listen_addresses = '127.0.0.1'\n\
             port = {port}\n\
             unix_socket_directories = '{socket}'\n\
             wal_level = logical\n\
             max_replication_slots = {slots}\n\
             max_wal_senders = {slots}\n\
             max_connections = {connections}\n\
             fsync = on\n\
             synchronous_commit = on\n\
             dynamic_shared_memory_type = {shared_memory}\n\
             log_line_prefix = '%m [%p] %q%u@%d '\n\
             timezone = 'UTC'\n",
            port = self.port,
            socket = socket.replace('\'', "''"),
        )
    }

    pub fn launch(&self) -> Result<Launch> {
        Ok(Launch {
            name: "postgres".to_owned(),
            program: executable("postgres", Some(&self.data()))?,
            args: vec!["-D".into(), self.data().into()],
            env: Vec::new(),
            directory: PathBuf::from("/"),
            log: self.log.clone(),
            account: self.account.clone(),
        })
    }

    pub async fn is_ready(&self) -> bool {
        let asked = async {
            let mut connection = PgConnection::connect(&self.admin_url("postgres")).await?;
            connection.execute("SELECT 1").await
        };
        // A frozen one takes connections and never answers.
        matches!(tokio::time::timeout(PATIENCE, asked).await, Ok(Ok(_)))
    }

    /// Makes the role and the database of the planes unless they are there.
    pub async fn make_role(&self) -> Result<()> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |source| LaunchError::Postgres { what, source }
        };
        let mut connection = PgConnection::connect(&self.admin_url("postgres"))
            .await
            .map_err(failed("can't connect to Postgres as its superuser"))?;
        let exists = |table: &str, column: &str| {
            AssertSqlSafe(format!("SELECT EXISTS (SELECT FROM {table} WHERE {column} = '{ROLE}')"))
        };
        let role: bool = sqlx::query_scalar(exists("pg_roles", "rolname"))
            .fetch_one(&mut connection)
            .await
            .map_err(failed("can't look up the role nexus"))?;
        if !role {
            let sql = format!("CREATE ROLE {ROLE} LOGIN REPLICATION CREATEDB PASSWORD '{}'", self.password);
            connection.execute(AssertSqlSafe(sql)).await.map_err(failed("can't make the role nexus"))?;
        }
        let database: bool = sqlx::query_scalar(exists("pg_database", "datname"))
            .fetch_one(&mut connection)
            .await
            .map_err(failed("can't look up the database nexus"))?;
        if !database {
            self.make_database_with(&mut connection, ROLE).await?;
        }
        Ok(())
    }

    /// Makes an empty database that belongs to the planes' role.
    pub async fn make_database(&self, name: &str) -> Result<()> {
        let mut connection = PgConnection::connect(&self.admin_url("postgres")).await.map_err(|source| {
            LaunchError::Postgres { what: "can't connect to Postgres as its superuser".to_owned(), source }
        })?;
        self.make_database_with(&mut connection, name).await
    }

    async fn make_database_with(&self, connection: &mut PgConnection, name: &str) -> Result<()> {
        // template0, which nobody can connect to: copies of it can be made at the same time.
        let sql = format!("CREATE DATABASE {name} OWNER {ROLE} TEMPLATE template0");
        let made = connection.execute(AssertSqlSafe(sql)).await;
        made.map_err(|source| LaunchError::Postgres { what: format!("can't make the database {name}"), source })?;
        Ok(())
    }
}

/// A Postgres program of version 15 or later: the newest that Debian has installed, else the one on PATH. For data that
/// is there, the one of the major version that made it: a newer one does not open it.
fn executable(name: &str, data: Option<&Path>) -> Result<PathBuf> {
    let made_by = data.map(major_of).transpose()?.flatten();
    // Of unknown version: where it does not fit, Postgres' own message names both.
    let on_path = || on_path(name).and_then(|program| program.canonicalize().ok());
    installed(Path::new("/usr/lib/postgresql"), name, made_by).or_else(on_path).ok_or_else(|| match (made_by, data) {
        (Some(major), Some(data)) => LaunchError::Missing {
            what: format!("PostgreSQL {major}'s `{name}`, whose data is in {},", data.display()),
            hint: format!(
                "install Debian's postgresql-{major} again, or move the data to the newer version with pg_upgrade, or \
                 begin anew with `make clean-data`, which removes it"
            ),
        },
        _ => LaunchError::Missing {
            what: format!("PostgreSQL's `{name}` (version {OLDEST_MAJOR} or later)"),
            hint: "run `make setup`".to_owned(),
        },
    })
}

/// The program of this major version, or else of the newest, below `root`, where Debian has a directory for each.
fn installed(root: &Path, name: &str, major: Option<u32>) -> Option<PathBuf> {
    let all = std::fs::read_dir(root).into_iter().flatten().flatten();
    all.filter_map(|entry| {
        Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin").join(name)))
    })
    .filter(|(found, program)| major.map_or(*found >= OLDEST_MAJOR, |major| *found == major) && program.is_file())
    .max_by_key(|(found, _)| *found)
    .map(|(_, program)| program)
}

/// The major version that made a data directory; `None` where there is none yet.
fn major_of(data: &Path) -> Result<Option<u32>> {
    let file = data.join("PG_VERSION");
    match std::fs::read_to_string(&file) {
        // What is no number is for Postgres to complain of.
        Ok(text) => Ok(text.trim().parse().ok()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context(|| format!("can't read {}", file.display())),
    }
}

/// The first executable of this name on PATH.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|program| program.is_file())
}

/// Writes a file that only its owner can read.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<()> {
    // Written beside and moved: a reader sees the old text or the new, and never with other rights.
    let beside = path.with_extension("new");
    let _ = std::fs::remove_file(&beside);
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| std::fs::rename(&beside, path))
        .context(|| format!("can't write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_opened_by_the_major_version_that_made_it() {
        let scratch = tempfile::tempdir().expect("a directory");
        for version in ["9.6", "14", "15", "17"] {
            let bin = scratch.path().join(version).join("bin");
            std::fs::create_dir_all(&bin).expect("made");
            std::fs::write(bin.join("postgres"), "").expect("written");
        }
        let found = |major| installed(scratch.path(), "postgres", major);
        let of = |version: &str| Some(scratch.path().join(version).join("bin/postgres"));
        assert_eq!(found(None), of("17"));
        assert_eq!(found(Some(15)), of("15"));
        assert_eq!(found(Some(16)), None, "not the newer one in its place");

        assert_eq!(major_of(scratch.path()).expect("nothing there"), None);
        std::fs::write(scratch.path().join("PG_VERSION"), "15\n").expect("written");
        assert_eq!(major_of(scratch.path()).expect("readable"), Some(15));
        let missing = executable("no-such-program", Some(scratch.path())).expect_err("nobody has it").to_string();
        assert!(missing.contains("postgresql-15"), "{missing}");
    }
}
