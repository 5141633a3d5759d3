//! `nexus`: a stack that stays up after the command has ended, kept in `NEXUS_HOME`.

pub(crate) mod admin;
mod compose;
mod down;
mod home;
mod logs;
mod plan;
mod settings;
mod status;
mod up;

pub use down::{clean_data, down};
pub use home::Home;
pub use logs::logs;
pub use status::status;
pub use up::{Up, up};

/// The processes of a stack, in the order in which they start.
pub const PROCESSES: [&str; 5] = ["postgres", "broker", "redis", "nexus-control", "nexus-dataplane"];
