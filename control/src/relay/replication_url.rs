//! A Postgres URI as the replication client wants it. sqlx reads URIs too, but keeps the password to itself.

use std::path::{Path, PathBuf};

use pgwire_replication::config::ReplicationConfig;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// Why a URI can't be used for replication.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It is not one that psql takes.
    #[error("NEXUS_REPLICATION_URL is no Postgres URI: {0}")]
    Malformed(String),
    /// The stream is not encrypted.
    #[error(
        "NEXUS_REPLICATION_URL asks for TLS, which the relay's stream does not speak: use a local socket or a tunnel"
    )]
    Tls,
}

/// The configuration that reads `slot` of the database that `url` names.
///
/// # Errors
/// [`UrlError`].
pub fn parse(url: &str, slot: &str, publication: &str) -> Result<ReplicationConfig, UrlError> {
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(UrlError::Malformed("it does not begin with postgres://".into()));
    }
    let options: PgConnectOptions = url.parse().map_err(|error: sqlx::Error| UrlError::Malformed(error.to_string()))?;
    if matches!(options.get_ssl_mode(), PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull) {
        return Err(UrlError::Tls);
    }
    let user = options.get_username();
    let database = options.get_database().unwrap_or(user);
    let host = match options.get_socket() {
        Some(directory) => directory.to_string_lossy().into_owned(),
        None => options.get_host().to_owned(),
    };
    let password = match password(url) {
        None => return Err(UrlError::Malformed("its password is not percent-encoded UTF-8".into())),
        Some(password) if password.is_empty() => {
            let port = options.get_port().to_string();
            let place = [host.as_str(), port.as_str(), database, user];
            passfile().and_then(|file| in_passfile(&file, place)).unwrap_or_default()
        }
        Some(password) => password,
    };
    Ok(ReplicationConfig::new(host, user, password, database, slot, publication).with_port(options.get_port()))
}

/// The password between user and host, or the parameter `password`, or `PGPASSWORD`; empty for none.
fn password(url: &str) -> Option<String> {
    let rest = url.split_once("://")?.1;
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = place.split('/').next().unwrap_or_default();
    if let Some((credentials, _)) = authority.rsplit_once('@')
        && let Some((_, password)) = credentials.split_once(':')
    {
        return decode(password);
    }
    if let Some(password) = query.split('&').find_map(|pair| pair.strip_prefix("password=")) {
        return decode(password);
    }
    Some(std::env::var("PGPASSWORD").unwrap_or_default())
}

/// What the password file says, if there is one that only its owner may read: as psql has it, and sqlx.
fn passfile() -> Option<String> {
    use std::os::unix::fs::PermissionsExt;
    let path = match std::env::var_os("PGPASSFILE") {
        Some(path) => PathBuf::from(path),
        None => Path::new(&std::env::var_os("HOME")?).join(".pgpass"),
    };
    let is_private = std::fs::metadata(&path).ok()?.permissions().mode() & 0o077 == 0;
    is_private.then(|| std::fs::read_to_string(&path).ok()).flatten()
}

/// The password of the first line that fits host, port, database and user; `*` fits all.
fn in_passfile(file: &str, place: [&str; 4]) -> Option<String> {
    file.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut fields = vec![String::new()];
        let mut chars = line.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => fields.last_mut()?.extend(chars.next()),
                ':' if fields.len() < 5 => fields.push(String::new()),
                c => fields.last_mut()?.push(c),
            }
        }
        let fits = fields.iter().zip(place).all(|(field, wanted)| field == "*" || field == wanted);
        fields.pop().filter(|_| fits && fields.len() == 4)
    })
}

fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_that_psql_takes_reach_the_stream() {
        let config = parse("postgres://u%40x:p%3Aw%2F@127.0.0.1:5433/db", "s", "p").expect("a URI");
        assert_eq!((config.user.as_str(), config.password.as_str()), ("u@x", "p:w/"));
        assert_eq!((config.host.as_str(), config.port, config.database.as_str()), ("127.0.0.1", 5433, "db"));
        let config = parse("postgresql://u@localhost/db?host=/run/postgresql&password=x%20y", "s", "p").expect("a URI");
        assert_eq!((config.host.as_str(), config.password.as_str()), ("/run/postgresql", "x y"));
        let file = "# comment\nh:5432:*:other:no\nh:5432:db:u:a\\:b:c\\\\\n*:*:*:*:any\nh:1";
        assert_eq!(in_passfile(file, ["h", "5432", "db", "u"]).as_deref(), Some("a:b:c\\"));
        assert_eq!(in_passfile(file, ["x", "1", "y", "z"]).as_deref(), Some("any"));
        assert_eq!(in_passfile("h:1:db", ["h", "1", "db", "u"]), None);
        assert_eq!(parse("postgres://u@h/db?sslmode=require", "s", "p").err(), Some(UrlError::Tls));
        assert!(matches!(parse("mysql://", "s", "p"), Err(UrlError::Malformed(_))));
    }
}
