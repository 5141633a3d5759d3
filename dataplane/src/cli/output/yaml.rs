//! A small writer of YAML 1.2 for JSON values: block style, every doubtful string in double quotes.

use contract::json::Json;

/// Writes a value as a document of its own.
pub fn document(out: &mut String, value: &Json<'_>) {
    match value {
        Json::Array(items) if !items.is_empty() => sequence(out, items, 0),
        Json::Object(members) if !members.is_empty() => mapping(out, members, 0, false),
        other => {
            scalar(out, other);
            out.push('\n');
        }
    }
}

/// Writes a value as one item of a sequence that is the document.
pub fn list_item(out: &mut String, value: &Json<'_>) {
    item(out, value, 0);
}

fn item(out: &mut String, value: &Json<'_>, depth: usize) {
    indent(out, depth);
    out.push('-');
    below(out, value, depth, true);
}

/// Writes what stands behind `-` or `name:`; a mapping begins on the same line where it may.
fn below(out: &mut String, value: &Json<'_>, depth: usize, same_line: bool) {
    match value {
        Json::Object(members) if !members.is_empty() => {
            out.push(if same_line { ' ' } else { '\n' });
            mapping(out, members, depth + 1, same_line);
        }
        Json::Array(items) if !items.is_empty() => {
            out.push('\n');
            sequence(out, items, depth + 1);
        }
        other => {
            out.push(' ');
            scalar(out, other);
            out.push('\n');
        }
    }
}

fn sequence(out: &mut String, items: &[Json<'_>], depth: usize) {
    for value in items {
        item(out, value, depth);
    }
}

fn mapping(
    out: &mut String,
    members: &[(contract::json::Text<'_>, Json<'_>)],
    depth: usize,
    mut first_is_indented: bool,
) {
    for (name, value) in members {
        if !std::mem::take(&mut first_is_indented) {
            indent(out, depth);
        }
        string(out, &name.value);
        out.push(':');
        below(out, value, depth, false);
    }
}

fn scalar(out: &mut String, value: &Json<'_>) {
    match value {
        Json::String(text) => string(out, &text.value),
        // Empty containers too are the same in YAML's flow style.
        other => other.write(out),
    }
}

fn string(out: &mut String, text: &str) {
    if is_plain(text) {
        out.push_str(text);
        return;
    }
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if u32::from(c) < 0x20 || (0x7f..0xa0).contains(&u32::from(c)) => {
                out.push_str(&format!("\\x{:02x}", u32::from(c)));
            }
            '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Whether no reader of YAML, old ones included, takes the bare text for anything but itself.
fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && !text.ends_with(' ')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, ' ' | '_' | '-' | '.' | '/' | '@'))
        && !WORDS.iter().any(|word| word.eq_ignore_ascii_case(text))
        && !["nan", "inf"].iter().any(|word| word.eq_ignore_ascii_case(text))
}

fn indent(out: &mut String, depth: usize) {
    out.extend(std::iter::repeat_n("  ", depth));
}
