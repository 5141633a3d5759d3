//! The words that `control` and `dataplane` share: pure types and bytes, no I/O.
//!
//! Everything that crosses a process boundary is defined here once, with golden files in the tests:
//! events, tokens, positions, watermarks, problem documents, cursors, the choice of the partition.

pub mod blank;
pub mod bundle;
pub mod command;
pub mod event;
pub mod id;
pub mod identity;
pub mod json;
pub mod partition;
pub mod position;
pub mod problem;
pub mod query;
pub mod signal;
pub mod time;
pub mod token;
