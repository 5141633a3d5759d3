//! Logs to standard error, metrics to `/metrics`.

mod process;

use std::io::IsTerminal;
use std::sync::LazyLock;

use prometheus::{Encoder, Registry, TextEncoder};
use tracing_subscriber::EnvFilter;

/// Why telemetry could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `NEXUS_LOG` is no filter.
    #[error("NEXUS_LOG is not a log filter (a level, or target=level,…)")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// `NEXUS_LOG_FORMAT` is neither.
    #[error("NEXUS_LOG_FORMAT is `human` or `json`, not `{0}`")]
    Format(String),
    /// Another subscriber is installed.
    #[error("a log subscriber is already installed")]
    Installed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Starts logging to standard error: level or filter by `NEXUS_LOG` (default `info`), format by
/// `NEXUS_LOG_FORMAT`, `human` (default) or `json`.
///
/// # Errors
/// One of the two settings is malformed, or logging runs already.
pub fn init() -> Result<(), TelemetryError> {
    let setting = |name| std::env::var(name).unwrap_or_default();
    init_with(&setting("NEXUS_LOG"), &setting("NEXUS_LOG_FORMAT"))
}

/// Starts logging to standard error with this filter (empty: `info`) and format (empty: `human`).
///
/// # Errors
/// One of the two is malformed, or logging runs already.
pub fn init_with(filter: &str, format: &str) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(if filter.is_empty() { "info" } else { filter })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        "" | "human" => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        "json" => builder.json().flatten_event(true).try_init(),
        other => return Err(TelemetryError::Format(other.to_owned())),
    }
    .map_err(TelemetryError::Installed)
}

static REGISTRY: LazyLock<Registry> = LazyLock::new(|| {
    let registry = Registry::new();
    registry.register(Box::new(process::Process::new())).expect("the process metrics are the first of their names");
    registry
});

/// The registry that `/metrics` shows. Each part makes its own metrics with
/// `prometheus::register_*_with_registry!(…, runtime::telemetry::registry())`.
#[must_use]
pub fn registry() -> &'static Registry {
    &REGISTRY
}

/// All metrics in the Prometheus text format 0.0.4.
#[must_use]
pub fn render() -> Vec<u8> {
    let mut text = Vec::with_capacity(16 * 1024);
    if let Err(error) = TextEncoder::new().encode(&registry().gather(), &mut text) {
        tracing::error!(%error, "metrics can't be rendered");
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_text_holds_the_process_metrics() {
        let text = String::from_utf8(super::render()).expect("UTF-8");
        for name in ["process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"] {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}"));
            let value: f64 = line.rsplit(' ').next().unwrap_or_default().parse().expect("a number");
            assert!(value >= 0.0, "{line}");
        }
    }
}
