//! The words that `control` and `dataplane` share: pure types and bytes, no I/O.
//!
//! Everything that crosses a process boundary is defined here once, with golden files in the tests:
//! events, tokens, positions, watermarks, problem documents, the choice of the partition.

pub mod problem;
