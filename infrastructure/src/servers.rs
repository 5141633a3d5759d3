//! The three servers of a test stack, in a scratch directory that goes with them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::account::Account;
use crate::broker::{Broker, BrokerProfile};
use crate::error::{IoContext, LaunchError, Result};
use crate::postgres::{Postgres, ROLE};
use crate::redis::Redis;
use crate::server::{Recipe, Server};
use crate::supervisor::Supervisor;
use crate::{ports, secret};

/// How to start a set of servers.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where to put data and logs. By default a scratch directory of its own, removed at the end; a directory that is
    /// named here is kept, and must not have servers' data in it: the passwords of those are not known any more.
    pub dir: Option<PathBuf>,
    /// How much memory the broker gets.
    pub broker_profile: BrokerProfile,
}

/// A running Postgres, broker and Redis, on free ports of 127.0.0.1.
///
/// They live no longer than this value, nor than this process: when it goes, by whatever way, they are ended and the
/// scratch directory is removed.
#[derive(Debug)]
pub struct Servers {
    /// `wal_level=logical`, with slots for some two hundred namespaces.
    pub postgres: Server,
    /// Kafka, or Redpanda where it is installed.
    pub broker: Server,
    /// Append-only, no eviction.
    pub redis: Server,
    recipe: Postgres,
    brokers: String,
    redis_url: String,
    dir: PathBuf,
    supervisor: Arc<Supervisor>,
}

impl Servers {
    /// Starts all three at the same time. Returns when each answers real requests.
    ///
    /// # Errors
    /// A program is missing, or a server did not become ready; with the end of its log.
    ///
    /// # Cancel safety
    /// Dropping the future ends what has been started.
    pub async fn start(options: Options) -> Result<Servers> {
        let (dir, scratch) = match options.dir {
            Some(dir) => (dir, false),
            None => (scratch_dir()?, true),
        };
        std::fs::create_dir_all(&dir).context(|| format!("can't make {}", dir.display()))?;
        let dir = dir.canonicalize().context(|| format!("can't find {}", dir.display()))?;
        if dir.join("postgres").exists() {
            let reason = format!("{} holds the data of earlier servers", dir.display());
            return Err(LaunchError::Setting { name: "dir", reason });
        }
        let supervisor = Arc::new(Supervisor::start(scratch.then_some(dir.as_path()))?);
        let log = |name: &str| dir.join(format!("{name}.log"));
        let postgres = Postgres {
            port: ports::pick()?,
            home: dir.join("postgres"),
            log: log("postgres"),
            superuser_password: secret::password()?,
            password: secret::password()?,
            account: Account::for_server("postgres")?,
            scratch: true,
        };
        let broker = Broker {
            port: ports::pick()?,
            internal_port: ports::pick()?,
            admin_port: ports::pick()?,
            home: dir.join("broker"),
            log: log("broker"),
            profile: options.broker_profile,
        };
        let redis = Redis {
            port: ports::pick()?,
            home: dir.join("redis"),
            log: log("redis"),
            account: Account::for_server("redis")?,
        };
        let server = |recipe: Recipe| Server::new(recipe, supervisor.clone());
        let servers = Servers {
            postgres: server(Recipe::Postgres(postgres.clone())),
            brokers: broker.brokers(),
            broker: server(Recipe::Broker(broker)),
            redis_url: redis.url(),
            redis: server(Recipe::Redis(redis)),
            recipe: postgres,
            dir,
            supervisor,
        };
        tokio::try_join!(servers.postgres.start(), servers.broker.start(), servers.redis.start())?;
        Ok(servers)
    }

    /// The database `nexus` as the role `nexus`, which owns it, may replicate and make databases, and is no superuser.
    pub fn database_url(&self) -> String {
        self.recipe.url(ROLE)
    }

    /// The database `nexus` as the superuser.
    pub fn database_admin_url(&self) -> String {
        self.recipe.admin_url(ROLE)
    }

    /// `host:port`, for `bootstrap.servers`.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Database 0.
    pub fn redis_url(&self) -> &str {
        &self.redis_url
    }

    /// The directory with data and logs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Stops all three in order and removes the scratch directory. Returns when nothing is left.
    ///
    /// Dropping does the same without order, and without waiting.
    pub async fn stop(self) {
        tokio::join!(self.postgres.stop(), self.broker.stop(), self.redis.stop());
        self.supervisor.finish(Duration::from_secs(20)).await;
    }

    pub(crate) fn postgres_recipe(&self) -> &Postgres {
        &self.recipe
    }

    pub(crate) fn supervisor(&self) -> &Arc<Supervisor> {
        &self.supervisor
    }
}

/// A directory below the system's temporary one that the servers' accounts can pass through.
fn scratch_dir() -> Result<PathBuf> {
    let dir =
        tempfile::Builder::new().prefix("nexus-").tempdir().context(|| "can't make a scratch directory".to_owned())?;
    let path = dir.keep();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o711))
        .context(|| format!("can't open up {}", path.display()))?;
    Ok(path)
}
