//! The usage line, the same in an error as in the help.

use clap::{Command, CommandFactory as _};

use super::Cli;

/// The command line's definition. Parse with it and not with [`Cli`] itself: clap puts every setting that the environment
/// gives into the usage line of an error, where it looks as if it had to be given on the command line too.
#[must_use]
pub fn definition() -> Command {
    let mut command = Cli::command();
    // Gives each command the settings that all have, without which its usage line is not whole.
    command.build();
    with_plain_usage(command)
}

fn with_plain_usage(command: Command) -> Command {
    let mut command = command.mut_subcommands(with_plain_usage);
    let usage = command.render_usage().to_string();
    match usage.strip_prefix("Usage: ") {
        Some(line) => command.override_usage(line.to_owned()),
        None => command,
    }
}
