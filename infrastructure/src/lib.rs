//! Draft.
mod account;
mod broker;
mod error;
mod kafka_jars;
pub mod ports;
mod postgres;
pub mod probe;
mod process;
mod redis;
mod secret;
mod server;
mod servers;
mod stack;
mod supervisor;
pub mod wait;

pub use broker::BrokerProfile;
pub use error::{LaunchError, Result};
pub use process::{Process, Signal};
pub use server::Server;
pub use servers::{Options, Servers};
pub use stack::{Namespace, TestStack};
