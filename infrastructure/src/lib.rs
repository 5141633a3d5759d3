//! The native stack: Postgres, a broker and Redis as plain processes, without a Docker engine, and both planes on them.
//!
//! There are two users. The command `nexus` ([`launcher`]) starts a stack that stays. Tests, benches and the fault
//! runner start stacks of their own, which end with them:
//!
//! ```no_run
//! # async fn test() -> Result<(), infrastructure::LaunchError> {
//! use infrastructure::{Planes, TestStack};
//!
//! // One set of servers for all tests of a binary: started by the first that asks, gone when the process is.
//! let stack = TestStack::shared().await;
//! // A place in them that no other test has: database, slot, topic prefix, key prefix.
//! let namespace = stack.namespace("deletes_stay_deleted").await;
//! // To test a plane's own code in this process, take the settings from the namespace …
//! let (_database, _brokers, _redis) = (namespace.database_url(), namespace.brokers(), namespace.redis_url());
//! // … and to test the executables, start them against it: migrated, with an admin, ready.
//! let planes = Planes::start(&namespace).await?;
//! println!("{} {} {}", planes.control.url(), planes.dataplane.url(), planes.api_key());
//!
//! planes.control.kill().await; // signal 9
//! planes.control.start().await?; // the same port, the same settings; ready
//! planes.dataplane.pause(); // SIGSTOP
//! planes.dataplane.resume();
//! # Ok(()) }
//! ```
//!
//! Tests that take a server away start servers that are theirs alone:
//!
//! ```no_run
//! # async fn test() -> Result<(), infrastructure::LaunchError> {
//! use std::time::Duration;
//! use infrastructure::{Planes, TestStack, wait};
//!
//! let stack = TestStack::start().await?;
//! let planes = Planes::start(&stack.namespace("redis_away").await).await?;
//! stack.servers().redis.kill().await;
//! wait::until("the data plane to notice", Duration::from_secs(10), || async {
//!     (planes.dataplane.ready_status().await == Some(503)).then_some(())
//! })
//! .await?;
//! stack.servers().redis.start().await?; // on the same port, with its data
//! planes.dataplane.wait_ready().await?;
//! # Ok(()) }
//! ```
//!
//! More of it: [`Plane::control`] and [`Plane::dataplane`] build further processes (a standby, a view server of its own)
//! with settings of their own; [`PlaneBuilder::start_unready`] and [`Plane::spawn`] don't wait; [`Plane::log_text`] is
//! what a plane has logged; [`migrate`] and [`create_admin`] are steps of [`Planes::start`] by themselves.
//!
//! # What is guaranteed
//! - A wait that fails names what it waited for and shows the end of the log.
//! - Nothing outlives the process that started it, not even after signal 9: the module `supervisor` says how.
//! - Everything listens on 127.0.0.1, on ports that were free, and keeps its port over restarts.
//! - The executables of the planes are those beside the test: `target/<profile>/`. Build them first
//!   (`cargo build --workspace --bins`; `make test` does).

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
mod program;
mod redis;
mod secret;
mod server;
mod servers;
mod stack;
mod supervisor;
pub mod wait;

pub use broker::BrokerProfile;
pub use error::{LaunchError, Result};
pub use kafka_jars::{cache, fetch_jars};
pub use planes::{CONTROL, DATAPLANE, Plane, PlaneBuilder, Planes, create_admin, executable, migrate};
pub use process::{Process, Signal};
pub use program::Program;
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
