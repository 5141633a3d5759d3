//! `import`: creates a signal for every line of a file, in batches, resumably.
//!
//! Every batch carries an `Idempotency-Key` made of its content and its place. So an import that was
//! cut off is simply run again: what was done is answered from memory, what was not is done.

pub mod lines;
mod send;

use std::fs::File;
use std::io::{self, BufReader, Read, Write as _};
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::mpsc;

use super::args::{Connection, ImportArgs};
use super::client::{Client, Plane};
use super::error::CliError;
use super::output::{Format, table};
use super::read::show;
use super::terminal::note;
use lines::{Batches, Cut};
use send::{Connections, Outcome};

/// What an import did so far.
#[derive(Debug, Default)]
struct Sum {
    lines: u64,
    created: u64,
    replayed: u64,
    rejected: u64,
}

impl Sum {
    fn add(&mut self, outcome: &Outcome) {
        self.lines = outcome.lines_read;
        *if outcome.replayed { &mut self.replayed } else { &mut self.created } += outcome.ids.len() as u64;
        self.rejected += outcome.rejected.len() as u64;
    }

    fn rate(&self, took: Duration) -> f64 {
        (self.created + self.replayed) as f64 / took.as_secs_f64().max(0.001)
    }

    fn json(&self, took: Duration) -> String {
        format!(
            r#"{{"lines":{},"created":{},"replayed":{},"rejected":{},"seconds":{:.3},"signals_per_s":{:.0}}}"#,
            self.lines,
            self.created,
            self.replayed,
            self.rejected,
            took.as_secs_f64(),
            self.rate(took)
        )
    }

    fn sentence(&self, took: Duration) -> String {
        let mut text = format!("{} created", self.created);
        if self.replayed > 0 {
            text.push_str(&format!(", {} were there from an earlier run", self.replayed));
        }
        format!("{text}, {} rejected, in {:.2} s: {:.0} signals/s", self.rejected, took.as_secs_f64(), self.rate(took))
    }
}

/// `import`
///
/// # Errors
/// [`CliError::Told`] with 1 when a line was rejected, with 130 after Ctrl-C; else why it stopped.
pub async fn import(settings: &Connection, format: Option<Format>, args: &ImportArgs) -> Result<(), CliError> {
    let in_flight = usize::from(args.in_flight);
    let clients = (0..in_flight).map(|_| Client::new(Plane::Control, settings)).collect::<Result<Vec<_>, _>>()?;
    let connections = Connections::new(clients, args.retry_for);
    let (reader, length) = open(&args.file)?;
    let mut rejects = match &args.rejects {
        Some(path) => Some(
            File::create(path)
                .map_err(|error| CliError::Failed(format!("{} can't be written: {error}", path.display())))?,
        ),
        None => None,
    };
    let cut = Cut {
        batch_size: usize::from(args.batch_size),
        run: args.run.clone(),
        from_export: args.from_export,
        keep_texts: rejects.is_some(),
    };
    let (sender, receiver) = mpsc::channel(in_flight);
    let name = args.file.clone();
    // A thread of its own and not of the runtime's pool: one that waits for standard input must not keep
    // the process from ending.
    std::thread::spawn(move || {
        let mut batches = Batches::new(BufReader::with_capacity(1 << 18, reader), cut);
        loop {
            let batch = batches.read_batch().map_err(|error| CliError::reading(&name, &error));
            let ends = !matches!(batch, Ok(Some(_)));
            let Some(batch) = batch.transpose() else { return };
            if sender.blocking_send(batch).is_err() || ends {
                return;
            }
        }
    });

    let bar = progress(length);
    let (start, mut sum) = (Instant::now(), Sum::default());
    let batches = stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
    let tell = |text: &str| bar.suspend(|| note(text));
    let outcomes = batches.map(|batch| async { connections.send(batch?, tell).await }).buffered(in_flight);
    let mut outcomes = std::pin::pin!(outcomes);
    let interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let mut interrupted = stream::once(interrupted).fuse();
    let result = loop {
        let outcome = tokio::select! {
            outcome = outcomes.next() => outcome,
            Some(_) = interrupted.next() => break Err(CliError::Told(130)),
        };
        match outcome {
            None => break Ok(()),
            Some(Err(error)) => break Err(error),
            Some(Ok(outcome)) => {
                sum.add(&outcome);
                if let Err(error) = tell_outcome(&outcome, format, &bar, &mut rejects) {
                    break Err(error);
                }
                bar.set_position(outcome.bytes_read);
                bar.set_message(format!("{} signals, {:.0}/s", sum.created + sum.replayed, sum.rate(start.elapsed())));
            }
        }
    };
    bar.finish_and_clear();
    let took = start.elapsed();
    note(&sum.sentence(took));
    if let Err(error) = result {
        if !matches!(error, CliError::BrokenPipe) {
            note(&format!(
                "Stopped after line {}; the same command again goes on there and repeats nothing",
                sum.lines
            ));
        }
        return Err(error);
    }
    if let Some(format) = format.filter(|format| *format != Format::Name) {
        show(sum.json(took).as_bytes(), format, table::IMPORTS)?;
    }
    if sum.rejected > 0 { Err(CliError::Told(1)) } else { Ok(()) }
}

fn open(file: &str) -> Result<(Box<dyn Read + Send>, Option<u64>), CliError> {
    if file == "-" {
        return Ok((Box::new(io::stdin()), None));
    }
    let opened = File::open(file).map_err(|error| CliError::reading(file, &error))?;
    let metadata = opened.metadata().map_err(|error| CliError::reading(file, &error))?;
    if metadata.is_dir() {
        return Err(CliError::Failed(format!("{file} is a directory")));
    }
    Ok((Box::new(opened), metadata.is_file().then_some(metadata.len())))
}

fn progress(length: Option<u64>) -> ProgressBar {
    // It draws nothing where standard error is no terminal.
    let bar = match length {
        Some(length) => ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr()),
        None => ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()),
    };
    let template = match length {
        Some(_) => "{wide_bar} {percent}% {msg} {eta}",
        None => "{spinner} {bytes} {msg}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

fn tell_outcome(
    outcome: &Outcome,
    format: Option<Format>,
    bar: &ProgressBar,
    rejects: &mut Option<File>,
) -> Result<(), CliError> {
    if !outcome.rejected.is_empty() {
        bar.suspend(|| {
            for one in &outcome.rejected {
                note(&format!("line {}: {}", one.line, one.reason));
            }
        });
    }
    if let Some(file) = rejects {
        for one in &outcome.rejected {
            writeln!(file, "{}", one.text)
                .map_err(|error| CliError::Failed(format!("the file of rejects can't be written: {error}")))?;
        }
    }
    if format == Some(Format::Name) {
        let mut text = outcome.ids.join("\n");
        if !text.is_empty() {
            text.push('\n');
        }
        bar.suspend(|| io::stdout().lock().write_all(text.as_bytes()))?;
    }
    Ok(())
}
