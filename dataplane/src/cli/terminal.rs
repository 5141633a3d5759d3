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
        let rows = size().map_or(24, |(rows, _)| rows).max(4);
        let all = picture.lines().count();
        let mut out = String::with_capacity(picture.len() + 32);
        if self.lines > 0 {
            out.push_str(&format!("\x1b[{}A\r\x1b[J", self.lines));
        }
        let cut = all > rows - 1;
        let shown = if cut { rows - 2 } else { all };
        for line in picture.lines().take(shown) {
            out.push_str(line);
            out.push('\n');
        }
        if cut {
            out.push_str(&format!("… {} more lines\n", all - shown));
        }
        self.lines = shown + usize::from(cut);
        let mut stdout = io::stdout().lock();
        stdout.write_all(out.as_bytes())?;
        stdout.flush()?;
        Ok(())
    }
}
