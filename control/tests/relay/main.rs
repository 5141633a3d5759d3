//! The relay between a real Postgres and a real broker.

mod broken;
mod child;
mod faults;
mod latency;
mod order;
mod place;
mod poison;
mod takeover;
