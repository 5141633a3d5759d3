//! The command side: REST over Postgres, group commit, and the relay into the broker.

pub mod aggregate;
mod apart;
pub mod batcher;
pub mod create_admin;
pub mod history;
pub mod migrate;
pub mod publisher;
pub mod relay;
pub mod relay_status;
pub mod request;
pub mod slot;
pub mod store;
pub mod topics;
