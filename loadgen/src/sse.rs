//! Server-sent events, parsed as they come in.

/// One event. The slices are valid until the next bytes are fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// The `event:` field; `message` when there was none.
    pub name: &'a [u8],
    /// The `data:` lines, joined by line feeds.
    pub data: &'a [u8],
}

/// A parser of the event stream format of the HTML standard, without the parts that only browsers
/// need (`retry:`).
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    name: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// Of the last event that is complete.
    id: Vec<u8>,
    /// Of the one that is being read, where `has_id`.
    next_id: Vec<u8>,
    has_id: bool,
    after_return: bool,
}

impl Parser {
    /// The last `id:` up to the end of an event. That of an event which is still being read does not count: who resumed
    /// behind it would never see it.
    #[must_use]
    pub fn last_id(&self) -> &[u8] {
        &self.id
    }

    /// Forgets a half-read event: the stream was cut.
    pub fn cut(&mut self) {
        self.line.clear();
        self.name.clear();
        self.data.clear();
        self.has_data = false;
        self.has_id = false;
        self.after_return = false;
    }

    /// Reads `bytes` and calls `emit` for each event that they complete.
    pub fn feed(&mut self, mut bytes: &[u8], mut emit: impl FnMut(Event<'_>)) {
        while let Some(end) = memchr::memchr2(b'\n', b'\r', bytes) {
            let (line, terminator) = (&bytes[..end], bytes[end]);
            bytes = &bytes[end + 1..];
            if terminator == b'\n' && self.after_return && line.is_empty() && self.line.is_empty() {
                self.after_return = false;
                continue;
            }
            self.after_return = terminator == b'\r';
            if self.line.is_empty() {
                self.take_line(line, &mut emit);
            } else {
                self.line.extend_from_slice(line);
                let whole = std::mem::take(&mut self.line);
                self.take_line(&whole, &mut emit);
                self.line = whole;
                self.line.clear();
            }
        }
        if !bytes.is_empty() {
            self.line.extend_from_slice(bytes);
        }
    }

    fn take_line(&mut self, line: &[u8], emit: &mut impl FnMut(Event<'_>)) {
        if line.is_empty() {
            // By the standard an event without data is not dispatched; `ready` and `reset` may be.
            if self.has_data || !self.name.is_empty() {
                let name: &[u8] = if self.name.is_empty() { b"message" } else { &self.name };
                emit(Event { name, data: &self.data });
            }
            self.name.clear();
            self.data.clear();
            self.has_data = false;
            if std::mem::take(&mut self.has_id) {
                std::mem::swap(&mut self.id, &mut self.next_id);
            }
            return;
        }
        let colon = memchr::memchr(b':', line).unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &line[..colon] {
            b"data" => {
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
                self.has_data = true;
            }
            b"event" => {
                self.name.clear();
                self.name.extend_from_slice(value);
            }
            b"id" if !value.contains(&0) => {
                self.next_id.clear();
                self.next_id.extend_from_slice(value);
                self.has_id = true;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] =
        b": hello\n\nevent: created\nid: a1\ndata: {\"x\":1}\n\nevent:ready\n\nid: b\r\ndata: two\r\ndata:lines\r\n\r\n";

    #[test]
    fn events_come_out_the_same_wherever_the_stream_is_cut() {
        for cut in 0..STREAM.len() {
            let (mut parser, mut events) = (Parser::default(), Vec::new());
            for part in [&STREAM[..cut], &STREAM[cut..]] {
                parser.feed(part, |event| {
                    events.push(format!(
                        "{}={}",
                        String::from_utf8_lossy(event.name),
                        String::from_utf8_lossy(event.data)
                    ));
                });
            }
            assert_eq!(events, ["created={\"x\":1}", "ready=", "message=two\nlines"], "cut at {cut}");
            assert_eq!(parser.last_id(), b"b");
        }
    }

    #[test]
    fn a_stream_that_was_cut_is_resumed_behind_the_last_whole_event() {
        const RESUME: [&[u8]; 4] = [b"", b"a1", b"a1", b"b"];
        for cut in 0..=STREAM.len() {
            let (mut parser, mut events) = (Parser::default(), 0);
            parser.feed(&STREAM[..cut], |_| events += 1);
            parser.cut();
            assert_eq!(parser.last_id(), RESUME[events], "cut at {cut}");
            // The rest of the half-read event comes to nothing.
            parser.feed(b"\n", |_| events += 1);
            assert_eq!(parser.last_id(), RESUME[events], "cut at {cut}");
        }
    }
}
