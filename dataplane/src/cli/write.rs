//! Commands to the control plane: `create`, `update`, `delete`, of signals and identities.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io::Read as _;
use std::time::{Duration, Instant};

use contract::json::{Json, write_string};
use contract::query::Resource;
use http::header::IF_MATCH;
use http::{Method, StatusCode};

use super::args::identities::{CreateIdentityArgs, IdentityMembers, UpdateIdentityArgs};
use super::args::{CreateArgs, DeleteArgs, UpdateArgs, Writing};
use super::client::{Answer, Call, Client, IDEMPOTENCY_KEY};
use super::error::CliError;
use super::output::{Format, parse, text_of};
use super::read::{columns, entity_path, get_with_token, path, show};
use super::terminal::note;

/// Most bytes of a payload that is read from a file: more than any server takes.
const PAYLOAD_BYTES_MAX: u64 = 8 << 20;
/// How long a command whose outcome is unknown is asked for again.
const OUTCOME_PATIENCE: Duration = Duration::from_secs(30);

/// Both planes, each with its connection.
#[derive(Debug)]
pub struct Planes {
    /// Takes the commands.
    pub control: Client,
    /// Serves the reads.
    pub data: Client,
}

/// The members of a JSON object under construction.
#[derive(Debug, Default)]
struct Body(String);

impl Body {
    fn raw(&mut self, name: &str, value: &str) {
        self.0.push_str(if self.0.is_empty() { "{" } else { "," });
        write_string(&mut self.0, name);
        self.0.push(':');
        self.0.push_str(value);
    }

    fn text(&mut self, name: &str, value: Option<&String>) {
        if let Some(value) = value {
            let mut quoted = String::new();
            write_string(&mut quoted, value);
            self.raw(name, &quoted);
        }
    }

    fn finish(mut self) -> String {
        self.0.push_str(if self.0.is_empty() { "{}" } else { "}" });
        self.0
    }
}

/// A name for a request that no other request has.
#[must_use]
pub fn random_key() -> String {
    // The standard library seeds each of these from the system's randomness.
    let word = || RandomState::new().build_hasher().finish();
    format!("cli-{:016x}{:016x}", word(), word())
}

/// Sends a command under an idempotency key, again where its outcome is unknown.
///
/// # Errors
/// As the plane answers.
pub async fn command(client: &mut Client, call: Call, key: Option<&str>) -> Result<Answer, CliError> {
    let random = random_key();
    let call = call.with(&IDEMPOTENCY_KEY, key.unwrap_or(&random))?;
    let deadline = Instant::now() + OUTCOME_PATIENCE;
    loop {
        match client.call(&call).await {
            Err(CliError::Problem(report))
                if matches!(report.code.as_str(), "outcome-unknown" | "idempotency-in-progress")
                    && Instant::now() < deadline =>
            {
                tokio::time::sleep(Duration::from_secs(report.retry_after.unwrap_or(1).clamp(1, 5))).await;
            }
            other => return other,
        }
    }
}

fn payload(argument: &str) -> Result<String, CliError> {
    let text = match argument {
        "-" => read_all(std::io::stdin().lock(), "standard input")?,
        file if file.starts_with('@') => {
            let name = &file[1..];
            read_all(std::fs::File::open(name).map_err(|error| CliError::reading(name, &error))?, name)?
        }
        json => json.to_owned(),
    };
    match Json::parse(text.as_bytes()) {
        Ok(json @ (Json::Object(_) | Json::Null)) => {
            let mut out = String::new();
            json.write(&mut out);
            Ok(out)
        }
        Ok(_) => Err(CliError::Usage("--payload must be a JSON object".to_owned())),
        Err(error) => Err(CliError::Usage(format!("--payload is not JSON: {error}; @FILE reads a file"))),
    }
}

fn read_all(from: impl std::io::Read, name: &str) -> Result<String, CliError> {
    let mut text = String::new();
    from.take(PAYLOAD_BYTES_MAX).read_to_string(&mut text).map_err(|error| CliError::reading(name, &error))?;
    Ok(text)
}

async fn post(
    planes: &mut Planes,
    format: Format,
    resource: Resource,
    body: Body,
    writing: &Writing,
) -> Result<(), CliError> {
    let call = Call::new(Method::POST, path(resource)).json(body.finish());
    let answer = command(&mut planes.control, call, writing.sending.idempotency_key.as_deref()).await?;
    done(planes, format, resource, answer, writing, "created").await
}

async fn patch(
    planes: &mut Planes,
    format: Format,
    resource: Resource,
    id: &str,
    body: Body,
    if_match: Option<u64>,
    writing: &Writing,
) -> Result<(), CliError> {
    let call = Call::new(Method::PATCH, entity_path(resource, id)).json(body.finish());
    let call = matching(call, if_match)?;
    let answer = command(&mut planes.control, call, writing.sending.idempotency_key.as_deref()).await?;
    done(planes, format, resource, answer, writing, "updated").await
}

/// Shows what a command answered, or what the view shows of it where `--wait` asks for that.
async fn done(
    planes: &mut Planes,
    format: Format,
    resource: Resource,
    answer: Answer,
    writing: &Writing,
    verb: &str,
) -> Result<(), CliError> {
    let token = answer.token();
    let id = text_of(&parse(&answer.body)?, "id");
    if answer.replayed() {
        note(&format!("This request was made before: what follows is its first answer ({verb} {id})"));
    }
    if writing.sending.show_token {
        tell_token(token.as_deref());
    }
    let Some(wait) = writing.wait else {
        return show(&answer.body, format, columns(resource));
    };
    let start = Instant::now();
    let seen = get_with_token(&mut planes.data, resource, &id, &to_wait_for(token)?, wait).await?;
    note(&format!("{verb} {id}; visible after {:.1} ms", start.elapsed().as_secs_f64() * 1000.0));
    show(&seen.body, format, columns(resource))
}

fn tell_token(token: Option<&str>) {
    note(&format!("Nexus-Token: {}", token.unwrap_or("(none)")));
}

/// `create`
///
/// # Errors
/// As the planes answer.
pub async fn create(planes: &mut Planes, format: Format, args: &CreateArgs) -> Result<(), CliError> {
    let mut body = Body::default();
    body.text("title", Some(&args.title));
    body.text("priority", args.priority.as_ref());
    if let Some(argument) = &args.payload {
        body.raw("payload", &payload(argument)?);
    }
    body.text("target", args.target.as_ref());
    post(planes, format, Resource::Signals, body, &args.writing).await
}

/// `update`
///
/// # Errors
/// As the planes answer.
pub async fn update(planes: &mut Planes, format: Format, args: &UpdateArgs) -> Result<(), CliError> {
    let mut body = Body::default();
    body.text("title", args.title.as_ref());
    body.text("priority", args.priority.as_ref());
    body.text("status", args.status.as_ref());
    if let Some(argument) = &args.payload {
        body.raw("payload", &payload(argument)?);
    }
    body.text("target", args.target.as_ref());
    if args.no_target {
        body.raw("target", "null");
    }
    patch(planes, format, Resource::Signals, &args.id, body, args.if_match, &args.writing).await
}

fn matching(call: Call, version: Option<u64>) -> Result<Call, CliError> {
    match version {
        Some(version) => call.with(&IF_MATCH, &format!("\"{version}\"")),
        None => Ok(call),
    }
}

/// `delete`: all of the ids are tried; the first failure is the command's.
///
/// # Errors
/// As the planes answer.
pub async fn delete(planes: &mut Planes, resource: Resource, args: &DeleteArgs) -> Result<(), CliError> {
    let single = args.ids.len() == 1;
    if !single && (args.if_match.is_some() || args.writing.sending.idempotency_key.is_some()) {
        return Err(CliError::Usage("--if-match and --idempotency-key go with one id".to_owned()));
    }
    let mut first = None;
    for id in &args.ids {
        match delete_one(planes, resource, id, args).await {
            Ok(()) => {}
            Err(error @ (CliError::Problem(_) | CliError::NotYetConsistent(_))) if !single => {
                note(&format!("error: {id}: {error}"));
                first.get_or_insert(error.exit_code());
            }
            Err(error) => return Err(error),
        }
    }
    first.map_or(Ok(()), |code| Err(CliError::Told(code)))
}

async fn delete_one(planes: &mut Planes, resource: Resource, id: &str, args: &DeleteArgs) -> Result<(), CliError> {
    let Writing { wait, sending } = &args.writing;
    let call = matching(Call::new(Method::DELETE, entity_path(resource, id)), args.if_match)?;
    let answer = command(&mut planes.control, call, sending.idempotency_key.as_deref()).await?;
    let token = answer.token();
    if sending.show_token {
        tell_token(token.as_deref());
    }
    let Some(wait) = *wait else {
        note(&format!("deleted {id}"));
        return Ok(());
    };
    let start = Instant::now();
    match get_with_token(&mut planes.data, resource, id, &to_wait_for(token)?, wait).await {
        Err(CliError::Problem(report)) if report.status == StatusCode::NOT_FOUND => {
            note(&format!("deleted {id}; gone from the view after {:.1} ms", start.elapsed().as_secs_f64() * 1000.0));
            Ok(())
        }
        Err(error) => Err(error),
        Ok(_) => Err(CliError::Failed(format!("{id} is deleted, but the view shows it in spite of the token"))),
    }
}

fn to_wait_for(token: Option<String>) -> Result<String, CliError> {
    token.ok_or_else(|| CliError::Failed("the answer carries no Nexus-Token to wait for".to_owned()))
}

/// `identities create`
///
/// # Errors
/// As the planes answer.
pub async fn create_identity(planes: &mut Planes, format: Format, args: &CreateIdentityArgs) -> Result<(), CliError> {
    let mut body = Body::default();
    body.text("name", Some(&args.name));
    members(&mut body, &args.members);
    post(planes, format, Resource::Identities, body, &args.writing).await
}

/// `identities update`
///
/// # Errors
/// As the planes answer.
pub async fn update_identity(planes: &mut Planes, format: Format, args: &UpdateIdentityArgs) -> Result<(), CliError> {
    let mut body = Body::default();
    body.text("name", args.name.as_ref());
    members(&mut body, &args.members);
    if body.0.is_empty() {
        return Err(CliError::Usage(
            "nothing to change: give --name, --display-name, --email, --kind, --role or --active".to_owned(),
        ));
    }
    patch(planes, format, Resource::Identities, &args.id, body, args.if_match, &args.writing).await
}

fn members(body: &mut Body, members: &IdentityMembers) {
    for (name, value) in [("display_name", &members.display_name), ("email", &members.email)] {
        match value {
            Some(text) if text.is_empty() => body.raw(name, "null"),
            value => body.text(name, value.as_ref()),
        }
    }
    body.text("kind", members.kind.as_ref());
    body.text("role", members.role.as_ref());
    if let Some(active) = members.active {
        body.raw("active", if active { "true" } else { "false" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_json_whatever_the_title() {
        let mut body = Body::default();
        body.text("title", Some(&"a\"b\n".to_owned()));
        body.text("priority", None);
        body.raw("payload", "{}");
        assert_eq!(body.finish(), r#"{"title":"a\"b\n","payload":{}}"#);
        assert_eq!(Body::default().finish(), "{}");
    }

    #[test]
    fn a_payload_must_be_an_object_and_keeps_its_spelling() {
        assert_eq!(payload(r#" {"b": 1.0, "a": 2} "#).expect("good"), r#"{"b":1.0,"a":2}"#);
        assert_eq!(payload("null").expect("good"), "null");
        for text in ["[]", "{", "7", r#"{"a":1,"a":2}"#, ""] {
            assert_eq!(payload(text).expect_err(text).exit_code(), 2);
        }
    }

    #[test]
    fn random_keys_differ() {
        assert_ne!(random_key(), random_key());
    }
}
