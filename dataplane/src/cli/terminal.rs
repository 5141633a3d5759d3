//! The terminal: whether there is one, its size, colour, notes on standard error, and redrawing.

use std::io::{self, IsTerminal as _, Write as _};

use super::error::CliError;

/// Whether standard output is a terminal that can be redrawn.
#[must_use]
pub fn can_redraw() -> bool {
    io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Whether standard output takes colour: a terminal, and no `NO_COLOR`.
#[must_use]
pub fn has_colour() -> bool {
    can_redraw() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Rows and columns of the terminal on standard output, if it is one.
#[must_use]
pub fn size() -> Option<(usize, usize)> {
    let (rows, columns) = console::Term::stdout().size_checked()?;
    Some((usize::from(rows), usize::from(columns)))
}

/// Columns that `text` takes on a terminal.
#[must_use]
pub fn width(text: &str) -> usize {
    console::measure_text_width(text)
}

/// `text`, cut to so many columns.
#[must_use]
pub fn cut(text: &str, columns: usize) -> String {
    console::truncate_str(text, columns, "…").into_owned()
}

/// Writes a line to standard error. Nobody listening there is no reason to stop.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A picture that is drawn over its last one.
#[derive(Debug, Default)]
pub struct Screen {
    lines: usize,
}

impl Screen {
    /// Draws `picture` in the place of the last one, cut to the terminal's height.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn draw(&mut self, picture: &str) -> Result<(), CliError> {
        let (rows, columns) = size().unwrap_or((24, 80));
        let rows = rows.max(4);
        let all = picture.lines().count();
        let mut out = String::with_capacity(picture.len() + 32);
        if self.lines > 0 {
            out.push_str(&format!("\x1b[{}A\r\x1b[J", self.lines));
        }
        let too_tall = all > rows - 1;
        let shown = if too_tall { rows - 2 } else { all };
        for line in picture.lines().take(shown) {
            // A line that wraps would count as two.
            out.push_str(&cut(line, columns.max(1)));
            out.push('\n');
        }
        if too_tall {
            out.push_str(&format!("… {} more lines\n", all - shown));
        }
        self.lines = shown + usize::from(too_tall);
        let mut stdout = io::stdout().lock();
        stdout.write_all(out.as_bytes())?;
        stdout.flush()?;
        Ok(())
    }
}
