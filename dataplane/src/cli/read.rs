//! Reads from the data plane: `list`, `get`, `export`.

use std::io::{self, BufWriter, Write as _};
use std::time::{Duration, Instant};

use contract::json::Json;
use contract::query::{LIMIT_MAX, Resource};
use http::HeaderName;

use super::args::identities::{IdentityExportArgs, IdentityListArgs};
use super::args::{Consistency, ExportArgs, Filters, GetArgs, ListArgs, Paging};
use super::client::{Answer, Call, Client, NEXUS_TOKEN, segment};
use super::error::CliError;
use super::output::table::Column;
use super::output::{Format, Items, parse, table};
use super::terminal;

static PREFER: HeaderName = HeaderName::from_static("prefer");
/// The server counts a longer wait as this.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// How long a walk waits for a server that went away in the middle of it.
const WALK_PATIENCE: Duration = Duration::from_secs(60);

/// The path of a resource.
#[must_use]
pub fn path(resource: Resource) -> &'static str {
    match resource {
        Resource::Signals => "/v1/signals",
        Resource::Identities => "/v1/identities",
    }
}

/// The path of one entity.
#[must_use]
pub fn entity_path(resource: Resource, id: &str) -> String {
    format!("{}/{}", path(resource), segment(id))
}

/// The columns of a resource.
#[must_use]
pub fn columns(resource: Resource) -> &'static [Column] {
    match resource {
        Resource::Signals => table::SIGNALS,
        Resource::Identities => table::IDENTITIES,
    }
}

/// The filters as query parameters.
#[must_use]
pub fn query_of(filters: &Filters) -> Vec<String> {
    let lists = [("status", &filters.status), ("priority", &filters.priority)];
    lists
        .iter()
        .filter(|(_, words)| !words.is_empty())
        .map(|(name, words)| format!("{name}={}", words.join(",")))
        .collect()
}

/// Adds the tokens, and how long to wait for them, to a read.
fn consistent(call: Call, consistency: &Consistency) -> Result<Call, CliError> {
    let tokens: Vec<&str> = consistency.token.iter().map(|t| t.trim()).filter(|t| !t.is_empty()).collect();
    if tokens.is_empty() {
        return Ok(call);
    }
    let wait = consistency.wait.min(WAIT_MAX);
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    call.with(&NEXUS_TOKEN, &tokens.join(", "))?.patient(wait).with(&PREFER, &format!("wait={seconds}"))
}

/// A list to walk through.
struct Walk<'a> {
    resource: Resource,
    parameters: Vec<String>,
    /// Most items; `None`: all.
    limit: Option<u64>,
    cursor: Option<String>,
    consistency: &'a Consistency,
}

impl Walk<'_> {
    /// Writes page after page. Returns the cursor where it stopped short of the list's end.
    async fn write<W: io::Write>(
        mut self,
        client: &mut Client,
        out: &mut Items<W>,
    ) -> Result<Option<String>, CliError> {
        let mut left = self.limit;
        loop {
            let most = left.map_or(LIMIT_MAX, |left| usize::try_from(left).unwrap_or(LIMIT_MAX).min(LIMIT_MAX));
            let mut parameters = self.parameters.clone();
            parameters.push(format!("limit={most}"));
            if let Some(cursor) = &self.cursor {
                parameters.push(format!("cursor={}", segment(cursor)));
            }
            let call = Call::get(format!("{}?{}", path(self.resource), parameters.join("&")));
            let answer = page(client, &consistent(call, self.consistency)?, self.cursor.is_some()).await?;
            let body = parse(&answer.body)?;
            let Some(Json::Array(items)) = body.get("items") else {
                return Err(CliError::Failed("the server's answer has no items".to_owned()));
            };
            for item in items {
                out.push(item)?;
            }
            if let Some(left) = &mut left {
                *left = left.saturating_sub(items.len() as u64);
            }
            let next = match body.get("next_cursor") {
                Some(Json::String(text)) => Some(text.value.clone().into_owned()),
                _ => None,
            };
            if next.is_none() || left == Some(0) {
                return Ok(next);
            }
            if next == self.cursor {
                return Err(CliError::Failed("the server's cursor does not move on".to_owned()));
            }
            self.cursor = next;
            out.flush()?;
        }
    }
}

/// One page. In the middle of a walk a server that is away for a moment is waited for: the cursor
/// is still good when it is back.
async fn page(client: &mut Client, call: &Call, midway: bool) -> Result<Answer, CliError> {
    let deadline = Instant::now() + if midway { WALK_PATIENCE } else { Duration::ZERO };
    loop {
        let (error, pause) = match client.call(call).await {
            Err(CliError::Problem(report)) if matches!(report.status.as_u16(), 429 | 503) => {
                let pause = Duration::from_secs(report.retry_after.unwrap_or(1));
                (CliError::Problem(report), pause)
            }
            Err(error @ CliError::Unreachable { .. }) => (error, Duration::from_millis(500)),
            other => return other,
        };
        if Instant::now() + pause > deadline {
            return Err(error);
        }
        terminal::note(&format!("{error}; trying again in {:.1} s", pause.as_secs_f64()));
        tokio::time::sleep(pause).await;
    }
}

async fn list(
    client: &mut Client,
    format: Format,
    resource: Resource,
    parameters: Vec<String>,
    paging: &Paging,
    consistency: &Consistency,
) -> Result<(), CliError> {
    let limit = if paging.all { None } else { Some(paging.limit) };
    let mut out = Items::list(BufWriter::new(io::stdout().lock()), format, columns(resource));
    let walk = Walk { resource, parameters, limit, cursor: paging.cursor.clone(), consistency };
    let next = walk.write(client, &mut out).await?;
    out.finish()?;
    if let Some(cursor) = next {
        terminal::note(&format!("There is more: --all, a higher --limit, or --cursor {cursor}"));
    }
    Ok(())
}

/// `list`
///
/// # Errors
/// As the plane answers.
pub async fn list_signals(client: &mut Client, format: Format, args: &ListArgs) -> Result<(), CliError> {
    let mut parameters = query_of(&args.filters);
    parameters.extend(args.order.iter().map(|order| format!("order={order}")));
    list(client, format, Resource::Signals, parameters, &args.paging, &args.consistency).await
}

/// `identities list`
///
/// # Errors
/// As the plane answers.
pub async fn list_identities(client: &mut Client, format: Format, args: &IdentityListArgs) -> Result<(), CliError> {
    let parameters = args.order.iter().map(|order| format!("order={order}")).collect();
    list(client, format, Resource::Identities, parameters, &args.paging, &args.consistency).await
}

/// `export`
///
/// # Errors
/// As the plane answers.
pub async fn export_signals(client: &mut Client, format: Format, args: &ExportArgs) -> Result<(), CliError> {
    let mut parameters = query_of(&args.filters);
    parameters.push(format!("order={}", args.order));
    export(client, format, Resource::Signals, parameters, &args.consistency).await
}

/// `identities export`
///
/// # Errors
/// As the plane answers.
pub async fn export_identities(client: &mut Client, format: Format, args: &IdentityExportArgs) -> Result<(), CliError> {
    export(client, format, Resource::Identities, vec!["order=created".to_owned()], &args.consistency).await
}

async fn export(
    client: &mut Client,
    format: Format,
    resource: Resource,
    parameters: Vec<String>,
    consistency: &Consistency,
) -> Result<(), CliError> {
    let mut out = Items::list(BufWriter::with_capacity(1 << 18, io::stdout().lock()), format, columns(resource));
    Walk { resource, parameters, limit: None, cursor: None, consistency }.write(client, &mut out).await?;
    let count = out.finish()?;
    terminal::note(&format!("{count} exported"));
    Ok(())
}

/// `get`
///
/// # Errors
/// As the plane answers.
pub async fn get(client: &mut Client, format: Format, resource: Resource, args: &GetArgs) -> Result<(), CliError> {
    let call = consistent(Call::get(entity_path(resource, &args.id)), &args.consistency)?;
    let answer = client.call(&call).await?;
    show(&answer.body, format, columns(resource))
}

/// The entity as the view shows it with `token`'s effect; asks again until `wait` is over.
///
/// # Errors
/// [`CliError::NotYetConsistent`] when it is still not there; else as the plane answers.
pub async fn get_with_token(
    client: &mut Client,
    resource: Resource,
    id: &str,
    token: &str,
    wait: Duration,
) -> Result<Answer, CliError> {
    let deadline = Instant::now() + wait;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let consistency = Consistency { token: vec![token.to_owned()], wait: left };
        let call = consistent(Call::get(entity_path(resource, id)), &consistency)?;
        match client.call(&call).await {
            Err(CliError::Problem(report)) if report.code == "not-yet-consistent" => {
                if deadline <= Instant::now() {
                    let (url, seconds) = (client.url(), wait.as_secs_f64());
                    return Err(CliError::NotYetConsistent(format!(
                        "The command is done, but the view at {url} does not show it after {seconds} s; `nexus-cli lag` tells how far behind it is"
                    )));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => return other,
        }
    }
}

/// Writes one document.
///
/// # Errors
/// It is no JSON, or the output is gone.
pub fn show(body: &[u8], format: Format, columns: &'static [Column]) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    let mut out = Items::one(&mut stdout, format, columns);
    out.push(&parse(body)?)?;
    out.finish()?;
    stdout.flush()?;
    Ok(())
}

/// Writes a list of documents that are there already.
///
/// # Errors
/// The output is gone.
pub fn show_all(items: &[Json<'_>], format: Format, columns: &'static [Column]) -> Result<(), CliError> {
    let mut out = Items::list(BufWriter::new(io::stdout().lock()), format, columns);
    for item in items {
        out.push(item)?;
    }
    out.finish()?;
    Ok(())
}
