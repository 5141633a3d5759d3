//! The smallest HTTP/1.1 client that measures well.
//!
//! One request in flight per connection, non-blocking sockets under one `epoll` per thread, no
//! allocation in the steady state. The generator shares its machine with what it measures, so every
//! microsecond it does not spend is one that the servers have.

mod endpoint;
mod exchange;
mod poller;
mod pool;
mod wire;

pub use endpoint::{Endpoint, EndpointError};
pub use exchange::{Exchange, ExchangeError, Reply};
pub use poller::{Poller, Ready};
pub use pool::{Completion, Failure, Pool};
pub use wire::{Connection, Dechunker, Framing, Head, ProtocolError, parse_head};
