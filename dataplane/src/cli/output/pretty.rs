//! Indented JSON that keeps members, numbers and strings as they were spelled.

use contract::json::Json;

/// Writes `value`, whose first line is already indented by `depth` steps of two spaces.
pub fn write(out: &mut String, value: &Json<'_>, depth: usize) {
    match value {
        Json::Array(items) if !items.is_empty() => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                line(out, i, depth + 1);
                write(out, item, depth + 1);
            }
            close(out, depth, ']');
        }
        Json::Object(members) if !members.is_empty() => {
            out.push('{');
            for (i, (name, value)) in members.iter().enumerate() {
                line(out, i, depth + 1);
                out.push('"');
                out.push_str(name.raw);
                out.push_str("\": ");
                write(out, value, depth + 1);
            }
            close(out, depth, '}');
        }
        other => other.write(out),
    }
}

fn line(out: &mut String, index: usize, depth: usize) {
    if index > 0 {
        out.push(',');
    }
    out.push('\n');
    indent(out, depth);
}

fn close(out: &mut String, depth: usize, bracket: char) {
    out.push('\n');
    indent(out, depth);
    out.push(bracket);
}

fn indent(out: &mut String, depth: usize) {
    out.extend(std::iter::repeat_n("  ", depth));
}
