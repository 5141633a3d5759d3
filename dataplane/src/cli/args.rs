//! The command line: every command, flag and setting, as clap reads them.

pub mod identities;
mod rewrite;
mod usage;

pub use rewrite::rewrite;
pub use usage::definition;

use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use contract::signal::{Priority, Status};

use super::output::Format;
use identities::IdentityCommand;

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 error, 2 usage, 4 not found, 5 not yet consistent.
Settings are also read from the environment and from .env in the working directory; flags win over both.
Data goes to standard output, everything else to standard error. NO_COLOR is honoured.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "nexus-cli",
    version,
    about = "Commands and reads of Nexus: signals, identities, watches, imports, health",
    after_help = AFTER_HELP,
    propagate_version = false,
    arg_required_else_help = true
)]
pub struct Cli {
    /// Where the servers are and who is asking.
    #[command(flatten)]
    pub connection: Connection,

    /// How data is written to standard output [default: table; jsonl for export]
    #[arg(short, long, global = true, value_enum)]
    pub output: Option<Format>,

    /// Work on identities instead of signals: `list --identities` is `identities list`
    // `rewrite` takes it out before clap sees it; it stands here for the help and the completions.
    #[arg(long, global = true)]
    pub identities: bool,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Where the servers are and who is asking.
#[derive(Debug, Clone, Args)]
pub struct Connection {
    /// Where the control plane answers
    #[arg(
        long,
        env = "NEXUS_CONTROL_URL",
        global = true,
        value_name = "URL",
        default_value = "http://127.0.0.1:8000",
        help_heading = "Settings"
    )]
    pub control_url: String,

    /// Where the data plane answers
    #[arg(
        long,
        env = "NEXUS_DATAPLANE_URL",
        global = true,
        value_name = "URL",
        default_value = "http://127.0.0.1:8001",
        help_heading = "Settings"
    )]
    pub dataplane_url: String,

    /// The API key, `nxs_…`
    #[arg(
        long,
        env = "NEXUS_API_KEY",
        global = true,
        value_name = "KEY",
        hide_env_values = true,
        help_heading = "Settings"
    )]
    pub api_key: Option<String>,

    /// How long one request may take, such as 500ms, 30s or 2m
    #[arg(long, env = "NEXUS_REQUEST_TIMEOUT", global = true, value_name = "DURATION", default_value = "30s",
          value_parser = duration, help_heading = "Settings")]
    pub request_timeout: Duration,

    /// Tell every request and its answer's status on standard error
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List signals from the view
    List(ListArgs),
    /// Show one signal
    Get(GetArgs),
    /// Follow one signal, or all that pass the filters
    Watch(WatchArgs),
    /// Create a signal
    Create(CreateArgs),
    /// Change a signal
    Update(UpdateArgs),
    /// Delete signals
    Delete(DeleteArgs),
    /// Wait until the view shows a version of a signal; exit 5 when it does not in time
    Wait(WaitArgs),
    /// Create a signal for every line of a JSONL file; running it again resumes and repeats nothing
    Import(ImportArgs),
    /// Write every signal that passes the filters, one JSON document a line
    Export(ExportArgs),
    /// Show how far the view is behind, partition by partition
    Lag(LagArgs),
    /// Show whether both planes are ready, and why not
    Status,
    /// Check everything between here and the view, and say what to do about what is broken
    Doctor(DoctorArgs),
    /// Write a completion script for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Identities and their API keys
    Identities {
        /// What to do.
        #[command(subcommand)]
        command: IdentityCommand,
    },
}

/// Which signals.
#[derive(Debug, Clone, Default, Args)]
pub struct Filters {
    /// Only these statuses, with commas between
    #[arg(long, value_delimiter = ',', value_parser = words(Status::ALL.iter().map(|s| s.as_str())))]
    pub status: Vec<String>,
    /// Only these priorities, with commas between
    #[arg(long, value_delimiter = ',', value_parser = words(Priority::ALL.iter().map(|p| p.as_str())))]
    pub priority: Vec<String>,
}

/// Which command's effect a read must show.
#[derive(Debug, Clone, Default, Args)]
pub struct Consistency {
    /// Show at least the effect of the command that answered with this token; may be repeated
    #[arg(long, value_name = "TOKEN")]
    pub token: Vec<String>,
    /// How long to wait for the token's effect before exit 5
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1s")]
    pub wait: Duration,
}

/// How much of a list.
#[derive(Debug, Clone, Args)]
pub struct Paging {
    /// Most items to show
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: u64,
    /// Show all there is, page after page
    #[arg(long, conflicts_with = "limit")]
    pub all: bool,
    /// Go on where an earlier list with the same filters and order ended
    #[arg(long)]
    pub cursor: Option<String>,
}

/// `list`
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Which signals.
    #[command(flatten)]
    pub filters: Filters,
    /// In which order [default: priority]
    #[arg(long, allow_hyphen_values = true, value_parser = ["created", "-created", "priority"])]
    pub order: Option<String>,
    /// How many.
    #[command(flatten)]
    pub paging: Paging,
    /// How fresh.
    #[command(flatten)]
    pub consistency: Consistency,
}

/// `get`
#[derive(Debug, Args)]
pub struct GetArgs {
    /// Its id
    pub id: String,
    /// How fresh.
    #[command(flatten)]
    pub consistency: Consistency,
}

/// What every watch takes.
#[derive(Debug, Clone, Args)]
pub struct WatchHow {
    /// Leave out what is there already, show changes alone
    #[arg(long)]
    pub from_now: bool,
    /// Go on after the event with this id
    #[arg(long, value_name = "ID", conflicts_with = "from_now")]
    pub last_event_id: Option<String>,
    /// Stop after so many events
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
}

/// `watch`
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Only this one
    #[arg(conflicts_with_all = ["status", "priority"])]
    pub id: Option<String>,
    /// Which signals.
    #[command(flatten)]
    pub filters: Filters,
    /// How.
    #[command(flatten)]
    pub how: WatchHow,
}

/// What every command that writes takes.
#[derive(Debug, Clone, Args)]
pub struct Sending {
    /// Name this request, so that sending it again repeats the first answer instead of the effect [default: random]
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Show the answer's Nexus-Token on standard error
    #[arg(long)]
    pub show_token: bool,
}

/// What every command takes that changes an entity.
#[derive(Debug, Clone, Args)]
pub struct Writing {
    /// Read it back from the view, waiting until the change is visible (up to a time, 5s unless given)
    #[arg(long, value_name = "DURATION", value_parser = duration, num_args = 0..=1, require_equals = true, default_missing_value = "5s")]
    pub wait: Option<Duration>,
    /// How it is sent.
    #[command(flatten)]
    pub sending: Sending,
}

/// `create`
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// 1 to 200 characters
    #[arg(long)]
    pub title: String,
    /// How urgent it is [default: normal]
    #[arg(long, value_parser = words(Priority::ALL.iter().map(|p| p.as_str())))]
    pub priority: Option<String>,
    /// A JSON object, @FILE, or - for standard input
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    pub payload: Option<String>,
    /// The identity it is for
    #[arg(long, value_name = "ID")]
    pub target: Option<String>,
    /// How it is sent and shown.
    #[command(flatten)]
    pub writing: Writing,
}

/// `update`
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
pub struct UpdateArgs {
    /// Its id
    pub id: String,
    /// A new title
    #[arg(long, group = "change")]
    pub title: Option<String>,
    /// A new priority
    #[arg(long, group = "change", value_parser = words(Priority::ALL.iter().map(|p| p.as_str())))]
    pub priority: Option<String>,
    /// A new status; completed and cancelled are final
    #[arg(long, group = "change", value_parser = words(Status::ALL.iter().map(|s| s.as_str())))]
    pub status: Option<String>,
    /// A JSON object to merge into the payload (a null member removes one), or null to empty it; @FILE, or - for standard input
    #[arg(long, group = "change", value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    pub payload: Option<String>,
    /// Another identity that it is for
    #[arg(long, group = "change", value_name = "ID")]
    pub target: Option<String>,
    /// It is for nobody
    #[arg(long, group = "change", conflicts_with = "target")]
    pub no_target: bool,
    /// Only when this is its version
    #[arg(long, value_name = "VERSION")]
    pub if_match: Option<u64>,
    /// How it is sent and shown.
    #[command(flatten)]
    pub writing: Writing,
}

/// `delete`
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Their ids
    #[arg(required = true, value_name = "ID")]
    pub ids: Vec<String>,
    /// Only when this is its version; goes with one id
    #[arg(long, value_name = "VERSION")]
    pub if_match: Option<u64>,
    /// How it is sent, and what is waited for.
    #[command(flatten)]
    pub writing: Writing,
}

/// `wait`
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Its id
    pub id: String,
    /// The version that must be visible, or a later one
    #[arg(long)]
    pub version: u64,
    /// How long to wait
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5s")]
    pub timeout: Duration,
}

/// `import`
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The file, one JSON object a line; - for standard input
    pub file: String,
    /// Signals in one request; part of what makes an import resumable, so keep it when running again
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub batch_size: u16,
    /// Requests on their way at once, each on a connection of its own
    #[arg(long, env = "NEXUS_IMPORT_IN_FLIGHT", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub in_flight: u8,
    /// How long to try a batch again while the server is away or overloaded
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "2m")]
    pub retry_for: Duration,
    /// Write the lines that were rejected to this file, to mend them and import them alone
    #[arg(long, value_name = "FILE")]
    pub rejects: Option<std::path::PathBuf>,
    /// The lines come from an export: leave out what the server sets (ids, times, versions, statuses)
    #[arg(long)]
    pub from_export: bool,
    /// Name this import: under another name the same file is created once more
    #[arg(long, value_name = "NAME", default_value = "")]
    pub run: String,
}

/// `export`
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Which signals.
    #[command(flatten)]
    pub filters: Filters,
    /// In which order
    #[arg(long, allow_hyphen_values = true, default_value = "created", value_parser = ["created", "-created", "priority"])]
    pub order: String,
    /// How fresh.
    #[command(flatten)]
    pub consistency: Consistency,
}

/// `lag`
#[derive(Debug, Args)]
pub struct LagArgs {
    /// Show it again and again
    #[arg(long)]
    pub watch: bool,
    /// How often, with --watch
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1s")]
    pub interval: Duration,
}

/// `doctor`
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Also create a signal, read it back with its token, and delete it
    #[arg(long)]
    pub write: bool,
}

fn words(words: impl Iterator<Item = &'static str>) -> PossibleValuesParser {
    PossibleValuesParser::new(words)
}

/// Reads `500ms`, `5s`, `2m`, `1h`, or a bare number of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("must be a number with ms, s, m or h, such as 500ms or 5s".to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| "must be a number with ms, s, m or h, such as 500ms or 5s")?;
    Duration::try_from_secs_f64(number * factor).map_err(|_| "is too long".to_owned())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap::{CommandFactory as _, FromArgMatches as _};

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        let matches = definition().try_get_matches_from(rewrite(line.split(' ').map(OsString::from)))?;
        Cli::from_arg_matches(&matches)
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn identities_may_be_asked_for_by_flag_or_by_command() {
        for line in [
            "nexus-cli identities list --limit 3",
            "nexus-cli list --identities --limit 3",
            "nexus-cli -o json --identities list --limit 3",
            "nexus-cli --identities --output=json list --limit 3",
            "nexus-cli --identities identities list --limit 3",
        ] {
            let cli = parse(line).expect(line);
            let Command::Identities { command: IdentityCommand::List(list) } = cli.command else {
                panic!("{line}: {:?}", cli.command)
            };
            assert!(list.paging.limit == 3 && !cli.identities, "{line}");
        }
        assert!(parse("nexus-cli create --identities --name bot --role operator").is_ok());
        assert!(parse("nexus-cli import --identities x").expect("parsed").identities);
        assert!(parse("nexus-cli list --identities --status pending").is_err());
    }

    #[test]
    fn wrong_words_and_missing_parts_are_usage_errors() {
        for line in [
            "nexus-cli list --status open",
            "nexus-cli list --order title",
            "nexus-cli list --limit 0",
            "nexus-cli list --all --limit 5",
            "nexus-cli get",
            "nexus-cli create",
            "nexus-cli update X",
            "nexus-cli update X --target Y --no-target",
            "nexus-cli delete",
            "nexus-cli wait X --timeout 5s",
            "nexus-cli wait X --version 1 --timeout soon",
            "nexus-cli import f --batch-size 1001",
            "nexus-cli watch X --status pending",
            "nexus-cli identities keys create X",
            "nexus-cli frobnicate",
            "nexus-cli list -o xml",
        ] {
            assert_eq!(parse(line).expect_err(line).exit_code(), 2, "{line}");
        }
        for line in [
            "nexus-cli list --order -created --status pending,active",
            "nexus-cli create --title x --payload -",
            "nexus-cli create --title x --wait",
            "nexus-cli create --wait --title x",
            "nexus-cli create --title x --wait=10s",
            "nexus-cli delete a b c",
            "nexus-cli delete --wait a b",
            "nexus-cli delete a --wait=1s",
            "nexus-cli identities keys revoke a b",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
        for text in ["", "s", "5d", "-1s", "1e3s", "99999999999999999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
