//! Batcher and store against a real Postgres, its WAL included.

#![allow(clippy::unwrap_used, missing_docs)]

mod administration;
mod crash;
mod idempotency;
mod lost;
mod queue;
mod signals;
mod support;
