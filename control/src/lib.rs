//! The command side: REST over Postgres, group commit, and the relay into the broker.

pub mod auth;
pub mod batcher;
pub mod http;
pub mod reads;
pub mod relay_status;
pub mod request;
pub mod store;
