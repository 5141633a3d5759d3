//! `nexus-control` as a process, over HTTP, on real servers.

#![allow(clippy::unwrap_used, missing_docs)]

mod away;
mod batches;
mod identities;
mod repeats;
mod shutdown;
mod signals;
mod support;
