//! Load generator for Nexus: latency to consistency, measured so that nobody can argue.
//!
//! A command's clock starts at the time at which it was *meant* to be sent and stops when the
//! view server first shows its version or a later one. Everything that is accepted, and everything
//! that is shown, goes through a checker; and where the generator itself was the bottleneck, it
//! says INVALID instead of a figure. See `INTERFACE` for the command line and `summary.json`.
//!
//! The way of a figure: [`schedule`] says when, [`workload`] what, [`pacer`] sends and reads
//! answers through [`client`], [`observer`] watches the view, [`judge`] puts both together with the
//! [`checker`] (one for each view server: [`views`]) and the [`recorder`], [`run`] is the control flow, [`summary`] the outcome.

pub mod checker;
pub mod client;
pub mod clock;
pub mod compare;
pub mod cross_check;
pub mod document;
pub mod durability;
pub mod journal;
pub mod judge;
pub mod keys;
pub mod live;
pub mod manifest;
pub mod memory;
pub mod observer;
pub mod options;
pub mod pacer;
pub mod priority;
pub mod probe;
pub mod random;
pub mod recorder;
pub mod report;
pub mod run;
pub mod schedule;
pub mod slo;
pub mod sse;
pub mod stages;
pub mod summary;
pub mod sweep;
pub mod verify;
pub mod views;
pub mod workload;
