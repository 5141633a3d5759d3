//! Tables: columns for people, wide enough for the first rows and then kept.

use contract::json::Json;
use contract::time::Timestamp;

use super::super::terminal;
use super::{clean, scalar, text_of};

/// Rows that are looked at before the widths are settled: about a page of a list.
const ROWS_LOOKED_AT: usize = 500;
/// Space between columns.
const GAP: usize = 2;

/// What a cell shows of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// Its text.
    Text,
    /// A time, as how long ago it was.
    Age,
    /// Its text, at the right.
    Number,
}

/// One column.
#[derive(Debug)]
pub struct Column {
    /// Its heading.
    pub title: &'static str,
    /// The member it shows.
    pub member: &'static str,
    /// How.
    pub show: Show,
    /// Only in `-o wide`.
    pub wide: bool,
}

const fn column(title: &'static str, member: &'static str, show: Show, wide: bool) -> Column {
    Column { title, member, show, wide }
}

/// The columns of signals.
pub static SIGNALS: &[Column] = &[
    column("ID", "id", Show::Text, false),
    column("PRIORITY", "priority", Show::Text, false),
    column("STATUS", "status", Show::Text, false),
    column("VERSION", "version", Show::Number, false),
    column("CHANGED", "updated_at", Show::Age, false),
    column("CREATED", "created_at", Show::Text, true),
    column("UPDATED", "updated_at", Show::Text, true),
    column("CREATED_BY", "created_by", Show::Text, true),
    column("TARGET", "target", Show::Text, true),
    column("TITLE", "title", Show::Text, false),
    column("PAYLOAD", "payload", Show::Text, true),
];

/// The columns of identities.
pub static IDENTITIES: &[Column] = &[
    column("ID", "id", Show::Text, false),
    column("NAME", "name", Show::Text, false),
    column("KIND", "kind", Show::Text, false),
    column("ROLE", "role", Show::Text, false),
    column("ACTIVE", "active", Show::Text, false),
    column("VERSION", "version", Show::Number, false),
    column("CHANGED", "updated_at", Show::Age, false),
    column("CREATED", "created_at", Show::Text, true),
    column("UPDATED", "updated_at", Show::Text, true),
    column("EMAIL", "email", Show::Text, true),
    column("DISPLAY_NAME", "display_name", Show::Text, false),
];

/// The columns of API keys.
pub static KEYS: &[Column] = &[
    column("ID", "id", Show::Text, false),
    column("NAME", "name", Show::Text, false),
    column("HINT", "hint", Show::Text, false),
    column("CREATED", "created_at", Show::Text, false),
    column("EXPIRES", "expires_at", Show::Text, false),
    column("SECRET", "secret", Show::Text, false),
];

/// The columns of partitions and their lag.
pub static PARTITIONS: &[Column] = &[
    column("PARTITION", "partition", Show::Text, false),
    column("STATE", "state", Show::Text, false),
    column("GENERATION", "generation", Show::Number, true),
    column("EPOCH", "epoch", Show::Number, true),
    column("APPLIED", "applied", Show::Number, false),
    column("END", "end", Show::Number, false),
    column("LAG", "lag", Show::Number, false),
    column("DETAIL", "detail", Show::Text, true),
];

/// The columns of checks and of what they found.
pub static CHECKS: &[Column] = &[
    column("CHECK", "check", Show::Text, false),
    column("RESULT", "result", Show::Text, false),
    column("DETAIL", "detail", Show::Text, false),
];

/// The columns of what an import did.
pub static IMPORTS: &[Column] = &[
    column("LINES", "lines", Show::Number, false),
    column("CREATED", "created", Show::Number, false),
    column("REPLAYED", "replayed", Show::Number, false),
    column("REJECTED", "rejected", Show::Number, false),
    column("SECONDS", "seconds", Show::Number, false),
    column("SIGNALS/S", "signals_per_s", Show::Number, false),
];

/// A table under way.
#[derive(Debug)]
pub struct Table {
    columns: Vec<&'static Column>,
    colour: bool,
    width: Option<usize>,
    now: Timestamp,
    waiting: Vec<Vec<String>>,
    widths: Vec<usize>,
}

impl Table {
    /// A table of these columns, the wide ones too if `wide`, coloured and cut as the terminal asks.
    #[must_use]
    pub fn new(columns: &'static [Column], wide: bool) -> Self {
        let kept = columns.iter().filter(|c| wide || !c.wide);
        // The wide table has the exact time in the place of the age.
        let kept = kept.filter(|c| !(wide && c.show == Show::Age));
        let terminal = terminal::can_redraw();
        Self {
            columns: kept.collect(),
            colour: terminal::has_colour(),
            width: if terminal && !wide { terminal::size().map(|(_, columns)| columns) } else { None },
            now: Timestamp::now(),
            waiting: Vec::new(),
            widths: Vec::new(),
        }
    }

    /// Takes a row; returns the lines that are ready to be written.
    pub fn push(&mut self, item: &Json<'_>) -> String {
        let row: Vec<String> = self.columns.iter().map(|column| self.cell(column, item)).collect();
        if self.widths.is_empty() {
            self.waiting.push(row);
            if self.waiting.len() < ROWS_LOOKED_AT { String::new() } else { self.settle() }
        } else {
            self.line(&row, false)
        }
    }

    /// Settles the widths, if that was not done; returns the lines that waited for it, heading first.
    pub fn settle(&mut self) -> String {
        if !self.widths.is_empty() {
            return String::new();
        }
        let heading: Vec<String> = self.columns.iter().map(|column| column.title.to_owned()).collect();
        let rows = std::mem::take(&mut self.waiting);
        let wide = |i: usize| rows.iter().chain([&heading]).map(|row| terminal::width(&row[i])).max().unwrap_or(0);
        self.widths = (0..self.columns.len()).map(wide).collect();
        let mut out = self.line(&heading, true);
        for row in &rows {
            out.push_str(&self.line(row, false));
        }
        out
    }

    fn cell(&self, column: &Column, item: &Json<'_>) -> String {
        let value = item.get(column.member);
        let text = match (column.show, value) {
            (Show::Age, Some(value)) => {
                let text = scalar(value);
                Timestamp::parse(&text).map_or(text, |time| age(self.now.0.saturating_sub(time.0)))
            }
            _ => clean(&text_of(item, column.member)),
        };
        if text.is_empty() { "-".to_owned() } else { text }
    }

    fn line(&self, row: &[String], heading: bool) -> String {
        let mut out = String::new();
        let mut used = 0;
        let last = row.len().saturating_sub(1);
        for (i, (text, column)) in row.iter().zip(&self.columns).enumerate() {
            let long = terminal::width(text);
            let room = self.width.map(|width| width.saturating_sub(used).max(8));
            let cut: String = match room {
                Some(room) if i == last && long > room => terminal::cut(text, room),
                _ => text.clone(),
            };
            let fill = self.widths[i].saturating_sub(long);
            used += self.widths[i] + GAP;
            if column.show == Show::Number {
                out.extend(std::iter::repeat_n(' ', fill));
            }
            out.push_str(&self.paint(column, &cut, heading));
            if i < last {
                let fill = if column.show == Show::Number { 0 } else { fill };
                out.extend(std::iter::repeat_n(' ', fill + GAP));
            }
        }
        out.push('\n');
        out
    }

    fn paint(&self, column: &Column, text: &str, heading: bool) -> String {
        let code = match (heading, column.member, text) {
            _ if !self.colour => "",
            (true, ..) => "1",
            (_, "priority", "critical") | (_, "result", "fail") => "31;1",
            (_, "priority", "high") | (_, "result", "warn") => "33",
            (_, "priority", "low") | (_, "status", "completed" | "cancelled") => "2",
            (_, "status", "active") | (_, "result", "ok") => "32",
            _ => "",
        };
        if code.is_empty() { text.to_owned() } else { format!("\x1b[{code}m{text}\x1b[0m") }
    }
}

/// So many microseconds as people say it: `12s`, `5m`, `3h`, `2d`.
#[must_use]
pub fn age(micros: i64) -> String {
    let seconds = micros.max(0) / 1_000_000;
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::age;

    #[test]
    fn ages_are_short() {
        assert_eq!(
            [0, 119, 120, 7_200, 172_800, -5].map(|s| age(s * 1_000_000)),
            ["0s", "119s", "2m", "2h", "2d", "0s"]
        );
    }
}
