//! Reads interval logs of `HdrHistogram`.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

use super::{Interval, ReportError, read};

/// What `keep` makes of each interval of the log at `path` that it keeps. One histogram is held at a time: a run of ten
/// minutes has thousands, of a megabyte in five each.
///
/// # Errors
/// It can't be read, or is no interval log.
pub fn load<T>(path: &Path, mut keep: impl FnMut(Interval) -> Option<T>) -> Result<Vec<T>, ReportError> {
    let text = read(path)?;
    let broken = |what: String| ReportError::Format { path: path.to_owned(), what };
    let mut kept = Vec::new();
    for entry in IntervalLogIterator::new(text.as_bytes()) {
        let entry = entry.map_err(|error| broken(format!("{error:?}")))?;
        let LogEntry::Interval(interval) = entry else { continue };
        let bytes = STANDARD.decode(interval.encoded_histogram()).map_err(|error| broken(error.to_string()))?;
        let histogram =
            Deserializer::new().deserialize(&mut bytes.as_slice()).map_err(|error| broken(error.to_string()))?;
        kept.extend(keep(Interval {
            measure: interval.tag().map_or(String::new(), |tag| tag.as_str().to_owned()),
            start_s: interval.start_timestamp().as_secs_f64(),
            length_s: interval.duration().as_secs_f64(),
            histogram,
        }));
    }
    Ok(kept)
}
