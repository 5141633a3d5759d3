//! A file of JSON lines, cut into batches: the same file always gives the same batches.
//!
//! *Input* the file; *output* batches; *bound* one batch here and as many in the channel as it holds;
//! *on shutdown* it ends when nobody takes the batches.

use std::io::{self, BufRead};

use bytes::Bytes;
use contract::json::Json;
use sha2::{Digest as _, Sha256};

/// A longer line is rejected: no server takes one, and memory stays bounded.
pub const LINE_BYTES_MAX: usize = 1 << 20;
/// A batch is closed before its body grows past this; the server takes 8 MiB.
const BODY_BYTES_MAX: usize = 7 << 20;
/// A line nested deeper is rejected here: the batch as a whole would be unreadable for the server.
const DEPTH_MAX: usize = 100;
/// What a creation can't say: the server sets it.
const SET_BY_THE_SERVER: [&str; 6] = ["id", "status", "created_by", "created_at", "updated_at", "version"];

/// One request's worth of lines.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch {
    /// The body of the `:batch` request.
    pub body: Bytes,
    /// Its `Idempotency-Key`: the same lines at the same place in the same file have the same.
    pub key: String,
    /// For each command, the number of its line, from 1.
    pub lines: Vec<u64>,
    /// For each command, the line as it stood in the file; empty unless they were asked for.
    pub texts: Vec<String>,
    /// Lines that are no JSON object, with what is wrong: they are in no command.
    pub refused: Vec<Refused>,
    /// How many lines were read so far, blank ones included.
    pub lines_read: u64,
    /// How many bytes were read so far.
    pub bytes_read: u64,
}

/// A line that can't be sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its number, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub reason: String,
    /// The line, as far as it was kept.
    pub text: String,
}

/// How the file is cut.
#[derive(Debug, Clone)]
pub struct Cut {
    /// Most commands in a batch.
    pub batch_size: usize,
    /// The name of the import; part of every key.
    pub run: String,
    /// Leave out what the server sets.
    pub from_export: bool,
    /// Keep the lines' texts.
    pub keep_texts: bool,
}

/// The batches of a file.
#[derive(Debug)]
pub struct Batches<R> {
    reader: R,
    cut: Cut,
    index: u64,
    lines_read: u64,
    bytes_read: u64,
    ended: bool,
    /// A command that did not fit into the batch before it.
    left_over: Option<(u64, String, String)>,
}

impl<R: BufRead> Batches<R> {
    /// The batches of what `reader` reads.
    pub fn new(reader: R, cut: Cut) -> Self {
        Self { reader, cut, index: 0, lines_read: 0, bytes_read: 0, ended: false, left_over: None }
    }

    /// The next batch; `None` after the last. It may have no commands, when every line was refused.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn read_batch(&mut self) -> io::Result<Option<Batch>> {
        let mut body = String::from("{\"commands\":[");
        let (mut lines, mut texts, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        while lines.len() < self.cut.batch_size && refused.len() < self.cut.batch_size {
            let (line, text, signal) = match self.left_over.take() {
                Some(left_over) => left_over,
                None => match self.read_line()? {
                    None => break,
                    Some(Err(line)) => {
                        refused.push(line);
                        continue;
                    }
                    Some(Ok(line)) => line,
                },
            };
            if !lines.is_empty() && body.len() + signal.len() + 64 > BODY_BYTES_MAX {
                self.left_over = Some((line, text, signal));
                break;
            }
            body.push_str(if lines.is_empty() { "" } else { "," });
            body.push_str("{\"op\":\"create\",\"signal\":");
            body.push_str(&signal);
            body.push('}');
            lines.push(line);
            if self.cut.keep_texts {
                texts.push(text);
            }
        }
        if lines.is_empty() && refused.is_empty() {
            return Ok(None);
        }
        body.push_str("]}");
        let key = self.key(&body);
        self.index += u64::from(!lines.is_empty());
        let (lines_read, bytes_read) = (self.lines_read, self.bytes_read);
        Ok(Some(Batch { body: body.into(), key, lines, texts, refused, lines_read, bytes_read }))
    }

    fn key(&self, body: &str) -> String {
        let mut hash = Sha256::new();
        hash.update(b"nexus-cli import 1\0");
        hash.update(self.cut.run.as_bytes());
        hash.update([0]);
        hash.update(self.index.to_be_bytes());
        hash.update(body.as_bytes());
        let hex: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        format!("import-{hex}")
    }

    /// The next line that is not blank: its number, its text where texts are kept, and the signal.
    #[allow(clippy::type_complexity)]
    fn read_line(&mut self) -> io::Result<Option<Result<(u64, String, String), Refused>>> {
        loop {
            if self.ended {
                return Ok(None);
            }
            let mut bytes = Vec::new();
            let mut too_long = false;
            loop {
                let buffer = match self.reader.fill_buf() {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    buffer => buffer?,
                };
                if buffer.is_empty() {
                    self.ended = true;
                    break;
                }
                let end = buffer.iter().position(|b| *b == b'\n');
                let piece = &buffer[..end.unwrap_or(buffer.len())];
                if bytes.len() + piece.len() > LINE_BYTES_MAX {
                    too_long = true;
                } else {
                    bytes.extend_from_slice(piece);
                }
                let taken = end.map_or(buffer.len(), |end| end + 1);
                self.reader.consume(taken);
                self.bytes_read += taken as u64;
                if end.is_some() {
                    break;
                }
            }
            if self.ended && bytes.is_empty() && !too_long {
                return Ok(None);
            }
            self.lines_read += 1;
            if self.lines_read == 1 && bytes.starts_with(b"\xef\xbb\xbf") {
                bytes.drain(..3);
            }
            let bytes = bytes.trim_ascii();
            if bytes.is_empty() && !too_long {
                continue;
            }
            let line = self.lines_read;
            let text = if self.cut.keep_texts { String::from_utf8_lossy(bytes).into_owned() } else { String::new() };
            let refuse = |reason: String| Refused { line, reason, text: text.clone() };
            if too_long {
                return Ok(Some(Err(refuse(format!("is longer than {LINE_BYTES_MAX} bytes")))));
            }
            return Ok(Some(match self.signal(bytes) {
                Ok(signal) => Ok((line, text, signal)),
                Err(reason) => Err(refuse(reason)),
            }));
        }
    }

    fn signal(&self, bytes: &[u8]) -> Result<String, String> {
        let mut json = Json::parse(bytes).map_err(|error| format!("is not JSON: {error}"))?;
        if json.depth() > DEPTH_MAX {
            return Err(format!("is nested more than {DEPTH_MAX} deep"));
        }
        let Json::Object(members) = &mut json else {
            return Err("is not a JSON object".to_owned());
        };
        if self.cut.from_export {
            members.retain(|(name, _)| !SET_BY_THE_SERVER.contains(&name.value.as_ref()));
        }
        let mut signal = String::with_capacity(bytes.len());
        json.write(&mut signal);
        Ok(signal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(text: &str, batch_size: usize, from_export: bool) -> Vec<Batch> {
        let cut = Cut { batch_size, run: String::new(), from_export, keep_texts: true };
        let mut batches = Batches::new(io::BufReader::with_capacity(7, text.as_bytes()), cut);
        let mut all = Vec::new();
        while let Some(batch) = batches.read_batch().expect("readable") {
            all.push(batch);
        }
        all
    }

    #[test]
    fn the_same_file_gives_the_same_batches_and_a_repeated_line_is_no_repeat() {
        let text = "{\"title\":\"a\"}\n".repeat(5);
        let (first, again) = (batches(&text, 2, false), batches(&text, 2, false));
        assert_eq!(first, again);
        assert_eq!(first.iter().map(|b| b.lines.clone()).collect::<Vec<_>>(), [vec![1, 2], vec![3, 4], vec![5]]);
        assert_eq!(first[0].body, first[1].body);
        assert_ne!(first[0].key, first[1].key);
        assert!(first[0].key.len() <= 128);
        assert_eq!(first[2].body.as_ref(), br#"{"commands":[{"op":"create","signal":{"title":"a"}}]}"#);
    }

    #[test]
    fn refused_lines_have_their_numbers_and_harm_no_neighbour() {
        let long = format!("{{\"title\":\"{}\"}}", "x".repeat(LINE_BYTES_MAX));
        let deep = format!("{{\"payload\":{}1{}}}", "[".repeat(101), "]".repeat(101));
        let text = format!(
            "\u{feff}{{\"title\":\"a\"}}\r\n\n{{\"title\":\n[]\n{long}\n{deep}\n{{\"title\":\"b\"}},{{\"op\":\"delete\"}}\n{{\"title\":\"c\"}}"
        );
        let all = batches(&text, 500, false);
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].lines, [1, 8]);
        assert_eq!(all[0].refused.iter().map(|r| r.line).collect::<Vec<_>>(), [3, 4, 5, 6, 7]);
        assert_eq!((all[0].lines_read, all[0].bytes_read), (8, text.len() as u64));
    }

    #[test]
    fn batches_close_before_the_server_would_refuse_them() {
        let line = format!("{{\"title\":\"a\",\"payload\":{{\"x\":\"{}\"}}}}\n", "x".repeat(60_000));
        let all = batches(&line.repeat(300), 500, false);
        assert!(all.len() > 1 && all.iter().all(|b| b.body.len() <= 8 << 20));
        assert_eq!(all.iter().map(|b| b.lines.len()).sum::<usize>(), 300);
    }

    #[test]
    fn an_exported_signal_can_be_created_again() {
        let all = batches(
            "{\"id\":\"x\",\"title\":\"a\",\"status\":\"active\",\"payload\":{\"id\":1},\"version\":3}",
            5,
            true,
        );
        assert_eq!(
            all[0].body.as_ref(),
            br#"{"commands":[{"op":"create","signal":{"title":"a","payload":{"id":1}}}]}"#
        );
    }
}
