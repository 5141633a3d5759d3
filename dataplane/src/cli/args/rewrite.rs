//! `--identities`, wherever it stands, means the command `identities`.

use std::ffi::OsString;

/// The arguments with `--identities` turned into the command `identities`, wherever it stood.
#[must_use]
pub fn rewrite(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    const WITH_VALUE: [&str; 6] =
        ["-o", "--output", "--control-url", "--dataplane-url", "--api-key", "--request-timeout"];
    const BOTH: [&str; 8] = ["list", "get", "watch", "create", "update", "delete", "wait", "export"];
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let end = arguments.iter().position(|a| a == "--").unwrap_or(arguments.len());
    let Some(flag) = arguments[..end].iter().position(|a| a == "--identities") else {
        return arguments;
    };
    let mut at = 1;
    while let Some(argument) = arguments.get(at) {
        match argument.to_str() {
            Some(option) if WITH_VALUE.contains(&option) => at += 2,
            Some(option) if option.starts_with('-') => at += 1,
            Some("identities") => {
                arguments.remove(flag);
                break;
            }
            Some(command) if BOTH.contains(&command) => {
                arguments.insert(at, "identities".into());
                arguments.remove(if flag < at { flag } else { flag + 1 });
                break;
            }
            // clap says what is wrong with it.
            _ => break,
        }
    }
    arguments
}
