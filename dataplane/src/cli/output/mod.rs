//! How data is written to standard output: `-o table|wide|json|jsonl|yaml|name`.
//!
//! Documents keep what the server sent: the order of members, the spelling of numbers and strings.

pub mod pretty;
pub mod table;
pub mod yaml;

use std::io::Write;

use clap::ValueEnum;
use contract::json::Json;

use super::error::CliError;
use table::{Column, Table};

/// How data is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people
    Table,
    /// More columns
    Wide,
    /// One indented JSON document; of several items, an array
    Json,
    /// One JSON document a line
    Jsonl,
    /// YAML
    Yaml,
    /// Ids alone, one a line
    Name,
}

/// The text of a document's member, as it reads: strings without quotes, null as nothing.
#[must_use]
pub fn text_of(document: &Json<'_>, member: &str) -> String {
    document.get(member).map(scalar).unwrap_or_default()
}

/// A value as it reads in a table cell.
#[must_use]
pub fn scalar(value: &Json<'_>) -> String {
    match value {
        Json::Null => String::new(),
        Json::String(text) => text.value.clone().into_owned(),
        other => {
            let mut out = String::new();
            other.write(&mut out);
            out
        }
    }
}

/// `text` fit for a line on a terminal: what could move the cursor, or turn the direction of writing,
/// is replaced.
#[must_use]
pub fn clean(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if c.is_control() || turns(c) { '\u{fffd}' } else { c }).collect()
}

/// Parses a document that a server sent.
///
/// # Errors
/// It is not JSON.
pub fn parse(body: &[u8]) -> Result<Json<'_>, CliError> {
    Json::parse(body).map_err(|error| CliError::Failed(format!("the server's answer is not JSON: {error}")))
}

/// Writes items one after the other, in one format.
#[derive(Debug)]
pub struct Items<W: Write> {
    out: W,
    format: Format,
    table: Table,
    written: u64,
    single: bool,
}

impl<W: Write> Items<W> {
    /// A writer of a list. `columns` are those of `table` and `wide`.
    pub fn list(out: W, format: Format, columns: &'static [Column]) -> Self {
        Self { out, format, table: Table::new(columns, format == Format::Wide), written: 0, single: false }
    }

    /// A writer of exactly one item, which stands by itself and not in an array.
    pub fn one(out: W, format: Format, columns: &'static [Column]) -> Self {
        Self { single: true, ..Self::list(out, format, columns) }
    }

    /// Writes an item.
    ///
    /// # Errors
    /// The output is gone.
    pub fn push(&mut self, item: &Json<'_>) -> Result<(), CliError> {
        let mut text = String::new();
        match self.format {
            Format::Table | Format::Wide => text = self.table.push(item),
            Format::Json if self.single => {
                pretty::write(&mut text, item, 0);
                text.push('\n');
            }
            Format::Json => {
                text.push_str(if self.written == 0 { "[\n  " } else { ",\n  " });
                pretty::write(&mut text, item, 1);
            }
            Format::Jsonl => {
                item.write(&mut text);
                text.push('\n');
            }
            Format::Yaml if self.single => yaml::document(&mut text, item),
            Format::Yaml => yaml::list_item(&mut text, item),
            Format::Name => {
                text = clean(&text_of(item, "id"));
                text.push('\n');
            }
        }
        self.written += 1;
        self.out.write_all(text.as_bytes())?;
        Ok(())
    }

    /// Lets what was written so far be seen.
    ///
    /// # Errors
    /// The output is gone.
    pub fn flush(&mut self) -> Result<(), CliError> {
        let text = self.settled();
        self.out.write_all(text.as_bytes())?;
        self.out.flush()?;
        Ok(())
    }

    fn settled(&mut self) -> String {
        match self.format {
            Format::Table | Format::Wide => self.table.settle(),
            _ => String::new(),
        }
    }

    /// Writes what belongs at the end. Returns how many items there were.
    ///
    /// # Errors
    /// The output is gone.
    pub fn finish(mut self) -> Result<u64, CliError> {
        let tail = match (self.format, self.written, self.single) {
            (Format::Json, 0, false) => "[]\n",
            (Format::Json, _, false) => "\n]\n",
            (Format::Yaml, 0, false) => "[]\n",
            _ => "",
        };
        let text = self.settled();
        self.out.write_all(text.as_bytes())?;
        self.out.write_all(tail.as_bytes())?;
        self.out.flush()?;
        Ok(self.written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ITEMS: [&str; 2] = [
        r#"{"id":"01923456-789a-7bcd-8123-456789abcdef","title":"say \"hi\"\u001b[2J","priority":"high","status":"pending","payload":{"b":1.0,"a":[]},"target":null,"created_by":"u","created_at":"2026-09-21T14:13:20.000001Z","updated_at":"2026-09-21T14:13:20.500000Z","version":3}"#,
        r#"{"id":"2","title":"yes","priority":"low","status":"active","payload":{},"target":"t","created_by":"u","created_at":"2026-09-21T14:13:20.000001Z","updated_at":"2026-09-21T14:13:20.500000Z","version":12}"#,
    ];

    fn written(format: Format, single: bool, items: &[&str]) -> String {
        let mut out = Vec::new();
        let make = if single { Items::one } else { Items::list };
        let mut writer = make(&mut out, format, table::SIGNALS);
        for item in items {
            writer.push(&Json::parse(item.as_bytes()).expect("JSON")).expect("written");
        }
        writer.finish().expect("written");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn jsonl_is_the_servers_bytes() {
        assert_eq!(written(Format::Jsonl, false, &ITEMS), format!("{}\n{}\n", ITEMS[0], ITEMS[1]));
    }

    #[test]
    fn json_of_many_is_an_array_and_of_one_an_object() {
        let many = written(Format::Json, false, &ITEMS);
        let parsed: serde_json::Value = serde_json::from_str(&many).expect("JSON");
        assert_eq!(parsed.as_array().map(Vec::len), Some(2));
        assert!(many.contains("\"b\": 1.0,\n"), "{many}");
        let one: serde_json::Value = serde_json::from_str(&written(Format::Json, true, &ITEMS[..1])).expect("JSON");
        assert_eq!(one["version"], 3);
        assert_eq!(written(Format::Json, false, &[]), "[]\n");
        assert_eq!(written(Format::Yaml, false, &[]), "[]\n");
        assert_eq!(written(Format::Jsonl, false, &[]), "");
    }

    #[test]
    fn names_are_ids() {
        assert_eq!(written(Format::Name, false, &ITEMS), "01923456-789a-7bcd-8123-456789abcdef\n2\n");
    }

    #[test]
    fn tables_line_up_and_let_no_escape_through() {
        let text = written(Format::Wide, false, &ITEMS);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].starts_with("ID ") && lines[0].contains("CREATED_BY"));
        assert_eq!(lines[1].find("high"), lines[2].find("low"), "{text}");
        assert!(!text.contains('\x1b') && lines[1].contains("say \"hi\"\u{fffd}[2J"), "{text}");
        assert!(written(Format::Table, false, &[]).starts_with("ID "));
    }

    #[test]
    fn yaml_quotes_what_would_read_as_something_else() {
        assert_eq!(
            written(
                Format::Yaml,
                true,
                &[
                    r#"{"a":"yes","b":"plain words","c":[1,{"d":null}],"e":{},"f":"1.0","g":"a: b","h":"\u009b\n","x y":"-"}"#
                ]
            ),
            "a: \"yes\"\nb: plain words\nc:\n  - 1\n  - d: null\ne: {}\nf: \"1.0\"\ng: \"a: b\"\nh: \"\\x9b\\n\"\nx y: \"-\"\n"
        );
        assert!(written(Format::Yaml, false, &ITEMS).starts_with("- id: \"01923456-"));
    }
}
