//! The read side: the projector applies events to the view in Redis, the view server reads it.
//!
//! The way of an event, stage by stage: [`consumer`] reads the partition, [`decode`] and [`gather`] make
//! batches of its records, [`projector`] says what follows what, [`view`] applies them in one script
//! call; [`mod@line`] is the loop that joins them. [`generation`] fills views anew.
//!
//! The way of a read: [`http`] takes the request, [`auth`] judges its key, [`token_wait`] waits for what
//! its tokens name, [`reader`] gathers it with others into one round trip of [`fetch`]; [`lists`] and
//! [`watch`] read by connections of their own. [`feed`] hears of every change, [`pulse`] of the rest.
//! [`serve`] joins them.

pub mod auth;
pub mod cli;
pub mod consumer;
pub mod dead_letters;
pub mod decode;
pub mod document;
pub mod feed;
pub mod fetch;
pub mod gather;
pub mod generation;
pub mod http;
pub mod line;
pub mod link;
pub mod lists;
pub mod membership;
mod metrics;
pub mod project;
pub mod projector;
pub mod pulse;
pub mod reader;
pub mod rebuild;
pub mod redis_link;
pub mod serve;
pub mod settings;
pub mod status;
pub mod token_wait;
pub mod verify;
pub mod view;
pub mod watch;
pub mod watermarks;
pub mod wire;

pub use project::project;
pub use serve::{ReadSettings, Readings, serve_reads};
