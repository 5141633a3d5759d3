//! Draft.
mod account;
mod broker;
pub mod debian;
mod error;
mod kafka_jars;
pub mod launcher;
mod planes;
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
pub use planes::{CONTROL, DATAPLANE, Plane, PlaneBuilder, Planes, create_admin, executable, migrate};
pub use process::{Process, Signal};
pub use server::Server;
pub use servers::{Options, Servers};
pub use stack::{Namespace, TestStack};

/// Fetches what a stack needs from the network, so that a later start needs none: the broker's jars.
///
/// # Errors
/// Maven is missing or can't reach its repository.
pub async fn prepare() -> Result<()> {
    broker::prepare().await
}
