//! Reports: from the files of a run to plots and one self-contained page.
//!
//! Everything is drawn from what is stored, so that `report DIR` gives the same page again, also
//! from a run of long ago.

use std::path::{Path, PathBuf};

use hdrhistogram::Histogram;

use crate::recorder::Row;
use crate::summary::Summary;

pub mod hlog;
pub mod html;
pub mod index;
pub mod plots;
pub mod splice;

/// Why a report can't be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file can't be read or written.
    #[error("{}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {what}", path.display())]
    Format {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A plot can't be drawn.
    #[error("drawing failed: {0}")]
    Draw(String),
}

/// One histogram of the log.
#[derive(Debug, Clone)]
pub struct Interval {
    /// What it measures.
    pub measure: String,
    /// Start, seconds since the schedule began.
    pub start_s: f64,
    /// Length, seconds.
    pub length_s: f64,
    /// The values, nanoseconds.
    pub histogram: Histogram<u64>,
}

/// The values of one histogram of the log, without the places of those that it does not hold.
#[derive(Debug, Clone)]
pub struct Values {
    /// Start, seconds since the schedule began.
    pub start_s: f64,
    /// Length, seconds.
    pub length_s: f64,
    /// Each value, ms, and how often it was recorded; the least first.
    pub counts: Vec<(f64, u64)>,
}

impl Values {
    fn of(interval: &Interval) -> Self {
        let recorded = interval.histogram.iter_recorded();
        let counts =
            recorded.map(|at| (at.value_iterated_to() as f64 / 1e6, at.count_since_last_iteration())).collect();
        Self { start_s: interval.start_s, length_s: interval.length_s, counts }
    }
}

/// A stored run.
#[derive(Debug)]
pub struct Stored {
    /// Its folder.
    pub folder: PathBuf,
    /// `summary.json`.
    pub summary: Summary,
    /// `manifest.json`.
    pub manifest: serde_json::Value,
    /// `timeline.csv`.
    pub rows: Vec<Row>,
    /// The values of l2c, second by second, of `run.hlog`.
    pub l2c: Vec<Values>,
    /// `total.hlog`: the measured phase.
    pub totals: Vec<Interval>,
}

/// Reads a file, naming it where that fails.
///
/// # Errors
/// It can't be read.
pub fn read(path: &Path) -> Result<String, ReportError> {
    std::fs::read_to_string(path).map_err(|source| ReportError::Io { path: path.to_owned(), source })
}

/// Writes a file, naming it where that fails.
///
/// # Errors
/// It can't be written.
pub fn write(path: &Path, text: &str) -> Result<(), ReportError> {
    std::fs::write(path, text).map_err(|source| ReportError::Io { path: path.to_owned(), source })
}

/// Reads a JSON file.
///
/// # Errors
/// It can't be read, or is something else.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, ReportError> {
    serde_json::from_str(&read(path)?)
        .map_err(|error| ReportError::Format { path: path.to_owned(), what: error.to_string() })
}

impl Stored {
    /// Reads the folder of a run.
    ///
    /// # Errors
    /// A file is missing or broken.
    pub fn load(folder: &Path) -> Result<Self, ReportError> {
        Ok(Self {
            folder: folder.to_owned(),
            summary: read_json(&folder.join("summary.json"))?,
            manifest: read_json(&folder.join("manifest.json"))?,
            rows: rows(&folder.join("timeline.csv"))?,
            l2c: hlog::load(&folder.join("run.hlog"), |interval| {
                (interval.measure == "l2c").then(|| Values::of(&interval))
            })?,
            totals: hlog::load(&folder.join("total.hlog"), Some)?,
        })
    }
}

fn rows(path: &Path) -> Result<Vec<Row>, ReportError> {
    let text = read(path)?;
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or("").split(',').collect();
    lines
        .map(|line| {
            let mut object = serde_json::Map::new();
            for (name, value) in header.iter().zip(line.split(',')) {
                let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
                object.insert((*name).to_owned(), value);
            }
            serde_json::from_value(object.into())
                .map_err(|error| ReportError::Format { path: path.to_owned(), what: error.to_string() })
        })
        .collect()
}

/// Draws the plots and the page of a stored run into its folder; the page's path.
///
/// # Errors
/// A file is missing, broken, or can't be written.
pub fn render(folder: &Path) -> Result<PathBuf, ReportError> {
    let stored = Stored::load(folder)?;
    let plots = [
        ("percentiles.svg", plots::percentiles(&stored.totals)?),
        ("timeline.svg", plots::timeline(&stored.rows)?),
        ("heatmap.svg", plots::heatmap(&stored.l2c, "l2c")?),
    ];
    for (name, svg) in &plots {
        write(&folder.join(name), svg)?;
    }
    let page = folder.join("report.html");
    write(&page, &html::run(&stored, &plots))?;
    Ok(page)
}
