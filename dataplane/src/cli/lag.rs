//! `lag`: how far the view is behind the topics, from the data plane's `/v1/status`.

use std::io::{self, Write as _};

use serde::{Deserialize, Serialize};

use super::args::LagArgs;
use super::client::{Call, Client};
use super::error::CliError;
use super::output::{Format, Items, clean, parse, table};
use super::terminal::{Screen, can_redraw, note};

/// What `/v1/status` says, as far as it is shown; members that are not there are left out.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Lag {
    ready: Option<bool>,
    reason: Option<String>,
    partitions: Vec<Partition>,
    freshness: Option<Freshness>,
    watermark_l2c: Latency,
    dead_letters: DeadLetters,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Partition {
    partition: Option<serde_json::Value>,
    ready: Option<bool>,
    generation: Option<u64>,
    epoch: Option<u64>,
    checkpoint: Option<Place>,
    log_end: Option<Place>,
    lag_events: Option<u64>,
    state: Option<String>,
    detail: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Place {
    seq: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Freshness {
    seconds: f64,
    silent: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Latency {
    count: u64,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DeadLetters {
    parked: u64,
}

/// A row of the table.
#[derive(Debug, Serialize)]
struct Row<'a> {
    partition: String,
    state: String,
    generation: Option<u64>,
    epoch: Option<u64>,
    applied: Option<u64>,
    end: Option<u64>,
    lag: Option<u64>,
    detail: Option<&'a str>,
}

impl Partition {
    fn row(&self, index: usize) -> Row<'_> {
        let partition = match &self.partition {
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => index.to_string(),
        };
        let state = match (&self.state, self.ready) {
            (Some(state), _) if state != "elsewhere" => state.clone(),
            (_, Some(false)) => "not-ready".to_owned(),
            _ => "serving".to_owned(),
        };
        Row {
            partition,
            state,
            generation: self.generation,
            epoch: self.epoch,
            applied: self.checkpoint.as_ref().and_then(|place| place.seq),
            end: self.log_end.as_ref().and_then(|place| place.seq),
            lag: self.lag_events,
            detail: self.detail.as_deref(),
        }
    }
}

impl Lag {
    /// Reads a status document.
    ///
    /// # Errors
    /// It is none.
    pub fn of(body: &[u8]) -> Result<Self, CliError> {
        serde_json::from_slice(body)
            .map_err(|error| CliError::Failed(format!("the answer of /v1/status can't be read: {error}")))
    }

    /// Why the view can't be read, if it can't.
    #[must_use]
    pub fn unreadable(&self) -> Option<String> {
        let reason = || self.reason.clone().unwrap_or_else(|| "the view is not ready".to_owned());
        (self.ready == Some(false)).then(reason)
    }

    /// Whether no watermark has come for 3 s.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.freshness.as_ref().is_none_or(|freshness| freshness.silent)
    }

    /// How many events are parked.
    #[must_use]
    pub fn parked(&self) -> u64 {
        self.dead_letters.parked
    }

    /// What stands below the table.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut parts = Vec::new();
        parts.extend(self.unreadable());
        // A partition that another process projects has no number here, and the sum none either.
        if let Some(total) = self.partitions.iter().map(|one| one.lag_events).sum::<Option<u64>>() {
            // What was not announced is not counted.
            parts.push(format!("lag {}{total} events", if self.is_silent() { "of at least " } else { "" }));
        }
        parts.push(match &self.freshness {
            None => "freshness unknown: no watermark yet".to_owned(),
            Some(Freshness { seconds, silent: false }) => format!("freshness {seconds:.3} s"),
            Some(Freshness { seconds, silent: true }) => format!("silent, the last watermark is {seconds:.1} s old"),
        });
        if let (Some(p50), Some(p99)) = (self.watermark_l2c.p50_ms, self.watermark_l2c.p99_ms) {
            let count = self.watermark_l2c.count;
            parts.push(format!("latency to consistency p50 {p50:.1} ms, p99 {p99:.1} ms of {count} watermarks"));
        }
        if self.parked() > 0 {
            parts.push(format!("{} events parked as dead letters", self.parked()));
        }
        clean(&parts.join("; "))
    }
}

/// `lag`
///
/// # Errors
/// The data plane can't be reached or refuses; with `--watch`, only at the start.
pub async fn lag(client: &mut Client, format: Format, args: &LagArgs) -> Result<(), CliError> {
    let mut screen = Screen::default();
    let mut seen = false;
    loop {
        match client.call(&Call::get("/v1/status")).await {
            Ok(answer) => {
                let picture = picture(&answer.body, format)?;
                if args.watch && can_redraw() && matches!(format, Format::Table | Format::Wide) {
                    screen.draw(&picture)?;
                } else {
                    let mut stdout = io::stdout().lock();
                    stdout.write_all(picture.as_bytes())?;
                    stdout.flush()?;
                }
                seen = true;
            }
            Err(error @ (CliError::Problem(_) | CliError::Unreachable { .. })) if args.watch && seen => {
                note(&error.to_string());
            }
            Err(error) => return Err(error),
        }
        if !args.watch {
            return Ok(());
        }
        tokio::time::sleep(args.interval).await;
    }
}

fn picture(body: &[u8], format: Format) -> Result<String, CliError> {
    let mut out = Vec::new();
    // Programs get all that the server said.
    if matches!(format, Format::Json | Format::Jsonl | Format::Yaml) {
        let mut items = Items::one(&mut out, format, table::PARTITIONS);
        items.push(&parse(body)?)?;
        items.finish()?;
        return Ok(String::from_utf8_lossy(&out).into_owned());
    }
    let lag = Lag::of(body)?;
    let rows: Vec<Row<'_>> = lag.partitions.iter().enumerate().map(|(i, one)| one.row(i)).collect();
    if format == Format::Name {
        return Ok(rows.iter().map(|row| format!("{}\n", row.partition)).collect());
    }
    let mut items = Items::list(&mut out, format, table::PARTITIONS);
    for row in &rows {
        let text = serde_json::to_vec(row).map_err(|error| CliError::Failed(error.to_string()))?;
        items.push(&parse(&text)?)?;
    }
    items.finish()?;
    out.extend_from_slice(lag.summary().as_bytes());
    out.push(b'\n');
    Ok(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_read_from_the_status() {
        let body = br#"{"ready":true,"reason":null,"freshness":{"seconds":4.5,"silent":true},"watermark_l2c":{"count":3,"p50_ms":2.14,"p99_ms":6.0},
            "partitions":[{"partition":"s0","ready":true,"generation":1,"epoch":5,"checkpoint":{"seq":10},"log_end":{"seq":12,"offset":13},"lag_events":2,"state":"serving"},
            {"partition":"s1","ready":false,"state":"elsewhere","checkpoint":null}],"dead_letters":{"parked":1}}"#;
        let text = picture(body, Format::Table).expect("a status");
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["s0", "serving", "10", "12", "2"]);
        assert_eq!(lines[2], ["s1", "not-ready", "-", "-", "-"]);
        let expected = "silent, the last watermark is 4.5 s old; latency to consistency p50 2.1 ms, p99 6.0 ms of 3 watermarks; 1 events parked as dead letters";
        assert_eq!(text.lines().last(), Some(expected));
        assert!(Lag::of(b"{}").expect("empty").is_silent() && Lag::of(b"x").is_err());
    }
}
