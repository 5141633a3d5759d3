//! A strict JSON reader that keeps what the product promises to keep.
//!
//! Payloads keep their member order and number spelling, a member that stands twice is an error,
//! and `\u0000` or a lone surrogate is well-formed but refused, with a pointer to its place. No
//! general library gives all three, so this is ours: RFC 8259, recursive descent, borrowed slices.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use crate::problem::{ERRORS_MAX, FieldError};

/// Deepest nesting that the reader follows; deeper text is refused as [`JsonError::TooDeep`].
pub const DEPTH_MAX: usize = 128;

/// So many members are compared one by one; more through a table, so that a hostile text stays linear.
const FEW: usize = 16;

/// Text that is not acceptable JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not JSON by RFC 8259, or a member stands twice in an object.
    #[error("{what} at byte {offset}")]
    Syntax {
        /// Where, in bytes from the start of the text.
        offset: usize,
        /// What is wrong there.
        what: String,
    },
    /// Well-formed as far as read, but nested deeper than [`DEPTH_MAX`].
    #[error("nested more than {DEPTH_MAX} deep")]
    TooDeep,
}

/// A string as it was spelled and as it reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text<'a> {
    /// The characters between the quotes, escapes as spelled.
    pub raw: &'a str,
    /// The string's value; U+FFFD stands for a lone surrogate.
    pub value: Cow<'a, str>,
    /// Set where the string holds U+0000 or a lone surrogate, which no plane can store.
    pub flaw: Option<&'static str>,
}

/// A value, borrowing from the text it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Json<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number as spelled.
    Number(&'a str),
    /// A string.
    String(Text<'a>),
    /// An array.
    Array(Vec<Json<'a>>),
    /// An object, its members in their order; no name stands twice.
    Object(Vec<(Text<'a>, Json<'a>)>),
}

impl<'a> Json<'a> {
    /// Reads one value that fills the whole text.
    ///
    /// # Errors
    /// [`JsonError`]; a string with U+0000 or a lone surrogate is no error here, see [`Json::flaws`].
    pub fn parse(text: &'a [u8]) -> Result<Self, JsonError> {
        let text = std::str::from_utf8(text)
            .map_err(|e| JsonError::Syntax { offset: e.valid_up_to(), what: "invalid UTF-8".into() })?;
        let mut reader = Reader { text, at: 0 };
        reader.skip_space();
        let value = reader.value(0)?;
        reader.skip_space();
        if reader.at < text.len() {
            return Err(reader.error("text after the value"));
        }
        Ok(value)
    }

    /// The member `name` of an object.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Json<'a>> {
        match self {
            Json::Object(members) => members.iter().find(|(key, _)| key.value == name).map(|(_, value)| value),
            _ => None,
        }
    }

    /// How deep containers nest: 0 for a scalar, 1 for a flat object or array.
    #[must_use]
    pub fn depth(&self) -> usize {
        match self {
            Json::Array(items) => 1 + items.iter().map(Json::depth).max().unwrap_or(0),
            Json::Object(members) => 1 + members.iter().map(|(_, value)| value.depth()).max().unwrap_or(0),
            _ => 0,
        }
    }

    /// The strings and names that no plane can store, each with its pointer below `pointer`; the first
    /// [`ERRORS_MAX`] and a few.
    #[must_use]
    pub fn flaws(&self, pointer: &str) -> Vec<FieldError> {
        let mut found = Vec::new();
        self.collect_flaws(&mut pointer.to_owned(), &mut found);
        found
    }

    fn collect_flaws(&self, pointer: &mut String, found: &mut Vec<FieldError>) {
        if found.len() > ERRORS_MAX {
            return;
        }
        let length = pointer.len();
        match self {
            Json::String(text) => {
                if let Some(flaw) = text.flaw {
                    found.push(FieldError::new(pointer.clone(), flaw));
                }
            }
            Json::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    push_index(pointer, i);
                    item.collect_flaws(pointer, found);
                    pointer.truncate(length);
                }
            }
            Json::Object(members) => {
                for (name, value) in members {
                    push_segment(pointer, &name.value);
                    if let Some(flaw) = name.flaw
                        && found.len() <= ERRORS_MAX
                    {
                        found.push(FieldError::new(pointer.clone(), format!("the member's name: {flaw}")));
                    }
                    value.collect_flaws(pointer, found);
                    pointer.truncate(length);
                }
            }
            Json::Null | Json::Bool(_) | Json::Number(_) => {}
        }
    }

    /// Writes the value without insignificant space; numbers and strings as they were spelled.
    pub fn write(&self, out: &mut String) {
        match self {
            Json::Null => out.push_str("null"),
            Json::Bool(true) => out.push_str("true"),
            Json::Bool(false) => out.push_str("false"),
            Json::Number(text) => out.push_str(text),
            Json::String(text) => write_raw(out, text),
            Json::Array(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Json::Object(members) => {
                out.push('{');
                for (i, (name, value)) in members.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    write_raw(out, name);
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }

    /// Applies a merge patch (RFC 7396): members that stay keep their place, new ones go last.
    pub fn merge(&mut self, patch: &Json<'a>) {
        let Json::Object(changes) = patch else {
            *self = patch.clone();
            return;
        };
        if !matches!(self, Json::Object(_)) {
            *self = Json::Object(Vec::new());
        }
        let Json::Object(members) = self else { return };
        // No name stands twice in the patch, so what it adds is not looked for again.
        let known = members.len();
        let places: Option<HashMap<Cow<'a, str>, usize>> = (known > FEW && changes.len() > FEW)
            .then(|| members.iter().enumerate().map(|(i, (key, _))| (key.value.clone(), i)).collect());
        let mut gone = vec![false; known];
        for (name, change) in changes {
            let place = match &places {
                Some(places) => places.get(name.value.as_ref()).copied(),
                None => members[..known].iter().position(|(key, _)| key.value == name.value),
            };
            match (place, change) {
                (Some(i), Json::Null) => gone[i] = true,
                (None, Json::Null) => {}
                (Some(i), change) => members[i].1.merge(change),
                (None, change) => {
                    let mut fresh = Json::Null;
                    fresh.merge(change);
                    members.push((name.clone(), fresh));
                }
            }
        }
        let mut gone = gone.into_iter();
        members.retain(|_| !gone.next().unwrap_or(false));
    }
}

/// Appends one segment to a JSON pointer, escaped by RFC 6901.
pub fn push_segment(pointer: &mut String, name: &str) {
    pointer.push('/');
    for c in name.chars() {
        match c {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            c => pointer.push(c),
        }
    }
}

/// Appends an array index to a JSON pointer.
pub fn push_index(pointer: &mut String, index: usize) {
    pointer.push('/');
    pointer.push_str(&index.to_string());
}

/// Writes `value` as a JSON string, quotes included.
pub fn write_string(out: &mut String, value: &str) {
    out.push('"');
    let mut from = 0;
    for (i, b) in value.bytes().enumerate() {
        let escape = match b {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0x08 => "\\b",
            0x0c => "\\f",
            0x00..=0x1f => {
                out.push_str(&value[from..i]);
                out.push_str(&format!("\\u{b:04x}"));
                from = i + 1;
                continue;
            }
            _ => continue,
        };
        out.push_str(&value[from..i]);
        out.push_str(escape);
        from = i + 1;
    }
    out.push_str(&value[from..]);
    out.push('"');
}

fn write_raw(out: &mut String, text: &Text<'_>) {
    out.push('"');
    out.push_str(text.raw);
    out.push('"');
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn error(&self, what: impl Into<String>) -> JsonError {
        JsonError::Syntax { offset: self.at, what: what.into() }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn literal(&mut self, word: &str, value: Json<'a>) -> Result<Json<'a>, JsonError> {
        if self.text[self.at..].starts_with(word) {
            self.at += word.len();
            Ok(value)
        } else {
            Err(self.error("expected a value"))
        }
    }

    fn value(&mut self, depth: usize) -> Result<Json<'a>, JsonError> {
        match self.peek() {
            Some(b'{') => self.object(depth + 1),
            Some(b'[') => self.array(depth + 1),
            Some(b'"') => Ok(Json::String(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal("true", Json::Bool(true)),
            Some(b'f') => self.literal("false", Json::Bool(false)),
            Some(b'n') => self.literal("null", Json::Null),
            Some(_) => Err(self.error("expected a value")),
            None => Err(self.error("the text ends early")),
        }
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let from = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == from { Err(self.error("expected a digit")) } else { Ok(()) }
    }

    fn number(&mut self) -> Result<Json<'a>, JsonError> {
        let from = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.error("a number can't start with 0"));
        }
        Ok(Json::Number(&self.text[from..self.at]))
    }

    fn array(&mut self, depth: usize) -> Result<Json<'a>, JsonError> {
        if depth > DEPTH_MAX {
            return Err(JsonError::TooDeep);
        }
        self.at += 1;
        let mut items = Vec::new();
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Json::Array(items));
        }
        loop {
            self.skip_space();
            items.push(self.value(depth)?);
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(Json::Array(items));
                }
                _ => return Err(self.error("expected , or ]")),
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json<'a>, JsonError> {
        if depth > DEPTH_MAX {
            return Err(JsonError::TooDeep);
        }
        self.at += 1;
        let mut members: Vec<(Text<'a>, Json<'a>)> = Vec::new();
        let mut names: HashSet<Cow<'a, str>> = HashSet::new();
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Json::Object(members));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return Err(self.error("expected a member's name"));
            }
            let start = self.at;
            let name = self.string()?;
            let twice = if members.len() < FEW {
                members.iter().any(|(key, _)| key.value == name.value)
            } else {
                if names.is_empty() {
                    names.extend(members.iter().map(|(key, _)| key.value.clone()));
                }
                !names.insert(name.value.clone())
            };
            if twice {
                self.at = start;
                return Err(self.error(format!("the member {:?} stands twice", name.value)));
            }
            self.skip_space();
            if self.peek() != Some(b':') {
                return Err(self.error("expected :"));
            }
            self.at += 1;
            self.skip_space();
            let value = self.value(depth)?;
            members.push((name, value));
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Json::Object(members));
                }
                _ => return Err(self.error("expected , or }")),
            }
        }
    }

    fn string(&mut self) -> Result<Text<'a>, JsonError> {
        self.at += 1;
        let from = self.at;
        let bytes = self.text.as_bytes();
        loop {
            match bytes.get(self.at) {
                Some(b'"') => {
                    let raw = &self.text[from..self.at];
                    self.at += 1;
                    return Ok(Text { raw, value: Cow::Borrowed(raw), flaw: None });
                }
                Some(b'\\') => return self.escaped_string(from),
                Some(0x00..=0x1f) => return Err(self.error("a control character in a string")),
                Some(_) => self.at += 1,
                None => return Err(self.error("the text ends in a string")),
            }
        }
    }

    fn escaped_string(&mut self, from: usize) -> Result<Text<'a>, JsonError> {
        let mut value = self.text[from..self.at].to_owned();
        let mut flaw = None;
        loop {
            let Some(b) = self.peek() else { return Err(self.error("the text ends in a string")) };
            match b {
                b'"' => {
                    let raw = &self.text[from..self.at];
                    self.at += 1;
                    return Ok(Text { raw, value: Cow::Owned(value), flaw });
                }
                b'\\' => {
                    self.at += 1;
                    let c = match self.peek() {
                        Some(c @ (b'"' | b'\\' | b'/')) => c as char,
                        Some(b'b') => '\u{8}',
                        Some(b'f') => '\u{c}',
                        Some(b'n') => '\n',
                        Some(b'r') => '\r',
                        Some(b't') => '\t',
                        Some(b'u') => {
                            self.at += 1;
                            let c = self.unicode_escape(&mut flaw)?;
                            value.push(c);
                            continue;
                        }
                        _ => return Err(self.error("an unknown escape")),
                    };
                    self.at += 1;
                    value.push(c);
                }
                0x00..=0x1f => return Err(self.error("a control character in a string")),
                _ => {
                    let start = self.at;
                    while self.peek().is_some_and(|b| b >= 0x20 && b != b'"' && b != b'\\') {
                        self.at += 1;
                    }
                    value.push_str(&self.text[start..self.at]);
                }
            }
        }
    }

    /// After `\u`: reads the four digits, and the second half of a surrogate pair.
    fn unicode_escape(&mut self, flaw: &mut Option<&'static str>) -> Result<char, JsonError> {
        const LONE: &str = "must not hold a lone surrogate";
        let unit = self.hex4()?;
        match unit {
            0 => {
                *flaw = Some("must not hold the character U+0000");
                Ok('\0')
            }
            0xd800..=0xdbff => {
                let back = self.at;
                if self.text[self.at..].starts_with("\\u") {
                    self.at += 2;
                    let low = self.hex4()?;
                    if (0xdc00..=0xdfff).contains(&low) {
                        let code = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                        return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                    }
                    self.at = back;
                }
                *flaw = Some(LONE);
                Ok(char::REPLACEMENT_CHARACTER)
            }
            0xdc00..=0xdfff => {
                *flaw = Some(LONE);
                Ok(char::REPLACEMENT_CHARACTER)
            }
            unit => Ok(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER)),
        }
    }

    fn hex4(&mut self) -> Result<u32, JsonError> {
        let digits = self
            .text
            .as_bytes()
            .get(self.at..self.at + 4)
            .filter(|d| d.iter().all(u8::is_ascii_hexdigit))
            .ok_or_else(|| self.error("expected four hexadecimal digits"))?;
        let unit = digits.iter().fold(0, |n, d| n * 16 + (*d as char).to_digit(16).unwrap_or(0));
        self.at += 4;
        Ok(unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn minified(text: &str) -> String {
        let mut out = String::new();
        Json::parse(text.as_bytes()).expect("valid").write(&mut out);
        out
    }

    #[test]
    fn order_and_number_spelling_survive() {
        assert_eq!(
            minified(" { \"b\" : 1.50e+3 , \"a\":[ -0 , 1E400, \"\\u00e9\" ] } "),
            r#"{"b":1.50e+3,"a":[-0,1E400,"\u00e9"]}"#
        );
    }

    #[test]
    fn a_member_twice_is_an_error_however_spelled() {
        for text in [r#"{"a":1,"a":2}"#, r#"{"a":1,"\u0061":2}"#, r#"{"x":{"a":1,"a":2}}"#] {
            assert!(matches!(Json::parse(text.as_bytes()), Err(JsonError::Syntax { .. })), "{text}");
        }
        let many: String = (0..40).map(|i| format!("\"k{i}\":0,")).collect();
        assert!(Json::parse(format!("{{{many}\"k39\":1}}").as_bytes()).is_err());
        assert!(Json::parse(format!("{{{many}\"k3\":1}}").as_bytes()).is_err());
        assert!(Json::parse(format!("{{{many}\"k40\":1}}").as_bytes()).is_ok());
    }

    #[test]
    fn unstorable_strings_are_found_by_pointer() {
        let json = Json::parse(br#"{"a/b":["x","\u0000"],"c":{"\ud800":1},"ok":"\ud83d\ude00"}"#).expect("well-formed");
        let pointers: Vec<_> = json.flaws("/payload").into_iter().map(|f| f.pointer).collect();
        assert_eq!(pointers, ["/payload/a~1b/1", "/payload/c/\u{fffd}"]);
    }

    #[test]
    fn broken_texts_are_refused() {
        for text in [
            "",
            "{",
            "[1,]",
            "{\"a\":}",
            "{a:1}",
            "01",
            "1.",
            "-",
            "1e",
            "\"\n\"",
            "\"\\x\"",
            "nul",
            "1 2",
            "\"\\u12\"",
            "'a'",
            "[1 2]",
            "{\"a\" 1}",
            "+1",
            ".5",
            "\"",
            "\u{feff}1",
        ] {
            assert!(Json::parse(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(Json::parse(b"\"\xff\"").is_err());
        assert_eq!(Json::parse("[".repeat(100_000).as_bytes()), Err(JsonError::TooDeep));
    }

    #[test]
    fn a_merge_of_many_members_is_that_of_few() {
        let object = |names: &mut dyn Iterator<Item = usize>, value: &str| {
            let members: Vec<_> = names.map(|i| format!("\"k{i}\":{value}")).collect();
            format!("{{{}}}", members.join(","))
        };
        let (old, gone, new) = (object(&mut (0..100), "0"), object(&mut (0..50), "null"), object(&mut (40..200), "1"));
        let mut merged = Json::parse(old.as_bytes()).expect("valid");
        merged.merge(&Json::parse(gone.as_bytes()).expect("valid"));
        merged.merge(&Json::parse(new.as_bytes()).expect("valid"));
        let mut text = String::new();
        merged.write(&mut text);
        // Those that stayed in their place, then those that were gone, then what is new.
        assert_eq!(text, object(&mut (50..100).chain(40..50).chain(100..200), "1"));
    }

    #[test]
    fn no_more_flaws_are_listed_than_anybody_reads() {
        let text = format!("[{}0]", "\"\\u0000\",".repeat(10_000));
        assert_eq!(Json::parse(text.as_bytes()).expect("valid").flaws("/payload").len(), ERRORS_MAX + 1);
    }

    #[test]
    fn merge_patch_follows_the_appendix_of_rfc_7396() {
        for (target, patch, result) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
            (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
            (r#"{"a":"foo"}"#, "null", "null"),
            (r#"{"a":"foo"}"#, r#""bar""#, r#""bar""#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
            ("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
            ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        ] {
            let mut value = Json::parse(target.as_bytes()).expect("valid");
            value.merge(&Json::parse(patch.as_bytes()).expect("valid"));
            let mut out = String::new();
            value.write(&mut out);
            assert_eq!(out, result, "{target} + {patch}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_agrees_with_serde(text in r#"[\[\]{}",:0-9a\\u\-.e ]{0,40}"#) {
            let ours = Json::parse(text.as_bytes());
            let theirs = serde_json::from_str::<&serde_json::value::RawValue>(&text);
            // serde accepts a member twice; all else that we accept, it accepts.
            if ours.is_ok() {
                prop_assert!(theirs.is_ok());
            }
        }

        #[test]
        fn strings_come_back(value in ".{0,40}") {
            let mut out = String::new();
            write_string(&mut out, &value);
            let Json::String(text) = Json::parse(out.as_bytes()).expect("valid") else { panic!("a string") };
            prop_assert_eq!(text.value.as_ref(), value.as_str());
        }
    }
}
