//! What a run of benches leaves: `summary.json`, `summary.md` and `manifest.json`, from criterion's estimates.
//!
//! `make bench` names the folder (`BENCH_OUT`) and an empty home for criterion (`CRITERION_HOME`); without them nothing is
//! written. Several executables of one run share a folder: each adds itself.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The stages in the order in which a command, its event and a read go through them; then the whole.
const WAY: [&str; 11] =
    ["command", "aggregate", "event", "batcher", "store", "relay", "publish", "decode", "projector", "view", "token"];

/// A run under way.
#[derive(Debug)]
pub struct Report {
    folder: PathBuf,
    criterion: PathBuf,
    executable: &'static str,
    run: Value,
}

/// One bench. Times are of one iteration, from the averages of criterion's samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// Median, in microseconds.
    pub median_us: f64,
    /// Lower end of the 95 % interval of the median.
    pub low_us: f64,
    /// Upper end of it.
    pub high_us: f64,
    /// What an iteration deals with, where it is counted: commands, rows, events, reads.
    pub elements: Option<u64>,
    /// Elements a second at the median.
    pub elements_per_s: Option<f64>,
    /// Bytes that an iteration reads, where they are counted.
    pub bytes: Option<u64>,
    /// Iterations that were measured.
    pub iterations: u64,
}

/// `summary.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Summary {
    /// `stages`: what kind of run this is.
    pub kind: String,
    /// In one line.
    pub headline: String,
    /// By name.
    pub stages: BTreeMap<String, Measurement>,
}

impl Report {
    /// Looks at the machine before anything runs; `None` unless a report is asked for.
    #[must_use]
    pub fn begin(executable: &'static str) -> Option<Self> {
        let folder = PathBuf::from(std::env::var_os("BENCH_OUT")?);
        let criterion = PathBuf::from(std::env::var_os("CRITERION_HOME")?);
        // What stands before it names this machine's folders.
        let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
        let run = json!({
            "command": format!("cargo bench -p bench --bench {executable} -- {}", arguments.join(" ")).trim_end_matches("-- ").trim(),
            "started": jiff::Timestamp::now().to_string(),
            "load_average_before": loadgen::manifest::load_average(),
            "shared_with_before": loadgen::manifest::busiest(),
        });
        Some(Self { folder, criterion, executable, run })
    }

    /// Adds this executable's benches and what the servers said to the folder. Where nothing was measured, because the
    /// run is of another executable's benches, nothing is added.
    ///
    /// # Errors
    /// A file can't be read or written.
    pub fn end(self, servers: Value) -> anyhow::Result<()> {
        let Self { folder, criterion, executable, mut run } = self;
        let stages = measured(&criterion)?;
        if stages.is_empty() {
            return Ok(());
        }
        std::fs::create_dir_all(&folder)?;
        run["ended"] = json!(jiff::Timestamp::now().to_string());
        run["load_average_after"] = json!(loadgen::manifest::load_average());
        run["servers"] = servers;
        let path = folder.join("manifest.json");
        let mut manifest: Value = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("{} is no JSON", path.display()))?,
            Err(_) => json!({
                "command": "make bench",
                "source": loadgen::manifest::source(),
                "build": { "compiler": compiler(), "profile": if cfg!(debug_assertions) { "debug" } else { "bench (release)" } },
                "machine": loadgen::manifest::machine(),
            }),
        };
        manifest["runs"][executable] = run;
        std::fs::write(&path, serde_json::to_vec_pretty(&manifest)?)?;
        let summary = Summary { kind: "stages".to_owned(), headline: headline(&stages), stages };
        std::fs::write(folder.join("summary.json"), serde_json::to_vec_pretty(&summary)?)?;
        std::fs::write(folder.join("summary.md"), page(&summary, &manifest))?;
        Ok(())
    }
}

fn compiler() -> Option<String> {
    let output = std::process::Command::new("rustc").arg("--version").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Every bench below criterion's home.
fn measured(home: &Path) -> anyhow::Result<BTreeMap<String, Measurement>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![home.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("can't read {}", folder.display()))? {
            let path = entry?.path();
            if path.join("benchmark.json").is_file() {
                // `new` is the last run of a bench; `base` is a copy of it, for a comparison with the next.
                if path.ends_with("new") {
                    let (name, measurement) = read(&path).with_context(|| path.display().to_string())?;
                    all.insert(name, measurement);
                }
            } else if path.is_dir() {
                folders.push(path);
            }
        }
    }
    Ok(all)
}

fn read(folder: &Path) -> anyhow::Result<(String, Measurement)> {
    let file =
        |name: &str| -> anyhow::Result<Value> { Ok(serde_json::from_slice(&std::fs::read(folder.join(name))?)?) };
    let (about, estimates, samples) = (file("benchmark.json")?, file("estimates.json")?, file("sample.json")?);
    let name = about["full_id"].as_str().context("a bench without a name")?.to_owned();
    let median = &estimates["median"];
    let us = |value: &Value| Ok::<_, anyhow::Error>(value.as_f64().context("no estimate")? / 1e3);
    let median_us = us(&median["point_estimate"])?;
    let elements = about["throughput"]["Elements"].as_u64();
    let iterations: f64 = samples["iters"].as_array().into_iter().flatten().filter_map(Value::as_f64).sum();
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let measurement = Measurement {
        median_us,
        low_us: us(&median["confidence_interval"]["lower_bound"])?,
        high_us: us(&median["confidence_interval"]["upper_bound"])?,
        elements,
        elements_per_s: elements.map(|elements| elements as f64 / median_us * 1e6),
        bytes: about["throughput"]["Bytes"].as_u64(),
        iterations: iterations as u64,
    };
    Ok((name, measurement))
}

/// The order of the way, and `2` before `16` in it.
fn in_order(a: &str, b: &str) -> Ordering {
    let place = |name: &str| {
        let stage = name.split('/').next().unwrap_or(name);
        WAY.iter().position(|known| *known == stage).unwrap_or(WAY.len())
    };
    let split =
        |name: &str| match name.rsplit_once('/').and_then(|(stem, last)| Some((stem.to_owned(), last.parse().ok()?))) {
            Some(parts) => parts,
            None => (name.to_owned(), 0_u64),
        };
    place(a).cmp(&place(b)).then_with(|| split(a).cmp(&split(b)))
}

/// What a list of runs says of this one.
fn headline(stages: &BTreeMap<String, Measurement>) -> String {
    let mut text = format!("{} benches", stages.len());
    for (name, what, unit) in [
        ("store/batch/128", "batches of 128 rows", "rows/s"),
        ("projector/batch/256", "projector's batches of 256", "events/s"),
    ] {
        if let Some(rate) = stages.get(name).and_then(|stage| stage.elements_per_s) {
            let _ = write!(text, "; {what} {} {unit}", grouped(rate));
        }
    }
    for (name, what) in
        [("view/single_get/1", "single get"), ("latency_to_consistency", "latency to consistency, one at a time")]
    {
        if let Some(stage) = stages.get(name) {
            let _ = write!(text, "; {what} {}", time(stage.median_us));
        }
    }
    text
}

fn page(summary: &Summary, manifest: &Value) -> String {
    let text_of = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
    let (machine, source) = (&manifest["machine"], &manifest["source"]);
    let commit = text_of(&source["commit"]);
    let mut text = format!(
        "# Stages\n\nMade by `make bench`; what each bench does is in [its README](../../bench/README.md), all about machine, \
         servers and load in [manifest.json](manifest.json).\n\
         Times are of one iteration: the median of criterion's samples and the 95 % interval of that median. Take ratios, not \
         absolutes.\n\n\
         - machine: {}, {} cores, {}, kernel {}; it carried everything\n- commit {}{}, {}, profile {}\n",
        text_of(&machine["cpu"]),
        machine["cores"],
        text_of(&machine["memory"]),
        text_of(&machine["kernel"]),
        &commit[..commit.len().min(12)],
        if source["dirty"].as_bool() == Some(true) { " with changes" } else { "" },
        text_of(&manifest["build"]["compiler"]),
        text_of(&manifest["build"]["profile"]),
    );
    for (executable, run) in manifest["runs"].as_object().into_iter().flatten() {
        let servers = &run["servers"];
        let _ = writeln!(
            text,
            "- `{executable}`: {}, load before {}, after {}",
            text_of(&run["started"]),
            text_of(&run["load_average_before"]),
            text_of(&run["load_average_after"]),
        );
        if !servers.is_null() {
            let _ = writeln!(
                text,
                "  - Postgres {} (fsync {}, synchronous_commit {}), {}, Redis {} (appendonly {}, appendfsync {})",
                text_of(&servers["postgres"]["server_version"]),
                text_of(&servers["postgres"]["fsync"]),
                text_of(&servers["postgres"]["synchronous_commit"]),
                text_of(&servers["broker"]["version"]),
                text_of(&servers["redis"]["redis_version"]),
                text_of(&servers["redis"]["appendonly"]),
                text_of(&servers["redis"]["appendfsync"]),
            );
        }
    }
    text.push_str("\n| bench | median | 95 % of the median | elements | elements/s |\n|---|---:|---:|---:|---:|\n");
    let mut names: Vec<&String> = summary.stages.keys().collect();
    names.sort_by(|a, b| in_order(a, b));
    for name in names {
        let Measurement { median_us, low_us, high_us, elements, elements_per_s, bytes, .. } = &summary.stages[name];
        let count = match (elements, bytes) {
            (Some(elements), _) => elements.to_string(),
            (None, Some(bytes)) => format!("{bytes} B"),
            (None, None) => String::new(),
        };
        let rate = elements_per_s.map(grouped).unwrap_or_default();
        let _ = writeln!(
            text,
            "| {name} | {} | {} to {} | {count} | {rate} |",
            time(*median_us),
            time(*low_us),
            time(*high_us)
        );
    }
    text
}

/// Three significant digits in the unit that suits: `812 ns`, `1.25 µs`, `12.3 ms`.
fn time(us: f64) -> String {
    let (value, unit) = match us {
        us if us < 1.0 => (us * 1e3, "ns"),
        us if us < 1e3 => (us, "µs"),
        us => (us / 1e3, "ms"),
    };
    let digits = match value {
        value if value < 10.0 => 2,
        value if value < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

/// `170,000`: three significant digits, in groups.
fn grouped(rate: f64) -> String {
    let unit = 10_f64.powf((rate.abs().max(1.0).log10().floor() - 2.0).max(0.0));
    let whole = format!("{:.0}", (rate / unit).round() * unit);
    let mut text = String::new();
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bench(home: &Path, name: &str, elements: Option<u64>, ns: f64) {
        let folder = home.join(name).join("new");
        std::fs::create_dir_all(&folder).unwrap();
        let write = |file: &str, value: Value| std::fs::write(folder.join(file), value.to_string()).unwrap();
        let throughput = elements.map(|elements| json!({ "Elements": elements }));
        write("benchmark.json", json!({ "full_id": name, "throughput": throughput }));
        let interval = json!({ "lower_bound": ns * 0.9, "upper_bound": ns * 1.1 });
        write("estimates.json", json!({ "median": { "point_estimate": ns, "confidence_interval": interval } }));
        write("sample.json", json!({ "iters": [1.0, 2.0, 3.0], "times": [1.0, 2.0, 3.0] }));
    }

    #[test]
    fn a_run_of_several_executables_is_one_summary_in_the_order_of_the_way() {
        let scratch = tempfile::tempdir().unwrap();
        let (criterion, folder) = (scratch.path().join("criterion"), scratch.path().join("out"));
        let report = |executable| Report {
            folder: folder.clone(),
            criterion: criterion.clone(),
            executable,
            run: json!({ "started": "now" }),
        };
        bench(&criterion, "store/batch/128", Some(128), 2_000_000.0);
        bench(&criterion, "store/batch/16", Some(16), 500_000.0);
        bench(&criterion, "command/parse", None, 812.4);
        report("stages").end(json!({ "postgres": { "server_version": "15.1" } })).unwrap();
        bench(&criterion, "latency_to_consistency", None, 2_500_000.0);
        report("latency_to_consistency").end(Value::Null).unwrap();

        let summary: Summary = serde_json::from_slice(&std::fs::read(folder.join("summary.json")).unwrap()).unwrap();
        assert_eq!((summary.kind.as_str(), summary.stages.len()), ("stages", 4));
        let store = &summary.stages["store/batch/128"];
        assert_eq!((store.median_us, store.elements_per_s, store.iterations), (2_000.0, Some(64_000.0), 6));
        let headline = "4 benches; batches of 128 rows 64,000 rows/s; latency to consistency, one at a time 2.50 ms";
        assert_eq!(summary.headline, headline);
        let page = std::fs::read_to_string(folder.join("summary.md")).unwrap();
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
        assert_eq!(
            rows,
            [
                "| command/parse | 812 ns | 731 ns to 894 ns |  |  |",
                "| store/batch/16 | 500 µs | 450 µs to 550 µs | 16 | 32,000 |",
                "| store/batch/128 | 2.00 ms | 1.80 ms to 2.20 ms | 128 | 64,000 |",
                "| latency_to_consistency | 2.50 ms | 2.25 ms to 2.75 ms |  |  |",
            ]
        );
        assert!(page.contains("Postgres 15.1"), "{page}");
        let manifest: Value = serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap();
        assert_eq!(manifest["runs"].as_object().unwrap().len(), 2);
        assert!(manifest["machine"]["cores"].as_u64() > Some(0));
    }

    #[test]
    fn where_nothing_was_measured_nothing_is_written() {
        let scratch = tempfile::tempdir().unwrap();
        let (folder, criterion) = (scratch.path().join("out"), scratch.path().to_owned());
        let report = Report { folder: folder.clone(), criterion, executable: "stages", run: json!({}) };
        report.end(Value::Null).unwrap();
        assert!(!folder.exists());
    }

    #[test]
    fn figures_have_three_digits() {
        assert_eq!(
            [0.0421, 1.254, 15.04, 999.4, 12_345.0].map(time),
            ["42.1 ns", "1.25 µs", "15.0 µs", "999 µs", "12.3 ms"]
        );
        assert_eq!([7.2, 842.4, 174_512.0, 1_234_567.0].map(grouped), ["7", "842", "175,000", "1,230,000"]);
    }
}
