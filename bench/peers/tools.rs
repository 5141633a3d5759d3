//! Programs of others that the comparison needs, run to their end.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;

/// A program that says no version in this time serves instead.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);
/// Of what a program says when it fails.
const SHOWN_CHARS_MAX: usize = 800;

/// Says something on standard error.
pub fn say(text: &str) {
    eprintln!("{text}");
}

/// A program on PATH, or where Debian hides it.
///
/// # Errors
/// It is not there; says which package has it.
pub fn find(name: &str, package: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    places.push("/usr/sbin".into());
    places.push("/usr/local/go/bin".into());
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    places.extend(installed.map(|entry| entry.path().join("bin")));
    let found = places.into_iter().map(|place| place.join(name)).find(|program| program.is_file());
    found
        .with_context(|| format!("{name} is missing: install Debian's package {package}, without starting its service"))
}

/// Runs a program to its end. Returns what it printed on standard output.
///
/// # Errors
/// It can't be started or fails; with what it printed.
pub async fn run(
    program: &Path,
    args: impl IntoIterator<Item = impl Into<OsString>>,
    env: &[(&str, &str)],
) -> anyhow::Result<String> {
    let output = output(program, args, env).await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let shown: String = errors.chars().take(SHOWN_CHARS_MAX).collect();
        anyhow::bail!("{} failed ({}): {}", program.display(), output.status, shown.trim());
    }
    Ok(text)
}

/// As [`run`], whatever the exit code.
///
/// # Errors
/// It can't be started.
pub async fn output(
    program: &Path,
    args: impl IntoIterator<Item = impl Into<OsString>>,
    env: &[(&str, &str)],
) -> anyhow::Result<std::process::Output> {
    let mut command = tokio::process::Command::new(program);
    command.args(args.into_iter().map(Into::<OsString>::into)).envs(env.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().with_context(|| format!("can't start {}", program.display()))?;
    Ok(child.wait_with_output().await?)
}

/// The first line that a program says about its version.
pub async fn version(program: anyhow::Result<PathBuf>, argument: &str) -> Option<String> {
    let program = program.ok()?;
    let output = tokio::time::timeout(VERSION_TIMEOUT, output(&program, [argument], &[])).await.ok()?.ok()?;
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).lines().next().map(|line| line.trim().to_owned())
}

/// What one of the Lua scripts for wrk prints at the end.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Wrk {
    /// Answers.
    pub requests: u64,
    /// How long it took.
    pub seconds: f64,
    /// Of the answers, those with a status of 400 or more.
    pub refused: u64,
    /// Connections, reads and writes that failed, and time-outs.
    pub failed: u64,
    /// Median of the closed loop.
    pub p50_ms: f64,
    /// 99th percentile of the closed loop, which hides stalls.
    pub p99_ms: f64,
    /// Bytes of an answer, head and all.
    pub bytes_per_answer: u64,
}

impl Wrk {
    /// Reads it out of the output.
    ///
    /// # Errors
    /// The line is not there.
    pub fn parse(output: &str) -> anyhow::Result<Wrk> {
        let line = output.lines().find_map(|line| line.strip_prefix("peers ")).context("wrk printed no figures")?;
        let fields: Vec<u64> = line.split(' ').filter_map(|field| field.parse().ok()).collect();
        let [requests, us, refused, failed, p50_us, p99_us, bytes] = fields[..] else {
            anyhow::bail!("wrk printed {line}");
        };
        let ms = |us: u64| us as f64 / 1_000.0;
        Ok(Wrk {
            requests,
            seconds: us as f64 / 1e6,
            refused,
            failed,
            p50_ms: ms(p50_us),
            p99_ms: ms(p99_us),
            bytes_per_answer: bytes / requests.max(1),
        })
    }

    /// Accepted answers per second.
    pub fn rate(&self) -> f64 {
        (self.requests.saturating_sub(self.refused)) as f64 / self.seconds
    }
}
