//! Settings: flags above environment above `.env` in the working directory.

use std::path::Path;

use clap::{Args, Parser};

/// Why `.env` could not be read.
#[derive(Debug, thiserror::Error)]
#[error(".env in the working directory can't be read")]
pub struct EnvFileError(#[source] dotenvy::Error);

/// Loads `.env` of the working directory (not of its parents) below the environment: a variable that
/// is already set keeps its value. No file is no error.
///
/// Call it first thing in `main`, before any thread exists: it changes the environment.
///
/// # Errors
/// The file is there but unreadable or malformed.
pub fn load_env() -> Result<(), EnvFileError> {
    match dotenvy::from_path(Path::new(".env")) {
        Ok(()) => Ok(()),
        Err(error) if error.not_found() => Ok(()),
        Err(error) => Err(EnvFileError(error)),
    }
}

/// The arguments of the process, with `.env` loaded below environment and flags. Like
/// [`Parser::parse`], it ends the process on `--help` and on a usage error (exit code 2).
#[must_use]
pub fn parse<T: Parser>() -> T {
    if let Err(error) = load_env() {
        let detail = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        eprintln!("error: {error}: {detail}");
        std::process::exit(2);
    }
    T::parse()
}

/// The settings of every HTTP server; flatten it into a plane's arguments.
#[derive(Debug, Clone, Args)]
pub struct HttpSettings {
    /// Connections served at once; beyond it, new ones wait to be accepted
    #[arg(long, env = "NEXUS_MAX_CONNECTIONS", default_value_t = 10_000,
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    pub max_connections: usize,

    /// Origins that browsers may call from, separated by commas [default: the data plane's own]
    #[arg(long, env = "NEXUS_CORS_ORIGINS", value_delimiter = ',')]
    pub cors_origins: Option<Vec<String>>,
}

/// `url` fit for a log: the password in its authority, and any query parameter named like a secret,
/// replaced by `***`. What is no URL comes back as `***`: it may be a secret as a whole.
#[must_use]
pub fn redact_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return "***".to_owned();
    };
    let (before_query, query) = match rest.split_once('?') {
        Some((before, query)) => (before, Some(query)),
        None => (rest, None),
    };
    // A password may hold an unescaped '/' or '@': everything up to the last '@' is user info.
    let shown = match before_query.rsplit_once('@') {
        Some((user_info, host)) => match user_info.split_once(':') {
            Some((user, _)) => format!("{user}:***@{host}"),
            None => format!("{user_info}@{host}"),
        },
        None => before_query.to_owned(),
    };
    let Some(query) = query else {
        return format!("{scheme}://{shown}");
    };
    let query: Vec<String> = query
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some((name, _)) if is_secret(name) => format!("{name}=***"),
            _ => pair.to_owned(),
        })
        .collect();
    format!("{scheme}://{shown}?{}", query.join("&"))
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["pass", "secret", "token", "key"].iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::redact_url;

    #[test]
    fn no_password_survives_redaction() {
        assert_eq!(redact_url("postgres://u:p@ss/w@h:5432/d"), "postgres://u:***@h:5432/d");
        assert_eq!(redact_url("redis://:hunter2@h/0"), "redis://:***@h/0");
        assert_eq!(redact_url("postgres://u@h/d?password=x&sslmode=off"), "postgres://u@h/d?password=***&sslmode=off");
        assert_eq!(redact_url("redis://h:6379"), "redis://h:6379");
        assert_eq!(redact_url("host=h password=x"), "***");
    }
}
