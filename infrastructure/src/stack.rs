//! What tests start from: one set of servers per test binary, and in it a namespace per test.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::sync::OnceCell;

use crate::error::{LaunchError, Result};
use crate::servers::{Options, Servers};

static SHARED: OnceCell<TestStack> = OnceCell::const_new();
static COUNTER: AtomicU32 = AtomicU32::new(1);

/// Servers for tests, and the maker of namespaces in them.
#[derive(Clone, Debug)]
pub struct TestStack {
    servers: Arc<Servers>,
}

impl TestStack {
    /// The stack of this test binary, started by whoever asks first and ended with the process, even when it is killed.
    ///
    /// Tests that take a server away use a stack of their own ([`TestStack::start`]): the others would feel it.
    ///
    /// # Panics
    /// When the servers can't be started: a missing server fails a test, it never skips it.
    pub async fn shared() -> &'static TestStack {
        let started = SHARED.get_or_try_init(TestStack::start).await;
        started.unwrap_or_else(|error| panic!("no servers for this test: {}", chain(&error)))
    }

    /// A stack of its own, which ends when its last clone and its last namespace are dropped.
    ///
    /// # Errors
    /// As [`Servers::start`].
    pub async fn start() -> Result<TestStack> {
        TestStack::start_with(Options::default()).await
    }

    /// As [`start`](Self::start), with options: benches take [`BrokerProfile::Benchmark`](crate::BrokerProfile).
    ///
    /// # Errors
    /// As [`Servers::start`].
    pub async fn start_with(options: Options) -> Result<TestStack> {
        Ok(TestStack { servers: Arc::new(Servers::start(options).await?) })
    }

    /// The servers.
    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    /// A place in the servers that no other test has: an empty database, a slot name, and prefixes for topics and keys.
    /// `name` is what a reader of logs will recognise, and need not be unique.
    ///
    /// # Panics
    /// When Postgres refuses to make the database.
    pub async fn namespace(&self, name: &str) -> Namespace {
        let made = self.try_namespace(name).await;
        made.unwrap_or_else(|error| panic!("no namespace for {name}: {}", chain(&error)))
    }

    async fn try_namespace(&self, name: &str) -> Result<Namespace> {
        let word: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' })
            .take(32) // a database's name has 63 bytes at most, and so has a slot's
            .collect();
        let id = format!("t{}_{word}", COUNTER.fetch_add(1, Ordering::Relaxed));
        self.servers.postgres_recipe().make_database(&id).await?;
        Ok(Namespace { id, servers: self.servers.clone(), partitions: 4 })
    }
}

/// A test's own place in the servers.
#[derive(Clone, Debug)]
pub struct Namespace {
    id: String,
    servers: Arc<Servers>,
    partitions: u16,
}

impl Namespace {
    /// The same place with another number of partitions (4 by default); to be set before a plane is started.
    #[must_use]
    pub fn with_partitions(self, partitions: u16) -> Namespace {
        Namespace { partitions, ..self }
    }

    /// The name of database, and what the others are made of.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The servers it is in.
    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    /// The database as its owner, the role `nexus`.
    pub fn database_url(&self) -> String {
        self.servers.postgres_recipe().url(&self.id)
    }

    /// The database as the superuser.
    pub fn database_admin_url(&self) -> String {
        self.servers.postgres_recipe().admin_url(&self.id)
    }

    /// `NEXUS_BROKERS`.
    pub fn brokers(&self) -> &str {
        self.servers.brokers()
    }

    /// `NEXUS_REDIS_URL`.
    pub fn redis_url(&self) -> &str {
        self.servers.redis_url()
    }

    /// `NEXUS_SLOT`: the replication slot, which is not made yet.
    pub fn slot(&self) -> String {
        format!("nexus_{}", self.id)
    }

    /// `NEXUS_TOPIC_PREFIX`, dot included.
    pub fn topic_prefix(&self) -> String {
        format!("{}.", self.id)
    }

    /// `NEXUS_REDIS_PREFIX`, colon included.
    pub fn redis_prefix(&self) -> String {
        format!("{}:", self.id)
    }

    /// `NEXUS_PARTITIONS`.
    pub fn partitions(&self) -> u16 {
        self.partitions
    }

    /// The settings that point a plane at this place.
    pub fn env(&self) -> Vec<(String, String)> {
        [
            ("NEXUS_DATABASE_URL", self.database_url()),
            ("NEXUS_MIGRATE_URL", self.database_admin_url()),
            ("NEXUS_REPLICATION_URL", self.database_url()),
            ("NEXUS_BROKERS", self.brokers().to_owned()),
            ("NEXUS_REDIS_URL", self.redis_url().to_owned()),
            ("NEXUS_SLOT", self.slot()),
            ("NEXUS_TOPIC_PREFIX", self.topic_prefix()),
            ("NEXUS_REDIS_PREFIX", self.redis_prefix()),
            ("NEXUS_PARTITIONS", self.partitions.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// Drops the slot and the database, whoever is connected; topics and keys stay until the stack ends. Not needed: the
    /// scratch directory goes as a whole. It is for tests that make many, because a slot holds back the WAL.
    ///
    /// # Errors
    /// Postgres is away or refuses.
    pub async fn drop_database(&self) -> Result<()> {
        let (id, slot) = (&self.id, self.slot());
        let failed = |source| LaunchError::Postgres { what: format!("can't drop the database {id}"), source };
        let url = self.servers.postgres_recipe().admin_url("postgres");
        let mut connection = PgConnection::connect(&url).await.map_err(failed)?;
        let statements = [
            format!(
                "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = '{slot}' AND active"
            ),
            format!("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{slot}'"),
            format!("DROP DATABASE IF EXISTS {id} WITH (FORCE)"),
        ];
        for statement in statements {
            connection.execute(AssertSqlSafe(statement)).await.map_err(failed)?;
        }
        Ok(())
    }
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
