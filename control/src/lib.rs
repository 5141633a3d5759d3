//! The command side: REST over Postgres, group commit, and the relay into the broker.

pub mod batcher;
pub mod request;
pub mod store;
