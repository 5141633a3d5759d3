//! `watch`: follows an event stream through every break of the connection.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use contract::json::{Json, write_string};
use contract::query::Resource;
use contract::signal::Priority;
use http::HeaderName;
use http::header::ACCEPT;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::args::identities::IdentityWatchArgs;
use super::args::{WatchArgs, WatchHow};
use super::client::{Call, Client};
use super::error::CliError;
use super::output::{Format, Items, clean, parse, text_of, yaml};
use super::read::{columns, entity_path, path, query_of};
use super::sse::{Event, Parser};
use super::terminal::{Screen, can_redraw, note, size};

static LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// The server sends a comment at least every 15 s: three missed ones mean a dead connection.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// First and longest pause before connecting again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// The picture is drawn again at most so often.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// `watch`
///
/// # Errors
/// The plane can't be reached at the start, or refuses.
pub async fn watch_signals(client: &mut Client, format: Format, args: &WatchArgs) -> Result<(), CliError> {
    follow(client, format, Resource::Signals, args.id.as_deref(), query_of(&args.filters), &args.how).await
}

/// `identities watch`
///
/// # Errors
/// The plane can't be reached at the start, or refuses.
pub async fn watch_identities(client: &mut Client, format: Format, args: &IdentityWatchArgs) -> Result<(), CliError> {
    follow(client, format, Resource::Identities, args.id.as_deref(), Vec::new(), &args.how).await
}

async fn follow(
    client: &mut Client,
    format: Format,
    resource: Resource,
    id: Option<&str>,
    parameters: Vec<String>,
    how: &WatchHow,
) -> Result<(), CliError> {
    let target = id.map_or_else(|| path(resource).to_owned(), |id| entity_path(resource, id));
    let mut last_id = how.last_event_id.clone().unwrap_or_default();
    let mut sink = Sink::new(format, resource, how.count);
    let mut pause = PAUSES.0;
    let mut connected = false;
    loop {
        let mut parameters = parameters.clone();
        if how.from_now && last_id.is_empty() {
            parameters.push("from=now".to_owned());
        }
        let query = if parameters.is_empty() { String::new() } else { format!("?{}", parameters.join("&")) };
        let mut call = Call::get(format!("{target}{query}")).with(&ACCEPT, "text/event-stream")?;
        if !last_id.is_empty() {
            call = call.with(&LAST_EVENT_ID, &last_id)?;
        }
        let why = match client.open(&call).await {
            Ok(stream) => {
                if std::mem::replace(&mut connected, true) {
                    note("connected again");
                }
                if last_id.is_empty() && !how.from_now {
                    sink.start_over();
                }
                let before = last_id.clone();
                let why = read(stream, &mut last_id, &mut sink).await?;
                if sink.is_done() {
                    return Ok(());
                }
                if last_id != before {
                    pause = PAUSES.0;
                }
                why
            }
            Err(CliError::Problem(report)) if report.status.as_u16() == 503 || report.status.as_u16() == 429 => {
                pause = pause.max(Duration::from_secs(report.retry_after.unwrap_or(1)).min(Duration::from_secs(30)));
                report.to_string()
            }
            Err(error @ CliError::Unreachable { .. }) if connected => error.to_string(),
            Err(error) => return Err(error),
        };
        note(&format!("{why}; connecting again in {} ms", pause.as_millis()));
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Reads a stream to its end. Returns why it ended.
async fn read(mut stream: Incoming, last_id: &mut String, sink: &mut Sink) -> Result<String, CliError> {
    let mut parser = Parser::resuming(last_id);
    let mut events = Vec::new();
    let mut deadline = Instant::now() + SILENCE_MAX;
    loop {
        let until = sink.next_draw().map_or(deadline, |draw| draw.min(deadline));
        let frame = match tokio::time::timeout_at(until.into(), stream.frame()).await {
            Err(_) if Instant::now() < deadline => {
                sink.draw()?;
                continue;
            }
            Err(_) => return Ok(format!("nothing came for {} s", SILENCE_MAX.as_secs())),
            Ok(None) => return Ok("the stream ended".to_owned()),
            Ok(Some(Err(_))) => return Ok("the connection broke".to_owned()),
            Ok(Some(Ok(frame))) => frame,
        };
        deadline = Instant::now() + SILENCE_MAX;
        let Ok(data) = frame.into_data() else { continue };
        parser.feed(&data, &mut events)?;
        for event in events.drain(..) {
            sink.take(&event)?;
            last_id.clone_from(&event.id);
            if sink.is_done() {
                return Ok(String::new());
            }
        }
        sink.flush()?;
    }
}

/// Where events go.
struct Sink {
    format: Format,
    resource: Resource,
    left: Option<u64>,
    picture: Option<Picture>,
}

/// The table of what is there now, on a terminal.
#[derive(Default)]
struct Picture {
    screen: Screen,
    /// By rank (the highest priority first), then id.
    rows: BTreeMap<(u8, String), String>,
    ranks: HashMap<String, u8>,
    dirty: bool,
    drawn: Option<Instant>,
    ready: bool,
}

impl Sink {
    fn new(format: Format, resource: Resource, count: Option<u64>) -> Self {
        let redraw = matches!(format, Format::Table | Format::Wide) && can_redraw();
        Self { format, resource, left: count, picture: redraw.then(Picture::default) }
    }

    fn is_done(&self) -> bool {
        self.left == Some(0)
    }

    fn start_over(&mut self) {
        if let Some(picture) = &mut self.picture {
            picture.rows.clear();
            picture.ranks.clear();
            picture.ready = false;
        }
    }

    fn take(&mut self, event: &Event) -> Result<(), CliError> {
        let is_change = matches!(event.name.as_str(), "created" | "updated" | "deleted");
        if is_change && let Some(left) = &mut self.left {
            *left = left.saturating_sub(1);
        }
        if event.name == "reset" {
            self.start_over();
        }
        if let Some(picture) = &mut self.picture {
            return picture.take(event).and_then(|()| if self.left == Some(0) { self.draw() } else { Ok(()) });
        }
        let line = self.line(event, is_change)?;
        io::stdout().lock().write_all(line.as_bytes())?;
        if self.is_done() {
            self.flush()?;
        }
        Ok(())
    }

    fn line(&self, event: &Event, is_change: bool) -> Result<String, CliError> {
        let document = if event.data.is_empty() { Json::Null } else { parse(event.data.as_bytes())? };
        let mut out = String::new();
        match self.format {
            Format::Json | Format::Jsonl | Format::Yaml => {
                let mut text = String::from("{\"event\":");
                write_string(&mut text, &event.name);
                text.push_str(",\"id\":");
                write_string(&mut text, &event.id);
                text.push_str(",\"data\":");
                document.write(&mut text);
                text.push('}');
                if self.format == Format::Yaml {
                    out.push_str("---\n");
                    yaml::document(&mut out, &parse(text.as_bytes())?);
                } else {
                    out = text + "\n";
                }
            }
            Format::Name if is_change => out = clean(&text_of(&document, "id")) + "\n",
            _ if is_change => {
                let mut cells = vec![format!("{:<8}", clean(&event.name))];
                cells.push(clean(&text_of(&document, "id")));
                cells.push(format!("v{:<4}", clean(&text_of(&document, "version"))));
                let members: &[(&str, usize)] = match self.resource {
                    Resource::Signals => &[("priority", 8), ("status", 9), ("title", 0), ("reason", 0)],
                    Resource::Identities => &[("role", 8), ("kind", 7), ("name", 0)],
                };
                for (member, width) in members {
                    let text = clean(&text_of(&document, member));
                    if !text.is_empty() {
                        cells.push(format!("{text:<width$}"));
                    }
                }
                out = cells.join("  ").trim_end().to_owned() + "\n";
            }
            _ => note(&format!("-- {}", clean(&event.name))),
        }
        Ok(out)
    }

    fn flush(&mut self) -> Result<(), CliError> {
        match &self.picture {
            None => io::stdout().lock().flush()?,
            Some(_) if self.next_draw().is_some_and(|draw| draw <= Instant::now()) => self.draw()?,
            Some(_) => {}
        }
        Ok(())
    }

    fn next_draw(&self) -> Option<Instant> {
        let picture = self.picture.as_ref().filter(|picture| picture.dirty && picture.ready)?;
        Some(picture.drawn.map_or_else(Instant::now, |drawn| drawn + DRAW_EVERY))
    }

    fn draw(&mut self) -> Result<(), CliError> {
        let Some(picture) = &mut self.picture else { return Ok(()) };
        let rows = size().map_or(24, |(rows, _)| rows).saturating_sub(3).max(1);
        let mut out = Vec::new();
        let mut items = Items::list(&mut out, self.format, columns(self.resource));
        for text in picture.rows.values().take(rows) {
            items.push(&parse(text.as_bytes())?)?;
        }
        items.finish()?;
        let mut text = String::from_utf8_lossy(&out).into_owned();
        text.push_str(&format!("{} in all\n", picture.rows.len()));
        picture.screen.draw(&text)?;
        (picture.dirty, picture.drawn) = (false, Some(Instant::now()));
        Ok(())
    }
}

impl Picture {
    fn take(&mut self, event: &Event) -> Result<(), CliError> {
        self.dirty = true;
        match event.name.as_str() {
            "ready" => self.ready = true,
            "created" | "updated" | "deleted" => {
                let document = parse(event.data.as_bytes())?;
                let id = text_of(&document, "id");
                if let Some(rank) = self.ranks.remove(&id) {
                    self.rows.remove(&(rank, id.clone()));
                }
                if event.name != "deleted" {
                    let priority = Priority::parse(&text_of(&document, "priority"));
                    let rank = priority.map_or(u8::MAX, |priority| u8::MAX - 1 - priority.rank());
                    self.ranks.insert(id.clone(), rank);
                    self.rows.insert((rank, id), event.data.clone());
                }
            }
            _ => {}
        }
        // A stream of changes alone (`--from-now`, or a resumed one) may have no `ready`.
        self.ready |= self.drawn.is_some();
        Ok(())
    }
}
