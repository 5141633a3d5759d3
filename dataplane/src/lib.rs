//! The read side: the projector applies events to the view in Redis, the view server reads it.

pub mod auth;
pub mod document;
pub mod feed;
pub mod fetch;
pub mod http;
pub mod link;
pub mod lists;
pub mod pulse;
pub mod reader;
pub mod serve;
pub mod status;
pub mod token_wait;
pub mod view;
pub mod watch;

pub use serve::{ReadSettings, Readings, serve_reads};
