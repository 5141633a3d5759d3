//! The plots, as SVG text.

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::{Interval, ReportError, Values};
use crate::recorder::Row;

const WIDTH: u32 = 900;
const FONT: &str = "sans-serif";
const BLUE: RGBColor = RGBColor(38, 98, 179);
const RED: RGBColor = RGBColor(196, 58, 49);
const GREEN: RGBColor = RGBColor(54, 138, 76);
const ORANGE: RGBColor = RGBColor(214, 132, 28);
const GREY: RGBColor = RGBColor(120, 120, 120);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn failed(error: impl std::fmt::Display) -> ReportError {
    ReportError::Draw(error.to_string())
}

fn draw(height: u32, paint: impl FnOnce(&Area<'_>) -> Result<(), ReportError>) -> Result<String, ReportError> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        paint(&area)?;
        area.present().map_err(failed)?;
    }
    Ok(svg)
}

/// Smallest and largest power of ten around positive `values`; 0.01 to 10 of none.
fn decades(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) =
        values.filter(|value| *value > 0.0).fold((f64::MAX, 0.0_f64), |(low, high), v| (low.min(v), high.max(v)));
    if high <= 0.0 {
        return (0.01, 10.0);
    }
    let (low, high) = (10f64.powf(low.log10().floor()), 10f64.powf(high.log10().ceil()));
    (low, if high > low { high } else { low * 10.0 })
}

/// Latency by percentile of each measure, both axes logarithmic: a tail shows as far as there are
/// values to carry it.
///
/// # Errors
/// Drawing failed.
pub fn percentiles(totals: &[Interval]) -> Result<String, ReportError> {
    let shown = [("l2c", RED), ("command", BLUE), ("service", GREEN), ("read", ORANGE), ("send_delay", GREY)];
    let curves: Vec<Line<'_>> = shown
        .iter()
        .filter_map(|&(name, colour)| {
            let histogram = &totals.iter().find(|interval| interval.measure == name)?.histogram;
            let count = histogram.len() as f64;
            let steps = (count.log10().max(0.3) * 40.0) as usize;
            let points = (0..=steps)
                .map(|step| {
                    let nines = count.powf(step as f64 / steps as f64);
                    (nines, histogram.value_at_quantile(1.0 - 1.0 / nines) as f64 / 1e6)
                })
                .collect();
            Some((name, colour, points))
        })
        .collect();
    let all = || curves.iter().flat_map(|(_, _, points)| points);
    let (low, high) = decades(all().map(|point| point.1));
    let right = all().map(|point| point.0).fold(10.0, f64::max);
    draw(420, |area| {
        let mut chart = ChartBuilder::on(area)
            .caption("Latency by percentile", (FONT, 18))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d((1.0..right).log_scale(), (low..high).log_scale())
            .map_err(failed)?;
        chart
            .configure_mesh()
            .x_desc("percentile")
            .y_desc("ms")
            .x_label_formatter(&|nines| percentile_name(*nines))
            .y_label_formatter(&|ms| number(*ms))
            .light_line_style(WHITE)
            .label_style((FONT, 13))
            .draw()
            .map_err(failed)?;
        for (name, colour, points) in curves {
            curve(&mut chart, name, colour, 2, points)?;
        }
        legend(&mut chart, SeriesLabelPosition::UpperLeft)
    })
}

/// A line with its place in the legend.
fn curve<'a, DB, X, Y>(
    chart: &mut ChartContext<'a, DB, Cartesian2d<X, Y>>,
    name: impl Into<String>,
    colour: RGBColor,
    width: u32,
    points: impl IntoIterator<Item = (f64, f64)>,
) -> Result<(), ReportError>
where
    DB: DrawingBackend + 'a,
    X: plotters::coord::ranged1d::Ranged<ValueType = f64>,
    Y: plotters::coord::ranged1d::Ranged<ValueType = f64>,
{
    let style = colour.stroke_width(width);
    chart
        .draw_series(LineSeries::new(points, style))
        .map_err(failed)?
        .label(name)
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    Ok(())
}

/// A whole picture of milliseconds, on a logarithmic scale, over something else.
fn over<'a, 'b>(
    area: &'a Area<'b>,
    caption: &str,
    x_desc: &str,
    right: f64,
    (low, high): (f64, f64),
) -> Result<ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, LogCoord<f64>>>, ReportError> {
    let mut chart = ChartBuilder::on(area)
        .caption(caption, (FONT, 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..right, (low..high).log_scale())
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_desc(x_desc)
        .y_desc("ms")
        .y_label_formatter(&|ms| number(*ms))
        .light_line_style(WHITE)
        .label_style((FONT, 13))
        .draw()
        .map_err(failed)?;
    Ok(chart)
}

fn legend<'a, DB: DrawingBackend + 'a, X, Y>(
    chart: &mut ChartContext<'a, DB, Cartesian2d<X, Y>>,
    position: SeriesLabelPosition,
) -> Result<(), ReportError>
where
    X: plotters::coord::ranged1d::Ranged,
    Y: plotters::coord::ranged1d::Ranged,
{
    chart
        .configure_series_labels()
        .position(position)
        .background_style(WHITE.mix(0.85))
        .label_font((FONT, 13))
        .draw()
        .map_err(failed)
}

/// 10 → `90`, 1000 → `99.9`.
fn percentile_name(nines: f64) -> String {
    let text = format!("{:.6}", 100.0 - 100.0 / nines);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn number(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{}", (value * 1_000.0).round() / 1_000.0) }
}

/// Rate, latency to consistency and outstanding writes, second by second.
///
/// # Errors
/// Drawing failed.
pub fn timeline(rows: &[Row]) -> Result<String, ReportError> {
    // The last interval is a fraction of a second.
    let mut whole: Vec<&Row> = rows.iter().collect();
    if let [.., before, last] = rows
        && last.second - before.second < 0.5
    {
        whole.pop();
    }
    let end = whole.iter().map(|row| row.second).fold(1.0, f64::max);
    draw(720, |area| {
        let panels = area.split_evenly((3, 1));
        let line = |f: fn(&Row) -> f64| whole.iter().map(|row| (row.second, f(row))).collect::<Vec<_>>();
        let top = whole.iter().map(|row| row.offered_per_s.max(row.accepted as f64)).fold(1.0, f64::max);
        let rates = [
            ("offered", GREY, line(|row| row.offered_per_s)),
            ("accepted", BLUE, line(|row| row.accepted as f64)),
            ("became visible", GREEN, line(|row| row.visible as f64)),
        ];
        linear(&panels[0], "Commands per second", (end, top * 1.1), &rates, SeriesLabelPosition::LowerLeft)?;

        let latencies = [
            ("max", GREY, line(|row| row.l2c_max_ms)),
            ("p99", RED, line(|row| row.l2c_p99_ms)),
            ("p50", BLUE, line(|row| row.l2c_p50_ms)),
        ];
        let (low, high) = decades(latencies.iter().flat_map(|(_, _, points)| points.iter().map(|point| point.1)));
        let mut chart = ChartBuilder::on(&panels[1])
            .caption("Latency to consistency, ms", (FONT, 15))
            .margin(8)
            .x_label_area_size(24)
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..end, (low..high).log_scale())
            .map_err(failed)?;
        chart
            .configure_mesh()
            .y_label_formatter(&|ms| number(*ms))
            .light_line_style(WHITE)
            .label_style((FONT, 12))
            .draw()
            .map_err(failed)?;
        for (name, colour, points) in latencies {
            curve(&mut chart, name, colour, 2, points.into_iter().filter(|point| point.1 > 0.0))?;
        }
        legend(&mut chart, SeriesLabelPosition::UpperLeft)?;

        let lag = [
            ("accepted, not visible", RED, line(|row| row.outstanding as f64)),
            ("due, not sent", ORANGE, line(|row| row.backlog as f64)),
        ];
        let top = lag.iter().flat_map(|(_, _, points)| points.iter().map(|point| point.1)).fold(1.0, f64::max);
        linear(&panels[2], "Lag, commands", (end, top * 1.1), &lag, SeriesLabelPosition::UpperLeft)
    })
}

type Line<'a> = (&'a str, RGBColor, Vec<(f64, f64)>);

fn linear(
    area: &Area<'_>,
    caption: &str,
    (end, top): (f64, f64),
    lines: &[Line<'_>],
    position: SeriesLabelPosition,
) -> Result<(), ReportError> {
    let mut chart = ChartBuilder::on(area)
        .caption(caption, (FONT, 15))
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..end, 0.0..top)
        .map_err(failed)?;
    chart.configure_mesh().light_line_style(WHITE).label_style((FONT, 12)).draw().map_err(failed)?;
    for (name, colour, points) in lines {
        curve(&mut chart, *name, *colour, 2, points.iter().copied())?;
    }
    legend(&mut chart, position)
}

/// How many values of a measure fell where, second by second; darker is more.
///
/// # Errors
/// Drawing failed.
pub fn heatmap(seconds: &[Values], measure: &str) -> Result<String, ReportError> {
    const STEPS_PER_DECADE: f64 = 10.0;
    let end = seconds.iter().map(|second| second.start_s + second.length_s).fold(1.0, f64::max);
    let (low, high) = decades(seconds.iter().flat_map(|second| second.counts.iter().map(|(ms, _)| *ms)));
    let rows = ((high / low).log10() * STEPS_PER_DECADE).round() as usize;
    let mut cells = Vec::new();
    for second in seconds {
        let mut counts = vec![0u64; rows];
        for (ms, count) in &second.counts {
            let row = ((ms / low).log10() * STEPS_PER_DECADE).max(0.0) as usize;
            counts[row.min(rows - 1)] += count;
        }
        for (row, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let bottom = low * 10f64.powf(row as f64 / STEPS_PER_DECADE);
            let top = low * 10f64.powf((row + 1) as f64 / STEPS_PER_DECADE);
            cells.push((second.start_s, second.start_s + second.length_s, bottom, top, count));
        }
    }
    let most = cells.iter().map(|cell| cell.4).max().unwrap_or(1) as f64;
    draw(360, |area| {
        let mut chart = over(area, &format!("{measure}: where the values fell"), "s", end, (low, high))?;
        chart
            .draw_series(cells.into_iter().map(|(from, to, bottom, top, count)| {
                // Logarithmic, so that a single straggler is visible beside ten thousand others.
                let depth = 0.15 + 0.85 * (1.0 + count as f64).ln() / (1.0 + most).ln();
                Rectangle::new([(from, bottom), (to, top)], RED.mix(depth).filled())
            }))
            .map_err(failed)?;
        Ok(())
    })
}

/// One rate of a sweep, for its plot.
#[derive(Debug, Clone, Copy)]
pub struct SweepPoint {
    /// Achieved commands per second.
    pub achieved_per_s: f64,
    /// Latency to consistency, median, ms.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// It held the objectives with a flat lag.
    pub held: bool,
}

/// Latency against achieved rate, with the knee: the highest rate that held.
///
/// # Errors
/// Drawing failed.
pub fn sweep(points: &[SweepPoint], knee: Option<f64>) -> Result<String, ReportError> {
    let mut points = points.to_vec();
    points.sort_by(|a, b| a.achieved_per_s.total_cmp(&b.achieved_per_s));
    let (low, high) = decades(points.iter().flat_map(|point| [point.p50_ms, point.p99_ms]));
    let right = points.iter().map(|point| point.achieved_per_s).fold(1.0, f64::max) * 1.05;
    draw(420, |area| {
        let mut chart = over(
            area,
            "Latency to consistency against achieved rate",
            "accepted commands per second",
            right,
            (low, high),
        )?;
        if let Some(knee) = knee {
            curve(&mut chart, format!("knee: {knee:.0}/s"), GREEN, 1, [(knee, low), (knee, high)])?;
        }
        for (name, colour) in [("p99", RED), ("p50", BLUE)] {
            let value = |point: &SweepPoint| if name == "p99" { point.p99_ms } else { point.p50_ms };
            let line: Vec<_> = points.iter().map(|point| (point.achieved_per_s, value(point))).collect();
            curve(&mut chart, name, colour, 2, line.iter().copied())?;
            chart
                .draw_series(line.iter().zip(&points).map(|(&at, point)| {
                    if point.held {
                        Circle::new(at, 4, colour.filled())
                    } else {
                        Circle::new(at, 4, colour.stroke_width(1))
                    }
                }))
                .map_err(failed)?;
        }
        legend(&mut chart, SeriesLabelPosition::UpperLeft)
    })
}
