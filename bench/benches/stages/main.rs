//! Every stage of the way of a command and of a read by itself, in that order. Each verifies its answers, with assertions
//! outside of what is timed; what needs a server gets a real one, started by the first stage that asks for it.
//!
//! `cargo bench -p bench --bench stages -- store` runs the stages whose name contains `store`; `make bench` runs all and
//! writes a summary; `-- --test` goes through each once.
#![allow(missing_docs, clippy::unwrap_used)]

mod aggregate;
mod batcher;
mod command;
mod database;
mod decode;
mod event;
mod place;
mod projector;
mod publish;
mod relay;
mod signals;
mod store;
mod token;
mod view;
mod writer;

use std::time::Duration;

use bench::report::Report;
use criterion::Criterion;

fn main() -> anyhow::Result<()> {
    let report = Report::begin("stages");
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    command::bench(&mut criterion);
    aggregate::bench(&mut criterion);
    event::bench(&mut criterion);
    batcher::bench(&mut criterion);
    store::bench(&mut criterion);
    relay::bench(&mut criterion);
    publish::bench(&mut criterion);
    decode::bench(&mut criterion);
    projector::bench(&mut criterion);
    view::bench(&mut criterion);
    criterion.final_summary();
    if let Some(report) = report {
        report.end(place::servers()?)?;
    }
    Ok(())
}
