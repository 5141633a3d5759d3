//! Mechanics that both planes share: settings, logs and metrics, shutdown, serving, the conventions
//! of HTTP. No domain: nothing here knows what a signal is.
//!
//! A plane's main reads: [`config::parse`], [`telemetry::init`], [`shutdown::Shutdown::on_signals`],
//! [`serve::bind`], then [`http::front::Front`] over its own [`http::front::Plane`].

pub mod commit;
pub mod config;
mod connection;
pub mod http;
pub mod sabotage;
pub mod scheduling;
pub mod serve;
pub mod shutdown;
pub mod telemetry;
