//! The command side: REST over Postgres, group commit, and the relay into the broker.

pub mod aggregate;
pub mod batcher;
pub mod create_admin;
pub mod migrate;
pub mod request;
pub mod store;
