//! `nexus-cli`: the command line of both planes, over HTTP alone.
//!
//! Commands go to the control plane, reads to the data plane; a read that follows a command carries
//! its token. Data goes to standard output, everything else to standard error.

pub mod args;
pub mod client;
mod doctor;
pub mod error;
pub mod import;
mod keys;
mod lag;
pub mod output;
mod probe;
mod read;
mod sse;
mod status;
mod terminal;
mod wait;
mod watch;
mod write;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};
use contract::query::Resource;

use args::identities::IdentityCommand;
use args::{Cli, Command, Connection};
use client::{Client, Plane};
use error::CliError;
use output::Format;
use write::Planes;

/// Runs the command line with these arguments, the first of which is the program's name.
/// Returns its exit code: 0 done, 1 error, 2 usage, 4 not found, 5 not yet consistent.
///
/// Call it before any thread exists: it reads `.env` into the environment.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    if let Err(error) = runtime::config::load_env() {
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        terminal::note(&format!("error: {error}: {cause}"));
        return ExitCode::from(2);
    }
    let matches = args::definition().try_get_matches_from(args::rewrite(arguments));
    let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody reading the help is no error.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            terminal::note(&format!("error: the runtime can't be started: {error}"));
            return ExitCode::from(1);
        }
    };
    let result = runtime.block_on(Box::pin(run(cli)));
    // A name being looked up must not keep the process.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = error.to_string();
            if !text.is_empty() {
                terminal::note(&format!("error: {text}"));
            }
            ExitCode::from(error.exit_code())
        }
    }
}

async fn run(cli: Cli) -> Result<(), CliError> {
    if cli.identities {
        return Err(CliError::Usage("--identities does not go with this command".to_owned()));
    }
    let settings = &cli.connection;
    let format = cli.output.unwrap_or(Format::Table);
    let data = || Client::new(Plane::Data, settings);
    match &cli.command {
        Command::List(args) => read::list_signals(&mut data()?, format, args).await,
        Command::Get(args) => read::get(&mut data()?, format, Resource::Signals, args).await,
        Command::Watch(args) => watch::watch_signals(&mut data()?, format, args).await,
        Command::Create(args) => write::create(&mut planes(settings)?, format, args).await,
        Command::Update(args) => write::update(&mut planes(settings)?, format, args).await,
        Command::Delete(args) => write::delete(&mut planes(settings)?, Resource::Signals, args).await,
        Command::Wait(args) => wait::wait(&mut data()?, format, Resource::Signals, args).await,
        Command::Import(args) => import::import(settings, cli.output, args).await,
        Command::Export(args) => read::export_signals(&mut data()?, cli.output.unwrap_or(Format::Jsonl), args).await,
        Command::Lag(args) => lag::lag(&mut data()?, format, args).await,
        Command::Status => status::status(&mut planes(settings)?, format).await,
        Command::Doctor(args) => doctor::doctor(&mut planes(settings)?, settings, format, args).await,
        Command::Completions { shell } => completions(*shell),
        Command::Identities { command } => identities(settings, cli.output, command).await,
    }
}

async fn identities(settings: &Connection, output: Option<Format>, command: &IdentityCommand) -> Result<(), CliError> {
    let format = output.unwrap_or(Format::Table);
    let control = || Client::new(Plane::Control, settings);
    let data = || Client::new(Plane::Data, settings);
    match command {
        IdentityCommand::List(args) => read::list_identities(&mut data()?, format, args).await,
        IdentityCommand::Get(args) => read::get(&mut data()?, format, Resource::Identities, args).await,
        IdentityCommand::Watch(args) => watch::watch_identities(&mut data()?, format, args).await,
        IdentityCommand::Create(args) => write::create_identity(&mut planes(settings)?, format, args).await,
        IdentityCommand::Update(args) => write::update_identity(&mut planes(settings)?, format, args).await,
        IdentityCommand::Delete(args) => write::delete(&mut planes(settings)?, Resource::Identities, args).await,
        IdentityCommand::Wait(args) => wait::wait(&mut data()?, format, Resource::Identities, args).await,
        IdentityCommand::Export(args) => {
            read::export_identities(&mut data()?, output.unwrap_or(Format::Jsonl), args).await
        }
        IdentityCommand::Keys { command } => keys::keys(&mut control()?, format, command).await,
    }
}

fn planes(settings: &Connection) -> Result<Planes, CliError> {
    Ok(Planes { control: Client::new(Plane::Control, settings)?, data: Client::new(Plane::Data, settings)? })
}

fn completions(shell: clap_complete::Shell) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "nexus-cli", &mut script);
    io::stdout().lock().write_all(&script)?;
    Ok(())
}
