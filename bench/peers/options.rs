//! What the command is asked to do.

use std::path::PathBuf;

use crate::constant::ConstantOptions;
use crate::naive::apply::ApplyOptions;
use crate::naive::commands::CommandsOptions;
use crate::naive::view::ViewOptions;
use crate::open_reads::OpenReadsOptions;
use crate::open_watches::OpenWatchesOptions;

/// Compares Nexus with other ways to do the same, on this machine, in turns.
#[derive(Debug, clap::Parser)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    pub role: Option<Role>,
    #[command(flatten)]
    pub options: Options,
}

/// What this executable is when the comparison starts it again.
#[derive(Debug, clap::Subcommand)]
pub enum Role {
    /// A bare HTTP server that answers a constant
    Constant(ConstantOptions),
    /// Reads at a fixed rate, open model
    OpenReads(OpenReadsOptions),
    /// Open watch streams, and commands at a fixed rate beside them
    OpenWatches(OpenWatchesOptions),
    /// The command service of the naive design
    Commands(CommandsOptions),
    /// Its consumer
    Apply(ApplyOptions),
    /// Its read service
    View(ViewOptions),
}

/// The parts of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Accepted commands against pgbench
    Ingest,
    /// Reads by id against webdis, a bare server and redis-benchmark
    Reads,
    /// Lists by priority
    Lists,
    /// The projector's replay against a loop of the same script calls
    Replay,
    /// Nexus' latency to consistency at several rates, and the floor under it
    Latency,
    /// Open watch streams under load: their latency to consistency, and whether they skip a final state or a delete
    Watches,
    /// Memory and processor of the planes while nothing happens, and their memory under load
    Idle,
    /// Memory of a signal in Redis
    Memory,
    /// Latency to consistency of Nexus, the naive design and Debezium with Benthos
    Pipelines,
    /// The highest rate of each that holds
    Sustained,
}

impl Part {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Part::Ingest => "ingest",
            Part::Reads => "reads",
            Part::Lists => "lists",
            Part::Replay => "replay",
            Part::Latency => "latency",
            Part::Watches => "watches",
            Part::Idle => "idle",
            Part::Memory => "memory",
            Part::Pipelines => "pipelines",
            Part::Sustained => "sustained",
        }
    }
}

/// The comparison.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Parts, in this order
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "ingest,reads,lists,replay,latency,watches,idle,memory,pipelines,sustained",
        value_name = "PARTS"
    )]
    pub only: Vec<Part>,
    /// Rounds; each measures every subject once
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub repeats: usize,
    /// Seconds of one measurement
    #[arg(long, default_value_t = 10, value_name = "S")]
    pub seconds: u64,
    /// Seconds at the start of a part that are thrown away, for each subject
    #[arg(long, default_value_t = 5, value_name = "S")]
    pub warmup: u64,
    /// Where the report goes (default: target/peers/<time>)
    #[arg(long, default_value_os_t = default_out(), hide_default_value = true, value_name = "DIR")]
    pub out: PathBuf,
    /// Connections, or clients, of ingest and reads
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub connections: u16,
    /// Signals that are read
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    pub signals: u32,
    /// The core of the server whose reads are measured
    #[arg(long, default_value_t = 0, value_name = "CORE")]
    pub server_core: usize,
    /// The core of the generator of reads
    #[arg(long, default_value_t = 1, value_name = "CORE")]
    pub generator_core: usize,
    /// The core of Redis in the reads part (in all other parts nothing is pinned)
    #[arg(long, default_value_t = 1, value_name = "CORE")]
    pub redis_core: usize,
    /// Events that the projector replays
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    pub events: u32,
    /// Commands per second of the latency part
    #[arg(long, value_delimiter = ',', default_value = "500,1000,10000", value_name = "RATES")]
    pub rates: Vec<f64>,
    /// Watch streams that are open at once
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    pub streams: usize,
    /// Commands per second at which the pipelines are compared, and watches are open
    #[arg(long, default_value_t = 1_000.0, value_name = "RATE")]
    pub compare_rate: f64,
    /// Seconds of load on each system before the first run that counts: JVMs compile what is hot
    #[arg(long, default_value_t = 30, value_name = "S")]
    pub pipeline_warmup: u64,
    /// Sweeps of each system in the sustained part
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub sweeps: usize,
    /// Minutes after which a part is cut off, as failed; what it has measured until then stays
    #[arg(long, default_value_t = 20, value_name = "M")]
    pub part_minutes: u64,
    /// Threads of Benthos; with more than one, records of a key overtake each other
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub benthos_threads: usize,
    /// A further setting for both planes, NAME=VALUE; several
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub settings: Vec<String>,
}

impl Options {
    /// # Errors
    /// Something can't be used.
    pub fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.repeats > 0 && self.seconds > 0, "--repeats and --seconds must be above 0");
        anyhow::ensure!(self.settings.iter().all(|setting| setting.contains('=')), "--set takes NAME=VALUE");
        let durable = "NEXUS_SYNCHRONOUS_COMMIT";
        // Planes are started without the variables of this process.
        let strict = self.plane_settings().iter().all(|(name, value)| *name != durable || *value == "on");
        anyhow::ensure!(strict, "{durable} must be on: the peers' commits wait for their disk");
        Ok(())
    }

    /// The further settings as pairs.
    pub fn plane_settings(&self) -> Vec<(&str, &str)> {
        self.settings.iter().filter_map(|setting| setting.split_once('=')).collect()
    }
}

fn default_out() -> PathBuf {
    PathBuf::from("target/peers").join(jiff::Timestamp::now().strftime("%Y-%m-%d-%H%M%S").to_string())
}
