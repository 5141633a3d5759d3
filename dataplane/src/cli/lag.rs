//! `lag`: how far the view is behind the topics, from the data plane's `/v1/status`.

use std::io::{self, Write as _};

use contract::json::{Json, write_string};

use super::args::LagArgs;
use super::client::{Call, Client};
use super::error::CliError;
use super::output::{Format, Items, clean, parse, scalar, table};
use super::terminal::{Screen, can_redraw, note};

/// What `/v1/status` says about lag, in words of our own: text as it was spelled.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// One of each partition.
    pub partitions: Vec<Partition>,
    /// How fresh the view is, such as `12 ms`.
    pub freshness: Option<String>,
    /// Latency to consistency of the watermarks, such as `p50 2.1 ms, p99 6 ms`.
    pub l2c: Option<String>,
    /// The generation of the view.
    pub generation: Option<String>,
}

/// The lag of one partition.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Partition {
    /// Its number.
    pub partition: String,
    /// The epoch it is in.
    pub epoch: Option<String>,
    /// The last number that is applied.
    pub applied: Option<String>,
    /// The last number that there is.
    pub end: Option<String>,
    /// Events between the two.
    pub lag: Option<String>,
}

/// The first of `places` that holds a scalar; a place may lead through objects, by dots.
fn find(json: &Json<'_>, places: &[&str]) -> Option<String> {
    places.iter().find_map(|place| {
        let value = place.split('.').try_fold(json, |json, name| json.get(name))?;
        match value {
            Json::Number(_) | Json::Bool(_) | Json::String(_) => Some(scalar(value)),
            _ => None,
        }
    })
}

fn milliseconds(json: &Json<'_>, name: &str) -> Option<String> {
    let places = [format!("{name}_ms"), format!("{name}.ms"), format!("{name}.age_ms"), format!("{name}.milliseconds")];
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    if let Some(ms) = find(json, &places) {
        return Some(format!("{ms} ms"));
    }
    let places = [format!("{name}_s"), format!("{name}_seconds"), format!("{name}.seconds"), format!("{name}.age_s")];
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    find(json, &places).or_else(|| find(json, &[name])).map(|seconds| format!("{seconds} s"))
}

impl Lag {
    /// Reads a status document, as far as it is known.
    #[must_use]
    pub fn of(status: &Json<'_>) -> Self {
        let partitions: &[Json<'_>] = match status.get("partitions") {
            Some(Json::Array(partitions)) => partitions,
            _ => &[],
        };
        let epoch = find(status, &["epoch"]);
        let partition = |(i, json): (usize, &Json<'_>)| Partition {
            partition: find(json, &["partition", "id"]).unwrap_or_else(|| i.to_string()),
            epoch: find(json, &["epoch", "checkpoint.epoch"]).or_else(|| epoch.clone()),
            applied: find(json, &["checkpoint.seq", "applied_seq", "applied", "seq", "checkpoint"]),
            end: find(json, &["log_end.seq", "end_seq", "log_end_seq", "log_end", "end"]),
            lag: find(json, &["lag_events", "lag"]),
        };
        let mut freshness = milliseconds(status, "freshness");
        let silent = find(status, &["silent", "freshness.silent", "freshness_silent"]);
        if let (Some(text), Some("true")) = (&mut freshness, silent.as_deref()) {
            text.push_str(" (silent: no watermark for 3 s; is the relay running?)");
        }
        let l2c =
            ["l2c", "l2c_ms", "watermark_l2c", "canary"].iter().find_map(|name| status.get(name)).map(
                |l2c| match l2c {
                    Json::Object(members) => {
                        let known = members
                            .iter()
                            .filter(|(_, value)| !matches!(value, Json::Null | Json::Object(_) | Json::Array(_)));
                        let told = known.map(|(name, value)| match name.value.strip_suffix("_ms") {
                            Some(name) => format!("{name} {} ms", scalar(value)),
                            None => format!("{} {}", name.value, scalar(value)),
                        });
                        told.collect::<Vec<_>>().join(", ")
                    }
                    Json::Null => String::new(),
                    other => format!("{} ms", scalar(other)),
                },
            );
        Self {
            partitions: partitions.iter().enumerate().map(partition).collect(),
            freshness,
            l2c: l2c.filter(|text| !text.is_empty()),
            generation: find(status, &["generation", "generation.serving", "generation.id", "view.generation"]),
        }
    }

    /// The events that are not applied yet, all partitions together.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        self.partitions.iter().map(|one| one.lag.as_ref()?.parse::<u64>().ok()).sum()
    }

    /// What stands below the table.
    #[must_use]
    pub fn summary(&self) -> String {
        let total = self.total().map(|total| format!("lag {total} events"));
        let told = |name: &str, value: &Option<String>| value.as_ref().map(|value| format!("{name} {value}"));
        let parts = [
            total,
            told("freshness", &self.freshness),
            told("latency to consistency", &self.l2c),
            told("generation", &self.generation),
        ];
        clean(&parts.into_iter().flatten().collect::<Vec<_>>().join("; "))
    }
}

impl Partition {
    fn json(&self) -> String {
        let mut out = String::from("{\"partition\":");
        let mut value = |text: Option<&String>| match text {
            Some(text) if text.parse::<f64>().is_ok() => out.push_str(text),
            Some(text) => write_string(&mut out, text),
            None => out.push_str("null"),
        };
        value(Some(&self.partition));
        let members = [("epoch", &self.epoch), ("applied", &self.applied), ("end", &self.end), ("lag", &self.lag)];
        for (name, text) in members {
            out.push_str(&format!(",\"{name}\":"));
            match text {
                Some(text) if text.parse::<f64>().is_ok() => out.push_str(text),
                Some(text) => write_string(&mut out, text),
                None => out.push_str("null"),
            }
        }
        out.push('}');
        out
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
                let picture = picture(&parse(&answer.body)?, &answer.body, format)?;
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

fn picture(status: &Json<'_>, body: &[u8], format: Format) -> Result<String, CliError> {
    let lag = Lag::of(status);
    let mut out = Vec::new();
    match format {
        Format::Table | Format::Wide | Format::Name => {
            let mut items = Items::list(&mut out, format, table::PARTITIONS);
            if format == Format::Name {
                let numbers: String = lag.partitions.iter().map(|one| format!("{}\n", one.partition)).collect();
                return Ok(numbers);
            }
            for partition in &lag.partitions {
                items.push(&parse(partition.json().as_bytes())?)?;
            }
            items.finish()?;
            out.extend_from_slice(lag.summary().as_bytes());
            out.push(b'\n');
        }
        // Programs get all that the server said.
        Format::Json | Format::Jsonl | Format::Yaml => {
            let mut items = Items::one(&mut out, format, table::PARTITIONS);
            items.push(&parse(body)?)?;
            items.finish()?;
        }
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_read_from_the_status() {
        let text = r#"{"epoch":1790000000000,"generation":7,"freshness":{"seconds":0.012,"silent":true},"l2c":{"p50_ms":2.1,"p99_ms":6},
            "partitions":[{"partition":0,"checkpoint":{"seq":10,"epoch":5},"log_end":12,"lag":2},{"partition":1,"applied":3,"end":3,"lag":0}]}"#;
        let json = Json::parse(text.as_bytes()).expect("JSON");
        let lag = Lag::of(&json);
        assert_eq!(lag.partitions[0].json(), r#"{"partition":0,"epoch":5,"applied":10,"end":12,"lag":2}"#);
        assert_eq!(lag.partitions[1].json(), r#"{"partition":1,"epoch":1790000000000,"applied":3,"end":3,"lag":0}"#);
        assert_eq!(lag.total(), Some(2));
        let summary = lag.summary();
        assert!(summary.contains("freshness 0.012 s (silent") && summary.contains("p50 2.1 ms, p99 6 ms"), "{summary}");
        assert_eq!(Lag::of(&Json::Null), Lag::default());
    }
}
