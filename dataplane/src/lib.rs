//! The read side: the projector applies events to the view in Redis, the view server reads it.
//!
//! The way of an event, stage by stage: [`consumer`] reads the partition, [`decode`] and [`gather`] make
//! batches of its records, [`projector`] says what follows what, [`view`] applies them in one script
//! call; [`line`] is the loop that joins them. [`generation`] fills views anew.

pub mod cli;
pub mod consumer;
pub mod dead_letters;
pub mod decode;
pub mod gather;
pub mod generation;
pub mod line;
pub mod membership;
mod metrics;
pub mod project;
pub mod projector;
pub mod rebuild;
pub mod redis_link;
pub mod settings;
pub mod status;
pub mod verify;
pub mod view;
pub mod watermarks;

pub use project::project;
