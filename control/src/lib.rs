//! The command side.

pub mod history;
pub mod publisher;
pub mod relay;
pub mod relay_status;
pub mod slot;
pub mod topics;
