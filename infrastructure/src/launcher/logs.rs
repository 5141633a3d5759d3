//! `nexus logs`: the ends of the logs, and what is added to them.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::PROCESSES;
use super::home::Home;
use crate::error::{IoContext, LaunchError, Result};

/// How much of each log is shown first.
const TAIL_BYTES: u64 = 16 * 1024;
const PAUSE: Duration = Duration::from_millis(200);

struct Log {
    name: &'static str,
    path: PathBuf,
    shown: u64,
}

/// Writes the end of one log, or of all, to standard output; with `follow` also what comes later, until the reader
/// leaves.
///
/// # Errors
/// There is no process of that name, or a log can't be read.
pub async fn logs(path: &Path, name: Option<&str>, follow: bool) -> Result<()> {
    let names: Vec<&'static str> = match name {
        None => PROCESSES.to_vec(),
        Some(name) => {
            PROCESSES.into_iter().filter(|known| *known == name || known.strip_prefix("nexus-") == Some(name)).collect()
        }
    };
    let Some(home) = Home::look(path).filter(|_| !names.is_empty()) else {
        let what = format!("a log of {}", name.unwrap_or("anything"));
        return Err(LaunchError::Missing { what, hint: format!("there are logs of {}", PROCESSES.join(", ")) });
    };
    let mut logs: Vec<Log> = names.iter().map(|name| Log { name, path: home.log(name), shown: 0 }).collect();
    for log in &mut logs {
        log.shown = std::fs::metadata(&log.path).map_or(0, |file| file.len().saturating_sub(TAIL_BYTES));
    }
    let several = logs.len() > 1;
    loop {
        for log in &mut logs {
            if !show(log, several)? {
                return Ok(());
            }
        }
        if !follow {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Shows the whole lines that were added. False when nobody reads any more.
fn show(log: &mut Log, with_name: bool) -> Result<bool> {
    let Ok(mut file) = File::open(&log.path) else { return Ok(true) };
    let mut added = Vec::new();
    file.seek(SeekFrom::Start(log.shown))
        .and_then(|_| file.read_to_end(&mut added))
        .context(|| format!("can't read {}", log.path.display()))?;
    let Some(end) = added.iter().rposition(|byte| *byte == b'\n') else { return Ok(true) };
    // A tail begins in the middle of a line.
    let begin = match log.shown {
        0 => 0,
        _ if added.len() as u64 >= TAIL_BYTES => {
            added.iter().position(|byte| *byte == b'\n').map_or(0, |first| first + 1)
        }
        _ => 0,
    };
    log.shown += end as u64 + 1;
    let text = String::from_utf8_lossy(added.get(begin..=end).unwrap_or_default()).into_owned();
    let mut output = std::io::stdout().lock();
    let written = text.lines().try_for_each(|line| {
        if with_name { writeln!(output, "{:<16} {line}", log.name) } else { writeln!(output, "{line}") }
    });
    Ok(written.and_then(|()| output.flush()).is_ok())
}
