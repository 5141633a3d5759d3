//! The broker: Apache Kafka in KRaft mode, one node that is broker and controller, or a Redpanda where one is installed.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::account::Account;
use crate::error::{IoContext, LaunchError, Result};
use crate::kafka_jars::Jars;
use crate::ports::local;
use crate::postgres::on_path;
use crate::probe::accepts;
use crate::process::{Launch, run};

/// Above the largest event of ours: a payload of 64 KiB, and markers for whatever else was emitted.
const MESSAGE_BYTES_MAX: u32 = 8 * 1024 * 1024;

/// How much the broker's JVM may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BrokerProfile {
    /// Starts fast and stays small: 384 MiB of heap, the serial collector, the first compiler tier only.
    #[default]
    Development,
    /// For measuring: 1 GiB of heap, G1, all compiler tiers.
    Benchmark,
}

impl std::str::FromStr for BrokerProfile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "development" => Ok(BrokerProfile::Development),
            "benchmark" => Ok(BrokerProfile::Benchmark),
            other => Err(format!("`{other}` is neither `development` nor `benchmark`")),
        }
    }
}

/// How to run one broker.
#[derive(Clone, Debug)]
pub(crate) struct Broker {
    pub port: u16,
    /// Kafka's controller, Redpanda's RPC.
    pub internal_port: u16,
    /// Redpanda's admin API.
    pub admin_port: u16,
    pub home: PathBuf,
    pub log: PathBuf,
    pub profile: BrokerProfile,
}

impl Broker {
    pub fn brokers(&self) -> String {
        local(self.port).to_string()
    }

    /// Every port that it listens on.
    pub fn ports(&self) -> Vec<u16> {
        let mut ports = vec![self.port, self.internal_port];
        if redpanda().is_some() {
            ports.push(self.admin_port);
        }
        ports
    }

    fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    fn config_file(&self) -> PathBuf {
        self.home.join(if redpanda().is_some() { "redpanda.yaml" } else { "kafka.properties" })
    }

    /// Fetches the jars where they are missing, writes the settings and formats the data directory unless it is.
    pub async fn prepare(&self) -> Result<()> {
        Account::Own.make_dir(&self.home)?;
        let file = self.config_file();
        if redpanda().is_some() {
            return std::fs::write(&file, self.redpanda_settings())
                .context(|| format!("can't write {}", file.display()));
        }
        std::fs::write(&file, self.kafka_settings()).context(|| format!("can't write {}", file.display()))?;
        let jars = Jars::resolve().await?;
        if self.data().join("meta.properties").exists() {
            return Ok(());
        }
        let mut args = self.jvm_args(&jars, false);
        args.extend(["kafka.tools.StorageTool", "format", "-t"].map(OsString::from));
        args.push(cluster_id()?.into());
        args.extend(["--ignore-formatted".into(), "-c".into(), file.into()]);
        run(&Account::Own, java()?, args, &[]).await.map(drop)
    }

    fn kafka_settings(&self) -> String {
        let data = self.data().display().to_string().replace('\\', "\\\\");
        format!(
            "# Written by the launcher at every start.\n\
             process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{internal}\n\
             controller.listener.names=CONTROLLER\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{internal}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
             inter.broker.listener.name=PLAINTEXT\n\
             log.dirs={data}\n\
             auto.create.topics.enable=false\n\
             message.max.bytes={MESSAGE_BYTES_MAX}\n\
             replica.fetch.max.bytes={MESSAGE_BYTES_MAX}\n\
             # One node: every internal topic once, with one partition.\n\
             default.replication.factor=1\n\
             min.insync.replicas=1\n\
             offsets.topic.num.partitions=1\n\
             offsets.topic.replication.factor=1\n\
             transaction.state.log.num.partitions=1\n\
             transaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\n\
             share.coordinator.state.topic.num.partitions=1\n\
             share.coordinator.state.topic.replication.factor=1\n\
             share.coordinator.state.topic.min.isr=1\n\
             group.initial.rebalance.delay.ms=0\n\
             # A broker that was killed is known to be gone after two seconds, and may come back then.\n\
             broker.session.timeout.ms=2000\n\
             broker.heartbeat.interval.ms=500\n\
             log.cleaner.threads=1\n\
             log.cleaner.dedupe.buffer.size=8388608\n\
             num.network.threads=2\n\
             num.io.threads=4\n\
             num.recovery.threads.per.data.dir=2\n\
             background.threads=2\n",
            internal = self.internal_port,
            port = self.port,
        )
    }

    fn redpanda_settings(&self) -> String {
        format!(
            "# Written by the launcher at every start.\n\
             redpanda:\n  data_directory: '{data}'\n  node_id: 1\n  empty_seed_starts_cluster: true\n  \
             seed_servers: []\n  \
             rpc_server: {{ address: 127.0.0.1, port: {internal} }}\n  \
             advertised_rpc_api: {{ address: 127.0.0.1, port: {internal} }}\n  \
             kafka_api: [{{ address: 127.0.0.1, port: {port} }}]\n  \
             advertised_kafka_api: [{{ address: 127.0.0.1, port: {port} }}]\n  \
             admin: [{{ address: 127.0.0.1, port: {admin} }}]\n  \
             auto_create_topics_enabled: false\n  \
             kafka_batch_max_bytes: {MESSAGE_BYTES_MAX}\n",
            data = self.data().display(),
            internal = self.internal_port,
            port = self.port,
            admin = self.admin_port,
        )
    }

    /// `serving`: the broker itself, for which a class-data archive is used, or made at the first orderly stop.
    fn jvm_args(&self, jars: &Jars, serving: bool) -> Vec<OsString> {
        let memory: &[&str] = match self.profile {
            // A young generation of 192 MiB is collected every five seconds at 1,000 events/s, for 15 ms; one of 40 MiB
            // every second for as long, which was l2c's p99. What outlives two collections stays.
            BrokerProfile::Development => {
                &["-Xms288m", "-Xmx384m", "-Xmn192m", "-XX:+UseSerialGC", "-XX:MaxTenuringThreshold=2"]
            }
            BrokerProfile::Benchmark => &["-Xms1g", "-Xmx1g", "-XX:+UseG1GC"],
        };
        let mut args: Vec<OsString> = memory.iter().map(OsString::from).collect();
        args.extend(
            [
                "-XX:-UsePerfData",
                "-Djava.awt.headless=true",
                "-Dlog4j2.disable.jmx=true",
                "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
                "-Dorg.slf4j.simpleLogger.showDateTime=true",
                "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
            ]
            .map(OsString::from),
        );
        if serving {
            args.extend(jars.class_data_args(self.port));
        }
        args.extend(["-cp".into(), jars.class_path()]);
        args
    }

    pub async fn launch(&self) -> Result<Launch> {
        let (program, args) = match redpanda() {
            Some(program) => {
                let mut args: Vec<OsString> = vec!["--redpanda-cfg".into(), self.config_file().into()];
                let memory = match self.profile {
                    BrokerProfile::Development => "512M",
                    BrokerProfile::Benchmark => "1G",
                };
                args.extend(["--smp=1", "--overprovisioned", "--reserve-memory=0M", "--memory"].map(OsString::from));
                args.push(memory.into());
                (program, args)
            }
            None => {
                let mut args = self.jvm_args(&Jars::resolve().await?, true);
                args.extend(["kafka.Kafka".into(), self.config_file().into()]);
                (java()?, args)
            }
        };
        Ok(Launch {
            name: "broker".to_owned(),
            program,
            args,
            env: Vec::new(),
            directory: self.home.clone(),
            log: self.log.clone(),
            account: Account::Own,
        })
    }

    /// To be called once the broker has ended in order.
    pub async fn stopped(&self) {
        if redpanda().is_none()
            && let Ok(jars) = Jars::resolve().await
        {
            jars.keep_class_data(self.port);
        }
    }

    pub async fn is_ready(&self) -> bool {
        // A bare connection first: librdkafka waits longer and longer between its own attempts.
        accepts(local(self.port)).await && answers(self.brokers()).await
    }
}

/// Whether the brokers at these addresses describe their cluster to a client.
pub(crate) async fn answers(brokers: String) -> bool {
    let ask = move || {
        let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", &brokers).create().ok()?;
        let metadata = consumer.fetch_metadata(None, Duration::from_secs(2)).ok()?;
        Some(!metadata.brokers().is_empty())
    };
    matches!(tokio::task::spawn_blocking(ask).await, Ok(Some(true)))
}

/// Fetches the jars unless they are there, or not needed.
pub(crate) async fn prepare() -> Result<()> {
    if redpanda().is_some() { Ok(()) } else { Jars::resolve().await.map(drop) }
}

fn redpanda() -> Option<PathBuf> {
    on_path("redpanda")
}

fn java() -> Result<PathBuf> {
    let at_home = std::env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join("bin/java"));
    at_home.filter(|program| program.is_file()).or_else(|| on_path("java")).ok_or_else(|| LaunchError::Missing {
        what: "java (17 or later)".to_owned(),
        hint: "run `make setup`".to_owned(),
    })
}

/// A random cluster id: 16 bytes in base64url without padding.
fn cluster_id() -> Result<String> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digit = |byte: &u8| char::from(DIGITS[usize::from(byte % 64)]);
    // The last digit holds two bits, and a leading `-` would read as an option.
    Ok(format!("N{}Q", crate::secret::random_bytes::<20>()?.iter().map(digit).collect::<String>()))
}
