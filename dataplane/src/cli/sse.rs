//! Server-sent events as they come in (the event stream format of the HTML standard).

use super::error::CliError;

/// An event larger than this is an error: a signal has at most 64 KiB of payload.
const EVENT_BYTES_MAX: usize = 4 << 20;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// Its `event:`; `message` where there is none.
    pub name: String,
    /// Its `data:` lines, joined by line feeds.
    pub data: String,
    /// The last `id:` seen on the stream, this event's included; empty where there was none.
    pub id: String,
}

/// A parser that is fed as bytes come in.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    after_return: bool,
    name: String,
    data: Vec<String>,
    id: String,
}

impl Parser {
    /// A parser on a stream that resumes after the event `id`.
    #[must_use]
    pub fn resuming(id: &str) -> Self {
        Self { id: id.to_owned(), ..Self::default() }
    }

    /// Takes bytes; adds the events that they complete to `events`.
    ///
    /// # Errors
    /// An event is larger than any that the server may send.
    pub fn feed(&mut self, bytes: &[u8], events: &mut Vec<Event>) -> Result<(), CliError> {
        for &byte in bytes {
            let second_half = byte == b'\n' && std::mem::take(&mut self.after_return);
            if second_half {
                continue;
            }
            self.after_return = byte == b'\r';
            if matches!(byte, b'\n' | b'\r') {
                self.end_line(events);
            } else {
                self.line.push(byte);
            }
        }
        if self.line.len() + self.data.iter().map(String::len).sum::<usize>() > EVENT_BYTES_MAX {
            return Err(CliError::Failed("the server sent an event larger than any can be".to_owned()));
        }
        Ok(())
    }

    fn end_line(&mut self, events: &mut Vec<Event>) {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        if line.is_empty() {
            // By the standard an event without data is dropped; `ready` and `reset` may have none.
            if !self.data.is_empty() || !self.name.is_empty() {
                let name = std::mem::take(&mut self.name);
                let name = if name.is_empty() { "message".to_owned() } else { name };
                let data = std::mem::take(&mut self.data).join("\n");
                events.push(Event { name, data, id: self.id.clone() });
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => self.data.push(value.to_owned()),
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_out_however_the_bytes_are_cut() {
        let stream = ": hello\r\n\r\nevent: created\r\ndata: {\"a\":\ndata:1}\nid: 7\n\nevent: ready\ndata:\n\n: beat\n\ndata: é\n\nevent: cut";
        let expected = [("created", "{\"a\":\n1}", "7"), ("ready", "", "7"), ("message", "é", "7")];
        for step in 1..stream.len() {
            let (mut parser, mut events) = (Parser::default(), Vec::new());
            for piece in stream.as_bytes().chunks(step) {
                parser.feed(piece, &mut events).expect("small");
            }
            let told: Vec<_> = events.iter().map(|e| (e.name.as_str(), e.data.as_str(), e.id.as_str())).collect();
            assert_eq!(told, expected, "in steps of {step}");
        }
    }
}
