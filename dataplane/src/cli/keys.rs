//! `identities keys`: API keys, made, listed and revoked on the control plane.

use std::io::{self, Write as _};

use contract::json::{Json, write_string};
use contract::query::Resource;
use http::Method;

use super::args::identities::KeyCommand;
use super::client::{Call, Client, segment};
use super::error::CliError;
use super::output::{Format, parse, table, text_of};
use super::read::{entity_path, show, show_all};
use super::terminal::note;
use super::write::command;

/// `identities keys …`
///
/// # Errors
/// As the plane answers.
pub async fn keys(client: &mut Client, format: Format, what: &KeyCommand) -> Result<(), CliError> {
    let path = |identity: &str| format!("{}/keys", entity_path(Resource::Identities, identity));
    match what {
        KeyCommand::Create { identity, name, expires_at, secret_only } => {
            let mut body = String::from("{\"name\":");
            write_string(&mut body, name);
            if let Some(time) = expires_at {
                body.push_str(",\"expires_at\":");
                write_string(&mut body, time);
            }
            body.push('}');
            let call = Call::new(Method::POST, path(identity)).json(body);
            let answer = command(client, call, None).await?;
            let secret = text_of(&parse(&answer.body)?, "secret");
            if secret.is_empty() {
                note(
                    "This key was made by an earlier request, and its secret is not shown again: revoke it and make another",
                );
            }
            if *secret_only {
                writeln!(io::stdout(), "{secret}")?;
                return Ok(());
            }
            note("The secret is shown this once: keep it safe");
            show(&answer.body, format, table::KEYS)
        }
        KeyCommand::List { identity } => {
            let answer = client.call(&Call::get(path(identity))).await?;
            let body = parse(&answer.body)?;
            let items = match &body {
                Json::Array(items) => Some(items),
                body => match body.get("items").or_else(|| body.get("keys")) {
                    Some(Json::Array(items)) => Some(items),
                    _ => None,
                },
            };
            let items = items.ok_or_else(|| CliError::Failed("the server's answer has no list of keys".to_owned()))?;
            show_all(items, format, &table::KEYS[..table::KEYS.len() - 1])
        }
        KeyCommand::Revoke { identity, key } => {
            let call = Call::new(Method::DELETE, format!("{}/{}", path(identity), segment(key)));
            command(client, call, None).await?;
            note(&format!("revoked {key}"));
            Ok(())
        }
    }
}
