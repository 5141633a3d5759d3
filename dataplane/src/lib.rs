//! The read side: the projector applies events to the view in Redis, the view server reads it.

pub mod cli;
