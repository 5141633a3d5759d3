//! Debian's package index as signals: real input, some 60,000 records of very different sizes.

use std::io::{self, BufRead, BufWriter, Write};

use serde::Serialize;
use serde_json::{Map, Value};

/// What a payload may hold, in bytes without insignificant space.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024;
/// What a title may hold, in characters.
const TITLE_CHARS_MAX: usize = 200;

/// What a create request holds, in the order in which a reader looks for it.
#[derive(Serialize)]
struct Signal {
    title: String,
    priority: &'static str,
    payload: Map<String, Value>,
}

/// Reads the format of `apt-cache dumpavail` and writes one create body per line:
/// `{"title":<Package>,"priority":…,"payload":{<every other field>}}`. Returns how many were written.
///
/// `Priority` becomes ours: required → critical, important → high, standard → normal, optional and extra → low; the
/// original stays in the payload. A field that would make the payload too large is left out, and named in
/// `"omitted"`.
///
/// # Errors
/// Reading or writing fails.
pub fn write_signals(input: impl BufRead, output: impl Write) -> io::Result<u64> {
    let mut output = BufWriter::new(output);
    let mut count = 0;
    let mut paragraph = Map::new();
    let mut last = String::new();
    for line in input.split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        if line.trim().is_empty() {
            count += u64::from(write_signal(std::mem::take(&mut paragraph), &mut output)?);
        } else if line.starts_with([' ', '\t']) {
            // A continuation: the field's text goes on in the next line.
            if let Some(Value::String(text)) = paragraph.get_mut(&last) {
                text.push('\n');
                text.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            name.clone_into(&mut last);
            paragraph.insert(name.to_owned(), Value::String(value.trim().to_owned()));
        }
    }
    count += u64::from(write_signal(paragraph, &mut output)?);
    output.flush()?;
    Ok(count)
}

/// Writes one paragraph; false when it names no package.
fn write_signal(mut fields: Map<String, Value>, output: &mut impl Write) -> io::Result<bool> {
    let Some(Value::String(package)) = fields.remove("Package") else { return Ok(false) };
    let title: String = package.chars().take(TITLE_CHARS_MAX).collect();
    let priority = match fields.get("Priority").and_then(Value::as_str) {
        Some("required") => "critical",
        Some("important") => "high",
        Some("standard") => "normal",
        _ => "low",
    };
    let mut omitted = Vec::new();
    while serde_json::to_vec(&fields)?.len() > PAYLOAD_BYTES_MAX {
        let size = |value: &Value| value.as_str().map_or(0, str::len);
        let Some(largest) = fields.iter().max_by_key(|(_, value)| size(value)).map(|(name, _)| name.clone()) else {
            break;
        };
        fields.remove(&largest);
        omitted.push(Value::String(largest));
        fields.insert("omitted".to_owned(), Value::Array(omitted.clone()));
    }
    serde_json::to_writer(&mut *output, &Signal { title, priority, payload: fields })?;
    output.write_all(b"\n")?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convert(text: &str) -> Vec<Value> {
        let mut output = Vec::new();
        write_signals(text.as_bytes(), &mut output).expect("memory does not fail");
        output.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
    }

    #[test]
    fn each_paragraph_becomes_a_signal_with_its_priority_mapped() {
        let text = "Package: dash\nPriority: required\nDescription: a shell\n more\n .\n\nPackage: gzip\nPriority: extra\n\n\n";
        let signals = convert(text);
        assert_eq!(signals.len(), 2);
        assert_eq!(signals[0]["title"], "dash");
        assert_eq!(signals[0]["priority"], "critical");
        assert_eq!(signals[0]["payload"]["Description"], "a shell\nmore\n.");
        assert_eq!(signals[0]["payload"]["Priority"], "required");
        assert!(signals[0]["payload"].get("Package").is_none());
        assert_eq!(signals[1]["priority"], "low");
    }

    #[test]
    fn a_payload_never_exceeds_its_bound() {
        let text = format!("Package: big\nDepends: {}\nSize: 1\n", "x".repeat(PAYLOAD_BYTES_MAX));
        let signals = convert(&text);
        assert!(signals[0]["payload"].to_string().len() <= PAYLOAD_BYTES_MAX);
        assert_eq!(signals[0]["payload"]["omitted"][0], "Depends");
        assert_eq!(signals[0]["payload"]["Size"], "1");
    }
}
