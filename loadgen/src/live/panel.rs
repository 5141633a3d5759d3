//! The panel: offered and achieved, latencies, lag, objectives, five times a second.

use std::io::Stderr;
use std::sync::atomic::{AtomicBool, Ordering};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::{cursor, execute, terminal};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Gauge, Paragraph, Row as TableRow, Sparkline, Table};

use super::ENDING;
use crate::clock::{MILLISECOND, seconds};
use crate::journal::Shared;
use crate::judge::Judge;
use crate::options::RunOptions;
use crate::recorder::{Measure, Row};
use crate::slo::Slo;
use crate::summary::Latency;

const PAUSE: u64 = 200 * MILLISECOND;

/// The open panel; dropping it gives the terminal back.
pub struct Panel {
    terminal: Terminal<CrosstermBackend<Stderr>>,
    title: String,
    said: String,
    rate: f64,
    slos: Vec<Slo>,
    rows: Vec<Row>,
    next: u64,
}

impl Panel {
    /// Takes the terminal over; `None` where that fails.
    pub fn open(options: &RunOptions) -> Option<Self> {
        let mut screen = std::io::stderr();
        // No raw mode: Ctrl-C stays a signal.
        execute!(screen, terminal::EnterAlternateScreen, cursor::Hide).ok()?;
        OPEN.store(true, Ordering::Relaxed);
        let terminal = Terminal::new(CrosstermBackend::new(std::io::stderr())).ok()?;
        let model = if options.load.closed { "closed model" } else { "open model" };
        Some(Self {
            terminal,
            title: format!(" loadgen · {model} · {} · {} ", options.load.mix, options.targets.control_url),
            said: String::new(),
            rate: options.rate,
            slos: options.slos.clone(),
            rows: Vec::new(),
            next: 0,
        })
    }

    /// A line about what happens now.
    pub fn say(&mut self, text: &str) {
        text.clone_into(&mut self.said);
        self.next = 0;
    }

    /// A second has passed.
    pub fn row(&mut self, row: &Row) {
        self.rows.push(row.clone());
    }

    /// Draws, unless it did just now.
    pub fn draw(&mut self, judge: &Judge, shared: &Shared, now: u64, from: u64, to: u64) {
        if now < self.next {
            return;
        }
        self.next = now + PAUSE;
        let last = self.rows.last().cloned().unwrap_or_default();
        let set = judge.recorder.total();
        let latency = |measure| Latency::of(set.of(measure));
        let table = [
            ("l2c", latency(Measure::L2c)),
            ("command", latency(Measure::Command)),
            ("read", latency(Measure::Read)),
            ("own delay", latency(Measure::OwnDelay)),
        ];
        let slopes: Vec<u64> = self.rows.iter().map(|row| (row.l2c_p99_ms * 1_000.0) as u64).collect();
        let violations = judge.violations().total();
        let measured = from < now && from < u64::MAX;
        let share = if measured { seconds(now.min(to) - from) / seconds(to - from).max(1e-9) } else { 0.0 };
        let backlog = shared.backlog.load(Ordering::Relaxed);
        let lights: Vec<Span<'_>> = self
            .slos
            .iter()
            .flat_map(|slo| {
                let value = slo.latency().and_then(|(name, percentile)| {
                    let measure = Measure::ALL.into_iter().find(|measure| measure.name() == name)?;
                    let histogram = set.of(measure);
                    (!histogram.is_empty()).then(|| histogram.value_at_quantile(percentile / 100.0) as f64 / 1e6)
                });
                let colour = match value {
                    None => Color::DarkGray,
                    Some(value) if slo.holds(value) => Color::Green,
                    Some(_) => Color::Red,
                };
                [Span::styled("● ", Style::new().fg(colour)), Span::raw(format!("{}   ", slo.text()))]
            })
            .collect();
        let numbers = vec![
            Line::from(format!(
                "offered {:>8.0}/s   accepted {:>8}/s   visible {:>8}/s",
                self.rate, last.accepted, last.visible
            )),
            Line::from(vec![
                Span::raw(format!("outstanding {:>6}   due, not sent {:>6}   ", judge.checker.outstanding(), backlog)),
                Span::styled(
                    format!("violations {violations}"),
                    Style::new()
                        .fg(if violations == 0 { Color::Green } else { Color::Red })
                        .add_modifier(Modifier::BOLD),
                ),
            ]),
            Line::from(lights),
        ];
        let title = self.title.clone();
        let interrupted = shared.interrupted.load(Ordering::Relaxed);
        let said = if interrupted { ENDING.to_owned() } else { self.said.clone() };
        // A terminal that can't be drawn on is no reason to end a run.
        let _ = self.terminal.draw(|frame| {
            let [gauge, text, latencies, spark, rest] = Layout::vertical([
                Constraint::Length(3),
                Constraint::Length(5),
                Constraint::Length(7),
                Constraint::Length(8),
                Constraint::Min(1),
            ])
            .areas(frame.area());
            frame.render_widget(
                Gauge::default()
                    .block(Block::bordered().title(title))
                    .gauge_style(Style::new().fg(Color::Blue))
                    .ratio(share.clamp(0.0, 1.0)),
                gauge,
            );
            frame.render_widget(Paragraph::new(numbers).block(Block::bordered()), text);
            let rows = table.into_iter().filter_map(|(name, latency)| {
                let latency = latency?;
                let cells = [latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.p999_ms, latency.max_ms];
                let cells = cells.map(|ms| Cell::from(format!("{ms:>10.2}")));
                Some(TableRow::new(std::iter::once(Cell::from(name)).chain(cells)))
            });
            let widths = [12, 10, 10, 10, 10, 10].map(Constraint::Length);
            let header = ["ms", "       p50", "       p90", "       p99", "     p99.9", "       max"];
            frame.render_widget(
                Table::new(rows, widths)
                    .header(TableRow::new(header).style(Style::new().add_modifier(Modifier::BOLD)))
                    .block(Block::bordered().title(" measured phase ")),
                latencies,
            );
            let width = usize::from(spark.width.saturating_sub(2));
            let from = slopes.len().saturating_sub(width);
            frame.render_widget(
                Sparkline::default()
                    .data(&slopes[from..])
                    .style(Style::new().fg(Color::Yellow))
                    .block(Block::bordered().title(format!(" l2c p99 by second: {:.2} ms ", last.l2c_p99_ms))),
                spark,
            );
            frame.render_widget(Paragraph::new(said), rest);
        });
    }
}

impl Drop for Panel {
    fn drop(&mut self) {
        leave();
    }
}

/// Whether a panel has the terminal.
static OPEN: AtomicBool = AtomicBool::new(false);

/// Whether a panel has the terminal: what others write there is not seen.
pub fn is_open() -> bool {
    OPEN.load(Ordering::Relaxed)
}

/// Gives the terminal back as it was, where a panel has it; for who ends the process without dropping the panel.
pub fn leave() {
    if OPEN.swap(false, Ordering::Relaxed) {
        let _ = execute!(std::io::stderr(), terminal::LeaveAlternateScreen, cursor::Show);
    }
}
